"""models/denoiser.py and network.py: what every wrapped network must do, whatever it is made of."""

import subprocess
import sys

import numpy as np
import pytest

from eigenstep import EDM, RectifiedFlow, Spectrum, VPCosine, VPDiscrete, wiener_gain
from eigenstep.models import Denoiser, GuidedDenoiser, ModelDenoiser, Preconditioned, error_curve
from eigenstep.models.denoiser import edm_noise_label

torch = pytest.importorskip("torch")

LAM = np.array([4.0, 1.0, 0.09])


class Wiener(torch.nn.Module):
    """The perfect epsilon network of N(0, diag(LAM)) on a discrete path, whose time is its row in a table."""

    def __init__(self, path):
        super().__init__()
        sigmas = torch.as_tensor(path.t_to_sigma(np.arange(path.n_timesteps)))
        self.register_buffer("table", sigmas)
        self.lam = torch.nn.Parameter(torch.as_tensor(LAM))
        self.dropout = torch.nn.Dropout(0.5)
        self.seen = []

    def forward(self, x, t):
        assert t.shape == (len(x),)
        self.seen.append((t.dtype, t[0].item(), torch.is_grad_enabled(), len(x)))
        k = t.double()
        low = k.floor().long()
        high = (low + 1).clamp(max=len(self.table) - 1)
        w = (k - low).to(x.dtype)[:, None]
        # ln sigma is linear between timesteps, as on the path.
        sigma = torch.exp((1 - w) * self.table[low].log()[:, None] + w * self.table[high].log()[:, None]).to(x.dtype)
        alpha = 1 / torch.sqrt(1 + sigma**2)
        return self.dropout(sigma * alpha / (alpha**2 * self.lam + (sigma * alpha) ** 2) * x)


def perfect(timesteps="fractional", **options):
    path = VPDiscrete.ddpm()
    module = Wiener(path)
    return ModelDenoiser.from_module(module, path, "epsilon", timesteps=timesteps, **options), module


X = np.random.default_rng(0).standard_normal((5, 3))


@pytest.mark.parametrize("sigma", [0.02, 1.0, 37.5])
def test_a_torch_module_is_the_wiener_filter_on_arrays_and_tensors(sigma):
    denoiser, _ = perfect()
    expected = wiener_gain(LAM, sigma) * X * sigma
    given = denoiser(X * sigma, sigma)
    assert isinstance(given, np.ndarray)
    assert given.dtype == np.float64
    # 1e-6: the time goes in as float32, 3e-8 of t, and epsilon is close to x_t at high levels.
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-4 * sigma**2)
    tensor = denoiser(torch.as_tensor(X * sigma), sigma)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(tensor.numpy(), given)


def test_types_and_devices_come_back_as_they_came():
    denoiser, module = perfect(dtype="float32", device="cpu")
    assert next(module.parameters()).dtype == torch.float32
    assert denoiser.dtype == torch.float32
    assert denoiser.device == torch.device("cpu")
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert denoiser(torch.ones(2, 3, dtype=kind), 1.0).dtype == kind
    for kind in (np.float32, np.float64):
        assert denoiser(np.ones((2, 3), kind), 1.0).dtype == kind
    frozen = np.ones((2, 3))
    frozen.setflags(write=False)
    np.testing.assert_array_equal(denoiser.network(frozen, 3.0), denoiser.network(np.ones((2, 3)), 3.0))
    assert ModelDenoiser(lambda x, t: x, EDM(), "x0").device is None


def test_evaluation_mode_without_gradients_and_put_back_flag_by_flag():
    denoiser, module = perfect()
    module.train()
    first = denoiser(X, 1.0)
    np.testing.assert_array_equal(first, denoiser(X, 1.0))  # dropout would differ
    assert module.training
    assert module.dropout.training
    module.dropout.eval()
    denoiser(X, 1.0)
    assert module.training
    assert not module.dropout.training
    assert not any(grad for _, _, grad, _ in module.seen)
    given = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    module.lam.requires_grad_(True)
    assert denoiser.network(given, 3.0).requires_grad is False


def test_the_flags_are_put_back_when_the_module_fails():
    denoiser, module = perfect()
    module.train()
    with pytest.raises(RuntimeError):
        denoiser(np.ones((2, 4)), 1.0)
    assert module.training


def test_fractional_times_are_floats_and_integer_times_the_nearest_integers():
    denoiser, module = perfect()
    sigma = float(denoiser.path.t_to_sigma(400.3))
    denoiser(X, sigma)
    assert module.seen[-1][0] == torch.float32
    assert module.seen[-1][1] == pytest.approx(400.3, abs=1e-4)  # float32 digits of 400
    whole, module = perfect("integer")
    between = whole(X, sigma)
    assert module.seen[-1][:2] == (torch.int64, 400)
    # The network sees level 400, the formula the level asked for.
    alpha = float(whole.path.alpha(400.3))
    at = float(whole.path.t_to_sigma(400))
    a = 1 / np.sqrt(1 + at**2)
    noise = a * at / (a**2 * LAM + (a * at) ** 2) * alpha * X
    np.testing.assert_allclose(between, X - sigma * noise, rtol=1e-9)
    exact = float(whole.path.t_to_sigma(400))
    np.testing.assert_allclose(whole(X, exact), wiener_gain(LAM, exact) * X, rtol=1e-9)
    with pytest.raises(ValueError, match="`timesteps` must be 'fractional' on VPCosine, whose time is continuous"):
        ModelDenoiser(lambda x, t: x, VPCosine(), "x0", timesteps="integer")


