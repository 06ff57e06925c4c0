"""The table of baselines, and all of them at once for one range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from eigenstep._checks import Float, integer, sigma_range
from eigenstep.grids.cut import GridError, Law, checked_final, grid, replace_last
from eigenstep.grids.laws import (
    beta_law,
    cosine_law,
    exponential_law,
    golden_law,
    karras_law,
    kl_optimal_law,
    laplace_law,
    polyexponential_law,
    quadratic_t_law,
    rescaled_entropic_law,
    uniform_t_law,
)
from eigenstep.grids.tables import ays_law, gits_law
from eigenstep.grids.timesteps import (
    beta_timestep_grid,
    ddim_uniform_grid,
    linear_quadratic_grid,
    sgm_uniform_grid,
    simple_grid,
    timestep_grid,
)
from eigenstep.paths import NoisePath

if TYPE_CHECKING:
    from eigenstep.spectrum import Spectrum


@dataclass(frozen=True)
class LawRow:
    """One baseline of the catalogue.

    Parameters
    ----------
    name : str
        Its key in `LAWS`.
    maker : callable
        The public function that documents it.
    build : callable
        (n, sigma_min, sigma_max, final, **needed) -> grid.
    needs : {"nothing", "path", "spectrum"}
        What it is made from besides the range: "nothing", a "path" or a "spectrum".
    source : str
        Where it was published.
    note : str
        What to know before using it as a baseline.
    reaches_zero : bool
        Whether sigma_min = 0 makes sense to it.

    Examples
    --------
    >>> row = LAWS["karras"]
    >>> row.needs, row.source.split(",")[0], row.grid(2, 0.002, 80.0).tolist()
    ('nothing', 'Karras et al.', [80.0, 0.002, 0.0])
    """

    name: str
    maker: Callable[..., Law] | Callable[..., Float]
    build: Callable[..., Float]
    source: str
    note: str
    needs: Literal["nothing", "path", "spectrum"] = "nothing"
    reaches_zero: bool = False

    def grid(
        self,
        n: int,
        sigma_min: float,
        sigma_max: float,
        *,
        final: float | None = 0.0,
        path: NoisePath | None = None,
        spectrum: Spectrum | None = None,
    ) -> Float:
        """This baseline's n + 1 sigmas.

        Parameters
        ----------
        n : int
            Number of steps, >= 1.
        sigma_min, sigma_max : float
            The range of model calls. Grids of timesteps (needs="path", made by a `_grid`) ignore it: they cover the
            whole path.
        final : float or None
            Where the grid ends; None ends it at sigma_min.
        path : NoisePath, optional
        spectrum : Spectrum, optional
            Each required where `needs` names it, unused otherwise.

        Raises
        ------
        ValueError
            What it needs is missing.
        GridError
            Where the baseline has no such grid.

        Examples
        --------
        >>> print(LAWS["karras"].grid(2, 0.002, 80.0))
        [8.e+01 2.e-03 0.e+00]
        """
        given: dict[str, Any] = {}
        if self.needs != "nothing":
            given[self.needs] = path if self.needs == "path" else spectrum
            if given[self.needs] is None:
                raise ValueError(f"`{self.needs}` must be given for the baseline {self.name!r}, got None.")
        return self.build(n, sigma_min, sigma_max, final, **given)


def _cut(maker: Callable[..., Law], **parameters: Any) -> Callable[..., Float]:
    """Build by cutting a law: n points and then `final`."""

    def build(n: int, sigma_min: float, sigma_max: float, final: float | None, **given: Any) -> Float:
        return grid(maker(sigma_min, sigma_max, **parameters, **given), n, final=final)

    return build


def _cut_and_replace(maker: Callable[..., Law], **parameters: Any) -> Callable[..., Float]:
    """Build by cutting a law into n + 1 points, the last replaced by `final`."""

    def build(n: int, sigma_min: float, sigma_max: float, final: float | None, **given: Any) -> Float:
        return replace_last(maker(sigma_min, sigma_max, **parameters, **given), n, final)

    return build


def _on_path(maker: Callable[..., Float], **parameters: Any) -> Callable[..., Float]:
    """Build from the whole path's timesteps, ending at `final` or else at sigma_min."""

    def build(n: int, sigma_min: float, sigma_max: float, final: float | None, *, path: NoisePath) -> Float:
        return maker(n, path=path, final=sigma_min if final is None else final, **parameters)

    return build


def _build_linear_quadratic(n: int, sigma_min: float, sigma_max: float, final: float | None) -> Float:
    end = sigma_min if final is None else final
    if end != 0.0:
        raise GridError(f"`final` must be 0 for linear_quadratic_grid, which ends there by construction, got {end:g}.")
    return linear_quadratic_grid(n, sigma_max)


