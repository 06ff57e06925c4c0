"""The README's Python runs and prints what the README says; its shell lines are commands that exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_prints_what_stands_below_it():
    (code,), (expected,) = blocks("python"), blocks("text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == expected


def test_the_shell_lines_are_commands_with_options_that_exist(tmp_path, monkeypatch):
    """Every `eigenstep` line is run on a folder of images, as written."""
    pytest.importorskip("click")
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    import numpy as np
    from click.testing import CliRunner

    from eigenstep.cli import cli

    rng = np.random.default_rng(0)
    (tmp_path / "my-images").mkdir()
    for k in range(40):
        pixels = rng.normal(128, 40, (4, 4)).clip(0, 255).astype(np.uint8)
        image.fromarray(pixels).save(tmp_path / "my-images" / f"{k}.png")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("eigenstep ")]
    assert len(lines) >= 4
    for line in lines:
        arguments = line.split("#")[0].split()[1:]
        if "3-20" in arguments:
            arguments[arguments.index("3-20")] = "3-5"  # the same command, sooner
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, (line, result.output)
    assert {"mine.json", "out.png"} <= {path.name for path in tmp_path.iterdir()}


def test_relative_links_lead_somewhere():
    root = Path(__file__).parents[1]
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")]
    assert targets
    for target in targets:
        assert (root / target).exists(), target
