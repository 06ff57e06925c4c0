"""The Fourier basis of stationary data: its eigenvectors are plane waves, so they need not be stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep._checks import Float, real_array

Complex = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class FourierBasis:
    r"""Eigenspaces of a covariance that is the same at every place (circulant), one per entry.

        P_i x = Re( v_i v_i^H F_k x  wave_k ) summed over k = k_i and -k_i

    Entry i is one frequency k_i and one unit vector v_i across the channels. A frequency that is its own negative
    (0 and, on even sides, the Nyquist frequency) makes an eigenspace of one real dimension, any other one of two.

    Parameters
    ----------
    item_shape : (channels, *sides), or (*sides) for one channel.
    frequencies : (k, number of sides) integers, in cycles per side; of k and -k only one is listed.
    vectors : (k, channels) complex unit vectors.

    Examples
    --------
    >>> basis = FourierBasis((4,), np.array([[0], [1], [2]]), np.ones((3, 1)))
    >>> basis.multiplicities
    array([1., 2., 1.])
    >>> basis.rows(3).round(3).tolist()
    [[0.5, 0.5, 0.5, 0.5], [0.707, 0.0, -0.707, -0.0], [0.0, 0.707, 0.0, -0.707],
     [0.5, -0.5, 0.5, -0.5]]
    >>> basis.apply([[1.0, 2.0, 3.0, 6.0]], [1.0, 0.0, 0.0])
    array([[3., 3., 3., 3.]])
    """

    item_shape: tuple[int, ...]
    frequencies: NDArray[np.int64]
    vectors: Complex

    def __post_init__(self) -> None:
        """Validate the shapes."""
        k = np.array(self.frequencies, dtype=np.int64)
        v = np.array(self.vectors, dtype=np.complex128)
        channels = len(self.item_shape) - k.shape[-1] if k.ndim == 2 else -1
        if channels not in (0, 1) or v.shape != (len(k), self.item_shape[0] if channels else 1):
            raise ValueError(
                f"`frequencies` and `vectors` must have shapes (k, sides) and (k, channels) for items of shape "
                f"{self.item_shape}, got {k.shape} and {v.shape}."
            )
        object.__setattr__(self, "frequencies", k)
        object.__setattr__(self, "vectors", v)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.frequencies)

    @property
    def sides(self) -> tuple[int, ...]:
        """Extent of the data along each axis with a frequency."""
        return self.item_shape[len(self.item_shape) - self.frequencies.shape[1] :]

    @property
    def multiplicities(self) -> Float:
        """(k,) real dimensions of each eigenspace: 1 or 2."""
        own_negative = ((2 * self.frequencies) % np.array(self.sides) == 0).all(axis=1)
        return np.where(own_negative, 1.0, 2.0)

    def apply(self, x: ArrayLike, factors: ArrayLike) -> Float:
        """sum_i factors_i P_i x, the function of the covariance that takes eigenvalue i to factors_i.

        Parameters
        ----------
        x : (m, *item_shape) items, in data units.
        factors : (k,) real numbers, without units; directions that are not listed get 0.

        Raises
        ------
        ValueError : shapes that do not fit.
        """
        items = real_array(x, "x")
        f = real_array(factors, "factors", ndim=1)
        if items.shape[1:] != self.item_shape or f.size != len(self):
            raise ValueError(
                f"`x` and `factors` must have shapes (m, {', '.join(map(str, self.item_shape))}) and ({len(self)},), "
                f"got {items.shape} and {f.shape}."
            )
        from scipy import fft

        channels, sides = self.vectors.shape[1], self.sides
        axes = tuple(range(2, 2 + len(sides)))
        matrices = np.zeros((math.prod(sides), channels, channels), dtype=np.complex128)
        projectors = f[:, None, None] * self.vectors[:, :, None] * self.vectors[:, None, :].conj()
        np.add.at(matrices, _flat(self.frequencies, sides), projectors)
        twofold = self.multiplicities == 2
        np.add.at(matrices, _flat(-self.frequencies[twofold], sides), projectors[twofold].conj())
        waves = fft.fftn(items.reshape(len(items), channels, *sides), axes=axes).reshape(len(items), channels, -1)
        turned = np.einsum("kcd,mdk->mck", matrices, waves).reshape(len(items), channels, *sides)
        out: Float = fft.ifftn(turned, axes=axes).real.reshape(items.shape)
        return out

    def rows(self, count: int | None = None) -> Float:
        """The first `count` entries (all of them by default) as orthonormal real rows, 1 or 2 for each entry."""
        k, v = self.frequencies[:count], self.vectors[:count]
        places = np.stack(np.meshgrid(*[np.arange(side) / side for side in self.sides], indexing="ij"), axis=-1)
        phase = np.exp(2j * np.pi * np.tensordot(k, places, axes=(1, -1)))
        waves = (v.reshape(*v.shape, *[1] * len(self.sides)) * phase[:, None]).reshape(len(k), -1)
        waves /= math.sqrt(math.prod(self.sides))
        rows = []
        for wave, multiplicity in zip(waves, self.multiplicities[:count], strict=True):
            if multiplicity == 2:
                rows += [math.sqrt(2) * wave.real, math.sqrt(2) * wave.imag]
            else:
                # Real up to the phase of v: turn its largest entry to the real axis.
                rows.append((wave * np.exp(-1j * np.angle(wave[np.abs(wave).argmax()]))).real)
        return np.array(rows)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The two arrays by the names they are saved under."""
        return {"basis_frequencies": self.frequencies, "basis_vectors": self.vectors}


def half_plane(sides: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """One of each pair (k, -k) of frequencies, (k, number of sides), and where they stand in a flat `rfftn` output.

    Examples
    --------
    >>> frequencies, places = half_plane((2, 4))
    >>> frequencies.tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    """
    halved = (*sides[:-1], sides[-1] // 2 + 1)
    k = np.stack(np.meshgrid(*[np.arange(side) for side in halved], indexing="ij"), axis=-1).reshape(-1, len(sides))
    # On the first and the last column of the half both k and -k are present; the first of them in order is kept.
    here, negative = _flat(k, sides), _flat(-k, sides)
    doubled = (-k[:, -1]) % sides[-1] == k[:, -1]
    kept = np.flatnonzero(~doubled | (here <= negative))
    return k[kept], kept


def _flat(frequencies: NDArray[np.int64], sides: tuple[int, ...]) -> NDArray[np.intp]:
    return np.asarray(np.ravel_multi_index(tuple((frequencies % np.array(sides)).T), sides))