def _build_gits(coeff: float) -> Callable[..., Float]:
    def build(n: int, sigma_min: float, sigma_max: float, final: float | None) -> Float:
        if integer(n, "n") < 2:
            raise GridError(f"`n` must be at least 2 for GITS, whose tables start there, got {n}.")
        return replace_last(gits_law(sigma_min, sigma_max, n=n, coeff=coeff), n, final)

    return build


_KARRAS = "Karras et al., arXiv:2206.00364, eq. (5)"
_AYS_SOURCE = "Sabour et al., arXiv:2404.14507, Table 3"
_AYS_NOTE = "the table's shape, stretched in log sigma; n + 1 points, the last replaced by `final`"
_GITS_SOURCE = "Chen et al., arXiv:2405.11326; figures as in ComfyUI nodes_gits.py"
_GITS_NOTE = "the n-step table's shape, stretched in log sigma; n + 1 points, the last replaced by `final`"
_COMFY = "Comfy-Org/ComfyUI comfy/samplers.py"
_SPACING = "Lin et al., arXiv:2305.08891, Table 2; diffusers `timestep_spacing`"

LAWS: Mapping[str, LawRow] = {
    row.name: row
    for row in (
        LawRow("karras", karras_law, _cut(karras_law), _KARRAS, "rho = 7", reaches_zero=True),
        LawRow("karras_rho3", karras_law, _cut(karras_law, rho=3.0), _KARRAS, "rho = 3", reaches_zero=True),
        LawRow("karras_rho5", karras_law, _cut(karras_law, rho=5.0), _KARRAS, "rho = 5", reaches_zero=True),
        LawRow("karras_rho9", karras_law, _cut(karras_law, rho=9.0), _KARRAS, "rho = 9", reaches_zero=True),
        LawRow(
            "exponential", exponential_law, _cut(exponential_law),
            "Lu et al., arXiv:2206.00927", "uniform log-SNR",
        ),
        LawRow(
            "polyexponential_rho0.5", polyexponential_law, _cut(polyexponential_law, rho=0.5),
            "k-diffusion `get_sigmas_polyexponential`", "rho = 1, its default, is `exponential`",
        ),
        LawRow(
            "polyexponential_rho2", polyexponential_law, _cut(polyexponential_law, rho=2.0),
            "k-diffusion `get_sigmas_polyexponential`", "rho = 1, its default, is `exponential`",
        ),
        LawRow(
            "kl_optimal", kl_optimal_law, _cut(kl_optimal_law),
            "Sabour et al., arXiv:2404.14507, Theorem 3.1", "tangent law of scale 1", reaches_zero=True,
        ),
        LawRow(
            "cosine", cosine_law, _cut(cosine_law),
            "Nichol & Dhariwal, arXiv:2102.09672, eq. (17)", "uniform t of the cosine path", reaches_zero=True,
        ),
        LawRow(
            "beta", beta_law, _cut(beta_law),
            "Lee et al., arXiv:2407.12173", "quantiles over sigma (A1111, diffusers)", reaches_zero=True,
        ),
        LawRow(
            "laplace", laplace_law, _cut(laplace_law),
            "Hang et al., arXiv:2407.03297; ComfyUI `get_sigmas_laplace`", "mu = 0, beta = 0.5",
        ),
        LawRow(
            "golden", golden_law, _cut(golden_law),
            "Extraltodeus/sigmas_tools_and_the_golden_scheduler", "exponent phi", reaches_zero=True,
        ),
        LawRow(
            "linear_quadratic", linear_quadratic_grid, _build_linear_quadratic,
            "Mochi (genmoai/models)", "in flow time; ends at 0 only", reaches_zero=True,
        ),
        LawRow("ays_sd15", ays_law, _cut_and_replace(ays_law, model="sd15"), _AYS_SOURCE, _AYS_NOTE),
        LawRow("ays_sdxl", ays_law, _cut_and_replace(ays_law, model="sdxl"), _AYS_SOURCE, _AYS_NOTE),
        LawRow("ays_svd", ays_law, _cut_and_replace(ays_law, model="svd"), _AYS_SOURCE, _AYS_NOTE),
        LawRow(
            "ays_deepfloyd_if", ays_law, _cut_and_replace(ays_law, model="deepfloyd-if"), _AYS_SOURCE, _AYS_NOTE
        ),
        LawRow("gits_1.0", gits_law, _build_gits(1.0), _GITS_SOURCE, _GITS_NOTE),
        LawRow("gits_1.2", gits_law, _build_gits(1.2), _GITS_SOURCE, _GITS_NOTE),
        LawRow(
            "uniform_t", uniform_t_law, _cut(uniform_t_law),
            "k-diffusion `DiscreteSchedule.get_sigmas`", "ComfyUI's `normal`", needs="path", reaches_zero=True,
        ),
        LawRow(
            "quadratic_t", quadratic_t_law, _cut(quadratic_t_law),
            "Song et al., arXiv:2010.02502, appendix D.2", "uniform sqrt(t)", needs="path", reaches_zero=True,
        ),
        LawRow(
            "sgm_uniform", sgm_uniform_grid, _cut_and_replace(uniform_t_law),
            _COMFY, "n + 1 points uniform in t, the last replaced by `final`", needs="path", reaches_zero=True,
        ),
        LawRow(
            "trailing", timestep_grid, _on_path(timestep_grid, spacing="trailing"),
            _SPACING, "whole path", needs="path", reaches_zero=True,
        ),
        LawRow(
            "leading", timestep_grid, _on_path(timestep_grid, spacing="leading"),
            _SPACING, "starts below sigma_max", needs="path", reaches_zero=True,
        ),
        LawRow(
            "linspace", timestep_grid, _on_path(timestep_grid, spacing="linspace"),
            _SPACING, "whole path", needs="path", reaches_zero=True,
        ),
        LawRow("simple", simple_grid, _on_path(simple_grid), _COMFY, "whole path", needs="path", reaches_zero=True),
        LawRow(
            "ddim_uniform", ddim_uniform_grid, _on_path(ddim_uniform_grid),
            _COMFY, "starts below sigma_max; few n have n steps", needs="path", reaches_zero=True,
        ),
        LawRow(
            "beta_timestep", beta_timestep_grid, _on_path(beta_timestep_grid),
            _COMFY, "ComfyUI's `beta`; whole path", needs="path", reaches_zero=True,
        ),
        LawRow(
            "rescaled_entropic", rescaled_entropic_law, _cut(rescaled_entropic_law),
            "Stancevic et al., arXiv:2504.13612", "Gaussian closed form", needs="spectrum", reaches_zero=True,
        ),
    )
}
"""Every baseline by name."""


