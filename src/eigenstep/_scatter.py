"""Sums of products of rows: the one dense accumulator behind `Spectrum.from_samples` and `Moments`.

Rows x are shifted by a provisional mean s, staged until a block is full, and folded in as

    n += m,    total += sum (x - s),    products += (x - s)^T (x - s)

so that the mean is s + total/n and the centred scatter is products - total total^T / n. The shift keeps the last
subtraction from cancelling. The sums are float64 always; the product within one block runs in float32 or float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import Float


class Scatter:
    """Count, mean and centred scatter of a stream of rows of `dim` numbers, the same whatever the batching."""

    def __init__(self, dim: int, *, single: bool = False) -> None:
        """An empty sum over rows of `dim` numbers; `single` runs the products of a block in float32."""
        self.dim = dim
        self.dtype = np.dtype(np.float32 if single else np.float64)
        self._folded = 0
        self._staged = 0
        self._shift: NDArray[Any] = np.zeros(dim, self.dtype)
        self._total = np.zeros(dim)
        self._products: Float | None = None  # its lower triangle; what stands above the diagonal is never read
        self._gram: NDArray[Any] | None = None
        # 4096 rows keep the float32 rounding of a block below 1e-7 while the float64 additions cost under 10 %.
        self._block_rows = max(256, min(4096, 2**24 // max(dim, 1)))
        self._block: NDArray[Any] | None = None

    @property
    def count(self) -> int:
        """Number of rows seen."""
        return self._folded + self._staged

    def add(self, rows: NDArray[Any]) -> None:
        """Stage rows of shape (m, dim), already known to be finite, and fold every block that fills."""
        if not len(rows):
            return
        if self.dtype == np.float32:
            refuse_large(rows)
        if self._block is None:
            self._block = np.empty((min(self._block_rows, max(len(rows), 256)), self.dim), self.dtype)
        if self.count == 0:
            self._shift = rows[0].astype(self.dtype)
        start = 0
        while start < len(rows):
            if self._staged == len(self._block):
                self._grow_or_fold()
            take = min(len(rows) - start, len(self._block) - self._staged)
            target = self._block[self._staged : self._staged + take]
            np.subtract(rows[start : start + take], self._shift, out=target, casting="same_kind")
            self._staged += take
            start += take

    def mean(self) -> Float:
        """Mean of the rows, shape (dim,)."""
        self._fold()
        return self._shift + self._total / self._folded

    def scatter(self) -> Float:
        """Centred sum of products, shape (dim, dim): (count - 1) times the unbiased covariance."""
        self._fold()
        self._gram = None  # a workspace: the caller is about to need its memory
        if self._products is None:
            return np.zeros((self.dim, self.dim))
        return mirror(_add_outer(self._products.copy(), self._total, -1.0 / self._folded))

    def merge(self, other: Scatter) -> None:
        """Fold another stream in: S = S_a + S_b + (n_a n_b / n) d d^T, d = mean_b - mean_a (Chan et al., 1983)."""
        other._fold()
        if not other._folded:
            return
        if not self.count:
            self._set(other._folded, other._shift, other._total, other._products)
            return
        self._fold()
        n_a, n_b = self._folded, other._folded
        n = n_a + n_b
        products = self._products
        assert products is not None, "both have rows"
        assert other._products is not None, "both have rows"
        # Shifts first: for data with a huge mean the difference of shifts is exact where that of means is not.
        between = (other._shift.astype(np.float64) - self._shift) + (other._total / n_b - self._total / n_a)
        # In place, since for a large dim the memory of one more matrix costs more time than the sums.
        add_lower(products, other._products)
        add_outer_lower(products, self._total, -1.0 / n_a)
        add_outer_lower(products, other._total, -1.0 / n_b)
        add_outer_lower(products, between, n_a * n_b / n)
        offset = self._total / n_a + between * (n_b / n)
        shift = (self._shift + offset).astype(self.dtype)
        total = n * (offset - (shift.astype(np.float64) - self._shift))
        add_outer_lower(products, total, 1.0 / n)
        self._folded, self._shift, self._total = n, shift, total

    def state(self) -> dict[str, NDArray[Any]]:
        """All that `restore` needs to go on as if nothing had happened, rows not folded yet included."""
        products = np.zeros((self.dim, self.dim)) if self._products is None else self._products
        staged = np.zeros((0, self.dim), self.dtype) if self._block is None else self._block[: self._staged]
        return {
            "folded": np.array(self._folded),
            "shift": self._shift,
            "total": self._total,
            "products": products,
            "staged": staged,
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a `state` of the same dimension; KeyError or ValueError where it is none."""
        folded, staged = int(state["folded"]), state["staged"]
        shapes = {"shift": (self.dim,), "total": (self.dim,), "products": (self.dim, self.dim)}
        if any(state[name].shape != shape for name, shape in shapes.items()) or staged.shape[1:] != (self.dim,):
            raise ValueError(f"arrays that do not fit {self.dim} dimensions")
        if folded < 0 or len(staged) > self._block_rows:
            raise ValueError(f"impossible counts {folded} and {len(staged)}")
        self._set(folded, state["shift"], state["total"], state["products"] if folded else None)
        self._block, self._staged = np.array(staged, dtype=self.dtype) if len(staged) else None, len(staged)

    def _set(self, folded: int, shift: NDArray[Any], total: Float, products: Float | None) -> None:
        self._folded, self._staged = folded, 0
        self._shift = np.array(shift, dtype=self.dtype)
        self._total = np.array(total, dtype=np.float64)
        self._products = None if products is None else np.array(products, dtype=np.float64)

    def _grow_or_fold(self) -> None:
        assert self._block is not None
        if len(self._block) == self._block_rows:
            self._fold()
            return
        grown = np.empty((min(self._block_rows, 2 * len(self._block)), self.dim), self.dtype)
        grown[: self._staged] = self._block[: self._staged]
        self._block = grown

    def _fold(self) -> None:
        if not self._staged or self._block is None:
            return
        block, m = self._block[: self._staged], self._staged
        sums = column_sums(block)
        if self._folded == 0:
            sums = self._recentre(block, sums / m)
        products = self._product(block)
        # Three quarters of the energy in the offset: the stream has drifted from the shift, and float32 products
        # would round at the scale of the drift. A lone row is all offset and says nothing.
        if m > 1 and sums @ sums > 0.75 * m * float(np.trace(products)):
            sums = self._recentre(block, sums / m)
            products = self._product(block)
        self._total += sums
        if self._products is None:
            self._products = products.astype(np.float64)
        else:
            add_lower(self._products, products)
        self._folded, self._staged = self._folded + m, 0

    def _product(self, block: NDArray[Any]) -> NDArray[Any]:
        """Lower triangle of block^T block, by the symmetric rank-m update of BLAS: half the work of a product."""
        from scipy.linalg import blas

        if self._gram is None:
            self._gram = np.zeros((self.dim, self.dim), self.dtype, order="F")
        rank_update = blas.ssyrk if self.dtype == np.float32 else blas.dsyrk
        # block.T is in BLAS's column order as it stands; its upper triangle, read by rows, is the lower one.
        product: NDArray[Any] = rank_update(1.0, block.T, beta=0.0, c=self._gram, overwrite_c=1).T
        peak = float(product.diagonal().max())
        # Squares outside float32's range would be lost without a word; 1e-20 stands 18 decades above its floor.
        if self.dtype == np.float32 and not 1e-20 < peak < 1e35:
            wide = block.astype(np.float64)
            product = blas.dsyrk(1.0, wide.T).T
        return product

    def _recentre(self, block: NDArray[Any], offset: Float) -> Float:
        """Move the shift by `offset` for the block and for all that was folded before; the block's new sums."""
        shift = (self._shift + offset).astype(self.dtype)
        move = shift.astype(np.float64) - self._shift
        np.subtract(block, move, out=block, casting="same_kind")
        if self._products is not None:
            _add_outer(self._products, self._total, -1.0 / self._folded)
            self._total -= self._folded * move
            _add_outer(self._products, self._total, 1.0 / self._folded)
        self._shift = shift
        return column_sums(block)


