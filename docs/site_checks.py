"""What a build of the documentation insists on, as hooks of mkdocs; `tests/test_docs.py` calls the same functions.

Every public name has its place in the API pages, formulas become MathML while the site is built, and no page asks the
network for anything when it is read.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOMS = ("eigenstep.data", "eigenstep.estimation", "eigenstep.models", "eigenstep.evaluation")
CORE = ("eigenstep.grids", "eigenstep.moments", "eigenstep.optimal")
HOSTS = ("comfyui", "diffusers", "k_diffusion", "text", "timesteps")

_RESOURCE = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\b(?:src|srcset)=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|preload|prefetch|preconnect|dns-prefetch|modulepreload))"""
    r"""[^>]*?\bhref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//[^"')\s]+"""
    r"""|\burl\(["']?(?:https?:)?//[^"')]+""",
    flags=re.IGNORECASE,
)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)


def public_names() -> Iterator[tuple[str, ...]]:
    """Each public name by the names it may be documented under, the preferred one first; read from the source, not imported."""
    for room in ROOMS:
        for name in _names(room):
            yield (_directive(room, name),)
    for name in _names("eigenstep"):
        if not name.startswith("__"):
            yield (f"eigenstep.{name}", *(_directive(room, name) for room in CORE))
    for host in HOSTS:
        for name in _names(f"eigenstep.adapters.{host}"):
            yield (f"eigenstep.adapters.{host}.{name}",)
    for room in CORE:
        for name in _names(room):
            yield (f"eigenstep.{name}", _directive(room, name))


def _file(module: str) -> Path | None:
    """Where a module's source is."""
    place = DOCS.parent.joinpath("src", *module.split("."))
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.exists()), None)


def _names(module: str) -> list[str]:
    """`__all__` of a module, or its public functions and classes where it has none."""
    path = _file(module)
    assert path is not None, module
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    defined = (node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return [name for name in defined if not name.startswith("_")]


def _directive(room: str, name: str) -> str:
    """What shows a name: a function that shares its module's name is shown from within, or the module would be."""
    return f"{room}.{name}.{name}" if _file(f"{room}.{name}") else f"{room}.{name}"


def documented_names(pages: Path = DOCS / "api") -> set[str]:
    """What the API pages show."""
    found: set[str] = set()
    for page in pages.glob("*.md"):
        found.update(re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return found


def undocumented(pages: Path = DOCS / "api") -> list[str]:
    """Public names that no API page shows."""
    shown = documented_names(pages)
    return sorted({names[0] for names in public_names() if not shown.intersection(names)})


def network_resources(text: str) -> list[str]:
    """What a built page or style sheet would fetch from another machine while it is read; links to click are not."""
    return [match.group(0) for match in _RESOURCE.finditer(text)]


def with_formulas(text: str) -> str:
    """A page with its TeX formulas as MathML, which browsers draw by themselves."""
    from latex2mathml.converter import convert

    def converted(match: re.Match[str]) -> str:
        block = match.group(2) == "["
        formula = convert(html.unescape(match.group(3)), display="block" if block else "inline")
        return f'<div class="formula">{formula}</div>' if block else formula

    return _FORMULA.sub(converted, text)


def on_config(config: Any) -> Any:
    """Fail before anything is built where a public name has no place."""
    from mkdocs.exceptions import PluginError

    missing = undocumented()
    if missing:
        raise PluginError(f"No page of docs/api shows {', '.join(missing)}; add a line `::: NAME` to the page it belongs on.")
    return config


def on_page_content(html: str, **_: Any) -> str:
    """Turn formulas into MathML."""
    return with_formulas(html)


def on_post_build(config: Any) -> None:
    """Fail where a finished page would ask the network for something."""
    from mkdocs.exceptions import PluginError

    for page in sorted(Path(config["site_dir"]).rglob("*")):
        if page.suffix in {".html", ".css"}:
            found = network_resources(page.read_text(encoding="utf-8"))
            if found:
                raise PluginError(f"{page.name} would fetch from the network when it is read: {found[0]}")