def catalogue_grids(
    n: int,
    sigma_min: float,
    sigma_max: float,
    *,
    final: float | None = 0.0,
    spectrum: Spectrum | None = None,
    path: NoisePath | None = None,
) -> dict[str, Float]:
    """Every baseline of `LAWS` that gives n steps over exactly this range.

    A row is left out where (1) it needs a path or spectrum that is not given; (2) it has no grid for this n and range
    (`GridError`: the path is too short, a quantile repeats, GITS at n = 1); (3) the grid it has does not start at
    sigma_max, or calls the model below sigma_min: such a grid answers another question and is not compared.

    Where `sigma_min` is not above `final` (sigma_min = 0 above all: no lowest level) no level lies between the two, and
    laws are cut to end at `final` itself; rows that cannot reach it (a logarithm of 0) are left out.

    Parameters
    ----------
    n : int
        Number of steps, >= 1.
    sigma_min : float
        Lowest level a model is called at, >= 0.
    sigma_max : float
        Where every grid starts, finite, above it.
    final : float or None
        Where the grids end, >= 0 and below sigma_max; None: at sigma_min.
    spectrum : Spectrum, optional
    path : NoisePath, optional
        For the rows that need one.

    Returns
    -------
    dict
        name -> (n + 1,) strictly descending sigmas from sigma_max to the end, in the order of `LAWS`.

    Raises
    ------
    ValueError
        n < 1, a wrong range.

    Examples
    --------
    >>> grids = catalogue_grids(4, 0.002, 80.0)
    >>> print(len(grids), grids["exponential"].round(3))
    19 [8.000e+01 2.339e+00 6.800e-02 2.000e-03 0.000e+00]
    """
    n = integer(n, "n")
    low, high = sigma_range(sigma_min, sigma_max, zero_min=True)
    end = None if final is None else checked_final(final)
    if end is not None and end >= high:
        raise ValueError(f"`final` must be below `sigma_max`, got {end:g} and {high:g}.")
    if end is not None and low <= end:
        low, end = end, None
    given = {"nothing": True, "path": path is not None, "spectrum": spectrum is not None}
    grids: dict[str, Float] = {}
    for name, row in LAWS.items():
        if not given[row.needs] or (low == 0.0 and not row.reaches_zero):
            continue
        try:
            sigmas = row.grid(n, low, high, final=end, path=path, spectrum=spectrum)
        except GridError:
            continue
        # 1e-12: a path's own sigma_max after a round trip through t, or printed in full and read back.
        if math.isclose(sigmas[0], high, rel_tol=1e-12) and sigmas[-2] >= low * (1.0 - 1e-12):
            grids[name] = sigmas
    return grids
