"""The dense form: the whole covariance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from numpy.typing import NDArray

from eigenstep._checks import Float, integer
from eigenstep._scatter import Scatter
from eigenstep.moments.accumulator import Accumulator
from eigenstep.spectrum import JSON, Spectrum


class Moments(Accumulator):
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

    form: ClassVar[str] = "dense"

    def __init__(self, item_shape: int | tuple[int, ...], *, precision: str = "float64") -> None:
        """An empty accumulator for items of this shape."""
        super().__init__(item_shape, precision=precision)
        self._sums = Scatter(self.dim, single=self.precision == "float32")

    @property
    def count(self) -> int:
        """Items seen."""
        return self._sums.count

    def covariance(self) -> Float:
        """Unbiased covariance (n - 1 in the denominator), (dim, dim), in squared data units; it needs two items."""
        self._need(2)
        scatter = self._sums.scatter()
        scatter /= self.count - 1
        return scatter

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
        return Spectrum._from_scatter(
            self._sums.scatter(),
            self._sums.mean(),
            self.count,
            item_shape=self.item_shape,
            leading=leading,
            provenance=provenance,
        )

    def _mean(self) -> Float:
        return self._sums.mean()

    def _add(self, rows: NDArray[Any]) -> None:
        self._sums.add(rows)

    def _merge(self, other: Moments) -> None:
        self._sums.merge(other._sums)

    def _state(self) -> dict[str, NDArray[Any]]:
        return self._sums.state()

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._sums.restore(arrays)