def test_a_time_label_is_what_a_continuous_network_is_told():
    seen = []

    def velocity(x, t):
        seen.append(t[0].item())
        return 0 * x

    denoiser = ModelDenoiser.from_module(velocity, RectifiedFlow(), "velocity", time_label=lambda t: 1000 * t)
    denoiser(X, 1.0)
    assert seen == [500.0]


def test_conditioning_of_one_row_holds_for_all_and_more_rows_for_their_items():
    def shifted(x, sigma, *, label, extra):
        return x + label[:, None] + extra["bias"]

    def given(label, batch_size=None):
        return ModelDenoiser.from_module(
            shifted,
            EDM(),
            "x0",
            arguments={"label": label, "extra": {"bias": torch.ones(1, 3)}},
            batch_size=batch_size,
        )

    np.testing.assert_array_equal(given(3)(np.zeros((4, 3)), 1.0), np.full((4, 3), 4.0))
    each = np.repeat([[1.0], [2.0], [3.0], [4.0]], 3, axis=1)
    for size in (None, 1, 3):
        np.testing.assert_array_equal(given([0, 1, 2, 3], size)(np.zeros((4, 3)), 1.0), each)
    with pytest.raises(ValueError, match="`label` has 4 rows for a batch of 5 items; give one row"):
        given([0, 1, 2, 3])(np.zeros((5, 3)), 1.0)


def test_the_denoiser_of_some_items_keeps_what_holds_for_all():
    def shifted(x, sigma, *, label, extra, gain, name):
        assert name == "any"
        return gain * (x + label[:, None] + extra["bias"])

    arguments = {"label": [5, 6, 7, 8], "extra": {"bias": torch.arange(4.0)[:, None]}, "gain": 2.0, "name": "any"}
    whole = ModelDenoiser.from_module(shifted, EDM(), "x0", arguments=arguments)
    some = whole.for_items(range(1, 3))
    np.testing.assert_array_equal(some(np.zeros((2, 1)), 1.0), [[14.0], [18.0]])
    np.testing.assert_array_equal(whole(np.zeros((4, 1)), 1.0), [[10.0], [14.0], [18.0], [22.0]])
    one = ModelDenoiser.from_module(lambda x, t, to: x + to, EDM(), "x0", arguments={"to": torch.ones(1, 1)})
    np.testing.assert_array_equal(one.for_items(range(7, 9))(np.zeros((2, 1)), 1.0), [[1.0], [1.0]])
    plain = ModelDenoiser(lambda x, t: 2 * x, EDM(), "x0")
    assert plain.for_items(range(3))(1.5, 1.0) == 3.0


def test_a_batch_halved_for_some_items_stays_so_for_the_others():
    sizes = []

    def hungry(x, sigma, *, row):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x * row

    denoiser = ModelDenoiser.from_module(hungry, EDM(), "x0", arguments={"row": torch.arange(8.0)[:, None]})
    for first in (0, 4):
        denoiser.for_items(range(first, first + 4))(np.ones((4, 1)), 1.0)
    assert sizes == [4, 2, 2, 2, 2]


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_out_of_memory_halves_the_batch_and_goes_on(fits):
    sizes = []

    def hungry(x, sigma, *, row):
        sizes.append(len(x))
        if len(x) > fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x * row

    rows = torch.arange(11.0)[:, None]
    denoiser = ModelDenoiser.from_module(hungry, EDM(), "x0", arguments={"row": rows})
    x = np.random.default_rng(1).standard_normal((11, 3)).astype(np.float32)
    np.testing.assert_array_equal(denoiser(x, 1.0), x * rows.numpy())
    first = len(sizes)
    denoiser(x, 1.0)
    assert max(sizes[first:]) <= fits  # what did not fit once is not tried again


