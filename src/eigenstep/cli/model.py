"""`eigenstep plan --model`: the plan for a pretrained network, measured by the network itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenstep._checks import Float, choice, integer
from eigenstep.adapters.text import FORMATS
from eigenstep.cli.errors import say, terminable
from eigenstep.cli.options import FOR_MODELS
from eigenstep.cli.outputs import save, save_text
from eigenstep.cli.progress import progress
from eigenstep.cli.records import finite, json_text
from eigenstep.cli.sources import items_of, named
from eigenstep.cli.tables import positions, rendered
from eigenstep.paths import RectifiedFlow
from eigenstep.solvers import SOLVERS
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from eigenstep.data import Source
    from eigenstep.models import Candidate, ModelProfile, Plan

BASIS = 200
"""Eigenvectors to keep of data, for warm starts."""

RIVALS = 3
"""How many usual grids to show beside the chosen one."""

FOR_THEORY = ("objective", "noise_floor", "path_name", "final_name", "start", "eigenvalues")
"""Options of `plan` that say of a model what it tells itself."""


@dataclass(frozen=True)
class Material:
    """What a plan is made from: the spectrum, and items for the gauge where there are any."""

    spectrum: Spectrum
    name: str
    items: Float | None
    spectrum_file: str | None
    """Where the spectrum is kept already; None for one that was measured now."""


@dataclass(frozen=True)
class Planned:
    """A plan for a model, and what it was made from."""

    plan: Plan
    measured: ModelProfile
    model: str
    data: str
    conditions: Mapping[str, Any]
    """What the model was told of labels, prompts and guidance; None for what it was not."""

    @property
    def calls(self) -> int:
        """Network calls that were spent, counted by item."""
        return self.measured.calls + self.plan.calls


def check_options(context: click.Context, *, has_model: bool) -> None:
    """Refuse options that were typed and would mean nothing."""
    for parameter in context.command.params:
        if context.get_parameter_source(str(parameter.name)) is not click.core.ParameterSource.COMMANDLINE:
            continue
        option = parameter.opts[-1]
        if has_model and parameter.name in FOR_THEORY:
            raise ValueError(
                f"`{option}` is for plans by theory alone: with --model, the model tells its path, and its own runs judge; "
                "leave it out."
            )
        if not has_model and parameter.name in FOR_MODELS:
            raise ValueError(f"`{option}` is for plans for a network: give --model as well, or leave it out.")


def plan_for_model(
    given: str | None,
    *,
    model: str,
    gauge_data: str | None,
    steps: int,
    solver: str,
    form: str,
    output: str | None,
    reading: Mapping[str, Any],
    quiet: bool,
    target: str,
    judges: str,
    fit: bool,
    seed: int,
    items: int,
    gauge_items: int | None,
    cold: bool,
    sigma_min: float | None,
    sigma_max: float | None,
    device: str | None,
    network_batch: int,
    encode_with: str | None,
    **options: Any,
) -> None:
    """Measure the data and the model, plan, write: the body of `eigenstep plan --model`."""
    from eigenstep.evaluation.subject import Model, Subject, check_calls, fitted_items, model_range
    from eigenstep.models import TARGETS, profile
    from eigenstep.models import plan as plan_of
    from eigenstep.models.profile import gauge_size, profile_calls

    choice(solver, SOLVERS, "solver")
    integer(steps, "n")
    judged = judges_named(judges)
    most, levels = gauge_size(judged)
    integer(seed, "seed", minimum=0)
    integer(items, "items", minimum=20)
    if gauge_items is not None:
        most = integer(gauge_items, "gauge_items", minimum=2)
    size = integer(network_batch, "network_batch")
    # Programs that take a list of levels begin with plain noise.
    cold = cold or form in FORMATS
    if choice(target, TARGETS, "target") == "data" and cold:
        raise ValueError("`target` data needs a warm start: leave out --cold, and use --format table or json.")
    choice(options["timesteps"], ("fractional", "integer"), "timesteps")
    told = loading_options(**options)
    host = Model(model, told)
    kept, source = named(given, gauge_data, missing="Missing argument 'SPECTRUM_OR_SOURCE'.")
    opened = None if source is None else _opened(source, encode_with, device, reading)
    with terminable():
        denoiser = host.load(device)
        read = None if opened is None else fitted_items(denoiser, items_of(opened, items, quiet))
        material = _material(kept, given, read, opened, basis=0 if cold else BASIS)
        shape = _item_shape(denoiser, material)
        low, high = model_range(denoiser, sigma_min, sigma_max)
        check_calls(denoiser, shape, high, device=device)
        if not quiet:
            _remarks(material, cold)
        gauge = None if read is None else read[:: max(1, len(read) // most)][:most]
        total = profile_calls(0 if gauge is None else len(gauge), judged, levels=levels)
        with _counted("measuring the model", total, quiet) as report:
            measured = profile(
                Subject(denoiser, low, high, shape, device, size), material.spectrum, data=gauge, target=target,
                judges=judged, levels=levels, seed=seed, progress=report,
            )  # fmt: skip
        with _counted("comparing grids", None, quiet) as report:
            plan = plan_of(measured, None, steps, solver=solver, fit=fit, progress=report)
    conditions = {name: told.get(name) for name in ("labels", "prompt", "negative_prompt", "guidance_scale")}
    made = Planned(plan, measured, host.name, material.name, conditions)
    if output is not None:
        _save(made, material, output, quiet)
    click.echo(_written(made, form))


def judges_named(text: str) -> int | str:
    """What `--judges` means.

    >>> judges_named("48"), judges_named("quick")
    (48, 'quick')
    """
    from eigenstep.models.profile import QUICK

    if text == QUICK:
        return text
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"`judges` must be a number of noises, or quick, got {text!r}.") from None
    return integer(number, "judges", minimum=0)


def loading_options(
    *,
    label: int | None,
    prompt: str | None,
    negative_prompt: str | None,
    guidance: float | None,
    variant: str | None,
    allow_pickle: bool,
    dtype: str | None = None,
    timesteps: str = "fractional",
) -> dict[str, Any]:
    """What the options tell `load_denoiser`, or the function that makes the model: those that differ from its own.

    >>> quiet = {"label": None, "negative_prompt": None, "variant": None, "allow_pickle": False}
    >>> loading_options(prompt="a cat", guidance=5.0, **quiet)
    {'prompt': 'a cat', 'guidance_scale': 5.0}
    """
    told = {
        "labels": label,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "guidance_scale": guidance,
        "variant": variant,
        "dtype": dtype,
        "allow_pickle": allow_pickle or None,
        "timesteps": None if timesteps == "fractional" else timesteps,
    }
    return {name: value for name, value in told.items() if value is not None}


def _opened(source: str, encode_with: str | None, device: str | None, reading: Mapping[str, Any]) -> Source:
    from eigenstep.data import encoded, open_source

    opened = open_source(source, **{key: value for key, value in reading.items() if value is not None})
    return opened if encode_with is None else encoded(opened, encode_with, device=device or "cpu")


def _material(
    kept: tuple[Spectrum, str] | None, given: str | None, read: Float | None, opened: Source | None, *, basis: int
) -> Material:
    """The spectrum that was kept, or that of the items."""
    if kept is not None:
        spectrum, name = kept
        return Material(replace(spectrum, basis=None) if not basis else spectrum, name, read, given)
    assert read is not None
    assert opened is not None
    if len(read) < 2:
        raise ValueError(f"`data` must hold at least 2 items, got {len(read)}.")
    about = {"name": opened.name, "source": opened.description, "value_range": opened.value_range}
    spectrum = Spectrum.from_samples(read, basis=min(basis, read[0].size, len(read) - 1), provenance=about)
    return Material(spectrum, opened.name, read, None)


def _item_shape(denoiser: Any, material: Material) -> tuple[int, ...]:
    own = getattr(denoiser, "item_shape", None)
    shape = own or (material.spectrum.item_shape if material.items is None else material.items.shape[1:])
    if shape is None:
        raise ValueError("the model does not tell the shape of an item, nor does the spectrum: give --data.")
    return tuple(shape)


def _remarks(material: Material, cold: bool) -> None:
    """What will be missing from the plan."""
    spectrum, items = material.spectrum, material.items
    if items is None:
        say("without --data there is no gauge: the plan knows nothing of the network's own error.")
    elif material.spectrum_file is None and len(items) < 10 * spectrum.dim:
        say(
            f"the spectrum of {len(items)} items in {spectrum.dim} dimensions is rough; measure all of the data with "
            "`eigenstep spectrum`, and give the file and --data."
        )
    if not cold and spectrum.basis is None:
        say("the spectrum holds no eigenvectors: without them there is no warm start.")


@contextmanager
def _counted(task: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Progress that is told numbers of network calls just made."""
    done = 0
    with progress(task, quiet) as report:

        def made(calls: int) -> None:
            nonlocal done
            done += calls
            report(done, total)

        yield made


