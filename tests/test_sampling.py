"""models/sampling.py: the catalogue in torch against numpy, diffusers' own schedulers and k-diffusion's own samplers.

The hosts run as they are: only their tables of levels are set by hand, and what they call is one exact, nonlinear denoiser in
whatever parametrisation they want. k-diffusion may be absent; its numbers are stored beside the script that made them.
"""

import importlib.util
import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eigenstep import EDM, SOLVERS, VPDiscrete, sample
from eigenstep.models import ModelDenoiser, SamplingError, generate, item_noise

torch = pytest.importorskip("torch")

# diffusers applies numpy functions to tensors, which torch announces with warnings under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

PARITY = Path(__file__).with_name("parity") / "k_diffusion_numbers.py"
_spec = importlib.util.spec_from_file_location("k_diffusion_numbers", PARITY)
numbers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numbers)

MIXTURE = numbers.Mixture()
SHAPE = numbers.ITEM_SHAPE
GRIDS = numbers.GRIDS
SIX = (14.6, 6.1, 2.5, 1.1, 0.45, 0.12)
Z, NOISE = (torch.from_numpy(part).to(torch.float32) for part in numbers.inputs())


def ours(name, levels, n_items=numbers.N_ITEMS, **options):
    return generate(MIXTURE, levels, n_items, item_shape=SHAPE, solver=name, **options)


def assert_agree(one, other, rtol=1e-5):
    """The largest difference beside the largest number: coordinates near 0 have no precision of their own."""
    assert one.dtype == other.dtype == torch.float32
    difference = float((one - other).abs().max() / other.abs().max())
    assert difference < rtol


