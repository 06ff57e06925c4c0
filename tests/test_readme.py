"""The README's Python runs and prints what the README says; its shell lines are commands that exist."""

import contextlib
import functools
import io
import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_prints_what_stands_below_it():
    code, (expected,) = blocks("python")[0], blocks("text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == expected


def photos(folder):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    (folder / "my-images").mkdir()
    for k in range(40):
        pixels = rng.normal(128, 40, (4, 4)).clip(0, 255).astype(np.uint8)
        image.fromarray(pixels).save(folder / "my-images" / f"{k}.png")


def pipeline(folder):
    """A small pipeline where the reader's own stands."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(folder / "my-pipeline")


# diffusers' schedulers, where numpy copies their tables.
@pytest.mark.filterwarnings("ignore:__array_(_|wrap__):DeprecationWarning")
def test_two_added_lines_sample_a_saved_pipeline_as_planned(tmp_path, monkeypatch):
    pipeline(tmp_path)
    from eigenstep import Spectrum, models, sample
    from eigenstep.adapters.diffusers import read_back
    from eigenstep.models import load_denoiser

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "plan", functools.partial(models.plan, judges=6))  # the same, sooner
    items = np.cumsum(np.random.default_rng(0).standard_normal((400, 1, 4, 4)), axis=3) / 4
    Spectrum.from_samples(items).save("mine.json")
    (code,) = [block for block in blocks("python") if "from_pretrained" in block]
    lines = code.splitlines()
    assert sum("# added" in line for line in lines) == 2
    scope = {}
    torch = pytest.importorskip("torch")
    torch.manual_seed(7)
    exec(compile(code.replace(".images", "").replace("pipe(", 'pipe(output_type="np", '), "README.md", "exec"), scope)
    planned = scope["planned"]
    # From the timesteps of the levels and back.
    np.testing.assert_allclose(read_back(scope["pipe"].scheduler), planned.sigmas, rtol=1e-12)
    assert len(planned.sigmas) == 7
    # What the pipeline made is what our sampler makes of its noise on the planned levels.
    torch.manual_seed(7)
    z = torch.randn(1, 1, 4, 4)
    ours = sample(
        load_denoiser(tmp_path / "my-pipeline"), (1 + planned.sigmas[0] ** 2) ** 0.5 * z, planned.sigmas, solver="ddim"
    )
    ours = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    np.testing.assert_allclose(scope["images"].images, ours, atol=1e-4)


def test_the_shell_lines_are_commands_with_options_that_exist(tmp_path, monkeypatch):
    """Every `eigenstep` line is run on a folder of images and a pipeline, as written; `evaluate` is parsed."""
    pytest.importorskip("click")
    pytest.importorskip("matplotlib")
    from click.testing import CliRunner

    from eigenstep.cli import cli

    photos(tmp_path)
    pipeline(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("eigenstep ")]
    assert len(lines) >= 6
    for line in lines:
        arguments = line.split("#")[0].split()[1:]
        # The same commands, sooner.
        if "3-20" in arguments:
            arguments[arguments.index("3-20")] = "3-5"
        if "--model" in arguments:
            arguments += ["--judges", "2"]
        if arguments[0] == "evaluate":
            # Half a minute of work, which test_evaluation.py does: here that the line is one that the command takes.
            cli.commands["evaluate"].make_context("evaluate", arguments[1:])
            continue
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, (line, result.output)
    assert {"mine.json", "out.png", "plan.json"} <= {path.name for path in tmp_path.iterdir()}


def test_relative_links_lead_somewhere():
    root = Path(__file__).parents[1]
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")]
    assert targets
    for target in targets:
        assert (root / target).exists(), target
