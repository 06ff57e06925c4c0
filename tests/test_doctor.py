"""`eigenstep doctor`: its table is that of pyproject.toml, and it says what is missing with the command that mends it."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("click")

from click.testing import CliRunner

from eigenstep import __version__
from eigenstep.cli import cli, doctor

PYPROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
DEVELOPMENT = {"all", "dev", "docs"}


def listed():
    """Extras of pyproject.toml: name -> {package: least version}; read by hand, since Python 3.10 has no tomllib."""
    section = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\[", PYPROJECT, flags=re.DOTALL).group(1)
    extras = {}
    for name, listing in re.findall(r"^(\w+) = \[(.*?)\]$", section, flags=re.MULTILINE | re.DOTALL):
        requirements = re.findall(r'"([^"]+)"', listing)
        extras[name] = dict(r.split(">=") for r in requirements if not r.startswith("eigenstep"))
    return extras


def run():
    return CliRunner().invoke(cli, ["doctor"])


def test_the_table_is_that_of_pyproject():
    extras = {name: packages for name, packages in listed().items() if name not in DEVELOPMENT}
    assert {name: dict(extra.packages) for name, extra in doctor.EXTRAS.items()} == extras


def test_the_core_is_that_of_pyproject():
    stated = re.search(r"^dependencies = (.*)$", PYPROJECT, flags=re.MULTILINE).group(1)
    assert dict(each.split(">=") for each in re.findall(r'"([^"]+)"', stated)) == doctor.CORE


def test_it_says_what_is_there():
    import numpy as np

    result = run()
    assert result.exit_code == 0
    assert result.output.startswith(f"eigenstep {__version__}, ")
    assert f"numpy {np.__version__}" in result.output
    for name in doctor.EXTRAS:
        assert re.search(rf"^{name} +(yes|no) ", result.output, flags=re.MULTILINE), name
    assert "accelerator: " in result.output
    assert re.search(r"^BLAS: .*\d+ cores$", result.output, flags=re.MULTILINE)


def test_what_is_missing_comes_with_its_command(monkeypatch):
    there = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda package: None if package == "Pillow" else there(package))
    result = run()
    assert result.exit_code == 0
    assert re.search(r"^images +no +Pillow missing", result.output, flags=re.MULTILINE)
    assert '  pip install "eigenstep[images]"' in result.output.splitlines()


def test_an_old_version_is_no_installation(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda package: "3.9.2" if package == "matplotlib" else "9999")
    (plots,) = [each for each in doctor.findings() if each.name == "plots"]
    assert not plots.complete
    assert plots.found == {"matplotlib": "3.9.2, needs 3.10 or newer"}
    assert all(each.complete for each in doctor.findings() if each.name != "plots")


def test_nothing_missing_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda package: "9999.1+local")
    monkeypatch.setattr(doctor, "accelerators", lambda: "none")
    assert run().output.splitlines()[-1] == "Nothing is missing."


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.13.0+cpu", (2, 13)), ("13", (13,)), ("8.2.0rc1", (8, 2)), ("2024.10", (2024, 10)), ("?", ())]
)
def test_versions_are_compared_as_numbers(version, numbers):
    assert doctor._numbers(version) == numbers


def test_a_torch_that_cannot_be_imported_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda package: "2.13.0")
    monkeypatch.setitem(sys.modules, "torch", None)  # what Python raises ImportError for
    assert doctor.accelerators().startswith("torch is installed but cannot be imported (ModuleNotFoundError")


def test_accelerators_are_named(monkeypatch):
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda k: SimpleNamespace(name=f"GPU {k}", total_memory=80 * 2**30)
    )
    assert doctor.accelerators() == "cuda:0 GPU 0, 80 GiB, cuda:1 GPU 1, 80 GiB"


def test_threads_that_were_set_are_said(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert "as many threads as it likes" in doctor.threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS=3; " in doctor.threads()


def test_version():
    assert CliRunner().invoke(cli, ["--version"]).output == f"eigenstep, version {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_generated(shell, monkeypatch):
    from click.shell_completion import BashComplete

    monkeypatch.setattr(BashComplete, "_check_version", staticmethod(lambda: None))  # asks the bash that is installed
    result = CliRunner().invoke(cli, prog_name="eigenstep", env={"_EIGENSTEP_COMPLETE": f"{shell}_source"})
    assert result.exit_code == 0, result.output
    assert f"_EIGENSTEP_COMPLETE={shell}_complete" in result.output


def test_completion_knows_commands_and_options():
    from click.shell_completion import BashComplete

    completer = BashComplete(cli, {}, "eigenstep", "_EIGENSTEP_COMPLETE")
    assert [item.value for item in completer.get_completions([], "doc")] == ["doctor"]
    assert "--objective" in [item.value for item in completer.get_completions(["plan"], "--obj")]
