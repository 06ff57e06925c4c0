"""How the docstrings of this library are read for the API pages: doctests and sources without a heading get one.

The house writes a doctest below the text and a source below what is raised, without a heading of their own. A parser of
numpy's style takes them for text, or for one more item of the section above; here they become `Examples` and `Notes`.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_HEADING = re.compile(r"(\w[\w ]*)\n-{3,}(?:\n|$)")
_ITEMS = {"Parameters", "Returns", "Yields", "Raises", "Attributes", "Methods"}


def sectioned(text: str) -> str:
    """A docstring in which doctests stand in `Examples`, and prose after a list of items in `Notes`."""
    section, out = "", []
    # A bound such as "> 0" at the start of a line would be a quotation.
    for paragraph in re.split(r"\n{2,}", re.sub(r"^( *)>(?!>> )", r"\1\\>", text, flags=re.MULTILINE)):
        heading = _HEADING.match(paragraph)
        if heading:
            section = heading.group(1)
        elif paragraph.startswith(">>> ") and section != "Examples":
            section = "Examples"
            paragraph = f"Examples\n--------\n{paragraph}"
        elif section in _ITEMS and _is_prose(paragraph):
            section = "Notes"
            paragraph = f"Notes\n-----\n{paragraph}"
        out.append(paragraph)
    return "\n\n".join(out)


def _is_prose(paragraph: str) -> bool:
    """Whether a paragraph is no item: it is not indented, nor is its second line, and it is a sentence."""
    first, *rest = paragraph.split("\n")
    indented = first.startswith(" ") or bool(rest and rest[0].startswith(" "))
    return not indented and " : " not in first and len(first.split()) >= 4


class Sections(griffe.Extension):
    """Griffe's hook for every docstring, before it is parsed."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Put the docstring of a module, class, function or attribute into sections."""
        if obj.docstring is not None:
            obj.docstring.value = sectioned(obj.docstring.value)
