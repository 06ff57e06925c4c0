"""The spectrum: the eigenvalues of the data's covariance, all that the planning of a grid needs to know of the data."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _files
from eigenstep._checks import Float, choice, integer, real_array, real_number, sample_array
from eigenstep._scatter import Scatter, centred_gram, row_stripes
from eigenstep.fourier import FourierBasis

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

FORMAT_VERSION = 1
_PANEL_NODES = 3


class RankWarning(UserWarning):
    """The covariance has fewer directions than the data has dimensions, because there are too few samples."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Eigenvalues of a covariance with their multiplicities and the mean's energy along each.

        Sigma = sum_i lambda_i P_i,    tr P_i = m_i,    energy_i = |P_i mu|^2

    Make one with `from_samples`, `from_covariance`, `from_eigenvalues` or `from_zoo`. All units are those of the
    data: eigenvalues are squared data units, so a noise level sigma compares with sqrt(lambda).

    Parameters
    ----------
    eigenvalues : (k,) float64, descending, >= 0, in squared data units. Zero is legal: a constant direction.
    multiplicities : (k,) float64 > 0, the dimension of each eigenspace; real numbers after `binned`. Default ones.
    mean_energy : (k,) float64 >= 0, the energy |P_i mu|^2 of the mean in each eigenspace, summed over the
        multiplicity, so that its sum is |mu|^2. Default zeros.
    n_samples : how many samples it was estimated from, or None where that is unknown or meaningless.
    item_shape : shape of one item, or None.
    provenance : where it came from: a source, a command, a value range, caveats. JSON values only.
    binning_error : the measured error left by `binned`, 0.0 where nothing was binned.
    mean : the mean item, of shape `item_shape` (or flat where that is None), in data units, or None where not kept.
    basis : the leading eigenvectors, or None where not kept: (k, dim) orthonormal rows, float32 or float64, row i
        that of eigenvalue i; for stationary data a `FourierBasis`, one entry per eigenvalue. It is not copied.

    Degenerate cases: all eigenvalues zero is refused (there is nothing to plan for); one eigenvalue is legal.

    Raises
    ------
    ValueError : arrays of different lengths, NaN, negative or ascending eigenvalues, non-positive multiplicities.

    Examples
    --------
    >>> spectrum = Spectrum.from_eigenvalues([4.0, 1.0, 0.0])
    >>> spectrum.dim, spectrum.rank, spectrum.trace
    (3, 2, 5.0)
    """

    eigenvalues: Float
    multiplicities: Float = None  # type: ignore[assignment]  # ones, made in __post_init__
    mean_energy: Float = None  # type: ignore[assignment]  # zeros, made in __post_init__
    n_samples: int | None = None
    item_shape: tuple[int, ...] | None = None
    provenance: Mapping[str, JSON] = field(default_factory=dict)
    binning_error: float = 0.0
    mean: Float | None = None
    basis: NDArray[Any] | FourierBasis | None = None

    def __post_init__(self) -> None:
        """Validate, and make the arrays read-only."""
        lam = np.array(real_array(self.eigenvalues, "eigenvalues", ndim=1))
        if not lam.size:
            raise ValueError("`eigenvalues` must hold at least one eigenvalue, got none.")
        if lam.min() < 0:
            raise ValueError(
                f"`eigenvalues` must not be negative, got {lam.min():.6g} at index {int(lam.argmin())}; a covariance "
                "is positive semi-definite."
            )
        rises = np.flatnonzero(np.diff(lam) > 0)
        if rises.size:
            raise ValueError(
                f"`eigenvalues` must be descending, got {lam[rises[0]]:.6g} then {lam[rises[0] + 1]:.6g} at positions "
                f"{rises[0]} and {rises[0] + 1}; `Spectrum.from_eigenvalues` sorts them."
            )
        if lam[0] == 0:
            raise ValueError("`eigenvalues` are all zero: the data are constant and there is nothing to sample.")
        m = np.ones_like(lam) if self.multiplicities is None else _one_each(self.multiplicities, "multiplicities", lam)
        _refuse_non_positive(m)
        energy = np.zeros_like(lam) if self.mean_energy is None else _one_each(self.mean_energy, "mean_energy", lam)
        if energy.min() < 0:
            raise ValueError(f"`mean_energy` must not be negative, got {energy.min():.6g} at index {energy.argmin()}.")
        for name, array in (("eigenvalues", lam), ("multiplicities", m), ("mean_energy", energy)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.n_samples is not None:
            object.__setattr__(self, "n_samples", integer(self.n_samples, "n_samples", minimum=1))
        if self.item_shape is not None:
            shape = tuple(integer(side, "item_shape", minimum=1) for side in self.item_shape)
            object.__setattr__(self, "item_shape", shape)
        object.__setattr__(self, "binning_error", real_number(self.binning_error, "binning_error", minimum=0.0))
        object.__setattr__(self, "provenance", _json_mapping(self.provenance))
        if self.mean is not None:
            object.__setattr__(self, "mean", _clean_mean(self.mean, self.item_shape, self.dim))
        if self.basis is not None:
            object.__setattr__(self, "basis", _clean_basis(self.basis, self))

    # ------------------------------------------------------------------ constructors, named by their evidence

    @classmethod
    def from_samples(
        cls, x: ArrayLike, *, precision: str = "auto", basis: int = 0, provenance: Mapping[str, JSON] | None = None
    ) -> Spectrum:
        r"""Spectrum of the unbiased sample covariance of `x`.

            Sigma = 1/(n-1) sum_j (x_j - mu)(x_j - mu)^T,    energy_i = |P_i mu|^2

        Parameters
        ----------
        x : (n, ...) array of n >= 2 items, real numbers, in data units; items are flattened. Memory maps are read in
            blocks. More items than dimensions are wanted.
        precision : "auto" forms the products of a block of float32 (or float16) input in float32 and of any other
            input in float64; "float64" always uses float64. Sums over blocks are float64 always. Measured on CIFAR-10
            (3072 dimensions, 7.5 decades), float32 products move an eigenvalue by 3e-5 of itself in the median and by
            0.6 % at the very smallest, 3e-8 of the largest.
        basis : how many leading eigenvectors to keep; at most as many as there are non-zero eigenvalues.
        provenance : recorded in the result.

        Degenerate cases: with n <= dim the covariance has rank n - 1 at most; the other eigenvalues are exactly zero,
        and `RankWarning` says so. Eigenvalues lost in rounding (see `from_covariance`) are set to exactly zero;
        those of constant pixels are real zeros. Pixels that depend on each other give zeros with float64 products, and
        may give eigenvalues near 1e-8 of the largest with float32 ones.

        Raises
        ------
        ValueError : NaN or infinite pixels (by item and count), one sample, none, constant data, float32 beyond 1e37.
        TypeError : complex numbers, text, objects.

        Examples
        --------
        >>> x = [[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 1.0]]
        >>> Spectrum.from_samples(x).eigenvalues
        array([1.33333333, 0.33333333])
        """
        choice(precision, ("auto", "float64"), "precision")
        array = sample_array(x, "x")
        rows = array.reshape(len(array), -1)
        n, dim = rows.shape
        if n < 2:
            raise ValueError(f"`x` must hold at least 2 items to have a covariance, got {n}.")
        single = precision == "auto" and rows.dtype in (np.float32, np.float16)
        leading = integer(basis, "basis", minimum=0)
        if n <= dim:
            return cls._from_few([rows], single=False, item_shape=array.shape[1:], leading=leading, provenance=provenance)
        sums = Scatter(dim, single=single)
        sums.add(rows)
        return cls._from_scatter(
            sums.scatter(), sums.mean(), n, item_shape=array.shape[1:], leading=leading, provenance=provenance
        )

    @classmethod
    def from_covariance(
        cls,
        c: ArrayLike,
        *,
        mean: ArrayLike | None = None,
        n_samples: int | None = None,
        item_shape: tuple[int, ...] | None = None,
        basis: int = 0,
        provenance: Mapping[str, JSON] | None = None,
    ) -> Spectrum:
        r"""Spectrum of a covariance matrix, and of the mean's energy in its eigen-directions.

            Sigma = Z diag(lambda) Z^T,    energy_i = (Z^T mu)_i^2

        An eigenvalue not above max(dim eps lambda_max, 2 |lambda_min| if lambda_min < 0) is rounding and becomes
        exactly zero; eps is that of the matrix's own precision only for the refusals below.

        Parameters
        ----------
        c : (dim, dim) symmetric positive semi-definite matrix, in squared data units.
        mean : (dim,) mean of the data, in data units; None stands for zero.
        n_samples : how many samples it was estimated from.
        item_shape : shape of one item.
        basis : how many leading eigenvectors to keep; at most as many as there are non-zero eigenvalues.
        provenance : recorded in the result.

        Degenerate cases: a singular matrix is legal, a zero matrix is not.

        Raises
        ------
        ValueError : a matrix that is not square, not symmetric or not positive semi-definite beyond rounding; NaN.
        TypeError : complex numbers, text, objects.

        Examples
        --------
        >>> spectrum = Spectrum.from_covariance([[2.0, 1.0], [1.0, 2.0]], mean=[1.0, 1.0])
        >>> spectrum.eigenvalues, spectrum.mean_energy.round(12)
        (array([3., 1.]), array([2., 0.]))
        """
        given = sample_array(c, "c")
        eps = float(np.finfo(given.dtype).eps) if given.dtype.kind == "f" else float(np.finfo(np.float64).eps)
        matrix = real_array(given, "c", ndim=2)
        dim = len(matrix)
        if matrix.shape != (dim, dim):
            raise ValueError(f"`c` must be a square matrix, got shape {matrix.shape}.")
        scale = float(np.abs(matrix).max())
        skew = float(np.abs(matrix - matrix.T).max())
        if skew > 100 * eps * scale * math.sqrt(dim):
            raise ValueError(
                f"`c` must be symmetric, got entries that differ from their mirror by {skew:.6g} where the largest is "
                f"{scale:.6g}; pass a covariance, or (c + c.T)/2 if it is one."
            )
        leading = integer(basis, "basis", minimum=0)
        mu = np.zeros(dim) if mean is None else real_array(mean, "mean").reshape(-1)
        if mu.size != dim:
            raise ValueError(f"`mean` must have {dim} entries like `c`, got {mu.size}.")
        lam, energy, vectors = _eigen(0.5 * (matrix + matrix.T), mu, leading)
        if lam[0] < -100 * dim * eps * max(lam[-1], 0.0) or lam[-1] <= 0 < scale:
            raise ValueError(
                f"`c` must be positive semi-definite, got an eigenvalue {lam[0]:.6g} beside a largest of {lam[-1]:.6g}"
                "; a covariance has none below zero."
            )
        lam = _without_rounding(lam)[::-1]
        return cls(
            eigenvalues=lam,
            mean_energy=energy[::-1],
            n_samples=n_samples,
            item_shape=item_shape,
            provenance=dict(provenance or {}),
            mean=None if mean is None else mu,
            basis=_kept(vectors, lam),
        )

    @classmethod
    def from_eigenvalues(
        cls,
        eigenvalues: ArrayLike,
        *,
        multiplicities: ArrayLike | None = None,
        mean_energy: ArrayLike = 0.0,
        n_samples: int | None = None,
        item_shape: tuple[int, ...] | None = None,
        provenance: Mapping[str, JSON] | None = None,
    ) -> Spectrum:
        """Spectrum from known eigenvalues, in any order; they are sorted, none are merged.

        Parameters
        ----------
        eigenvalues : (k,) or a scalar, >= 0, in squared data units.
        multiplicities : (k,) or a scalar, > 0; default ones.
        mean_energy : (k,) energies in the order of `eigenvalues`, or a scalar |mu|^2 that is spread over all
            directions in proportion to their multiplicity, in squared data units; default 0 (a centred source).
        n_samples : how many samples they were estimated from.
        item_shape : shape of one item.
        provenance : recorded in the result.

        Raises
        ------
        ValueError : negative or NaN values, lengths that differ.

        Examples
        --------
        >>> spectrum = Spectrum.from_eigenvalues([1.0, 9.0], multiplicities=[3, 1], mean_energy=4.0)
        >>> spectrum.eigenvalues, spectrum.multiplicities, spectrum.mean_energy
        (array([9., 1.]), array([1., 3.]), array([1., 3.]))
        """
        lam = np.atleast_1d(real_array(eigenvalues, "eigenvalues"))
        if lam.ndim != 1:
            raise ValueError(f"`eigenvalues` must have 1 dimension, got shape {lam.shape}.")
        m = np.ones_like(lam) if multiplicities is None else real_array(multiplicities, "multiplicities")
        m = np.full_like(lam, float(m)) if m.ndim == 0 else _one_each(m, "multiplicities", lam)
        _refuse_non_positive(m)
        energy = real_array(mean_energy, "mean_energy")
        energy = float(energy) * m / m.sum() if energy.ndim == 0 else _one_each(energy, "mean_energy", lam)
        order = np.argsort(-lam, kind="stable")
        return cls(
            eigenvalues=lam[order],
            multiplicities=m[order],
            mean_energy=energy[order],
            n_samples=n_samples,
            item_shape=item_shape,
            provenance=dict(provenance or {}),
        )

    @classmethod
    def from_zoo(cls, name: str) -> Spectrum:
        """A measured spectrum that ships with the package; `zoo_names()` lists them, `provenance` tells their story.

        Raises
        ------
        ValueError : no such spectrum; the message lists them.

        Examples
        --------
        >>> Spectrum.from_zoo("digits").dim
        64
        """
        choice(name, zoo_names(), "name")
        with resources.as_file(_zoo() / f"{name}.json") as path:
            return cls.load(path)

    # ------------------------------------------------------------------ what it knows

    @property
    def dim(self) -> int | float:
        """Dimension of the data: the sum of the multiplicities, an int where it is whole."""
        return _whole(float(self.multiplicities.sum()))

    @property
    def rank(self) -> int | float:
        """Number of directions with a non-zero eigenvalue, counted with multiplicity."""
        return _whole(float(self.multiplicities[self.eigenvalues > 0].sum()))

    @property
    def trace(self) -> float:
        """Total variance: sum of m_i lambda_i, in squared data units."""
        return float(self.multiplicities @ self.eigenvalues)

    @property
    def std(self) -> float:
        """Standard deviation per dimension: sqrt(trace / dim), in data units."""
        return math.sqrt(self.trace / self.dim)

    @property
    def effective_rank(self) -> float:
        """Participation ratio (tr Sigma)^2 / tr Sigma^2: between 1 (one direction) and dim (white)."""
        share = self.eigenvalues / self.eigenvalues[0]
        return float((self.multiplicities @ share) ** 2 / (self.multiplicities @ share**2))

    @property
    def has_eigenvectors(self) -> bool:
        """Whether mean and leading eigenvectors are kept, as warm starts need both.

        >>> x = [[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [1.0, -1.0]]
        >>> [Spectrum.from_samples(x, basis=k).has_eigenvectors for k in (0, 2)]
        [False, True]
        """
        return self.basis is not None and self.mean is not None

    def __repr__(self) -> str:
        """One line: dimension, rank, standard deviation, effective rank, evidence."""
        parts = [f"dim={self.dim:.12g}", f"rank={self.rank:.12g}", f"std={self.std:.4g}"]
        parts.append(f"effective_rank={self.effective_rank:.4g}")
        parts += [f"nodes={self.eigenvalues.size}"] if self.eigenvalues.size != self.dim else []
        parts += [f"n_samples={self.n_samples}"] if self.n_samples is not None else []
        parts += [f"item_shape={self.item_shape}"] if self.item_shape is not None else []
        return f"Spectrum({', '.join(parts)})"

    # ------------------------------------------------------------------ fewer nodes

    def binned(self, k: int) -> Spectrum:
        r"""The same spectrum on at most `k` weighted eigenvalues.

        Positive eigenvalues are cut into panels of equal ratio; in each, the discrete measure sum m_i delta(lambda_i)
        is replaced by its 3-point Gauss rule, which integrates polynomials in lambda up to degree 5:

            sum_i m_i lambda_i^p = sum_j M_j Lambda_j^p,    p = 0..5

        so dim and trace are kept and the error of a smooth function falls like (panel width)^6. Panels with three
        distinct values or fewer keep them; zero is a node of its own. The mean energy goes to the same nodes with
        weights that keep its moments 0..2 in the panel, or, where those would be negative, 0 and (inside the nodes) 1.

        `binning_error` of the result is the largest relative error, over 64 levels of sigma from half the smallest
        sqrt(lambda) to twice the largest, of the two curves that planning uses:
        sum m lambda sigma^2/(lambda+sigma^2) and sum m (lambda/(lambda+sigma^2))^2; added to the error already there. The
        nodes are no directions of the data any more: `mean` and `basis` are dropped.

        Parameters
        ----------
        k : at least 4 (zero, and one panel of three).

        Degenerate cases: with at most `k` distinct eigenvalues nothing is lost: `self` comes back where all are
        distinct, else equal ones are merged into multiplicities.

        Raises
        ------
        ValueError : k below 4.

        Examples
        --------
        >>> fine = Spectrum.from_eigenvalues(1.0 / np.arange(1, 1001) ** 2)
        >>> coarse = fine.binned(36)
        >>> coarse.eigenvalues.size <= 36, coarse.dim, coarse.binning_error < 1e-4
        (True, 1000, True)
        """
        k = integer(k, "k", minimum=4)
        # Ascending, equal values merged.
        starts = np.flatnonzero(np.concatenate(([True], np.diff(self.eigenvalues) < 0)))
        lam = self.eigenvalues[starts][::-1]
        m = np.add.reduceat(self.multiplicities, starts)[::-1]
        energy = np.add.reduceat(self.mean_energy, starts)[::-1]
        if lam.size <= k:
            if lam.size == self.eigenvalues.size:
                return self if self.mean is None and self.basis is None else replace(self, mean=None, basis=None)
            return replace(
                self, eigenvalues=lam[::-1], multiplicities=m[::-1], mean_energy=energy[::-1], mean=None, basis=None
            )
        zero = int(lam[0] == 0)
        nodes = _gauss_nodes(lam[zero:], m[zero:], energy[zero:], k - zero)
        node_lam, node_m, node_energy = (
            np.concatenate((part[:zero], column)) for part, column in zip((lam, m, energy), nodes, strict=True)
        )
        order = np.argsort(-node_lam, kind="stable")
        return replace(
            self,
            eigenvalues=node_lam[order],
            multiplicities=node_m[order],
            mean_energy=node_energy[order],
            binning_error=self.binning_error + _curve_error(lam[zero:], m[zero:], node_lam[zero:], node_m[zero:]),
            mean=None,
            basis=None,
        )

    # ------------------------------------------------------------------ files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a `.json` or `.npz` file, whole or not at all; both keep every bit of the numbers.

        The mean goes into both, the basis into `.npz` only: as text it would be three times as large.

        Raises
        ------
        ValueError : another suffix; a basis, and a `.json` file.
        OSError : the disk is full or the folder is closed to us; an earlier file is left as it was.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Spectrum.from_eigenvalues([2.0, 1.0]).save(f"{folder}/two.json")
        ...     Spectrum.load(f"{folder}/two.json").trace
        3.0
        """
        header: dict[str, JSON] = {
            "format": "eigenstep-spectrum",
            "format_version": FORMAT_VERSION,
            "n_samples": self.n_samples,
            "item_shape": None if self.item_shape is None else list(self.item_shape),
            "binning_error": self.binning_error,
            "provenance": dict(self.provenance),
        }
        columns = {name: getattr(self, name) for name in _COLUMNS}
        if _suffix(path) == ".json":
            if self.basis is not None:
                raise ValueError(
                    f"`path` must end in .npz for a spectrum with a basis, got {os.fspath(path)!r}; save to .npz, or save "
                    "dataclasses.replace(spectrum, basis=None)."
                )
            header.update({name: column.tolist() for name, column in columns.items()})
            if self.mean is not None:
                header["mean"] = self.mean.ravel().tolist()
            content = (json.dumps(header, indent=1, allow_nan=False) + "\n").encode()
            _files.write_atomically(path, lambda stream: stream.write(content))
        else:
            arrays = {"header": np.array(json.dumps(header, allow_nan=False)), **columns, **_basis_arrays(self.basis)}
            if self.mean is not None:
                arrays["mean"] = self.mean
            _files.write_atomically(path, lambda stream: np.savez_compressed(stream, **arrays))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectrum:
        """Read what `save` wrote.

        Raises
        ------
        ValueError : a truncated, corrupt or foreign file, or one from a newer version.
        FileNotFoundError : no such file.

        Examples
        --------
        >>> Spectrum.load("spectrum.txt")
        Traceback (most recent call last):
        ValueError: `path` must end in .json or .npz, got 'spectrum.txt'.
        """
        columns: dict[str, Any]
        if _suffix(path) == ".json":
            header = columns = _files.read_json(path, "spectrum")
        else:
            header, columns = _files.read_npz(path, "spectrum")
        _files.check_format(header, path, "spectrum", newest=FORMAT_VERSION)
        try:
            shape = None if header["item_shape"] is None else tuple(header["item_shape"])
            mean = columns.get("mean")
            return cls(
                **{name: columns[name] for name in _COLUMNS},
                n_samples=header["n_samples"],
                item_shape=shape,
                provenance=header["provenance"],
                binning_error=header["binning_error"],
                mean=None if mean is None else np.asarray(mean, dtype=np.float64),
                basis=None if columns is header else _basis_from(columns, shape),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(_files.damaged(path, "spectrum", error)) from error

    # ------------------------------------------------------------------ shared by from_samples and Moments

    @classmethod
    def _from_scatter(
        cls,
        scatter: Float,
        mean: Float,
        n: int,
        *,
        item_shape: tuple[int, ...],
        leading: int,
        provenance: Mapping[str, JSON] | None,
    ) -> Spectrum:
        """Spectrum of scatter/(n-1), with its `leading` first eigenvectors; the scatter is used up."""
        dim = len(mean)
        variances = scatter.diagonal() / (n - 1)
        _refuse_constant(float(variances.max()), n)
        scatter /= n - 1
        lam, energy, vectors = _eigen(scatter, mean, leading)
        lam = _without_rounding(lam)
        if n <= dim:
            lam[: dim - (n - 1)] = 0.0
            _warn_rank(n, dim)
        lam = lam[::-1]
        return cls(
            eigenvalues=lam,
            mean_energy=energy[::-1],
            n_samples=n,
            item_shape=item_shape,
            provenance=dict(provenance or {}),
            mean=mean,
            basis=_kept(vectors, lam),
        )

    @classmethod
    def _from_few(
        cls,
        blocks: list[NDArray[Any]],
        *,
        single: bool,
        item_shape: tuple[int, ...],
        leading: int,
        provenance: Mapping[str, JSON] | None,
    ) -> Spectrum:
        """Few samples: the n x n matrix X X^T/(n-1) has the same non-zero eigenvalues, and v_i = X^T u_i/|X^T u_i|."""
        gram, mu, projected = centred_gram(blocks, single=single)
        n, dim = len(gram), len(mu)
        gram /= n - 1
        _refuse_constant(float(gram.diagonal().max()), n)
        _warn_rank(n, dim)
        lam, energy, vectors = _eigen(gram, projected, leading)
        lam = _without_rounding(lam)
        lam[0] = 0.0  # the centring takes one direction away, whatever the rounding says
        positive = lam > 0
        lam, energy = lam[positive][::-1], energy[positive][::-1]
        energy = energy / ((n - 1) * lam)
        rest = max(float(mu @ mu) - float(energy.sum()), 0.0)
        rows = _kept(vectors, lam)
        basis = None if rows is None else np.concatenate([rows @ stripe for stripe in row_stripes(blocks, mu)], axis=1)
        if basis is not None:
            basis /= np.linalg.norm(basis, axis=1, keepdims=True)
        return cls(
            eigenvalues=np.append(lam, 0.0),
            multiplicities=np.append(np.ones_like(lam), float(dim - lam.size)),
            mean_energy=np.append(energy, rest),
            n_samples=n,
            item_shape=item_shape,
            provenance=dict(provenance or {}),
            mean=mu,
            basis=basis,
        )


def zoo_names() -> tuple[str, ...]:
    """Names of the measured spectra that ship with the package, for `Spectrum.from_zoo`.

    Examples
    --------
    >>> "digits" in zoo_names()
    True
    """
    return tuple(sorted(entry.name[:-5] for entry in _zoo().iterdir() if entry.name.endswith(".json")))


_COLUMNS = ("eigenvalues", "multiplicities", "mean_energy")


def _zoo() -> Any:
    return resources.files("eigenstep") / "zoo"


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in (".json", ".npz"):
        raise ValueError(f"`path` must end in .json or .npz, got {os.fspath(path)!r}.")
    return suffix


def _whole(number: float) -> int | float:
    """An int where the number is one, to the rounding of a sum of real multiplicities."""
    nearest = round(number)
    return nearest if abs(number - nearest) <= 1e-9 * max(number, 1.0) else number


def _refuse_non_positive(m: Float) -> None:
    if m.size and m.min() <= 0:
        raise ValueError(
            f"`multiplicities` must be positive, got {m.min():.6g} at index {int(m.argmin())}; leave absent eigenvalues out."
        )


def _one_each(value: ArrayLike, name: str, eigenvalues: Float) -> Float:
    array = np.array(real_array(value, name, ndim=1))
    if array.size != eigenvalues.size:
        raise ValueError(f"`{name}` must have one entry per eigenvalue ({eigenvalues.size}), got {array.size}.")
    return array


def _json_mapping(value: Mapping[str, JSON]) -> dict[str, JSON]:
    try:
        copy: dict[str, JSON] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`provenance` must hold plain JSON values only ({error}).") from None
    return copy


def _refuse_constant(largest_variance: float, n: int) -> None:
    if largest_variance == 0:
        raise ValueError(f"The data are constant: all {n} items are equal, so they have no covariance to measure.")


def _warn_rank(n: int, dim: int) -> None:
    warnings.warn(
        f"{n} samples of {dim} dimensions give a covariance of rank {n - 1} at most: {dim - n + 1} eigenvalues are "
        "zero for want of samples, and the large ones are overestimated.",
        RankWarning,
        stacklevel=4,
    )


def _without_rounding(lam: Float) -> Float:
    """Set eigenvalues (ascending) that rounding alone explains to exactly zero.

    A negative one is rounding by nature, and rounding is as often positive: its size measures the noise, in whatever
    precision the matrix was made.
    """
    floor = max(lam.size * float(np.finfo(np.float64).eps) * lam[-1], -2.0 * lam[0])
    return np.where(lam > floor, lam, 0.0)


def _eigen(matrix: Float, mu: Float, leading: int) -> tuple[Float, Float, Float | None]:
    """Ascending eigenvalues of a symmetric matrix, (Z^T mu)_i^2, and Z's `leading` last columns as descending rows.

    Householder: matrix = Q T Q^T with T tridiagonal. The reflectors are applied to the one vector mu, and only T's
    own eigenvectors are needed: O(dim^2) beyond the eigenvalues alone, and O(dim^2) for each eigenvector that is
    asked for. The matrix is overwritten.
    """
    dim = len(mu)
    if not mu.any() and not leading:
        return np.linalg.eigvalsh(matrix).astype(np.float64, copy=False), np.zeros(dim), None
    if dim < 16:
        lam, z = np.linalg.eigh(matrix)
        return lam, np.asarray((z.T @ mu) ** 2), _signed(z.T[::-1][:leading]) if leading else None
    from scipy.linalg import eigh_tridiagonal, lapack

    # The matrix is symmetric, so its transpose is the same matrix in the column order that LAPACK works on in place.
    work = int(lapack.dsytrd_lwork(dim, lower=1)[0])
    reflectors, diagonal, off_diagonal, tau, info = lapack.dsytrd(matrix.T, lower=1, lwork=work, overwrite_a=1)
    assert info == 0, info

    def rotated(columns: Float, transposed: str) -> Float:
        turned: Float = columns.copy()
        tail, _, info = lapack.dormqr("L", transposed, reflectors[1:, :-1], tau, columns[1:], lwork=64 * max(dim, 64))
        assert info == 0, info
        turned[1:] = tail
        return turned

    lam, z = eigh_tridiagonal(diagonal, off_diagonal)
    energy = (rotated(mu[:, None], "T")[:, 0] @ z) ** 2
    vectors = _signed(rotated(z[:, ::-1][:, :leading], "N").T) if leading else None
    return lam, energy, vectors


def _signed(vectors: Float) -> Float:
    """The rows with their largest entries positive: a sign that does not depend on the algorithm."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return np.ascontiguousarray(vectors * np.where(largest < 0, -1.0, 1.0))


def _kept(vectors: Float | None, eigenvalues: Float) -> Float | None:
    """The rows whose (descending) eigenvalues are not zero: the others point anywhere in the null space."""
    return None if vectors is None else vectors[: int(np.count_nonzero(eigenvalues[: len(vectors)]))]


def _clean_mean(mean: ArrayLike, item_shape: tuple[int, ...] | None, dim: float) -> Float:
    array = np.array(real_array(mean, "mean"))
    if array.size != dim:
        raise ValueError(f"`mean` must have one number per dimension ({dim}), got {array.size}.")
    if item_shape is not None and math.prod(item_shape) != array.size:
        raise ValueError(f"`mean` must have the shape {item_shape} of an item, got {array.size} numbers.")
    array = array.reshape((-1,) if item_shape is None else item_shape)
    array.flags.writeable = False
    return array


def _clean_basis(basis: NDArray[Any] | FourierBasis, spectrum: Spectrum) -> NDArray[Any] | FourierBasis:
    if isinstance(basis, FourierBasis):
        if len(basis) != spectrum.eigenvalues.size or basis.item_shape != spectrum.item_shape:
            raise ValueError(
                f"`basis` must have one entry per eigenvalue ({spectrum.eigenvalues.size}) for items of shape "
                f"{spectrum.item_shape}, got {len(basis)} for {basis.item_shape}."
            )
        return basis
    rows = np.asarray(basis)
    if rows.dtype not in (np.float32, np.float64):
        raise TypeError(f"`basis` must be an array of float32 or float64, got {rows.dtype}.")
    if rows.ndim != 2 or rows.shape[1] != spectrum.dim or not 0 < len(rows) <= spectrum.eigenvalues.size:
        raise ValueError(
            f"`basis` must have shape (k, {spectrum.dim}) with k between 1 and {spectrum.eigenvalues.size}, got {rows.shape}."
        )
    # Orthonormal rows are bounded by 1, so that a sum over all of them is finite where each of them is.
    if not np.isfinite(rows.sum()):
        raise ValueError("`basis` must be finite, got NaN or infinite values.")
    view: NDArray[Any] = rows.view()
    view.flags.writeable = False
    return view


def _basis_arrays(basis: NDArray[Any] | FourierBasis | None) -> dict[str, NDArray[Any]]:
    if basis is None:
        return {}
    return basis.arrays() if isinstance(basis, FourierBasis) else {"basis": basis}


def _basis_from(arrays: Mapping[str, NDArray[Any]], item_shape: tuple[int, ...] | None) -> NDArray[Any] | FourierBasis | None:
    if "basis_frequencies" in arrays:
        assert item_shape is not None, "a Fourier basis is saved with its item shape"
        return FourierBasis(item_shape, arrays["basis_frequencies"], arrays["basis_vectors"])
    return arrays.get("basis")


def _gauss_nodes(lam: Float, m: Float, energy: Float, k: int) -> tuple[Float, Float, Float]:
    """At most `k` nodes, weights and energies for ascending positive distinct `lam`: panels of 3-point Gauss rules."""
    starts = _panel_starts(lam, k)
    counts = np.diff(np.append(starts, lam.size))
    small = np.repeat(counts <= _PANEL_NODES, counts)
    kept = (lam[small], m[small], energy[small])
    large = counts > _PANEL_NODES
    if not large.any():
        return kept
    lam, m, energy, counts = lam[~small], m[~small], energy[~small], counts[large]
    first = np.concatenate(([0], np.cumsum(counts)[:-1]))
    low, high = lam[first], lam[first + counts - 1]
    centre, half = 0.5 * (low + high), 0.5 * (high - low)
    t = (lam - np.repeat(centre, counts)) / np.repeat(half, counts)

    def total(values: Float) -> Float:
        sums: Float = np.add.reduceat(values, first)
        return sums

    def spread(values: Float) -> Float:
        return np.repeat(values, counts)

    # Stieltjes: the three-term recurrence p_{r+1} = (t - a_r) p_r - b_r p_{r-1} of the panel's own measure.
    s0 = total(m)
    a0 = total(m * t) / s0
    p1 = t - spread(a0)
    s1 = total(m * p1**2)
    b1 = s1 / s0
    a1 = total(m * t * p1**2) / s1
    p2 = (t - spread(a1)) * p1 - spread(b1)
    s2 = total(m * p2**2)
    b2 = s2 / s1
    # Two tight clusters leave nothing for a third node: it may sit anywhere in the panel, with weight zero.
    a2 = np.divide(total(m * t * p2**2), s2, out=np.zeros_like(s2), where=s2 > 0)
    # Golub-Welsch: nodes are the Jacobi matrix's eigenvalues, weights its eigenvectors' first components squared.
    jacobi = np.zeros((first.size, _PANEL_NODES, _PANEL_NODES))
    for row, entries in enumerate((a0, a1, a2)):
        jacobi[:, row, row] = entries
    jacobi[:, 1, 0], jacobi[:, 2, 1] = np.sqrt(b1), np.sqrt(b2)
    nodes, vectors = np.linalg.eigh(jacobi)
    # A node without weight stays as one too light to change any sum: every multiplicity is positive.
    weights = s0[:, None] * np.maximum(vectors[:, 0, :] ** 2, 1e-40)

    # Energy on the same nodes: interpolatory weights keep the moments 0..2; they may be negative.
    y0, y1, y2 = nodes.T
    e0, e1, e2 = total(energy), total(energy * t), total(energy * t**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.stack(
            [(e2 - (b + c) * e1 + b * c * e0) / ((a - b) * (a - c)) for a, b, c in ((y0, y1, y2), (y1, y0, y2), (y2, y0, y1))],
            axis=1,
        )
    # Else every energy is split linearly between the nodes on either side of it.
    x0, x1, x2 = spread(y0), spread(y1), spread(y2)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.nan_to_num(np.clip((x1 - t) / (x1 - x0), 0.0, 1.0))
        right = np.nan_to_num(np.clip((t - x1) / (x2 - x1), 0.0, 1.0))
    hats = np.stack([total(energy * left), total(energy * (1.0 - left - right)), total(energy * right)], axis=1)
    shares = np.where(np.all(np.isfinite(shares) & (shares >= 0), axis=1)[:, None], shares, hats)
    # Nodes that almost coincide cost digits in the differences above; the total is known better than that.
    sums = shares.sum(axis=1)
    shares *= np.divide(e0, sums, out=np.ones_like(sums), where=sums > 0)[:, None]

    # In a panel of many decades the lowest node may round to below zero.
    node_values = np.clip(centre[:, None] + half[:, None] * nodes, low[:, None], high[:, None])
    found = (node_values, weights, shares)
    node_lam, node_m, node_energy = (np.concatenate((old, new.ravel())) for old, new in zip(kept, found, strict=True))
    return node_lam, node_m, node_energy


def _panel_starts(lam: Float, k: int) -> NDArray[np.intp]:
    """First index of each non-empty panel: the most panels, equal in log lambda, that need at most `k` nodes."""
    log = np.log(lam)
    few = k // _PANEL_NODES
    # Empty and sparse panels leave nodes over, so more panels than k/3 may fit; the count is not quite monotone.
    for panels in np.unique(np.geomspace(4 * few, few, 12).astype(int))[::-1]:
        edges = np.searchsorted(log, np.linspace(log[0], log[-1], panels + 1)[:-1])
        counts = np.diff(edges, append=lam.size)
        if np.minimum(counts, _PANEL_NODES).sum() <= k:
            break
    return edges[counts > 0]


def _curve_error(lam: Float, m: Float, node_lam: Float, node_m: Float) -> float:
    """Largest relative error of the Cramér-Rao curve and of sum m (lambda/(lambda+sigma^2))^2 over 64 levels."""
    squares = np.geomspace(0.25 * lam[0], 4.0 * lam[-1], 64)[:, None]

    def curves(values: Float, weights: Float) -> Float:
        gain = values + squares
        np.divide(values, gain, out=gain)
        bound = gain @ weights
        np.multiply(gain, gain, out=gain)
        return np.concatenate((bound, gain @ weights))

    exact = curves(lam, m)
    return float(np.max(np.abs(curves(node_lam, node_m) - exact) / exact))
