"""The training recipes of experiments/: what a network is asked for is what `load_denoiser` takes it to give."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks are trained in torch")
pytest.importorskip("diffusers", reason="and saved as diffusers folders")

train = pytest.importorskip("train", reason="no experiments/ beside these tests")

from eigenstep.models import load_denoiser  # noqa: E402
from eigenstep.models.schedulers import scheduler_convention  # noqa: E402

SIGMAS = np.array([0.05, 0.7, 9.0])


@pytest.mark.parametrize("name", ["edm_fashion", "eps_cifar", "v_fashion_classes", "flow_latent"])
def test_a_network_that_gives_what_is_wanted_denoises_perfectly(name):
    """The training's own formula and the loader's, two routes from the output to x_0."""
    scheduler = train.RECIPES[name].scheduler()
    rng = np.random.default_rng(0)
    clean, noise = (torch.tensor(rng.standard_normal((3, 1, 4, 4))) for _ in range(2))
    seen = {}

    def net(x, label, **given):
        seen["x"], seen["label"] = x, label
        return SimpleNamespace(sample=torch.zeros_like(x))

    _, wanted = train.TASKS[type(scheduler).__name__](net, clean, noise, SIGMAS, scheduler)
    convention = scheduler_convention(scheduler)
    for row in range(3):
        called = {}

        def known(x, label, row=row, called=called):
            called["x"], called["label"] = x, label
            return wanted[row : row + 1].numpy()

        denoiser = convention.denoiser(known)
        # A table's training falls on its next timestep: the level that it was really shown.
        sigma = SIGMAS[row]
        if hasattr(scheduler, "alphas_cumprod"):
            sigma = float(((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).double().sqrt()[int(seen["label"][row])])
        noisy = (clean[row : row + 1] + sigma * noise[row : row + 1]).numpy()
        # float32 tables of alphas: 1e-6 of the noise.
        np.testing.assert_allclose(denoiser(noisy, sigma), clean[row : row + 1].numpy(), atol=3e-6 * max(sigma, 1))
        np.testing.assert_allclose(called["x"], seen["x"][row : row + 1].numpy(), atol=3e-6)
        label = called["label"] if convention.time_label is None else convention.time_label(called["label"])
        if convention.wrap is None:  # EDM's label is made inside its preconditioning, tested with it
            assert float(label) == pytest.approx(float(seen["label"][row]), abs=2e-3)
        else:
            assert 0.25 * np.log(sigma) == pytest.approx(float(seen["label"][row]), abs=1e-6)


def test_a_recipe_becomes_a_folder_that_is_read_and_goes_on(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    items = np.clip(rng.standard_normal((64, 1, 16, 16)).cumsum(2) * 0.2, -1, 1).astype(np.float32)
    recipe = train.Recipe(
        lambda split: items, lambda: train.unet(1, (32, 32), size=16, classes=3), train.table("v_prediction"), 0.0, 1.0,
        train.TABLE_ENDS, 32, labels=lambda split: np.arange(64) % 2, classes=2,
    )  # fmt: skip
    monkeypatch.setitem(train.RECIPES, "tiny", recipe)
    train.train("tiny", tmp_path, images=64)
    given = {"labels": 1, "negative_labels": 2, "guidance_scale": 2.0}
    first = load_denoiser(tmp_path / "tiny", **given)
    x = rng.standard_normal((2, 1, 16, 16)).astype(np.float32)
    once = first(x, 1.0)
    assert once.shape == x.shape
    train.train("tiny", tmp_path, images=64)  # nothing is left to do, and the same is saved
    np.testing.assert_array_equal(load_denoiser(tmp_path / "tiny", **given)(x, 1.0), once)
    train.train("tiny", tmp_path, images=128)
    assert np.abs(load_denoiser(tmp_path / "tiny", **given)(x, 1.0) - once).max() > 0


def test_levels_are_drawn_where_the_recipe_says():
    recipe = train.RECIPES["edm_fashion"]
    drawn = recipe.draw(np.random.default_rng(2), 20_000)
    assert drawn.min() >= 0.002
    assert drawn.max() <= 80.0
    # Four in five within two deviations of the centre with probability 0.954, and the even share that falls there.
    near = np.abs(np.log(drawn) - recipe.centre) < 2 * recipe.spread
    even = 4 * recipe.spread / np.log(80 / 0.002)
    assert near.mean() == pytest.approx(0.8 * 0.954 + 0.2 * even, abs=0.01)


def test_spectrograms_put_a_tone_where_it_sounds(monkeypatch, tmp_path):
    """A tone of 1 kHz at 8 kHz lies a quarter of the way up 32 bands, and silence at the floor."""
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(4096) / 8000)).astype(np.int16)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "speech_digits_wave4096.npz", test=np.stack([tone, np.zeros(4096, np.int16)]))
    monkeypatch.setattr(train, "SHARED", tmp_path)
    made = train.speech("test")
    assert made.shape == (2, 1, 32, 32)
    assert abs(int(made[0, 0, :, 10].argmax()) - 8) <= 1
    assert np.all(made[1] == -1)
