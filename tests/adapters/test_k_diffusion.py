"""adapters/k_diffusion.py: k-diffusion's own samplers visit exactly the grid they are given, with either side's denoisers.

The tests that run them are skipped where k-diffusion is absent; its numbers on the same problem are stored, and asserted
always, in test_sampling.py.
"""

import importlib.util
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eigenstep import VPDiscrete
from eigenstep.adapters import k_diffusion
from eigenstep.models import ModelDenoiser, generate, item_noise

torch = pytest.importorskip("torch")

_spec = importlib.util.spec_from_file_location(
    "k_diffusion_numbers", Path(__file__).parents[1] / "parity" / "k_diffusion_numbers.py"
)
numbers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numbers)

MIXTURE = numbers.Mixture()
SHAPE = numbers.ITEM_SHAPE
GRID = numbers.GRIDS["zero"]
Z = torch.from_numpy(item_noise(range(4), SHAPE)).to(torch.float32)


@pytest.fixture(scope="module")
def host():
    try:
        return numbers.host()
    except ImportError as error:
        pytest.skip(str(error))


# ---------------------------------------------------------------------------------------------------------------------
# The host's samplers on our grid


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
def test_the_samplers_visit_our_levels_and_give_our_result(host, name):
    sampling, _ = host
    model = k_diffusion.denoiser_to_model(MIXTURE)
    sigmas = k_diffusion.sigmas(GRID)
    x = numbers.run(sampling, name, model, k_diffusion.start(GRID, Z), sigmas, [])
    levels = [float(s) for s in sigmas]
    visited = levels[:-1] if name != "heun" else [levels[0], *np.repeat(levels[1:-1], 2).tolist()]
    assert model.visited == visited  # exactly: bit by bit in float32
    np.testing.assert_allclose(sigmas.numpy(), GRID, rtol=2**-24)
    ours = generate(MIXTURE, GRID, 4, item_shape=SHAPE, solver=name)
    # 1e-5: the host computes its coefficients in float32, we ours in float64.
    assert float((x - ours).abs().max() / ours.abs().max()) < 1e-5


