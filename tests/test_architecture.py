"""The house itself: what `import eigenstep` loads, and what every public name must carry."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import eigenstep

HEAVY = ("torch", "matplotlib", "PIL", "diffusers", "dask", "datasets", "sklearn", "click", "rich", "gradio")

PUBLIC = {name: getattr(eigenstep, name) for name in eigenstep.__all__}
FUNCTIONS = [name for name, thing in PUBLIC.items() if inspect.isroutine(thing)]
CLASSES = [name for name, thing in PUBLIC.items() if inspect.isclass(thing)]


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


def members(thing: type) -> list[str]:
    """Public methods and properties that the class itself defines."""
    kinds = (property, classmethod, staticmethod)
    return [
        name
        for name, value in vars(thing).items()
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, kinds))
    ]


def has_doctest(thing: object) -> bool:
    return ">>> " in (inspect.getdoc(thing) or "")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_show_numbers(name):
    assert has_doctest(PUBLIC[name]), f"{name} has no doctest"


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_show_numbers(name):
    # Records without methods are shown by the functions that return them.
    thing = PUBLIC[name]
    shown = [has_doctest(thing), *(has_doctest(getattr(thing, member)) for member in members(thing))]
    assert any(shown) or not members(thing), f"{name} and its methods have no doctest"


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_are_documented(name):
    thing = PUBLIC[name]
    # A dataclass without a docstring gets its signature for one.
    assert thing.__doc__, f"{name} has no docstring"
    assert not thing.__doc__.startswith(f"{name}("), f"{name} has no docstring"
    bare = [member for member in members(thing) if not inspect.getdoc(getattr(thing, member))]
    assert not bare, f"{name} has undocumented members: {', '.join(bare)}"


def test_all_names_exist_once():
    assert len(set(eigenstep.__all__)) == len(eigenstep.__all__)
    assert [name for name in eigenstep.__all__ if not hasattr(eigenstep, name)] == []