# ---------------------------------------------------------------------------------------------------------------------
# The same steps as in numpy


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_in_torch_float64_is_the_one_in_numpy(name, end):
    def numpy_mixture(x, sigma):
        return MIXTURE(torch.from_numpy(x), sigma).numpy()

    z = item_noise(range(3), SHAPE, seed=7)
    theirs = sample(
        numpy_mixture,
        GRIDS[end][0] * z,
        GRIDS[end],
        solver=name,
        noise=lambda k: item_noise(range(3), SHAPE, seed=7, step=k),
    )
    # 1e-12: the same operations in the same precision.
    np.testing.assert_allclose(ours(name, GRIDS[end], 3, seed=7, dtype=torch.float64), theirs, rtol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_float32_agrees_with_float64(name):
    # 1e-5: some dozen operations on numbers of at most 15 at 6e-8 each, hardly amplified on the way down.
    assert_agree(ours(name, GRIDS["zero"]), ours(name, GRIDS["zero"], dtype=torch.float64).to(torch.float32))


# ---------------------------------------------------------------------------------------------------------------------
# k-diffusion's samplers


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("name", numbers.NAMES)
def test_k_diffusion_gave_the_same_numbers(name, end):
    stored = json.loads(numbers.NUMBERS.read_text())["results"][f"{name}, {end}"]
    # 1e-5 here and below: the host computes its coefficients in float32, we ours in float64.
    assert_agree(ours(name, GRIDS[end]), torch.tensor(stored).reshape(len(Z), *SHAPE))


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("name", numbers.NAMES)
def test_k_diffusion_gives_the_same_numbers(name, end):
    try:
        sampling, _ = numbers.host()
    except ImportError as error:
        pytest.skip(str(error))
    sigmas = torch.tensor(GRIDS[end])
    x = numbers.run(sampling, name, lambda x, sigma: MIXTURE(x, float(sigma[0])), sigmas[0] * Z, sigmas, NOISE)
    assert_agree(ours(name, GRIDS[end]), x)


# ---------------------------------------------------------------------------------------------------------------------
# diffusers' schedulers. `levels` of a scheduler are ours; in the variance-preserving ones the sample is alpha x~.


def host_run(scheduler, levels, *, called=None, vp=True, prediction="sample", step=lambda k: {}):
    """Run a scheduler on our levels: `called` are those of its model calls, step by step."""
    called = levels[:-1] if called is None else called
    scheduler.timesteps = torch.arange(len(called), 0.0, -1.0)
    scheduler.num_inference_steps = len(called)
    scheduler._step_index = None
    scheduler._begin_index = 0
    alpha = [1 / math.hypot(1.0, level) if vp else 1.0 for level in [*called, levels[-1]]]
    x = alpha[0] * levels[0] * Z
    for k, (t, sigma) in enumerate(zip(scheduler.timesteps, called, strict=True)):
        output = MIXTURE(x / alpha[k], sigma)
        if prediction == "epsilon":
            output = (x / alpha[k] - output) / sigma
        x = scheduler.step(output, t, x, **step(k), return_dict=False)[0]
    return x / alpha[-1]


def tables(scheduler, levels):
    scheduler.sigmas = torch.tensor(levels)
    return scheduler


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_euler(diffusers, end):
    scheduler = tables(diffusers.EulerDiscreteScheduler(prediction_type="sample"), GRIDS[end])
    assert_agree(ours("euler", GRIDS[end]), host_run(scheduler, GRIDS[end], vp=False))


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_flow_match_euler(diffusers, end):
    """Euler in the time of a rectified flow, sigma/(1+sigma), on a velocity: the same step as ours."""
    levels = GRIDS[end]
    flow = [s / (1 + s) for s in levels]
    scheduler = tables(diffusers.FlowMatchEulerDiscreteScheduler(), flow)
    scheduler.timesteps = torch.arange(len(flow) - 1, 0.0, -1.0)
    scheduler._step_index, scheduler._begin_index = None, 0
    x = flow[0] * Z
    for t, s, sigma in zip(scheduler.timesteps, flow, levels, strict=False):
        velocity = (x - MIXTURE(x / (1 - s), sigma)) / s
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
    assert_agree(ours("euler", levels), x / (1 - flow[-1]))


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_heun(diffusers, end):
    levels = GRIDS[end]
    twice = [levels[0], *np.repeat(levels[1:-1], 2).tolist(), levels[-1]]
    # Its last step is Euler's, and onto sigma = 0 ours is too; above 0 it has to be told of one more level.
    called = twice[:-1] if end == "zero" else [*twice, levels[-1]][:-1]
    scheduler = tables(diffusers.HeunDiscreteScheduler(), twice if end == "zero" else [*twice, levels[-1]])
    theirs = host_run(scheduler, levels, called=called, vp=False, prediction="epsilon")
    assert_agree(ours("heun", levels), theirs)


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_kdpm2(diffusers, end):
    levels = torch.tensor(GRIDS[end])
    middle = levels.log().lerp(levels.roll(1).log(), 0.5).exp()  # as its set_timesteps has it
    scheduler = diffusers.KDPM2DiscreteScheduler()
    scheduler.sigmas, scheduler.sigmas_interpol = (
        torch.cat([part[:1], part[1:].repeat_interleave(2), part[-1:]]) for part in (levels, middle)
    )
    called = torch.stack([levels[:-1], middle[1:]], dim=1).flatten().tolist()
    theirs = host_run(
        scheduler, GRIDS[end], called=called[: -1 if end == "zero" else None], vp=False, prediction="epsilon"
    )
    assert_agree(ours("dpm_2", GRIDS[end]), theirs)


@pytest.mark.parametrize(("name", "order", "end"), [
    ("dpmpp_2m", 2, "zero"), ("dpmpp_2m", 2, "above"), ("dpmpp_3m", 3, "zero"), ("dpmpp_3m", 3, "above"),
])
def test_diffusers_dpmsolver_multistep(diffusers, name, order, end):
    options = {"solver_order": order, "prediction_type": "sample"}
    if end == "above":
        # Its (2M) ends with a first-order step below 15 steps, ours only onto 0.
        options |= {"final_sigmas_type": "sigma_min", "lower_order_final": order == 3}
    scheduler = tables(diffusers.DPMSolverMultistepScheduler(**options), GRIDS[end])
    assert_agree(ours(name, GRIDS[end]), host_run(scheduler, GRIDS[end]))


def test_diffusers_sde_dpmsolver_multistep_with_the_same_noise(diffusers):
    options = {"solver_order": 2, "prediction_type": "sample", "algorithm_type": "sde-dpmsolver++"}
    scheduler = tables(diffusers.DPMSolverMultistepScheduler(**options), GRIDS["zero"])
    theirs = host_run(scheduler, GRIDS["zero"], step=lambda k: {"variance_noise": NOISE[k]})
    assert_agree(ours("dpmpp_2m_sde", GRIDS["zero"]), theirs)


def test_diffusers_dpmsolver_singlestep(diffusers):
    """Its second-order step spans two of its own levels; on geometric midpoints it is ours."""
    levels = GRIDS["above"]
    middle = [math.sqrt(one * two) for one, two in pairwise(levels)]
    every = [level for pair in zip(levels, middle, strict=False) for level in pair] + [levels[-1]]
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        solver_order=2, prediction_type="sample", final_sigmas_type="sigma_min", lower_order_final=False
    )
    scheduler = tables(scheduler, every)
    scheduler.order_list = [1, 2] * len(middle)
    assert_agree(ours("dpmpp_2s", levels), host_run(scheduler, [levels[0], levels[-1]], called=every[:-1]))


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("order", [2, 3])
def test_diffusers_unipc(diffusers, order, end):
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=order, prediction_type="sample", solver_type="bh2")
    assert_agree(ours(f"unipc{order}", GRIDS[end]), host_run(tables(scheduler, GRIDS[end]), GRIDS[end]))


