"""The house itself: what `import eigenstep` loads, and what every public name must carry."""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import eigenstep

HEAVY = ("torch", "matplotlib", "PIL", "diffusers", "dask", "datasets", "sklearn", "click", "rich", "gradio")

PUBLIC = sorted(name for name in eigenstep.__all__ if not name.startswith("__"))


def loaded_after(statement: str) -> set[str]:
    """Which of HEAVY are in sys.modules after `statement`, in a fresh interpreter."""
    script = f"{statement}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    assert loaded_after("import eigenstep") == set()


def test_the_import_test_can_fail():
    assert loaded_after("import eigenstep, click") == {"click"}


def test_cli_loads_only_its_own_tools_before_a_command_runs():
    assert loaded_after("import eigenstep.cli") <= {"click"}


def test_plots_load_matplotlib_only_when_drawing():
    assert loaded_after("import eigenstep.plots") == set()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    thing = getattr(eigenstep, name)
    if isinstance(thing, ModuleType) or not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return
    doc = inspect.getdoc(thing)
    assert doc, f"{name} has no docstring"
    assert doc.split("\n\n")[0].rstrip().endswith((".", ":")), f"{name}: the docstring must open with a sentence"
    if not (inspect.isclass(thing) and issubclass(thing, (Warning, Exception))):
        assert ">>> " in doc, f"{name}: the docstring has no doctest"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_are_documented(name):
    thing = getattr(eigenstep, name)
    if not inspect.isclass(thing):
        return
    bare = [
        member
        for member, value in vars(thing).items()
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, (property, classmethod, staticmethod)))
        and not inspect.getdoc(getattr(thing, member))
    ]
    assert not bare, f"{name} has undocumented members: {', '.join(bare)}"


def test_all_names_exist_once():
    assert len(set(eigenstep.__all__)) == len(eigenstep.__all__)
    assert [name for name in eigenstep.__all__ if not hasattr(eigenstep, name)] == []
