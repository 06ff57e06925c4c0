"""The Gram form: for fewer items than dimensions the items themselves are the smallest summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import Float, integer
from eigenstep._scatter import Scatter, blocks_mean, refuse_large
from eigenstep.moments.accumulator import Accumulator
from eigenstep.spectrum import JSON, Spectrum

_BLOCK_NUMBERS = 2**22


class GramMoments(Accumulator):
    r"""The items themselves, and at the end the n x n matrix of their products, which has the covariance's spectrum.

        G = 1/(n-1) X X^T = U diag(lambda) U^T,    v_i = X^T u_i / |X^T u_i|        (X centred, one item per row)

    Memory: n dim numbers while it is fed, two n x n matrices more while the spectrum is taken. A merger appends.

    Parameters
    ----------
    item_shape : shape of one item, or an int for vectors of that length; in data units throughout.
    precision : "float64" keeps the items as they are; "float32" keeps them in float32 and multiplies in float32.
    memory : bytes that items and matrices may take; None for no limit.

    Degenerate cases: with n > dim the covariance is formed instead, the smaller of the two; one item has a mean only.

    Raises
    ------
    ValueError, TypeError : a shape without positive integers, an unknown precision, a batch beyond `memory`.

    Examples
    --------
    >>> import warnings
    >>> moments = GramMoments(1000)
    >>> moments.update(np.eye(2, 1000))
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     spectrum = moments.spectrum(basis=1)
    >>> spectrum.eigenvalues, spectrum.multiplicities, spectrum.basis[0, :3].round(3)
    (array([1., 0.]), array([  1., 999.]), array([ 0.707, -0.707,  0.   ]))
    """

    form: ClassVar[str] = "gram"

    def __init__(self, item_shape: int | tuple[int, ...], *, precision: str = "float64", memory: int | None = None) -> None:
        """An empty accumulator for items of this shape."""
        super().__init__(item_shape, precision=precision)
        self.memory = None if memory is None else integer(memory, "memory")
        self._dtype = np.dtype(self.precision)
        self._blocks: list[NDArray[Any]] = []  # all full but the last
        self._count = 0

    @property
    def count(self) -> int:
        """Items seen."""
        return self._count

    @property
    def items(self) -> NDArray[Any]:
        """All items seen, (count, dim), in the order they came: a copy."""
        return np.concatenate(self._items()) if self._blocks else np.zeros((0, self.dim), self._dtype)

    def spectrum(self, *, basis: int = 0, provenance: Mapping[str, JSON] | None = None) -> Spectrum:
        """Spectrum of the covariance, with the mean, its energy in each direction, and `basis` leading eigenvectors.

        Parameters
        ----------
        basis : how many leading eigenvectors to keep; at most as many as there are non-zero eigenvalues.
        provenance : recorded in the spectrum.

        Raises
        ------
        ValueError : fewer than two items, or constant data.

        Warns
        -----
        RankWarning : no more items than dimensions.
        """
        leading = integer(basis, "basis", minimum=0)
        self._need(2)
        single = self.precision == "float32"
        if self._count <= self.dim:
            return Spectrum._from_few(
                self._items(), single=single, item_shape=self.item_shape, leading=leading, provenance=provenance
            )
        sums = Scatter(self.dim, single=single)
        for block in self._items():
            sums.add(block)
        return Spectrum._from_scatter(
            sums.scatter(), sums.mean(), self._count, item_shape=self.item_shape, leading=leading, provenance=provenance
        )

    def _mean(self) -> Float:
        return blocks_mean(self._items())

    def _add(self, rows: NDArray[Any]) -> None:
        self._refuse_beyond_memory(self._count + len(rows))
        if self._dtype == np.float32:
            refuse_large(rows)
        self._append(rows)

    def _append(self, rows: NDArray[Any]) -> None:
        size = max(1, _BLOCK_NUMBERS // self.dim)
        start = 0
        while start < len(rows):
            filled = self._count % size
            if not filled:
                self._blocks.append(np.empty((size, self.dim), self._dtype))
            take = min(len(rows) - start, size - filled)
            self._blocks[-1][filled : filled + take] = rows[start : start + take]
            self._count += take
            start += take

    def _merge(self, other: GramMoments) -> None:
        self._refuse_beyond_memory(self._count + other._count)
        for block in other._items():
            self._append(block)

    def _items(self) -> list[NDArray[Any]]:
        if not self._blocks:
            return []
        filled = self._count - sum(len(block) for block in self._blocks[:-1])
        return [*self._blocks[:-1], self._blocks[-1][:filled]]

    def _refuse_beyond_memory(self, count: int) -> None:
        needed = gram_memory(count, self.dim, self.precision)
        if self.memory is not None and needed > self.memory:
            raise ValueError(
                f"`batch` would make {count} items of {self.dim} numbers, which with their Gram matrix need "
                f"{needed / 2**30:.3g} GiB, more than the `memory` of {self.memory / 2**30:.3g} GiB; raise `memory`, or "
                'use the method "low-rank".'
            )

    def _state(self) -> dict[str, NDArray[Any]]:
        items = self._items()
        return {"items": np.concatenate(items) if items else np.zeros((0, self.dim), self._dtype)}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        items = arrays["items"]
        if items.shape[1:] != (self.dim,) or items.dtype != self._dtype:
            raise ValueError(f"items that do not fit {self.dim} dimensions of {self._dtype}")
        self._append(items)


def gram_memory(count: int, dim: int, precision: str) -> int:
    """Bytes at the peak of a Gram form: the items, and two matrices of the smaller side."""
    return count * dim * np.dtype(precision).itemsize + 16 * min(count, dim) ** 2 + 2 * 8 * _BLOCK_NUMBERS