@pytest.mark.parametrize("order", [2, 3])
def test_diffusers_deis(diffusers, order):
    """It has no step onto 0."""
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, prediction_type="sample")
    assert_agree(ours(f"deis{order}", GRIDS["above"]), host_run(tables(scheduler, GRIDS["above"]), GRIDS["above"]))


def test_diffusers_ipndm(diffusers):
    """Its model predicts v of a path with alpha^2 + s^2 = 1; its last step keeps order 4, ours does above 0."""
    levels = GRIDS["above"]
    scheduler = diffusers.IPNDMScheduler()
    alphas = [1 / math.hypot(1.0, s) for s in levels]
    scheduler.alphas, scheduler.betas = torch.tensor(alphas), torch.tensor([a * s for a, s in zip(alphas, levels, strict=True)])
    scheduler.timesteps, scheduler.num_inference_steps = torch.arange(len(levels) - 1, 0, -1), len(levels) - 1
    scheduler._step_index, scheduler._begin_index, scheduler.ets = None, 0, []
    x = alphas[0] * levels[0] * Z
    for t, alpha, sigma in zip(scheduler.timesteps, alphas, levels, strict=False):
        denoised = MIXTURE(x / alpha, sigma)
        eps = (x / alpha - denoised) / sigma
        x = scheduler.step(alpha * eps - alpha * sigma * denoised, t, x, return_dict=False)[0]
    assert_agree(ours("ipndm4", levels), x / alphas[-1])


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_euler_ancestral_with_the_same_noise(diffusers, end, monkeypatch):
    given = iter(NOISE)
    module = sys.modules[diffusers.EulerAncestralDiscreteScheduler.__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **options: next(given))
    scheduler = tables(diffusers.EulerAncestralDiscreteScheduler(), GRIDS[end])
    theirs = host_run(scheduler, GRIDS[end], vp=False, prediction="epsilon")
    assert_agree(ours("euler_ancestral", GRIDS[end]), theirs)


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ddim_eta", 1.0)])
def test_diffusers_ddim_with_the_same_noise(diffusers, name, eta):
    """Its stride is uniform in its table of alphas: the table is our grid."""
    levels = GRIDS["zero"]
    n = len(levels) - 1
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=n, prediction_type="sample", clip_sample=False)
    scheduler.alphas_cumprod = torch.tensor([1 / (1 + s * s) for s in reversed(levels[:-1])])
    scheduler.final_alpha_cumprod = torch.tensor(1.0)
    scheduler.set_timesteps(n)
    x = Z * levels[0] / math.hypot(1.0, levels[0])
    for k, (t, sigma) in enumerate(zip(scheduler.timesteps, levels, strict=False)):
        denoised = MIXTURE(x * math.hypot(1.0, sigma), sigma)
        x = scheduler.step(denoised, int(t), x, eta=eta, variance_noise=NOISE[k], return_dict=False)[0]
    assert_agree(ours(name, levels), x)


