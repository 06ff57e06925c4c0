"""`eigenstep doctor`: what is installed, what that enables, what is missing and the command that adds it."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import click

from eigenstep._version import __version__
from eigenstep.cli.tables import rendered

CORE = {"numpy": "1.24", "scipy": "1.10"}

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Extra:
    """An optional part of the installation.

    Parameters
    ----------
    packages : distribution names with their least versions, as `pyproject.toml` has them.
    enables : in a few words.
    """

    packages: Mapping[str, str]
    enables: str


EXTRAS: Mapping[str, Extra] = {
    "cli": Extra({"click": "8.2", "rich": "13"}, "this command line"),
    "images": Extra({"Pillow": "9.5"}, "image folders, tars of images, the encoding of images"),
    "plots": Extra({"matplotlib": "3.10"}, "figures, and the pages of --report and evaluate"),
    "digits": Extra({"scikit-learn": "1.3"}, "the data set `digits`"),
    "audio": Extra({"soundfile": "0.12"}, "flac, ogg and wav in floats (integer wav needs nothing)"),
    "hdf5": Extra({"h5py": "3.8"}, "HDF5 files"),
    "zarr": Extra({"zarr": "2.16"}, "zarr stores"),
    "datasets": Extra({"datasets": "2.19"}, "Hugging Face data sets, parquet and arrow files"),
    "remote": Extra({"fsspec": "2023.10"}, "URLs such as s3://, gs://, hf://"),
    "dask": Extra({"dask": "2024.2", "distributed": "2024.2"}, "--dask: clusters, and several processes"),
    "torch": Extra({"torch": "2.2", "safetensors": "0.4"}, "networks: load, plan, generate, evaluate"),
    "diffusers": Extra({"diffusers": "0.30"}, "pipelines and their schedulers, latents"),
    "explore": Extra({"starlette": "0.40", "uvicorn": "0.30"}, "the page on which to drag levels"),
}
"""What `pyproject.toml` lists, less what is for development."""


@dataclass(frozen=True)
class Finding:
    """One extra on this machine: its packages with what was found, and whether all of them will do."""

    name: str
    found: Mapping[str, str]
    complete: bool
    enables: str


def findings() -> list[Finding]:
    """What is installed of every extra; nothing is imported."""
    return [_finding(name, extra) for name, extra in EXTRAS.items()]


def _finding(name: str, extra: Extra) -> Finding:
    found, complete = {}, True
    for package, least in extra.packages.items():
        version = installed(package)
        recent = version is not None and _numbers(version) >= _numbers(least)
        found[package] = "missing" if version is None else version if recent else f"{version}, needs {least} or newer"
        complete = complete and recent
    return Finding(name, found, complete, extra.enables)


def installed(package: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version: "2.13.0+cpu" is (2, 13, 0), and "2.13" the same as "2.13.0"."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def accelerators() -> str:
    """The accelerators that torch can use here, in words."""
    if installed("torch") is None:
        return "not looked for, torch is missing; planning needs none"
    try:
        import torch
    except Exception as error:  # a broken installation fails in ways of its own, and is what the doctor is asked about
        return f"torch is installed but cannot be imported ({type(error).__name__}: {error}); install it again"
    if torch.cuda.is_available():
        names = (torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count()))
        return ", ".join(f"cuda:{k} {each.name}, {each.total_memory / 2**30:.0f} GiB" for k, each in enumerate(names))
    if torch.backends.mps.is_available():
        return "mps"
    return "none that torch can use: networks run on the CPU; planning needs none"


def threads() -> str:
    """The library behind numpy's products, and the number of threads it takes."""
    import numpy as np

    blas: Any = np.show_config(mode="dicts")
    built = blas.get("Build Dependencies", {}).get("blas", {})
    library = f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()
    said = [f"{name}={os.environ[name]}" for name in _THREADS if os.environ.get(name)]
    cores = os.cpu_count() or 1
    return f"{library}, {', '.join(said) if said else 'as many threads as it likes'}; {cores} cores"


@click.command("doctor")
def command() -> None:
    """Say what is installed, what it enables, and how to add what is missing.

    Nothing is changed, and nothing is sent anywhere. Paste the answer into an issue.
    """
    from rich.table import Table

    found = findings()
    versions = ", ".join(f"{name} {installed(name) or 'missing'}" for name in CORE)
    python = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    click.echo(f"eigenstep {__version__}, {python}\n{sys.executable}\n{versions}\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("extra", "", "packages", "enables"):
        table.add_column(column, no_wrap=column == "extra")
    for each in found:
        packages = ", ".join(f"{package} {version}" for package, version in each.found.items())
        table.add_row(each.name, "yes" if each.complete else "no", packages, each.enables)
    click.echo(rendered(table))
    click.echo(f"\naccelerator: {accelerators()}\nBLAS: {threads()}")
    missing = [each.name for each in found if not each.complete]
    if missing:
        click.echo("\nTo add what is missing:")
        for name in missing:
            click.echo(f'  pip install "eigenstep[{name}]"')
        if len(missing) > 1:
            click.echo('or all of it:\n  pip install "eigenstep[all]"')
    else:
        click.echo("\nNothing is missing.")