def lower_product(block: NDArray[Any]) -> NDArray[Any]:
    """Lower triangle of block^T block, by the symmetric rank-m update of BLAS: half the work of a product."""
    from scipy.linalg import blas

    rank_update = blas.ssyrk if block.dtype == np.float32 else blas.dsyrk
    # block.T is in BLAS's column order as it stands; its upper triangle, read by rows, is the lower one.
    product: NDArray[Any] = rank_update(1.0, block.T).T
    return product


def add_lower(matrix: Float, product: NDArray[Any]) -> None:
    """Add the lower triangle, by stripes that leave the most of the upper one out."""
    for start in range(0, len(matrix), 256):
        stop = min(start + 256, len(matrix))
        matrix[start:stop, :stop] += product[start:stop, :stop]


def add_outer_lower(matrix: Float, vector: Float, factor: float) -> None:
    """Add the lower triangle of factor * vector vector^T, by stripes."""
    for start in range(0, len(vector), 256):
        stop = min(start + 256, len(vector))
        matrix[start:stop, :stop] += (factor * vector[start:stop, None]) * vector[:stop]


def _add_outer(matrix: Float, vector: Float, factor: float) -> Float:
    """matrix + factor * vector vector^T, in place and by stripes, so that no second matrix is made."""
    for start in range(0, len(vector), 256):
        matrix[start : start + 256] += (factor * vector[start : start + 256, None]) * vector
    return matrix