def test_the_solvers_differ_on_this_problem():
    """By fifty times the tolerance of the agreements above, at least: none of them could pass for another."""
    results = [ours(name, GRIDS["zero"]) for name in SOLVERS if name not in ("euler", "euler_ancestral")]
    for k, one in enumerate(results):
        assert all(float((one - other).abs().max() / one.abs().max()) > 5e-4 for other in results[:k])


# ---------------------------------------------------------------------------------------------------------------------
# Items and seeds


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m_sde"])
def test_an_item_is_the_same_in_every_batch_and_among_any_number(name):
    # float64 and one operation per item: the batch cannot change its rounding.
    alone = ours(name, SIX, 1, dtype=torch.float64)
    for n_items, batch_size in ((1, 64), (7, 64), (7, 3), (7, 1), (5, 5)):
        x = ours(name, SIX, n_items, batch_size=batch_size, dtype=torch.float64)
        assert x.shape == (n_items, *SHAPE)
        torch.testing.assert_close(x[:1], alone, rtol=1e-13, atol=0.0)
        torch.testing.assert_close(x, ours(name, SIX, 7, dtype=torch.float64)[:n_items], rtol=1e-13, atol=0.0)


def test_seeds_items_and_steps_have_noise_of_their_own_and_it_is_normal():
    draws = np.concatenate([
        item_noise(range(100), (50,), seed=seed, step=step).ravel() for seed in (0, 1) for step in (None, 0, 1)
    ])
    assert len(np.unique(draws)) == draws.size == 30000
    # Five standard errors of the mean and of the variance.
    assert abs(draws.mean()) < 5 / math.sqrt(draws.size)
    assert abs(draws.var() - 1) < 5 * math.sqrt(2 / draws.size)


def test_the_noise_of_a_seed_is_a_promise_across_versions():
    np.testing.assert_allclose(item_noise([0, 5], (2,), seed=3), [[0.02426546, 1.32492897], [0.5920956, 0.36828565]], atol=5e-9)
    np.testing.assert_allclose(item_noise([5], (1,), seed=3, step=2), [[0.76134695]], atol=5e-9)


def test_given_noise_starts_the_run_and_the_seed_does_not():
    z = Z.flip(0)
    one, other = (ours("ddim", SIX, noise=given, seed=seed) for seed, given in ((0, z), (1, z.numpy())))
    assert torch.equal(one, other)
    torch.testing.assert_close(ours("ddim", SIX, noise=z, batch_size=3), one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.flip(0), ours("ddim", SIX), rtol=1e-5, atol=1e-6)
    sde = [ours("dpmpp_2m_sde", SIX, noise=z, seed=seed) for seed in (0, 1)]
    assert not torch.allclose(*sde)


def test_a_plan_brings_its_solver_and_its_warm_start():
    plan = SimpleNamespace(sigmas=np.array(SIX), solver="heun", warm=None)
    assert torch.equal(generate(MIXTURE, plan, 4, item_shape=SHAPE), ours("heun", SIX))
    assert torch.equal(generate(MIXTURE, plan, 4, item_shape=SHAPE, solver="ddim"), ours("ddim", SIX))
    seen = []

    def warm(z):
        seen.append(z)
        return 3.0 * z

    tripled = SimpleNamespace(sigmas=[3.0, 1.0, 0.0], solver="heun", warm=warm)
    assert torch.equal(generate(MIXTURE, tripled, 4, item_shape=SHAPE), ours("heun", [3.0, 1.0, 0.0]))
    assert torch.equal(seen[0], Z)


def test_a_grid_of_one_step_onto_zero_is_the_denoiser():
    torch.testing.assert_close(ours("dpmpp_3m", [10.0, 0.0]), MIXTURE(10.0 * Z, 10.0), rtol=1e-6, atol=1e-7)