def test_a_warm_start_is_handed_over(host):
    plan = SimpleNamespace(sigmas=np.array([3.0, 1.0, 0.2, 0.0]), solver="ddim", warm=lambda z: 3.3 * z + 0.1)
    model = k_diffusion.denoiser_to_model(MIXTURE)
    x = host[0].sample_euler(model, k_diffusion.start(plan, Z), k_diffusion.sigmas(plan), disable=True)
    assert model.visited == pytest.approx([3.0, 1.0, 0.2], rel=2**-24)
    torch.testing.assert_close(x, generate(MIXTURE, plan, 4, item_shape=SHAPE), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The host's models as our denoisers


class Epsilon(torch.nn.Module):
    """What a perfect network of noise gives on Stable Diffusion's path, for the mixture."""

    path = VPDiscrete.sd15()

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        # In float64, as the path has them: the host's float32 levels are one rounding away.
        t = np.arange(1000.0)
        self.alphas_cumprod = torch.from_numpy(self.path.alpha(t) ** 2).to(torch.float32)

    def apply_model(self, x_t, t, **conditions):
        sigma, alpha = self.path.t_to_sigma(t[0].item()), self.path.alpha(t[0].item())
        x = x_t / alpha.item()
        return self.scale * (x - MIXTURE(x, sigma.item())) / sigma.item()

    forward = apply_model


def test_a_comp_vis_model_is_a_denoiser_with_its_range(host):
    network = Epsilon()
    denoiser = k_diffusion.model_to_denoiser(host[1].CompVisDenoiser(network))
    # 1e-4: float32's alphas_cumprod lose digits at the lowest level, where 1 - alphas_cumprod is 8.5e-4.
    assert (denoiser.sigma_min, denoiser.sigma_max) == pytest.approx((network.path.sigma_min, network.path.sigma_max), rel=1e-4)
    levels = [14.0, 4.0, 1.0, 0.3, 0.05, 0.0]
    ours = generate(MIXTURE, levels, 4, item_shape=SHAPE, solver="heun")
    theirs = generate(denoiser, levels, 4, item_shape=SHAPE, solver="heun")
    # 1e-4: what the host's table of float32 levels makes of each sigma, as above.
    assert float((theirs - ours).abs().max() / ours.abs().max()) < 1e-4


def test_an_openai_model_with_learned_variances_is_a_denoiser(host):
    network = Epsilon()

    def both(x_t, t):
        return torch.cat([network(x_t, t), torch.full_like(x_t, 9.0)], dim=1)

    diffusion = SimpleNamespace(alphas_cumprod=network.alphas_cumprod.numpy())
    denoiser = k_diffusion.model_to_denoiser(host[1].OpenAIDenoiser(both, diffusion))
    x = 2.0 * Z
    # As above.
    torch.testing.assert_close(denoiser(x, 2.0), MIXTURE(x, 2.0), rtol=1e-4, atol=1e-4)


def test_a_v_model_says_no_range_and_takes_ours(host):
    def v(x_t, t):
        sigma = float(torch.tan(t[0] * math.pi / 2))
        x = x_t * math.hypot(1.0, sigma)
        denoised = MIXTURE(x, sigma)
        return ((x - denoised) / sigma - sigma * denoised) / math.hypot(1.0, sigma)

    model = host[1].VDenoiser(v)
    silent = k_diffusion.model_to_denoiser(model)
    assert (silent.sigma_min, silent.sigma_max) == (0.0, math.inf)
    bounded = k_diffusion.model_to_denoiser(model, sigma_min=0.1, sigma_max=80.0)
    assert (bounded.sigma_min, bounded.sigma_max) == (0.1, 80.0)
    # 1e-5: t = atan(sigma) and back in float32.
    torch.testing.assert_close(bounded(2.0 * Z, 2.0), MIXTURE(2.0 * Z, 2.0), rtol=1e-5, atol=1e-5)


def test_a_guidance_wrapper_has_the_range_of_the_model_inside(host):
    class Guided(torch.nn.Module):
        def __init__(self, inner_model):
            super().__init__()
            self.inner_model = inner_model

        def forward(self, x, sigma, scale):
            return scale * self.inner_model(x, sigma)

    inner = host[1].CompVisDenoiser(Epsilon())
    denoiser = k_diffusion.model_to_denoiser(Guided(inner), extra_args={"scale": 2.0})
    assert denoiser.sigma_max == float(inner.sigma_max)
    torch.testing.assert_close(denoiser(Z, 1.0), 2.0 * inner(Z, torch.ones(4)))


def test_karras_preconditioner_there_and_back(host):
    """The formula of k-diffusion's layers.Denoiser, whose module needs more libraries, on a linear network."""

    def karras(x, sigma):
        sigma = sigma[:, None, None]
        total = sigma**2 + 0.25
        return x * 0.25 / total + sigma * 0.5 / total**0.5 * torch.tanh(x / total**0.5)

    model = k_diffusion.denoiser_to_model(k_diffusion.model_to_denoiser(karras, sigma_min=0.01, sigma_max=80.0))
    assert (model.sigma_min, model.sigma_max) == (0.01, 80.0)
    sigmas = k_diffusion.sigmas(GRID)
    there, back = (host[0].sample_dpmpp_2m(each, sigmas[0] * Z, sigmas, disable=True) for each in (karras, model))
    assert torch.equal(there, back)


# ---------------------------------------------------------------------------------------------------------------------
# Without the host


def test_a_denoiser_and_the_model_it_becomes_are_inverse():
    back = k_diffusion.model_to_denoiser(k_diffusion.denoiser_to_model(MIXTURE))
    assert torch.equal(back(Z, 2.0), MIXTURE(Z, 2.0))
    assert (back.sigma_min, back.sigma_max, back.device) == (0.0, math.inf, None)


def test_numpy_arrays_are_taken_and_given():
    network = torch.nn.Linear(3, 3)
    denoiser = k_diffusion.model_to_denoiser(lambda x, sigma: network(x) + sigma[:, None, None])
    x = Z.numpy().astype(np.float64)
    given = denoiser(x, 0.5)
    assert isinstance(given, np.ndarray)
    np.testing.assert_array_equal(given, denoiser(Z, 0.5).detach().numpy())


def test_the_device_is_that_of_the_parameters():
    assert k_diffusion.model_to_denoiser(torch.nn.Linear(2, 2)).device == torch.device("cpu")
    assert k_diffusion.model_to_denoiser(torch.nn.Linear(2, 2, device="meta")).device == torch.device("meta")
    assert k_diffusion.model_to_denoiser(torch.nn.Identity()).device is None


def test_the_end_of_the_range_rounded_to_float32_is_that_end():
    path = VPDiscrete.sd15()
    denoiser = ModelDenoiser(lambda x_t, t: 0.0 * x_t, path, "epsilon")
    levels = [path.sigma_max, 1.0, path.sigma_min, 0.0]
    seen = []
    model = k_diffusion.denoiser_to_model(denoiser)
    model.denoiser = lambda x, sigma: seen.append(sigma) or denoiser(x, sigma)
    model.denoiser.sigma_min, model.denoiser.sigma_max = path.sigma_min, path.sigma_max
    for sigma in k_diffusion.sigmas(levels)[:-1]:
        model(Z, sigma.expand(4))
    assert seen == [path.sigma_max, 1.0, path.sigma_min]
    assert model.visited != seen  # what the host said


def test_the_nearest_model_inside_that_says_a_range_is_believed():
    def wrapped(**said):
        return type("Wrapper", (), {**said, "__call__": lambda self, x, sigma: x})()

    inner = wrapped(sigma_min=torch.tensor(0.5), sigma_max=torch.tensor(20.0))
    denoiser = k_diffusion.model_to_denoiser(wrapped(inner_model=wrapped(inner_model=inner)))
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.5, 20.0)
    assert k_diffusion.model_to_denoiser(wrapped(inner_model=wrapped())).sigma_max == math.inf