def _save(made: Planned, material: Material, output: str, quiet: bool) -> None:
    """The plan, and beside it the spectrum that its warm start needs."""
    save_text(json_text(_record(made)), output)
    beside = material.spectrum_file
    if made.plan.warm is not None and beside is None:
        beside = str(Path(output).with_suffix(".npz"))
        save(material.spectrum, Path(beside), "spectrum")
    if not quiet:
        needs = "" if made.plan.warm is None else f"; its warm start needs the spectrum in {beside}"
        say(f"saved the plan to {output}{needs}.")


def _record(made: Planned) -> dict[str, Any]:
    """What `Plan.from_json` reads, and what it was made from."""
    measured, spectrum, curve = made.measured, made.measured.spectrum, made.measured.curve
    path = measured.denoiser.path
    times = None if path is None else [float(path.sigma_to_t(sigma)) for sigma in made.plan.sigmas[:-1]]
    gauge = None
    if curve is not None:
        gauge = {
            "items": curve.n_items,
            "sigmas": curve.sigmas.tolist(),
            "error": curve.error.tolist(),
            "standard_error": curve.standard_error.tolist(),
            "bound": curve.bound.tolist(),
            "start_level": finite(curve.start_level()),
        }
    return {
        **json.loads(made.plan.to_json()),
        "model": made.model,
        "conditions": dict(made.conditions),
        "path": repr(path),
        "sigma_min": measured.sigma_min,
        "steps": made.plan.n,
        "timesteps": times,
        "spectrum": {
            "name": made.data,
            "dim": spectrum.dim,
            "rank": spectrum.rank,
            "trace": spectrum.trace,
            "n_samples": spectrum.n_samples,
            "item_shape": None if spectrum.item_shape is None else list(spectrum.item_shape),
        },
        "gauge": gauge,
        "endpoint_error": finite(measured.endpoint_error),
        "network_calls": made.calls,
    }