def test_a_denoiser_that_knows_the_shape_of_its_items_is_not_told():
    edm = ModelDenoiser(MIXTURE, EDM(), "x0", item_shape=SHAPE)
    assert torch.equal(generate(edm, SIX, 4), ours("ddim", SIX))


def test_every_batch_gets_the_denoiser_of_its_items():
    class Labelled:
        def for_items(self, items):
            return lambda x, sigma: torch.arange(items.start, items.stop)[:, None] + 0.0 * x

    x = generate(Labelled(), [1.0, 0.0], 5, item_shape=(1,), batch_size=2)
    assert x.flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


# ---------------------------------------------------------------------------------------------------------------------
# Precision and gradients


def test_a_half_precision_denoiser_is_called_in_it_and_the_state_is_kept_in_float32():
    seen = set()

    def denoiser(x, sigma):
        seen.add(x.dtype)
        return MIXTURE(x.float(), sigma).to(x.dtype)

    x = generate(denoiser, SIX, 4, item_shape=SHAPE, dtype=torch.float16)
    assert seen == {torch.float16}
    assert x.dtype == torch.float32
    # float16 has 11 bits: D, of order 1, is rounded to 5e-4 in each of the steps.
    assert 0 < float((x - ours("ddim", SIX)).abs().max()) < 5e-3


def test_no_gradients_are_kept():
    weight = torch.nn.Parameter(torch.tensor(0.5))
    x = generate(lambda x, sigma: weight * x, [1.0, 0.5, 0.0], 2, item_shape=(3,))
    assert not x.requires_grad
    assert torch.is_grad_enabled()


# ---------------------------------------------------------------------------------------------------------------------
# Progress and callback


def test_progress_counts_calls_times_items():
    seen = []
    ours("heun", [4.0, 2.0, 0.0], 5, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 15), (6, 15), (9, 15), (11, 15), (13, 15), (15, 15)]  # two calls, then one onto 0


def test_a_bar_is_drawn_with_tqdm(capsys):
    pytest.importorskip("tqdm")
    ours("ddim", SIX, progress=True)
    assert "20/20" in capsys.readouterr().err
    ours("ddim", SIX, progress=False)
    assert capsys.readouterr().err == ""


def test_a_bar_without_tqdm_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        ours("ddim", SIX, progress=True)


def test_without_torch_the_command_that_brings_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'pip install "eigenstep\[torch\]"'):
        ours("ddim", SIX)


@pytest.mark.parametrize(("name", "levels"), [
    ("ddim", [6.0, 3.0, 1.0]), ("heun", [3.0, 1.0, 1.0]), ("unipc2", [3.0, 1.0, 1.0]), ("dpm_2", [18**0.5, 3**0.5, 1.0]),
])
def test_the_callback_gets_the_latest_estimate_and_its_level(name, levels):
    seen = []
    ours(name, [6.0, 3.0, 1.0, 0.0], 3, batch_size=2, callback=lambda *told: seen.append(told))
    assert [step for step, _, _ in seen] == [0, 1, 2, 0, 1, 2]
    np.testing.assert_allclose([sigma for _, sigma, _ in seen], levels * 2, rtol=1e-15)
    assert [len(x0) for _, _, x0 in seen] == [2, 2, 2, 1, 1, 1]
    if name == "ddim":
        torch.testing.assert_close(seen[0][2], MIXTURE(6.0 * Z[:2], 6.0))
        assert torch.equal(torch.cat([seen[2][2], seen[5][2]]), ours(name, [6.0, 3.0, 1.0, 0.0], 3))  # onto 0: D itself


# ---------------------------------------------------------------------------------------------------------------------
# Failures


def hungry(limit, error):
    """A denoiser that cannot hold more than `limit` items."""
    batches = []

    def denoiser(x, sigma):
        batches.append(len(x))
        if len(x) > limit:
            raise error
        return MIXTURE(x, sigma)

    return denoiser, batches


