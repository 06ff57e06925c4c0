"""The tables of docs/evidence.md and of experiments/README.md, written anew from the cells that the repository keeps.

    python experiments/pages.py

Replaced are the rows of every table whose head is one of the summary's (`tournament.py --summary`), and the list of least
calls; tables that come from other scripts, and prose, are left as they are.
"""

import functools
import re
from pathlib import Path

import tournament

HERE = Path(__file__).parent
PAGES = (HERE.parent / "docs" / "evidence.md", HERE / "README.md")
CELLS, CONFIRMED = HERE / "cells", HERE / "cells" / "confirmed"

FRESH = re.compile(r"^(?:## The same with 2,000 samples|From 2,000 fresh noises)", re.MULTILINE)
"""Where the tables of confirmed cells begin; they end with the next section."""

LEAST = re.compile(r"- \w+, (?:ours|oracle): median ")


def refreshed(text, told):
    """A part of a page with what a summary says."""
    told, lines, done = told.splitlines(), text.split("\n"), []
    known = {line: _run(told, k + 2, is_row) for k, line in enumerate(told) if line.startswith("|") and told[k + 1 : k + 2]}
    while lines:
        line = lines.pop(0)
        done.append(line)
        if line.startswith("|") and line in known and lines[0].startswith("|--"):
            done += [lines.pop(0), *known[line]]
            lines = lines[len(_run(lines, 0, is_row)) :]
        elif LEAST.match(line):
            done[-1:] = [each for each in told if LEAST.match(each)]
            lines = lines[len(_run(lines, 0, LEAST.match)) :]
    return "\n".join(done)


def is_row(line):
    """Whether a line belongs to a table."""
    return line.startswith("|")


def _run(lines, first, belongs):
    """The lines from the first that belong together."""
    last = first
    while last < len(lines) and belongs(lines[last]):
        last += 1
    return lines[first:last]


@functools.cache
def summary(folder):
    """What the cells of a folder say, made once for all pages."""
    return tournament.summary(tournament.read(folder))


def page(text):
    """A page with what the kept cells say."""
    start = FRESH.search(text).start()
    end = text.find("\n## ", start + 3)
    before, section, after = text[:start], text[start:end], text[end:]
    return refreshed(before, summary(CELLS)) + refreshed(section, summary(CONFIRMED)) + refreshed(after, summary(CELLS))


def main():
    for file in PAGES:
        file.write_text(page(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
