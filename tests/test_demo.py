"""`eigenstep demo`: the bundled network is what its files say, the numbers are those of the pictures, the picture is sharp."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pytest
from click.testing import CliRunner, Result

from eigenstep import cli
from eigenstep.cli import demo, picture
from eigenstep.spectrum import Spectrum

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
image = pytest.importorskip("PIL.Image")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, ["demo", *(str(argument) for argument in arguments)], prog_name="eigenstep")


def no_report(done: int, total: int | None) -> None:
    pass


@pytest.fixture
def small(monkeypatch):
    """Two numbers of calls, two samples in a cell, a short converged run: the same code, a hundredth of the calls."""
    monkeypatch.setattr(demo, "CALLS", (4, 6))
    monkeypatch.setattr(demo, "SHOWN", (1, 2))
    monkeypatch.setattr(demo, "CONVERGED_STEPS", 5)


class TestBundled:
    def test_is_small_and_in_half_precision(self):
        weights = demo.bundled() / "unet" / "diffusion_pytorch_model.safetensors"
        content = weights.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        tensors = json.loads(content[8 : 8 + length])
        tensors.pop("__metadata__", None)
        assert {tensor["dtype"] for tensor in tensors.values()} == {"F16"}
        assert len(content) <= 4 * 2**20
        assert sum(file.stat().st_size for file in demo.bundled().rglob("*") if file.is_file()) <= 5 * 2**20

    def test_diffusers_default_run_is_the_one_shown(self):
        # Two routes to the same images: diffusers' own scheduler on its timesteps, and generate on the column's levels.
        from eigenstep.grids import timestep_grid
        from eigenstep.models import generate, item_noise, load_denoiser

        pipeline = diffusers.DDIMPipeline.from_pretrained(demo.bundled(), local_files_only=True)
        denoiser = load_denoiser(demo.bundled())
        sigmas = timestep_grid(6, path=denoiser.path, spacing="leading")
        noise = item_noise(range(2), denoiser.item_shape)
        ours = generate(denoiser, sigmas, 2, item_shape=denoiser.item_shape, noise=noise)
        assert pipeline.scheduler.config.timestep_spacing == "leading"
        pipeline.scheduler.set_timesteps(6)
        # A pipeline takes the noise itself for the first state, which is short of sigma times alpha there by 2e-4 at t = 830.
        x = torch.tensor(noise * sigmas[0] / np.sqrt(1 + sigmas[0] ** 2), dtype=torch.float32)
        with torch.no_grad():
            for t in pipeline.scheduler.timesteps:
                x = pipeline.scheduler.step(pipeline.unet(x, t).sample, t, x).prev_sample
        # float32 through six calls of the network.
        assert float((x - ours).abs().max()) < 2e-4

    def test_spectrum_is_the_zoos_with_its_border(self):
        kept, zoo = Spectrum.load(demo.bundled() / "spectrum.npz"), Spectrum.from_zoo("mnist")
        # Measured twice, once padded: the border adds zeros only. Binning keeps the trace; float32 sums of float32 pixels.
        assert kept.trace == pytest.approx(zoo.trace, rel=1e-7)
        assert (kept.dim, kept.item_shape, kept.n_samples) == (1024, (1, 32, 32), zoo.n_samples)
        gram = kept.basis.astype(np.float64) @ kept.basis.T
        # 1024 products of numbers rounded to 2^-24.
        np.testing.assert_allclose(gram, np.eye(len(kept.basis)), atol=1e-6)

    def test_network_denoises_as_its_plans_say(self):
        # Items of the data's own Gaussian: no network is better on them than the Wiener filter, and a wrong scale, sign or time
        # would be many times worse. Where the data are far from Gaussian (below sigma = 3) they are nothing it has seen.
        from eigenstep import cramer_rao_bound
        from eigenstep.models import load_denoiser

        kept = Spectrum.load(demo.bundled() / "spectrum.npz")
        denoiser = load_denoiser(demo.bundled())
        rng = np.random.default_rng(0)
        scores = rng.standard_normal((64, len(kept.basis))) * np.sqrt(kept.eigenvalues[: len(kept.basis)])
        clean = (kept.mean.reshape(-1) + scores @ kept.basis).reshape(-1, *kept.item_shape)
        for sigma in (10.0, 30.0):
            noisy = clean + sigma * rng.standard_normal(clean.shape)
            error = np.mean(np.sum((denoiser(noisy, sigma) - clean).reshape(64, -1) ** 2, axis=1))
            ratio = error / float(cramer_rao_bound(kept, [sigma])[0])
            # 64 items leave 4 %; the directions that were left out hold 3 % of the variance.
            assert 0.85 < ratio < 1.25, (sigma, ratio)


class TestCompared:
    def test_numbers_are_those_of_the_images(self, small):
        told = []
        found = demo.compared(3, 5, lambda done, total: told.append((done, total)))
        assert list(found.rows) == [4, 6]
        for runs in found.rows.values():
            assert [runs[0].grid, runs[2].grid] == ["diffusers' default", "eigenstep"]
            for each in runs:
                assert each.images.shape == (3, 32, 32)
                # Both are float64 sums of the same numbers.
                assert each.rmse == pytest.approx(np.sqrt(np.mean((each.images - found.converged.images) ** 2)), rel=1e-12)
        # Three grids of 4 and 6 calls, and nine calls of Heun, for three items.
        assert told[-1] == (3 * (3 * 10 + 9), 3 * (3 * 10 + 9))
        assert [done for done, _ in told] == sorted(done for done, _ in told)

    def test_same_seed_same_images_and_items_do_not_depend_on_how_many(self, small):
        few, more = demo.compared(2, 1, no_report), demo.compared(3, 1, no_report)
        # float32: a convolution of another batch may add in another order.
        np.testing.assert_allclose(few.rows[4][2].images, more.rows[4][2].images[:2], atol=1e-4)
        assert not np.allclose(demo.compared(2, 2, no_report).converged.images, few.converged.images, atol=0.1)


def cell(seed: int, **words: str) -> picture.Cell:
    images = np.random.default_rng(seed).uniform(-1.2, 1.2, (4, 5, 7))
    return picture.Cell(images, words.get("number", ""), words.get("remark", ""))


class TestPicture:
    def test_every_pixel_of_a_sample_is_a_sharp_square(self, tmp_path):
        cells = [cell(0), cell(1)]
        made = picture.before_and_after("t", [("a", "b"), ("c", "d")], [("4 calls", cells)], "f", ours=1, tiles=(2, 2))
        made.savefig(tmp_path / "it.png")
        pixels = np.asarray(image.open(tmp_path / "it.png").convert("L")).astype(int)
        top, step = picture.MARGIN + picture.HEAD, picture.MAGNIFIED
        for k, each in enumerate(cells):
            left = picture.MARGIN + picture.LABELS + k * (2 * 7 * step + picture.GAP)
            shown = np.clip(each.images, -1, 1)
            sheet = np.block([[shown[0], shown[1]], [shown[2], shown[3]]])
            expected = np.kron((sheet + 1) / 2 * 255, np.ones((step, step)))
            found = pixels[top : top + expected.shape[0], left : left + expected.shape[1]]
            # A level each for the colour map's 256 entries and the way back to grey; a blur or a shift would be tens.
            assert np.abs(found - expected).max() <= 2
            np.testing.assert_array_equal(found[::step, ::step], found[step - 1 :: step, step - 1 :: step])

    def test_words_stand_in_it_and_ours_is_coloured(self):
        from eigenstep.plots import OURS

        row = ("6 calls", [cell(0, number="RMSE 0.2"), cell(1, number="RMSE 0.1", remark="50% less")])
        made = picture.before_and_after("title", [("default", "x"), ("eigenstep", "y")], [row], "foot", ours=1, tiles=(2, 2))
        colours = {text.get_text(): text.get_color() for text in made.texts}
        assert {"title", "foot", "6", "calls", "default", "RMSE 0.2"} < set(colours)
        assert {word for word, colour in colours.items() if colour == OURS} == {"eigenstep", "y", "RMSE 0.1", "50% less"}


class TestCommand:
    def test_writes_the_picture_and_prints_the_numbers(self, small, tmp_path):
        result = run("--items", 4, "--seed", 3, "--output", tmp_path / "it.png")
        assert result.exit_code == 0, result.stderr
        found = demo.compared(4, 3, no_report)
        for runs in found.rows.values():
            for each in runs:
                assert f"{each.rmse:.4f}" in result.stdout
        assert "4 samples of seed 3" in result.stdout
        assert "saved the picture" in result.stderr
        with image.open(tmp_path / "it.png") as shown:
            assert shown.size[0] == 2 * picture.MARGIN + picture.LABELS + 4 * 2 * 32 * picture.MAGNIFIED + 3 * picture.GAP

    def test_several_seeds_give_means_and_the_interval_of_the_gain(self, small, tmp_path):
        from eigenstep.evaluation import t_interval

        result = run("--items", 4, "--seed", 2, "--seeds", 3, "-o", tmp_path / "it.png", "-q")
        assert result.exit_code == 0, result.stderr
        found = [demo.compared(4, seed, no_report) for seed in (2, 3, 4)]
        for n in (4, 6):
            for k in range(3):
                assert f"{np.mean([each.rows[n][k].rmse for each in found]):.4f}" in result.stdout
            gains = t_interval([each.rows[n][2].rmse / each.rows[n][1].rmse - 1 for each in found])
            assert f"{abs(gains.mean):.0%} {'less' if gains.mean <= 0 else 'more'} ±{gains.half_width:.0%}" in result.stdout
        assert "4 samples of each of the seeds 2 to 4" in result.stdout

    def test_progress_goes_on_over_the_seeds(self, small):
        told = []
        demo.over_seeds(3, range(2), lambda done, total: told.append((done, total)))
        each = 3 * (3 * 10 + 9)
        assert {total for _, total in told} == {2 * each}
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1][0] == 2 * each

    def test_one_thread_while_it_samples_and_as_many_as_before_afterwards(self):
        before = torch.get_num_threads()
        with demo.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before

    def test_quiet_says_nothing_else(self, small, tmp_path):
        assert run("--items", 4, "--quiet", "-o", tmp_path / "it.png").stderr == ""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["-o", "it.jpg"], r"must end in .png, got 'it.jpg'"),
            (["-o", "nowhere/it.png"], "folder that exists"),
            (["--items", "23"], "`items` must be at least 24, got 23"),
            (["--seed", "-1"], "`seed` must be at least 0, got -1"),
            (["--seeds", "0"], "`seeds` must be at least 1, got 0"),
        ],
    )
    def test_refuses_before_any_work(self, monkeypatch, arguments, message):
        monkeypatch.setattr(demo, "compared", lambda *_: pytest.fail("it sampled"))
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1

    def test_a_missing_matplotlib_is_found_before_any_work(self, monkeypatch):
        monkeypatch.setattr(demo, "compared", lambda *_: pytest.fail("it sampled"))
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        result = run()
        assert result.exit_code == 2
        assert result.stderr == 'eigenstep: Figures need matplotlib; install it with `pip install "eigenstep[plots]"`.\n'

    @pytest.mark.parametrize("missing", ["torch", "diffusers"])
    def test_names_the_command_that_installs_what_is_missing(self, small, monkeypatch, tmp_path, missing):
        for name in [name for name in sys.modules if name == missing or name.startswith(f"{missing}.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, missing, None)
        result = run("--items", 4, "-o", tmp_path / "it.png")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "pip install" in result.stderr


@pytest.mark.slow
class TestAsShipped:
    def test_ours_is_nearest_to_converged(self):
        with demo.one_thread():
            found = demo.compared(48, 0, no_report)
        for runs in found.rows.values():
            default, best, ours = (each.rmse for each in runs)
            assert ours < default
            assert ours <= best

    def test_converged_is_converged(self, monkeypatch):
        found = demo.compared(8, 0, no_report)
        monkeypatch.setattr(demo, "CONVERGED_STEPS", 2 * demo.CONVERGED_STEPS)
        finer = demo.compared(8, 0, no_report)
        smallest = min(each.rmse for runs in found.rows.values() for each in runs)
        change = float(np.sqrt(np.mean((finer.converged.images - found.converged.images) ** 2)))
        # Errors are told to two digits: what the target itself lacks must not be seen in them.
        assert change < 0.1 * smallest