@pytest.mark.parametrize("error", [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: not enough memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
], ids=["python", "cuda", "cpu", "mps"])
def test_out_of_memory_halves_the_batch_and_goes_on(error):
    denoiser, batches = hungry(3, error)
    done = []
    with pytest.warns(RuntimeWarning, match="Out of memory with a batch of") as told:
        x = generate(
            denoiser, [4.0, 2.0, 0.0], 11, item_shape=SHAPE, batch_size=10, progress=lambda n, total: done.append(n)
        )
    assert [str(each.message) for each in told] == [
        "Out of memory with a batch of 10; going on with 5.",
        "Out of memory with a batch of 5; going on with 3.",
    ]
    assert batches == [10, 5, 3, 3, 3, 3, 3, 3, 2, 2]
    assert done[-1] == 22
    torch.testing.assert_close(x, ours("ddim", [4.0, 2.0, 0.0], 11), rtol=1e-5, atol=1e-6)


def test_out_of_memory_for_a_single_item_keeps_what_was_finished():
    calls = []

    def denoiser(x, sigma):
        calls.append(len(x))
        if len(calls) > 2:
            raise MemoryError
        return MIXTURE(x, sigma)

    with pytest.warns(RuntimeWarning, match="going on with 1"), pytest.raises(
        SamplingError, match=r"in step 0 of 2 \(from 0\), at sigma = 4: memory ran out for a single item. 2 items were finished"
    ) as stopped:
        generate(denoiser, [4.0, 2.0, 0.0], 4, item_shape=SHAPE, batch_size=2)
    torch.testing.assert_close(stopped.value.finished, ours("ddim", [4.0, 2.0, 0.0], 2))


def test_nan_names_step_and_sigma_and_keeps_the_finished_batches():
    batches = []

    def denoiser(x, sigma):
        if sigma == 4.0:
            batches.append(len(x))
        denoised = MIXTURE(x, sigma)
        if len(batches) == 3 and sigma == 1.0:
            denoised[1, 0, 2] = torch.nan
        return denoised

    with pytest.raises(
        SamplingError,
        match=r"stopped in step 2 of 3 \(from 0\), at sigma = 1: the network gave NaN or infinity in 1 of 12 numbers. 4 items",
    ) as stopped:
        generate(denoiser, [4.0, 2.0, 1.0, 0.0], 7, item_shape=SHAPE, batch_size=2)
    assert (stopped.value.step, stopped.value.sigma) == (2, 1.0)
    torch.testing.assert_close(stopped.value.finished, ours("ddim", [4.0, 2.0, 1.0, 0.0], 4))


def test_infinity_is_refused_as_nan_is():
    with pytest.raises(SamplingError, match="in 2 of 4 numbers"):
        generate(lambda x, sigma: x / torch.tensor([0.0, 1.0]), [1.0, 0.0], 2, item_shape=(2,))


def test_a_network_that_fails_or_gives_another_shape_is_named_with_its_level():
    def broken(x, sigma):
        raise KeyError("conv_in")

    with pytest.raises(SamplingError, match=r"at sigma = 14.6: the network failed \(KeyError: 'conv_in'\). 0 items") as stopped:
        generate(broken, SIX, 2, item_shape=SHAPE)
    assert isinstance(stopped.value.__cause__, KeyError)
    assert stopped.value.finished.shape == (0, *SHAPE)
    with pytest.raises(SamplingError, match=r"gave shape \(2, 2, 1\) for a state of shape \(2, 2, 3\)"):
        generate(lambda x, sigma: x[..., :1], SIX, 2, item_shape=SHAPE)


def test_an_error_of_the_caller_s_own_callback_is_his():
    def stop(step, sigma, x0):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ours("ddim", SIX, callback=stop)


class Ranged:
    sigma_min, sigma_max = 0.12, 6.1

    def __call__(self, x, sigma):
        assert self.sigma_min <= sigma <= self.sigma_max
        return MIXTURE(x, sigma)