def test_extra_arguments_reach_the_denoiser():
    model = k_diffusion.denoiser_to_model(lambda x, sigma, scale: scale * x)
    assert torch.equal(model(Z, torch.ones(4), scale=3.0), 3.0 * Z)


def test_rows_of_extra_arguments_follow_their_items():
    labels = torch.arange(5.0)[:, None]
    denoiser = k_diffusion.model_to_denoiser(
        lambda x, sigma, labels, scale: scale * labels + 0.0 * x, extra_args={"labels": labels, "scale": 2.0}
    )
    x = generate(denoiser, [1.0, 0.0], 5, item_shape=(1,), batch_size=2)
    assert torch.equal(x, 2.0 * labels)
    with pytest.raises(ValueError, match="`extra_args` 'labels' has 5 rows, but item 5 was asked for"):
        generate(denoiser, [1.0, 0.0], 6, item_shape=(1,), batch_size=2)


def test_a_plan_and_a_bare_grid_are_both_taken_on_any_device_and_type():
    plan = SimpleNamespace(sigmas=np.array(GRID), warm=None)
    assert torch.equal(k_diffusion.sigmas(plan), k_diffusion.sigmas(GRID))
    assert torch.equal(k_diffusion.start(plan, Z), GRID[0] * Z)
    wide = k_diffusion.sigmas(GRID, dtype=torch.float64)
    assert wide.tolist() == GRID
    assert k_diffusion.sigmas(GRID, device="meta").device == torch.device("meta")
    assert k_diffusion.sigmas([2.0, 1.0]).tolist() == [2.0, 1.0]  # ends where the grid ends


@pytest.mark.parametrize(("grid", "dtype", "message"), [
    ([1.0, 2.0], None, "`grid_or_plan` must be strictly descending"),
    ([2.0], None, "n\\+1 >= 2 noise levels"),
    ([2.0, 1.0 + 1e-9, 1.0, 0.0], None, "`dtype` torch.float32 cannot hold `grid_or_plan`: its levels 1 and 1 become 1 and 1"),
    ([1e5, 1.0, 0.0], torch.float16, "torch.float16 cannot hold `grid_or_plan`: its levels 100000 and 1 become inf and 1"),
    ([1.0, 1e-60, 0.0], torch.float32, "its levels 1e-60 and 0 become 0 and 0; use"),
])
def test_grids_that_do_not_survive_are_refused(grid, dtype, message):
    with pytest.raises(ValueError, match=message):
        k_diffusion.sigmas(grid, dtype=dtype)


def test_several_levels_in_a_call_and_empty_ranges_are_refused():
    with pytest.raises(ValueError, match="`sigma` must be one level for a batch, got 1 to 2; call once per level"):
        k_diffusion.denoiser_to_model(MIXTURE)(Z, torch.tensor([1.0, 2.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="`sigma_max` must exceed `sigma_min`, got 1 and 2"):
        k_diffusion.model_to_denoiser(MIXTURE, sigma_min=2.0, sigma_max=1.0)


def test_without_torch_the_command_that_brings_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'pip install "eigenstep\[torch\]"'):
        k_diffusion.sigmas(GRID)
