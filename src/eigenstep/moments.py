"""Moments of a stream of batches: the covariance of data that never is in memory at once, and its spectrum.

Every accumulator has the same verbs, `update(batch)`, `merge(other)`, `spectrum()`, `save(path)` and `load(path)`,
whatever it keeps; `Moments` keeps the whole covariance.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from eigenstep import _files
from eigenstep._checks import Float, choice, integer, sample_array
from eigenstep._scatter import Scatter
from eigenstep.spectrum import JSON, Spectrum

FORMAT_VERSION = 1


class Moments:
    r"""Count, mean and covariance of a stream of items, exact whatever the batching.

        mu = 1/n sum_j x_j,    Sigma = 1/(n-1) sum_j (x_j - mu)(x_j - mu)^T

    Memory: two dim x dim matrices and one block of rows while it is fed, four matrices while the spectrum is taken.

    Parameters
    ----------
    item_shape : shape of one item, or an int for vectors of that length; in data units throughout.
    precision : "float64" is exact to about 1e-13; "float32" forms the products of each block of rows in float32, twice
        as fast, with an uncertainty of 2e-8 sqrt(Sigma_ii Sigma_jj) in entry (i, j), measured on images.

    Degenerate cases: one item has a mean and no covariance; n <= dim is legal, and `spectrum` warns of the rank.

    Raises
    ------
    ValueError, TypeError : a shape without positive integers, an unknown precision.

    Examples
    --------
    >>> moments = Moments(2)
    >>> moments.update([[0.0, 0.0], [2.0, 0.0]])
    >>> moments.update([[0.0, 1.0], [2.0, 1.0]])
    >>> moments.count, moments.mean, moments.spectrum().eigenvalues
    (4, array([1. , 0.5]), array([1.33333333, 0.33333333]))
    """

    def __init__(self, item_shape: int | tuple[int, ...], *, precision: str = "float64") -> None:
        """An empty accumulator for items of this shape."""
        sides = item_shape if isinstance(item_shape, (tuple, list)) else (item_shape,)
        self.item_shape: tuple[int, ...] = tuple(integer(side, "item_shape") for side in sides)
        self.precision = choice(precision, ("float64", "float32"), "precision")
        self._sums = Scatter(math.prod(self.item_shape), single=precision == "float32")

    @property
    def dim(self) -> int:
        """Numbers per item."""
        return self._sums.dim

    @property
    def count(self) -> int:
        """Items seen."""
        return self._sums.count

    @property
    def mean(self) -> Float:
        """Mean item, of shape `item_shape`, in data units; ValueError before the first item."""
        self._need(1)
        return self._sums.mean().reshape(self.item_shape)

    def covariance(self) -> Float:
        """Unbiased covariance (n - 1 in the denominator), (dim, dim), in squared data units; it needs two items."""
        self._need(2)
        scatter = self._sums.scatter()
        scatter /= self.count - 1
        return scatter

    def update(self, batch: ArrayLike) -> None:
        """Add a batch of items, shape (m, *item_shape); a refused batch leaves the accumulator as it was.

        Raises
        ------
        ValueError : items of another shape, an empty batch, NaN or infinite values (by index in the whole stream),
            values beyond 1e37 with float32 precision.
        TypeError : complex numbers, text, objects.
        """
        items = sample_array(batch, "batch", first_item=self.count)
        if items.shape[1:] != self.item_shape:
            hint = "; pass one item as batch[None]" if items.shape == self.item_shape else ""
            raise ValueError(f"`batch` must have shape (m, {_sides(self.item_shape)}), got {items.shape}{hint}.")
        self._sums.add(items.reshape(len(items), -1))

    def merge(self, other: Moments) -> None:
        """Add all that `other` saw; the order of merges matters to rounding only.

        Raises
        ------
        ValueError : items of another shape.
        TypeError : not a `Moments`.

        Examples
        --------
        >>> a, b = Moments(1), Moments(1)
        >>> a.update([[1.0], [3.0]]); b.update([[5.0], [7.0]])
        >>> a.merge(b)
        >>> a.count, a.mean, a.covariance()
        (4, array([4.]), array([[6.66666667]]))
        """
        if not isinstance(other, Moments):
            raise TypeError(f"`other` must be a Moments, got {type(other).__name__}.")
        if other.item_shape != self.item_shape:
            raise ValueError(
                f"`other` must hold items of shape {self.item_shape}, got {other.item_shape}; only moments of the same "
                "kind of data can be merged."
            )
        self._sums.merge(other._sums)

    def spectrum(self, *, provenance: Mapping[str, JSON] | None = None) -> Spectrum:
        """Spectrum of the covariance, with the mean's energy in each direction; `provenance` is recorded in it.

        Raises
        ------
        ValueError : fewer than two items, or constant data.

        Warns
        -----
        RankWarning : no more items than dimensions.
        """
        self._need(2)
        return Spectrum._from_scatter(
            self._sums.scatter(), self._sums.mean(), self.count, item_shape=self.item_shape, provenance=provenance
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an `.npz` file, whole or not at all; what is loaded from it goes on bit for bit.

        Raises
        ------
        ValueError : another suffix.
        OSError : the disk is full or the folder is closed to us; an earlier file is left as it was.
        """
        _need_npz(path)
        header = {
            "format": "eigenstep-moments",
            "format_version": FORMAT_VERSION,
            "form": "dense",
            "item_shape": list(self.item_shape),
            "precision": self.precision,
        }
        arrays: dict[str, Any] = {"header": np.array(json.dumps(header)), **self._sums.state()}
        _files.write_atomically(path, lambda stream: np.savez(stream, **arrays))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Moments:
        """Read what `save` wrote.

        Raises
        ------
        ValueError : a truncated, corrupt or foreign file, or one from a newer version.
        FileNotFoundError : no such file.

        Examples
        --------
        >>> import tempfile
        >>> moments = Moments(1)
        >>> moments.update([[1.0], [3.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     moments.save(f"{folder}/half.npz")
        ...     Moments.load(f"{folder}/half.npz")
        Moments(item_shape=(1,), count=2, precision='float64')
        """
        _need_npz(path)
        header, arrays = _files.read_npz(path, "moments")
        _files.check_format(header, path, "moments", newest=FORMAT_VERSION)
        try:
            if header["form"] != "dense":
                raise ValueError(f"its form is {header['form']!r}, not 'dense'")
            moments = cls(tuple(header["item_shape"]), precision=header["precision"])
            moments._sums.restore(arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(_files.damaged(path, "moments", error)) from error
        return moments

    def __repr__(self) -> str:
        """Shape, count and precision."""
        return f"Moments(item_shape={self.item_shape}, count={self.count}, precision={self.precision!r})"

    def _need(self, items: int) -> None:
        if self.count < items:
            raise ValueError(f"`Moments` needs at least {items} item{'s' * (items != 1)} for this, got {self.count}.")


def _need_npz(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).lower().endswith(".npz"):
        raise ValueError(f"`path` must end in .npz, got {os.fspath(path)!r}.")


def _sides(shape: tuple[int, ...]) -> str:
    return ", ".join(str(side) for side in shape)
