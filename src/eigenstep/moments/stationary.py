"""The stationary form: one power per frequency, for data whose statistics are the same at every place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import Float, choice, integer
from eigenstep.fourier import FourierBasis, half_plane
from eigenstep.moments.accumulator import PRECISIONS
from eigenstep.moments.blocks import BlockAccumulator, threads
from eigenstep.spectrum import JSON, Spectrum

_BLOCK_NUMBERS = 2**21  # 8 MiB: larger blocks leave the cache, smaller ones cost calls
_FEW_CHANNELS = 4
WINDOWS = ("none", "hann")


class StationaryMoments(BlockAccumulator):
    r"""Covariance across the channels at every frequency, which for stationary data is all of the covariance.

        F_k = sum_s x_s exp(-2 pi i k.s/sides),    S_k = 1/(n-1) sum_j (F_k - mean)(F_k - mean)^H / (number of places)

    S_k is channels x channels; the spectrum is the eigenvalues of all S_k, with multiplicity 2 for a pair (k, -k) and 1
    for a frequency that is its own negative. The mean item is subtracted whatever it looks like. O(dim log dim) per
    item, memory 2 channels dim numbers, no limit to dim.

    What it assumes: the covariance depends on the difference of two places only, and wraps around at the edges. Then it
    is exact. For other data the powers are those of the covariance averaged over all shifts: the trace is exact, and
    the eigenvalues are flatter than the true ones, never steeper (Schur-Horn). Edges that do not meet leak power into
    high frequencies along the axes.

    Parameters
    ----------
    item_shape : (H, W), (C, H, W), (L,), with `spatial_axes=1` also (C, L); at most one axis of channels, the first.
    spatial_axes : how many of the last axes are places; None for 1 where there is one axis, else 2.
    window : "none", or "hann": items are multiplied by a Hann window along each spatial axis, of mean square 1, so that
        the trace of stationary data is kept. It removes the leaking of edges and smears each power over two
        frequencies to either side, which lifts the dips and lowers the peaks of a steep spectrum.
    precision : "float64", or "float32" for transforms in single precision: 1e-6 relative, more than twice as fast.

    Degenerate cases: one item has a mean and no powers; n <= dim is legal as soon as n exceeds the channels, and each
    power has the relative standard error sqrt(1/n) (sqrt(2/n) where the multiplicity is 1).

    Raises
    ------
    ValueError : an unknown window; more than one axis of channels; channels that stand last.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> moments = StationaryMoments((4,))
    >>> moments.update([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    >>> moments.spectrum().eigenvalues.round(12), moments.spectrum().multiplicities
    (array([0.33333333, 0.33333333, 0.        ]), array([2., 1., 1.]))
    """

    form: ClassVar[str] = "stationary"

    def __init__(
        self,
        item_shape: int | tuple[int, ...],
        *,
        spatial_axes: int | None = None,
        window: str = "none",
        precision: str = "float64",
    ) -> None:
        """An empty accumulator for items of this shape."""
        # float64 for a precision that is refused a line later.
        size = np.dtype(precision if precision in PRECISIONS else "float64").itemsize
        sides = item_shape if isinstance(item_shape, (tuple, list)) else (item_shape,)
        dim = math.prod(max(1, integer(side, "item_shape")) for side in sides)
        super().__init__(item_shape, precision=precision, block_rows=max(1, 4 * _BLOCK_NUMBERS // (dim * size)))
        axes = min(2, len(self.item_shape)) if spatial_axes is None else integer(spatial_axes, "spatial_axes")
        if len(self.item_shape) - axes not in (0, 1):
            raise ValueError(
                f"`spatial_axes` must leave at most one axis of channels of `item_shape` {self.item_shape}, got {axes}."
            )
        self._sides = self.item_shape[-axes:]
        self._channels = self.item_shape[0] if len(self.item_shape) > axes else 1
        if len(self.item_shape) == 3 and axes == 2 and self.item_shape[2] <= 4 < self.item_shape[0]:
            raise ValueError(
                f"`item_shape` must have the channels first, got {self.item_shape}; move the last axis to the front."
            )
        self.window = choice(window, WINDOWS, "window")
        self._weights = _hann(self._sides) if self.window == "hann" else None
        self._axes = tuple(range(2, 2 + axes))
        halved = math.prod((*self._sides[:-1], self._sides[-1] // 2 + 1))
        self._powers = np.zeros((halved, self._channels, self._channels), dtype=np.complex128)

    @property
    def options(self) -> dict[str, JSON]:
        """Precision, number of spatial axes and window."""
        return {"precision": self.precision, "spatial_axes": len(self._sides), "window": self.window}

    def spectrum(self, *, basis: int = 0, provenance: Mapping[str, JSON] | None = None) -> Spectrum:
        """Spectrum of the covariance, with the mean and its energy in each direction.

        Parameters
        ----------
        basis : any number above 0 keeps the whole `FourierBasis`, which is small.
        provenance : recorded in the spectrum, with the assumption made.

        Raises
        ------
        ValueError : fewer than two items, or constant data.
        """
        wanted = integer(basis, "basis", minimum=0) > 0
        self._need(2)
        self._fold()
        n, places = self._folded, math.prod(self._sides)
        frequencies, where = half_plane(self._sides)
        covariances = self._powers[where] / ((n - 1) * places)
        powers, vectors = np.linalg.eigh(covariances)
        # Rounding: a power below this share of all power is none.
        powers[powers <= np.finfo(np.float64).eps * max(powers.max(), 0.0) * self._channels] = 0.0
        if not powers.any():
            raise ValueError(f"The data are constant: all {n} items are equal, so they have no covariance to measure.")
        mean = self._mean()
        waves = self._transform(mean[None], None)[0][where]
        share = np.abs(np.einsum("kci,kc->ki", vectors.conj(), waves)) ** 2 / places
        own_negative = ((2 * frequencies) % np.array(self._sides) == 0).all(axis=1)
        multiplicity = np.repeat(np.where(own_negative, 1.0, 2.0), self._channels)
        order = np.argsort(-powers.ravel(), kind="stable")
        record: dict[str, JSON] = {"form": self.form, "window": self.window}
        return Spectrum(
            eigenvalues=powers.ravel()[order],
            multiplicities=multiplicity[order],
            mean_energy=(multiplicity * share.ravel())[order],
            n_samples=n,
            item_shape=self.item_shape,
            provenance={**record, **(provenance or {})},
            mean=mean.reshape(self.item_shape),
            basis=self._basis(frequencies, vectors, order) if wanted else None,
        )

    def _basis(self, frequencies: NDArray[np.int64], vectors: NDArray[Any], order: NDArray[np.intp]) -> FourierBasis:
        each = np.repeat(frequencies, self._channels, axis=0)
        rows = vectors.transpose(0, 2, 1).reshape(-1, self._channels)
        return FourierBasis(self.item_shape, each[order], rows[order])

    def _transform(self, rows: NDArray[Any], weights: Float | None) -> NDArray[Any]:
        """Half of the Fourier transform of each row, (m, places of the half, channels)."""
        from scipy import fft

        items = rows.reshape(len(rows), self._channels, *self._sides)
        if weights is not None:
            items = items * weights.astype(rows.dtype)
        waves: NDArray[Any] = fft.rfftn(items, axes=self._axes)
        by_place: NDArray[Any] = waves.reshape(len(rows), self._channels, -1).transpose(0, 2, 1)
        return by_place

    def _absorb(self, centred: NDArray[Any]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        # Always the same four parts, so that the sums do not depend on the number of threads.
        parts = [part for part in np.array_split(centred, 4) if len(part)]
        with ThreadPoolExecutor(min(threads(), len(parts))) as pool:
            for powers in pool.map(self._powers_of, parts):
                self._powers += powers

    def _powers_of(self, centred: NDArray[Any]) -> NDArray[Any]:
        waves = self._transform(centred, self._weights)
        if self._channels > _FEW_CHANNELS:
            # Frequencies first: the products over channels are then one matrix product for each.
            columns = np.ascontiguousarray(waves.transpose(1, 2, 0))
            products: NDArray[Any] = columns @ columns.conj().transpose(0, 2, 1)
            return products
        # Matrices of a few channels are too small for that: one pair of channels at a time, for all frequencies.
        real, imaginary = (np.ascontiguousarray(part.transpose(2, 0, 1)) for part in (waves.real, waves.imag))
        powers = np.empty(waves.shape[1:] + waves.shape[2:], dtype=waves.dtype)
        for c in range(self._channels):
            for d in range(c + 1):
                across = _dot(real[c], real[d]) + _dot(imaginary[c], imaginary[d])
                turned = _dot(imaginary[c], real[d]) - _dot(real[c], imaginary[d]) if d < c else 0.0
                powers[:, c, d] = across + 1j * turned
                powers[:, d, c] = across - 1j * turned
        return powers

    def _between(self, difference: Float, weight: float) -> None:
        waves = self._transform(difference[None], self._weights)[0]
        self._powers += weight * (waves[:, :, None] * waves[:, None, :].conj())

    def _add_sums(self, other: StationaryMoments) -> None:
        self._powers += other._powers

    def _sums(self) -> dict[str, NDArray[Any]]:
        return {"powers": self._powers}

    def _set_sums(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._powers = np.array(arrays["powers"], dtype=np.complex128)


def _dot(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Sum of products over the items, for every frequency."""
    return np.asarray(np.einsum("mk,mk->k", a, b))


def _hann(sides: tuple[int, ...]) -> Float:
    """Periodic Hann window along every axis, of mean square 1; sides of 1 stay as they are."""
    window = np.ones(sides)
    for axis, side in enumerate(sides):
        wave = np.ones(1) if side == 1 else np.sin(np.pi * np.arange(side) / side) ** 2
        shape = [1] * len(sides)
        shape[axis] = side
        window = window * (wave / math.sqrt(float(np.mean(wave**2)))).reshape(shape)
    return window