def _written(made: Planned, form: str) -> str:
    if form == "table":
        return _table(made)
    if form == "json":
        return json_text(_record(made))
    if form == "diffusers":
        return _diffusers(made.plan)
    return FORMATS[form].write(made.plan.sigmas, "flow" if isinstance(made.measured.denoiser.path, RectifiedFlow) else None)


def _diffusers(plan: Plan) -> str:
    """The two lines that a diffusers program is given."""
    return "\n".join(
        [
            "from eigenstep.adapters.diffusers import apply",
            "",
            f"pipe.scheduler = apply({plan.sigmas.tolist()}, pipe.scheduler)  # planned for {plan.solver}",
            f"# pipe(..., num_inference_steps={plan.n})",
        ]
    )


def _table(made: Planned) -> str:
    """The plan for reading: its levels, its error beside the best usual grids', why, and what the gauge says."""
    from rich.table import Table

    plan = made.plan
    levels = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("step", "σ"):
        levels.add_column(column, justify="right")
    levels.add_column("from noise to data")
    for k, (sigma, dots) in enumerate(zip(plan.sigmas, positions(plan.sigmas.tolist()), strict=True)):
        levels.add_row(str(k + 1) if k < plan.n else "end", f"{sigma:.6g}", dots)
    calls = "" if plan.nfe == plan.n else f" = {plan.nfe} network calls"
    head = f"{made.model} on {made.data}: {plan.n} {plan.solver} step{'s' * (plan.n != 1)}{calls}"
    parts = [head, rendered(levels), _errors(made), plan.reason, *_gauge(made.measured)]
    return "\n\n".join([*parts, f"{made.calls:,} network calls were spent, counted by item."])


def _errors(made: Planned) -> str:
    """The chosen grid and the best usual ones."""
    from rich.table import Table

    plan, top = made.plan, made.measured.start_level
    usual = [
        each for each in plan.candidates
        if not each.planned and (not each.warm or each.sigmas[0] >= top * (1 - 1e-9)) and each is not plan.chosen
    ]  # fmt: skip
    judged = plan.chosen.measured is not None
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("grid")  # the only one that may take two lines
    for column in ("starts at", "error", *(("95 %", "noises") if judged else ())):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for each in (plan.chosen, *usual[:RIVALS]):
        table.add_row(*_row(each, judged), "← chosen" if each is plan.chosen else "")
    what = "from the network's own converged run" if judged else "by the Gaussian theory"
    text = f"root mean square error per number, {what}:\n\n{rendered(table)}"
    if not judged or plan.chosen is plan.hand:
        return text
    estimate, low, high = plan.advantage
    return (
        f"{text}\n\nsquared error of {plan.hand.name} over that of the chosen grid, paired over the same noises: "
        f"{estimate:.3g} (95 %: {low:.3g} – {high:.3g})"
    )


def _row(candidate: Candidate, judged: bool) -> list[str]:
    start = f"{candidate.sigmas[0]:.4g}{' warm' if candidate.warm else ''}"
    if not judged or candidate.measured is None or candidate.interval is None:
        return [candidate.name, start, f"{candidate.predicted:.4g}"]
    low, high = candidate.interval
    return [candidate.name, start, f"{candidate.measured:.4g}", f"{low:.3g} – {high:.3g}", str(candidate.noises)]


def _gauge(measured: ModelProfile) -> list[str]:
    """Where the network beats the Gaussian bound, and by how much at most; nothing without a gauge."""
    curve = measured.curve
    if curve is None:
        return []
    best = int(curve.ratio.argmin())
    least = f"{curve.ratio[best]:.2g} times the bound at σ = {curve.sigmas[best]:.3g}"
    level = curve.start_level()
    if level == curve.sigmas[-1]:
        words = f"nowhere does the network denoise better than the Gaussian bound ({least} at its best)"
    elif level > curve.sigmas[0]:
        words = f"the network denoises better than the Gaussian bound at every level (error {least})"
    else:
        words = f"below σ = {level:.3g} the network denoises better than the Gaussian bound (error {least})"
    return [f"gauge, {curve.n_items} items: {words}."]