def test_a_grid_above_the_networks_range_is_refused():
    with pytest.raises(ValueError, match=r"starts at sigma = 6.2, above the denoiser's `sigma_max` = 6.1, .* sigma_max=6.1"):
        generate(Ranged(), [6.2, 1.0, 0.0], 1, item_shape=SHAPE)


@pytest.mark.parametrize(("name", "levels"), [
    ("ddim", [6.0, 0.1, 0.0]), ("heun", [6.0, 1.0, 0.1]), ("unipc3", [6.0, 1.0, 0.1, 0.0]), ("dpm_2", [6.0, 0.13, 0.09]),
])
def test_a_solver_that_would_call_below_the_networks_range_is_refused(name, levels):
    with pytest.raises(ValueError, match=rf"makes {name} call the denoiser at sigma = 0.1.*, below its `sigma_min` = 0.12"):
        generate(Ranged(), levels, 1, item_shape=SHAPE, solver=name)


@pytest.mark.parametrize(("name", "levels"), [
    ("ddim", [6.1, 1.0, 0.1]),  # never called at the last level
    ("heun", [6.1, 0.12, 0.0]),
    ("dpmpp_2s", [6.1, 0.15, 0.1]),  # the geometric mean of the last two is 0.122
    ("ddim", [6.1 * (1 + 9e-7), 0.12 * (1 - 9e-7), 0.0]),  # printed digits: the ends themselves
])
def test_levels_inside_the_networks_range_are_not_refused(name, levels):
    generate(Ranged(), levels, 1, item_shape=SHAPE, solver=name)


def test_a_network_on_a_path_is_sampled_to_its_ends():
    path = VPDiscrete.sd15()
    epsilon = ModelDenoiser(lambda x_t, t: 0.0 * x_t, path, "epsilon")
    x = generate(epsilon, [path.sigma_max, 1.0, path.sigma_min, 0.0], 2, item_shape=SHAPE)
    # A network that sees no noise leaves the state as it is.
    torch.testing.assert_close(x, path.sigma_max * Z[:2], rtol=1e-6, atol=0.0)
    edm = ModelDenoiser(MIXTURE, EDM(), "x0")
    assert torch.equal(generate(edm, SIX, 4, item_shape=SHAPE), ours("ddim", SIX))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_an_absent_device_is_refused():
    with pytest.raises(ValueError, match="`device` 'cuda"):
        ours("ddim", SIX, device="cuda:0")


def test_the_denoisers_own_device_is_the_default():
    placed = SimpleNamespace(device="no-such-device")
    with pytest.raises(ValueError, match=r"`device`.*no-such-device"):
        generate(placed, SIX, 1, item_shape=SHAPE)


@pytest.mark.parametrize(("options", "message"), [
    ({"n_items": 0}, "`n_items` must be at least 1, got 0"),
    ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ({"seed": -1}, "`seed` must be at least 0, got -1"),
    ({"item_shape": None}, "`item_shape` must be given for a denoiser that does not say it"),
    ({"item_shape": ()}, r"`item_shape` must have at least one side, got \(\)"),
    ({"item_shape": (0, 3)}, "`item_shape` must be at least 1, got 0"),
    ({"grid_or_plan": [1.0, 2.0]}, "`grid_or_plan` must be strictly descending"),
    ({"solver": "dppm"}, "`solver` must be one of"),
    ({"noise": np.zeros((2, 2, 2))}, r"`noise` must have shape \(n_items, \*item_shape\) = \(2, 2, 3\), got \(2, 2, 2\)"),
    ({"noise": np.full((2, 2, 3), np.nan)}, "`noise` must be finite"),
])
def test_bad_arguments_are_refused(options, message):
    given = {"grid_or_plan": SIX, "n_items": 2, "item_shape": SHAPE, **options}
    with pytest.raises(ValueError, match=message):
        generate(MIXTURE, given.pop("grid_or_plan"), given.pop("n_items"), **given)


def test_noise_of_no_item_or_step_is_refused():
    for options in ({"items": [-1]}, {"items": [0], "step": -1}, {"items": [0], "seed": -1}):
        with pytest.raises(ValueError, match="must be at least 0, got -1"):
            item_noise(options.pop("items"), (2,), **options)
