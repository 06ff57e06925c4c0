"""What is published beside the code agrees with it: the conda recipe, the citation, the node folder, the issue templates."""

import re
from pathlib import Path

import pytest

from eigenstep import __version__

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def requirements(name, section=PYPROJECT):
    return re.findall(r'"([^"]+)"', re.search(rf"^{name} = \[(.*?)\]", section, flags=re.MULTILINE | re.DOTALL).group(1))


def test_the_conda_recipe_is_of_this_version_and_asks_for_the_same():
    yaml = pytest.importorskip("yaml")
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == __version__
    (python,) = re.findall(r'^requires-python = "(.*)"$', PYPROJECT, flags=re.MULTILINE)
    run = {requirement.replace(" ", "") for requirement in recipe["requirements"]["run"]}
    assert run == {f"python{python}", *requirements("dependencies"), *requirements("cli")}
    (setuptools,) = requirements("requires")
    assert setuptools in {requirement.replace(" ", "") for requirement in recipe["requirements"]["host"]}
    assert recipe["build"]["python"]["entry_points"] == ["eigenstep = eigenstep.__main__:main"]
    (summary,) = re.findall(r'^description = "(.*)"$', PYPROJECT, flags=re.MULTILINE)
    assert recipe["about"]["summary"] == summary


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, flags=re.MULTILINE).group(1).strip('"') == __version__


def test_issue_templates_are_complete():
    yaml = pytest.importorskip("yaml")
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(templates) >= 4
    for path in templates:
        template = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= set(template), path
        named = [field["id"] for field in template["body"] if field["type"] != "markdown"]
        assert len(named) == len(set(named)), path
        assert all(field["attributes"].get("label") for field in template["body"] if field["type"] != "markdown"), path


def test_type_information_is_shipped():
    assert (ROOT / "src" / "eigenstep" / "py.typed").exists()
    assert '"py.typed"' in PYPROJECT
