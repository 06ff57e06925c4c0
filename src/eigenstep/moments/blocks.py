"""Sums over blocks of items, each centred on its own mean: what the stationary and the low-rank form share.

Items are staged until a block is full. A block of m items with mean b is centred and summed by the form, and the sums
of two disjoint sets of items are joined as Chan, Golub and LeVeque (1983) do,

    S = S_a + S_b + (n_a n_b / n) d d^T,    d = mean_b - mean_a

so no large mean ever cancels, and a block and another accumulator are joined by the same line.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import Float
from eigenstep._scatter import column_sums, refuse_large
from eigenstep.moments.accumulator import Accumulator


def threads() -> int:
    """Threads to work on a block: the cores there are, or OMP_NUM_THREADS of them, as for the BLAS."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(asked)) if asked.isdigit() else os.cpu_count() or 1


class BlockAccumulator(Accumulator):
    """Count, mean and staged items; a form adds its own sums of centred products."""

    def __init__(self, item_shape: int | tuple[int, ...], *, precision: str, block_rows: int) -> None:
        """An empty accumulator that sums `block_rows` items at a time."""
        super().__init__(item_shape, precision=precision)
        self._dtype = np.dtype(self.precision)
        self._block_rows = block_rows
        self._block: NDArray[Any] | None = None
        self._staged = 0
        self._folded = 0
        # The mean is origin + offset: differences of means stay exact where the mean is far larger than the spread.
        self._origin: NDArray[Any] = np.zeros(self.dim, self._dtype)
        self._offset = np.zeros(self.dim)

    @property
    def count(self) -> int:
        """Items seen."""
        return self._folded + self._staged

    @abstractmethod
    def _absorb(self, centred: NDArray[Any]) -> None:
        """Add the products of a centred block (m, dim), which is a workspace."""

    @abstractmethod
    def _between(self, difference: Float, weight: float) -> None:
        """Add weight * d d^T for a difference of means d, (dim,)."""

    @abstractmethod
    def _add_sums(self, other: Any) -> None:
        """Add the sums of products of an accumulator of the same kind."""

    @abstractmethod
    def _sums(self) -> dict[str, NDArray[Any]]:
        """The sums of products, by name; `_set_sums` takes them back."""

    @abstractmethod
    def _set_sums(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the sums of products over; their shapes were checked."""

    def _mean(self) -> Float:
        self._fold()
        mean: Float = self._origin + self._offset
        return mean

    def _add(self, rows: NDArray[Any]) -> None:
        if self._dtype == np.float32:
            refuse_large(rows)
        if self._block is None:
            self._block = np.empty((self._block_rows, self.dim), self._dtype)
        if not self.count:
            self._origin = rows[0].astype(self._dtype)
        start = 0
        while start < len(rows):
            take = min(len(rows) - start, self._block_rows - self._staged)
            target = self._block[self._staged : self._staged + take]
            np.subtract(rows[start : start + take], self._origin, out=target, casting="same_kind")
            self._staged += take
            start += take
            if self._staged == self._block_rows:
                self._fold()

    def _fold(self) -> None:
        if not self._staged or self._block is None:
            return
        block, m = self._block[: self._staged], self._staged
        mean = column_sums(block) / m
        np.subtract(block, mean.astype(self._dtype), out=block)
        self._absorb(block)
        self._join(m, mean - self._offset)
        self._staged = 0

    def _join(self, m: int, difference: Float) -> None:
        """Count m more items, whose own sums are in already and whose mean differs by this."""
        n = self._folded + m
        if self._folded:
            self._between(difference, self._folded * m / n)
        self._offset += difference * (m / n)
        self._folded = n

    def _merge(self, other: Any) -> None:
        self._fold()
        other._fold()
        if not other._folded:
            return
        if not self._folded:
            self._origin, self._offset = other._origin.copy(), other._offset.copy()
            difference = np.zeros(self.dim)
        else:
            difference = (other._origin.astype(np.float64) - self._origin) + (other._offset - self._offset)
        count = other._folded
        self._add_sums(other)
        self._join(count, difference)

    def _state(self) -> dict[str, NDArray[Any]]:
        staged = np.zeros((0, self.dim), self._dtype) if self._block is None else self._block[: self._staged]
        return {
            "folded": np.array(self._folded),
            "origin": self._origin,
            "offset": self._offset,
            "staged": staged,
            **self._sums(),
        }

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        expected = {"origin": self._origin, "offset": self._offset, **self._sums()}
        staged, folded = arrays["staged"], int(arrays["folded"])
        if any(arrays[name].shape != array.shape for name, array in expected.items()) or staged.shape[1:] != (self.dim,):
            raise ValueError(f"arrays that do not fit items of shape {self.item_shape}")
        if folded < 0 or len(staged) >= self._block_rows:
            raise ValueError(f"impossible counts {folded} and {len(staged)}")
        self._folded = folded
        self._origin = np.array(arrays["origin"], dtype=self._dtype)
        self._offset = np.array(arrays["offset"], dtype=np.float64)
        self._set_sums(arrays)
        if len(staged):
            self._block = np.empty((self._block_rows, self.dim), self._dtype)
            self._block[: len(staged)] = staged
            self._staged = len(staged)