def mirror(matrix: Float) -> Float:
    """Copy the lower triangle over the upper one, in place."""
    for start in range(0, len(matrix), 256):
        stop = min(start + 256, len(matrix))
        matrix[:start, start:stop] = matrix[start:stop, :start].T
        corner = matrix[start:stop, start:stop]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
    return matrix


def refuse_large(rows: NDArray[Any]) -> None:
    """ValueError where differences of these rows might not fit into float32."""
    if rows.dtype == np.float32 and rows.flags.c_contiguous:
        # A sum of squares that is finite bounds every value, at the speed of memory.
        flat = rows.reshape(-1)
        with np.errstate(over="ignore"):
            if float(np.dot(flat, flat)) < 1e38:
                return
    peak = max(float(rows.max()), -float(rows.min()))
    if peak > 1e37:
        raise ValueError(f'values up to {peak:.3g} are too large for float32 sums; use precision="float64".')


def blocks_mean(blocks: Sequence[NDArray[Any]]) -> Float:
    """Mean of the rows of all blocks, exact also where it is much larger than their spread."""
    first = blocks[0][0].astype(np.float64)
    total = np.zeros_like(first)
    for block in blocks:
        # By groups of rows, so that no block is copied to float64 as a whole.
        for start in range(0, len(block), 64):
            total += (block[start : start + 64] - first).sum(axis=0)
    mean: Float = first + total / sum(len(block) for block in blocks)
    return mean


def row_stripes(blocks: Sequence[NDArray[Any]], mean: Float) -> Iterator[Float]:
    """The centred rows of all blocks by groups of columns, (n, width) float64, at most 64 MiB each."""
    n, dim = sum(len(block) for block in blocks), len(mean)
    width = max(16, 2**23 // n)
    for start in range(0, dim, width):
        stop = min(start + width, dim)
        stripe = np.empty((n, stop - start))
        row = 0
        for block in blocks:
            np.subtract(block[:, start:stop], mean[start:stop], out=stripe[row : row + len(block)])
            row += len(block)
        yield stripe


def centred_gram(blocks: Sequence[NDArray[Any]], *, single: bool) -> tuple[Float, Float, Float]:
    """X X^T of the centred rows X of all blocks, their mean mu, and X mu; `single` forms the products in float32."""
    from scipy.linalg import blas

    mean = blocks_mean(blocks)
    n = sum(len(block) for block in blocks)
    gram, projected = np.zeros((n, n)), np.zeros(n)
    column = 0
    for stripe in row_stripes(blocks, mean):
        projected += stripe @ mean[column : column + stripe.shape[1]]
        column += stripe.shape[1]
        # stripe.T is in BLAS's column order as it stands; its upper triangle, read by rows, is the lower one.
        if single:
            gram += blas.ssyrk(1.0, stripe.astype(np.float32).T, trans=1).T
        else:
            gram = blas.dsyrk(1.0, stripe.T, trans=1, beta=1.0, c=gram.T, overwrite_c=1).T
    return mirror(gram), mean, projected


def column_sums(block: NDArray[Any]) -> Float:
    """Sums of the rows, (dim,) float64. Runs of 16 rows of float32 are added in float32, at the speed of memory."""
    if block.dtype == np.float64:
        return np.asarray(block.sum(axis=0))
    whole = len(block) - len(block) % 16
    runs = block[:whole].reshape(whole // 16, 16, block.shape[1]).sum(axis=1)
    sums: Float = runs.sum(axis=0, dtype=np.float64) + block[whole:].sum(axis=0, dtype=np.float64)
    return sums
