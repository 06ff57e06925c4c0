"""A newcomer's path: the commands of docs/start.md, as they stand there, on a folder of images and a saved pipeline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

START = Path(__file__).parents[1] / "docs" / "start.md"


def section() -> str:
    return START.read_text(encoding="utf-8").split("## How long it takes", 1)[1].split("\n## ", 1)[0]


def commands() -> list[list[str]]:
    """What is typed in each transcript."""
    transcripts = re.findall(r"```console\n(.*?)```", section(), flags=re.DOTALL)
    return [re.findall(r"^\$ (.*?) *(?:#.*)?$", transcript, flags=re.MULTILINE) for transcript in transcripts]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images and a pipeline, and a path on which `eigenstep` and `python` are this environment's."""
    pytest.importorskip("diffusers")
    image = pytest.importorskip("PIL.Image")
    from eigenstep.cli.demo import bundled
    from eigenstep.spectrum import Spectrum

    folder = tmp_path_factory.mktemp("newcomer")
    spectrum = Spectrum.load(bundled() / "spectrum.npz")
    # Items of the Gaussian with MNIST's covariance: the images themselves are not in the repository.
    roots = np.sqrt(spectrum.eigenvalues[: len(spectrum.basis)])
    draws = np.random.default_rng(0).standard_normal((40, len(roots)))
    items = spectrum.mean.reshape(-1) + (draws * roots) @ spectrum.basis
    (folder / "my-images").mkdir()
    for k, item in enumerate(np.clip(127.5 * (items + 1), 0, 255).astype(np.uint8).reshape(-1, 32, 32)):
        image.fromarray(item).save(folder / "my-images" / f"{k:02}.png")
    shutil.copytree(bundled(), folder / "my-pipeline", ignore=shutil.ignore_patterns("plan-*", "spectrum*", "README*"))
    (folder / "sample.py").write_text(re.findall(r"```py\n(.*?)```", section(), flags=re.DOTALL)[0], encoding="utf-8")
    (folder / "bin").mkdir()
    shims = {"eigenstep": '-m eigenstep "$@"', "python": '"$@"'}
    for name, rest in shims.items():
        shim = folder / "bin" / name
        shim.write_text(f"#!/bin/sh\nexec '{sys.executable}' {rest}\n", encoding="utf-8")
        shim.chmod(0o755)
    return folder


def typed(place: Path, line: str) -> str:
    environment = {**os.environ, "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, shell=True, cwd=place, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_so_few_commands_are_needed():
    own_images, pipeline = commands()
    assert len(own_images) <= 3
    assert len(pipeline) <= 5
    assert own_images[0].startswith("pip install ")
    assert pipeline[0].startswith("pip install ")


def test_from_a_folder_of_images_to_a_grid(place):
    _, *rest = commands()[0]
    printed = [typed(place, line) for line in rest]
    assert (place / "mine.json").exists()
    assert len(re.findall(r"^ +(?:\d+|end) +[\d.]+ ", printed[-1], flags=re.MULTILINE)) == 7
    assert re.search(r"best of \d+ hand-made grids: ", printed[-1])


def test_from_a_saved_pipeline_to_samples(place):
    from PIL import Image

    _, *rest = commands()[1]
    printed = [typed(place, line) for line in rest]
    assert "my-pipeline on my-images: 6 ddim steps" in printed[0]
    assert re.search(r"network calls were spent", printed[0])
    assert (place / "plan.json").exists()
    with Image.open(place / "samples.png") as made:
        assert made.size == (16 * 32, 32)