def test_one_item_that_does_not_fit_says_so():
    def full(x, sigma):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match=r"`module` runs out of memory on one item of shape \(3,\) on cpu; use a smaller"):
        ModelDenoiser.from_module(full, EDM(), "x0")(X, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_from_the_network_names_the_level(bad):
    def broken(x, t):
        x = x.clone() if isinstance(x, torch.Tensor) else x.copy()
        x[2, 1] = bad
        return x

    said = r"`network` gave NaN or infinity at sigma = 1.5 \(t = 1.5\); check that its input is in the units"
    with pytest.raises(ValueError, match=said):
        ModelDenoiser(broken, EDM(), "x0")(X, 1.5)
    with pytest.raises(ValueError, match=said):
        ModelDenoiser.from_module(broken, EDM(), "x0")(torch.as_tensor(X), 1.5)


def test_guidance_is_the_extrapolation_and_calls_what_it_needs():
    calls = []

    def part(name, value):
        def network(x, sigma):
            calls.append(name)
            return 0 * x + value

        return ModelDenoiser(network, EDM(), "x0", item_shape=(3,))

    towards, away = part("c", 3.0), part("u", 1.0)
    assert isinstance(towards, Denoiser)
    for scale, expected, called in ((0.0, 1.0, "u"), (1.0, 3.0, "c"), (2.5, 6.0, "uc"), (-1.0, -1.0, "uc")):
        calls.clear()
        guided = GuidedDenoiser(towards, away, scale)
        assert isinstance(guided, Denoiser)
        np.testing.assert_array_equal(guided(X, 1.0), np.full_like(X, expected))
        assert "".join(calls) == called
    assert (guided.sigma_min, guided.sigma_max, guided.item_shape, guided.device) == (0.002, 80.0, (3,), None)
    with pytest.raises(ValueError, match=r"must be trained on one path, got sigma 0.002 to 80 and 0.002 to 90"):
        GuidedDenoiser(towards, ModelDenoiser(lambda x, s: x, EDM(sigma_max=90.0), "x0"), 2.0)
    with pytest.raises(ValueError, match="`guidance_scale` must be finite"):
        GuidedDenoiser(towards, away, np.nan)


@pytest.mark.parametrize("negative", [False, True])
def test_preconditioning_makes_the_filter_of_the_network_it_was_derived_for(negative):
    """F = (D - c_skip x~)/c_out with D the Wiener filter: wrapped again, D. Karras et al., eq. (7)."""
    sigma_d = 0.7

    def raw(x_in, label):
        sigma = np.exp(4 * label)
        scale = np.sqrt(sigma**2 + sigma_d**2)
        c_out = (-1 if negative else 1) * sigma * sigma_d / scale
        x = x_in * scale
        return (wiener_gain(LAM, sigma) * x - sigma_d**2 / scale**2 * x) / c_out

    denoiser = ModelDenoiser(Preconditioned(raw, sigma_d, negative), EDM(), "x0")
    for sigma in (0.01, 0.7, 50.0):
        np.testing.assert_allclose(denoiser(X, sigma), wiener_gain(LAM, sigma) * X, rtol=1e-9)
    assert edm_noise_label(np.e) == 0.25


def test_preconditioning_at_one_is_the_v_of_a_variance_preserving_path():
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((3, 3))
    path = VPCosine(s=0.0)
    v = ModelDenoiser(lambda x, t: x @ matrix, path, "v")
    edm = ModelDenoiser(Preconditioned(lambda x, c: x @ matrix, 1.0, True), EDM(), "x0")
    for sigma in (0.05, 1.0, 30.0):
        np.testing.assert_allclose(edm(X, sigma), v(X, sigma), rtol=1e-12)


def test_the_gauge_takes_a_torch_denoiser():
    denoiser, module = perfect()
    module.train()
    data = np.random.default_rng(1).standard_normal((400, 3)) * np.sqrt(LAM)
    curve = error_curve(
        denoiser, data, spectrum=Spectrum.from_eigenvalues(LAM), sigma_min=0.1, sigma_max=20.0, levels=5
    )
    # The filter's own error is the bound; 4.5 standard errors over five levels.
    assert np.all(np.abs(curve.ratio - 1) < 4.5 * curve.ratio_standard_error)


def test_devices_and_types_that_are_not_there():
    def plain(x, t):
        return x

    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"`device` 'cuda' is not there: torch .* sees 0 CUDA devices; pass device='cpu'"):
            ModelDenoiser.from_module(plain, EDM(), "x0", device="cuda")
    with pytest.raises(ValueError, match="`device` must be a device of torch such as 'cpu' or 'cuda:0', got 'gpu'"):
        ModelDenoiser.from_module(plain, EDM(), "x0", device="gpu")
    with pytest.raises(ValueError, match=r"`dtype` must be a floating type such as 'float32' or torch\.float16, got 'int64'"):
        ModelDenoiser.from_module(plain, EDM(), "x0", dtype="int64")
    with pytest.raises(ValueError, match="`timesteps` must be one of fractional, integer, got 'int'"):
        ModelDenoiser(plain, VPDiscrete.ddpm(), "x0", timesteps="int")


def test_the_room_needs_no_torch():
    """A subprocess in which torch and diffusers cannot be imported: the room works, and the doors say what to install."""
    script = """
import sys
for name in ("torch", "diffusers"):
    sys.modules[name] = None
from eigenstep import EDM
from eigenstep.models import ModelDenoiser, load_denoiser
assert ModelDenoiser(lambda x, s: x / (1 + s**2), EDM(), "x0")(3.0, 1.0) == 1.5
for call in (lambda: ModelDenoiser.from_module(print, EDM(), "x0"), lambda: load_denoiser(".")):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The folder is no pipeline, but without torch that is not found out.
    assert done.stdout.splitlines() == ['running networks needs torch; install it with: pip install "eigenstep[torch]"'] * 2
