"""The low-rank form: leading eigenpairs and the spectrum of the rest, from random probes, in any dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import Float, integer
from eigenstep._scatter import add_lower, add_outer_lower, column_sums, lower_product, mirror
from eigenstep.moments.blocks import BlockAccumulator, threads
from eigenstep.moments.density import ProbedSpectrum, resolved_density
from eigenstep.spectrum import JSON, Spectrum

_BLOCK_NUMBERS = 2**25  # 128 or 256 MiB: the sums of a block are added to probes^2 others, which should be rare
_SEPARATION = 10.0  # a leading direction stands this far, in Y's singular values, above the last: 1 % of it leaks


class LowRankMoments(BlockAccumulator):
    r"""Leading eigenpairs, exact trace, and the density of the remaining eigenvalues, from one pass in O(dim log dim).

        p = U x,    M = U Sigma U^T  (probes x probes),    Y = Sigma U_r^T  (dim x rank),    tr Sigma

    U is a random orthonormal map to `probes` numbers: random signs, a cosine transform, a random choice of its rows,
    all drawn from `seed`, so that the same U stands in every part of a merger and takes no memory. Memory: probes^2 +
    dim rank numbers of 8 bytes, and three times as much while the spectrum is taken.

    The leading eigenvectors come from the range of Y, their eigenvalues from M; as many are kept as stand clear of the
    rest. What remains of M has the spectrum of the rest of Sigma seen through two random filters, the probes and the
    n items; the density of the *population's* eigenvalues is found behind both (`eigenstep.moments.density`).
    The spectrum is therefore an estimate for the source of the data, with the sampling error of n < dim items taken
    out, where the other forms give that of the items at hand.

    What it cannot see: the shape of the spectrum below `resolved` (in the provenance, squared data units), where there
    are more eigenvalues than probes or items. Their number and their sum are known; they are spread as smoothly as
    these allow.

    Parameters
    ----------
    item_shape : shape of one item, or an int for vectors of that length; in data units throughout.
    probes : how many numbers are kept of each item; None for as many as memory allows, at most 4096.
    rank : how many columns Y has; None for as many as memory allows, at most 256.
    seed : of the random map; all parts of a merger need the same.
    memory : bytes for the choice of `probes` and `rank`; None for no limit.
    precision : "float64", or "float32" for transforms and products in single precision, twice as fast.

    Degenerate cases: with dim <= probes and many items nothing is random and M is the covariance; one item has a mean
    only.

    Raises
    ------
    ValueError, TypeError : numbers that are not positive integers, fewer than 16 probes, as many probes in Y as there are.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> moments = LowRankMoments(400, probes=200, rank=20)
    >>> moments.update(rng.standard_normal((300, 400)) * np.where(np.arange(400) < 100, 2.0, 0.5))
    >>> spectrum = moments.spectrum()
    >>> bool(abs(spectrum.trace / 475 - 1) < 0.02), spectrum.dim
    (True, 400)
    """

    form: ClassVar[str] = "low-rank"

    def __init__(
        self,
        item_shape: int | tuple[int, ...],
        *,
        probes: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        memory: int | None = None,
        precision: str = "float64",
    ) -> None:
        """An empty accumulator for items of this shape."""
        sides = item_shape if isinstance(item_shape, (tuple, list)) else (item_shape,)
        dim = int(np.prod([integer(side, "item_shape") for side in sides]))
        super().__init__(item_shape, precision=precision, block_rows=max(16, min(1024, _BLOCK_NUMBERS // dim)))
        fit_probes, fit_rank = sizes_within(dim, None if memory is None else integer(memory, "memory"))
        self.probes = fit_probes if probes is None else integer(probes, "probes", minimum=min(16, dim), maximum=dim)
        self.rank = min(fit_rank, self.probes // 4) if rank is None else integer(rank, "rank", maximum=self.probes // 2)
        self.seed = integer(seed, "seed", minimum=0)
        rng = np.random.default_rng(self.seed)
        self._signs = rng.choice(np.array([-1.0, 1.0]), dim).astype(self._dtype)
        self._places = rng.permutation(dim)[: self.probes]
        self._products = np.zeros((self.probes, self.probes))  # its lower triangle
        self._range = np.zeros((dim, self.rank))
        self._energy = np.zeros(dim)

    @property
    def options(self) -> dict[str, JSON]:
        """Precision, number of probes, rank and seed."""
        return {"precision": self.precision, "probes": self.probes, "rank": self.rank, "seed": self.seed}

    def spectrum(self, *, basis: int = 0, provenance: Mapping[str, JSON] | None = None) -> Spectrum:
        """Spectrum of the data's source: leading eigenvalues, then the density of the rest, with the mean.

        Parameters
        ----------
        basis : how many leading eigenvectors to keep; at most as many as stand clear of the rest.
        provenance : recorded in the spectrum, with the number of `leading` eigenvalues, the level `resolved`, and
            `estimated`, which says that the sampling error is taken out already.

        Raises
        ------
        ValueError : fewer than two items, or constant data.
        """
        wanted = integer(basis, "basis", minimum=0)
        self._need(2)
        self._fold()
        n = self._folded
        if not self._energy.any():
            raise ValueError(f"The data are constant: all {n} items are equal, so they have no covariance to measure.")
        trace = float(self._energy.sum()) / (n - 1)
        vectors, leading, seen = self._split(trace)
        # The noise of n items lifts an eigenvalue lambda by (1/n) sum_j lambda_j lambda/(lambda - lambda_j).
        leading = leading / (1 + max(trace - float(leading.sum()), 0.0) / ((n - 1) * leading))
        # The eigenvalues of a matrix rounded at random, entry by entry: what is below was not seen.
        rounding = float(np.finfo(self._dtype).eps) * np.sqrt(self.probes) * float(self._products.diagonal().max()) / (n - 1)
        rest = resolved_density(
            ProbedSpectrum(
                seen,
                dim=self.dim,
                n_items=n,
                leading=len(leading),
                rounding=rounding,
                ceiling=float(leading[-1]) if len(leading) else np.inf,
                constant=int(np.count_nonzero(self._energy == 0)),
            ),
            trace - float(leading.sum()),
        )
        mean = self._mean()
        lead_energy = (vectors @ mean) ** 2
        remaining = max(float(mean @ mean) - float(lead_energy.sum()), 0.0)
        eigenvalues = np.concatenate((leading, rest.eigenvalues))
        multiplicities = np.concatenate((np.ones_like(leading), rest.multiplicities))
        # Beyond the leading directions nothing is known of where the mean points: in proportion to the variance.
        shares = rest.eigenvalues * rest.multiplicities
        shares = shares / shares.sum() if shares.sum() else rest.multiplicities / max(rest.multiplicities.sum(), 1.0)
        order = np.argsort(-eigenvalues, kind="stable")
        kept = min(wanted, len(leading))
        record: dict[str, JSON] = {
            "form": self.form,
            "probes": self.probes,
            "leading": len(leading),
            "resolved": rest.resolved,
            "estimated": f"density of the population behind {self.probes} random probes of {n} items",
        }
        return Spectrum(
            eigenvalues=eigenvalues[order],
            multiplicities=multiplicities[order],
            mean_energy=np.concatenate((lead_energy, remaining * shares))[order],
            n_samples=n,
            item_shape=self.item_shape,
            provenance={**record, **(provenance or {})},
            mean=mean.reshape(self.item_shape),
            basis=vectors[:kept] if kept else None,
        )

    def _split(self, trace: float) -> tuple[Float, Float, Float]:
        """Leading eigenvectors as rows, their sample eigenvalues, and the eigenvalues of M without them."""
        most = (self._folded - 1) // 4  # more directions than that are no leading ones of so few items
        if self.probes == self.dim:
            # Nothing is random: M is the covariance, turned.
            lam, turned = np.linalg.eigh(mirror(self._products / (self._folded - 1)))
            clear = min(self.rank, most, int(np.count_nonzero(lam > 1e-6 * lam[-1])))
            vectors = self._back(turned.T[::-1][:clear])
            return vectors, lam[::-1][:clear], lam[: self.dim - clear]
        # The first probes made Y; what the others see of the rest is independent of the choice of the leading ones.
        probed = mirror(self._products[self.rank :, self.rank :] / (self._folded - 1))
        q, r = np.linalg.qr(self._range)
        left, values, _ = np.linalg.svd(r)
        clear = min(int(np.count_nonzero(values > max(_SEPARATION * values[-1], 1e-6 * values[0]))), most)
        if not clear:
            return np.zeros((0, self.dim)), np.zeros(0), _ascending(probed)
        kept = (q @ left[:, : 2 * clear]).T
        seen = self._probe(kept)[:, self.rank :].T
        inverse = np.linalg.pinv(seen)
        core = inverse @ probed @ inverse.T
        # Of the directions that are not kept, the probes see 1/probes of their variance in any direction that is.
        share = (1 - len(probed) / self.dim) / (len(probed) - len(kept))
        rest = max(trace - float(np.trace(core)), 0.0) / (1 - len(kept) * share)
        lam, turn = np.linalg.eigh(core - share * rest * np.eye(len(core)))
        lam, turn = lam[::-1][:clear], turn[:, ::-1][:, :clear]
        vectors = turn.T @ kept
        seen = np.linalg.qr(self._probe(vectors)[:, self.rank :].T)[0]
        half = probed @ seen
        probed = probed - half @ seen.T - seen @ half.T + seen @ (seen.T @ half) @ seen.T
        return vectors, lam, _ascending(probed)[clear:]

    def _back(self, probed: Float) -> Float:
        """U^T p for every row p, (m, dim)."""
        from scipy import fft

        waves = np.zeros((len(probed), self.dim))
        waves[:, self._places] = probed
        return np.asarray(fft.idct(waves, axis=1, norm="ortho", workers=threads()) * self._signs)

    def _probe(self, rows: NDArray[Any]) -> NDArray[Any]:
        """U x for every row x, (m, probes)."""
        from scipy import fft

        out = np.empty((len(rows), self.probes), rows.dtype)
        signs = self._signs.astype(rows.dtype)
        for start in range(0, len(rows), 32):
            waves = fft.dct(rows[start : start + 32] * signs, axis=1, norm="ortho", workers=threads())
            np.take(waves, self._places, axis=1, out=out[start : start + 32])
        return out

    def _absorb(self, centred: NDArray[Any]) -> None:
        probed = self._probe(centred)
        add_lower(self._products, lower_product(probed))
        self._range += centred.T @ probed[:, : self.rank]
        for start in range(0, len(centred), 64):
            self._energy += column_sums(np.square(centred[start : start + 64]))

    def _between(self, difference: Float, weight: float) -> None:
        probed = self._probe(difference[None])[0]
        add_outer_lower(self._products, probed, weight)
        for start in range(0, self.dim, 4096):
            self._range[start : start + 4096] += (weight * difference[start : start + 4096, None]) * probed[: self.rank]
        self._energy += weight * difference**2

    def _add_sums(self, other: LowRankMoments) -> None:
        self._products += other._products
        self._range += other._range
        self._energy += other._energy

    def _sums(self) -> dict[str, NDArray[Any]]:
        return {"products": self._products, "range": self._range, "energy": self._energy}

    def _set_sums(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._products = np.array(arrays["products"], dtype=np.float64)
        self._range = np.array(arrays["range"], dtype=np.float64)
        self._energy = np.array(arrays["energy"], dtype=np.float64)


def _ascending(matrix: Float) -> Float:
    return np.asarray(np.linalg.eigvalsh(matrix), dtype=np.float64)


def sizes_within(dim: int, memory: int | None) -> tuple[int, int]:
    """The most probes (at most 4096) and rank (at most 256) whose arrays, at their peak, take no more than `memory`."""
    probes, rank = min(dim, 4096), min(dim, 256)
    blocks = 16 * min(_BLOCK_NUMBERS, 1024 * dim)
    while memory is not None and probes > 64 and 32 * probes**2 + 32 * dim * rank + blocks > memory:
        probes, rank = probes * 7 // 8, max(8, rank * 7 // 8)
    return probes, rank
