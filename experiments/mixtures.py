"""Exact references that are not Gaussian: mixtures of low-rank Gaussians fitted to data, whose denoiser has no network error.

    EIGENSTEP_SHARED=../shared python experiments/mixtures.py            # fit one per dataset, print what it is

Evidence only, never part of the package. Each component is a probabilistic PCA (Tipping & Bishop, 1999, section 4: mixtures
of them by EM, started from k-means), so E[x_0 | x~] is a softmax of Wiener filters, in closed form. What a grid loses on
such a source it loses by discretisation alone.
"""

import io
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.linalg import eigh
from scipy.special import logsumexp

from eigenstep import Spectrum
from eigenstep.models import ModelDenoiser
from eigenstep.paths import EDM

SHARED = Path(os.environ.get("EIGENSTEP_SHARED", "../shared"))
DATASETS = ("mnist14", "mnist28", "cifar16", "speech", "ecg")


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_c w_c N(mu_c, B_c^T diag(v_c - f_c) B_c + f_c I), called as its exact denoiser: numpy in, numpy out, torch likewise.

    `bases` (C, r, d) has orthonormal rows (or zero rows, whose variance is then the floor's), `variances` (C, r) are the full
    variances along them and `floors` (C,) those of every other direction. `history` is the mean log-likelihood of every
    round of EM.
    """

    weights: np.ndarray
    means: np.ndarray
    bases: np.ndarray
    variances: np.ndarray
    floors: np.ndarray
    item_shape: tuple[int, ...]
    history: tuple[float, ...] = ()
    _tensors: dict = field(default_factory=dict, repr=False)

    def _arrays(self, like):
        """The parameters in the kind and precision of `like`, and the functions that differ between numpy and torch."""
        arrays = (self.weights, self.means, self.bases, self.variances, self.floors)
        if isinstance(like, np.ndarray):
            return np, arrays
        import torch

        key = (like.device, like.dtype)
        if key not in self._tensors:
            self._tensors[key] = tuple(torch.as_tensor(a, device=like.device, dtype=like.dtype) for a in arrays)
        return torch, self._tensors[key]

    def _posterior(self, rows, sigma):
        """log w_c N(x~; ...), the projections on every basis, and the gains along and off it."""
        xp, (weights, means, bases, variances, floors) = self._arrays(rows)
        total, rest = variances + sigma**2, floors + sigma**2
        rank, dim = bases.shape[1:]
        projected = (rows @ bases.reshape(-1, dim).T).reshape(-1, *variances.shape) - (bases @ means[:, :, None])[:, :, 0]
        squared = (rows**2).sum(1)[:, None] - 2 * rows @ means.T + (means**2).sum(1)
        along = (projected**2 / total).sum(2)
        off = (squared - (projected**2).sum(2)) / rest
        volume = xp.log(total).sum(1) + (dim - rank) * xp.log(rest) + dim * np.log(2 * np.pi)
        return xp.log(weights) - 0.5 * (along + off + volume), projected, variances / total, floors / rest

    def __call__(self, x, sigma):
        """E[x_0 | x_0 + sigma eps = x]: sum_c p(c | x) (mu_c + Wiener_c (x - mu_c))."""
        rows = x.reshape(len(x), -1)
        logits, projected, gain, gain_off = self._posterior(rows, sigma)
        if isinstance(rows, np.ndarray):
            chosen = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
        else:
            chosen = logits.softmax(dim=1)
        _, (_, means, bases, _, _) = self._arrays(rows)
        weighted = chosen[:, :, None] * (gain - gain_off[:, None]) * projected
        out = (chosen * (1 - gain_off)) @ means + (chosen @ gain_off)[:, None] * rows
        return (out + weighted.reshape(len(rows), -1) @ bases.reshape(-1, bases.shape[2])).reshape(x.shape)

    def log_likelihood(self, x, sigma=0.0):
        """ln p(x~) of every item."""
        rows = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        return logsumexp(self._posterior(rows, sigma)[0], axis=1)

    def draw(self, count, seed):
        """Items of the source."""
        rng = np.random.default_rng(seed)
        which = rng.choice(self.weights.size, size=count, p=self.weights)
        noise = rng.standard_normal((count, self.means.shape[1]))
        along = np.einsum("nrd,nd->nr", self.bases[which], noise)
        root, floor = np.sqrt(self.variances[which]), np.sqrt(self.floors[which])[:, None]
        rows = self.means[which] + floor * noise + np.einsum("nrd,nr->nd", self.bases[which], (root - floor) * along)
        return rows.reshape(count, *self.item_shape)

    def spectrum(self, basis=0):
        """Of its exact covariance: that within the components and that between their means."""
        mean = self.weights @ self.means
        away = self.means - mean
        covariance = (self.weights[:, None] * away).T @ away + (self.weights @ self.floors) * np.eye(mean.size)
        rows = self.bases.reshape(-1, mean.size)
        covariance += (rows.T * (self.weights[:, None] * (self.variances - self.floors[:, None])).ravel()) @ rows
        return Spectrum.from_covariance(covariance, mean=mean, basis=basis, item_shape=self.item_shape)

    def denoiser(self, sigma_min=0.002, sigma_max=80.0):
        """Itself as a model, for `eigenstep.models.plan` and `evaluate`."""
        return ModelDenoiser(self, EDM(sigma_min, sigma_max), "x0", item_shape=self.item_shape)


def fit(items, components, rank, *, rounds=25, floor=1e-4, seed=0):
    """The mixture of probabilistic PCAs by EM from k-means; `floor` bounds the variance off the bases, squared data units."""
    items = np.asarray(items, dtype=np.float64)
    if items.ndim < 2 or not np.all(np.isfinite(items)):
        raise ValueError(f"`items` must be finite and of shape (n, ...), got shape {items.shape}.")
    rows = items.reshape(len(items), -1)
    if not 1 <= components <= len(rows):
        raise ValueError(f"`components` must be at least 1 and at most the number of items {len(rows)}, got {components}.")
    if not 1 <= rank < rows.shape[1]:
        raise ValueError(f"`rank` must be at least 1 and below the {rows.shape[1]} numbers of an item, got {rank}.")
    if not floor > 0:
        raise ValueError(f"`floor` must be positive, got {floor}.")
    shares = np.eye(components)[k_means(rows, components, seed=seed)]
    history = []
    for _ in range(rounds):
        mixture = _maximised(rows, shares, rank, floor, items.shape[1:], tuple(history))
        logits = mixture._posterior(rows, 0.0)[0]
        likelihood = logsumexp(logits, axis=1)
        history.append(float(likelihood.mean()))
        if len(history) > 1 and history[-1] - history[-2] < 1e-4 * rows.shape[1]:
            break
        shares = np.exp(logits - likelihood[:, None])
    return Mixture(
        mixture.weights, mixture.means, mixture.bases, mixture.variances, mixture.floors, items.shape[1:], tuple(history)
    )


def k_means(rows, clusters, *, rounds=15, seed=0):
    """Labels by Lloyd's rounds from k-means++ centres (Arthur & Vassilvitskii, 2007)."""
    rng = np.random.default_rng(seed)
    centres = rows[rng.integers(len(rows))][None]
    nearest = ((rows - centres[0]) ** 2).sum(1)
    for _ in range(clusters - 1):
        # Every item may already be a centre: then any will do.
        odds = nearest / nearest.sum() if nearest.sum() > 0 else None
        centres = np.vstack([centres, rows[rng.choice(len(rows), p=odds)]])
        nearest = np.minimum(nearest, ((rows - centres[-1]) ** 2).sum(1))
    labels = None
    for _ in range(rounds):
        found = np.argmin((centres**2).sum(1) - 2 * rows @ centres.T, axis=1)
        if labels is not None and np.array_equal(found, labels):
            break
        labels = found
        for k in range(clusters):
            if np.any(labels == k):
                centres[k] = rows[labels == k].mean(0)
    return labels


def _maximised(rows, shares, rank, floor, item_shape, history):
    """One M-step: weighted means and, of every weighted covariance, the leading eigenpairs and the mean of the rest."""
    dim = rows.shape[1]
    counts = np.maximum(shares.sum(0), 1e-12)
    means = shares.T @ rows / counts[:, None]
    bases, variances = np.zeros((counts.size, rank, dim)), np.empty((counts.size, rank))
    floors = np.empty(counts.size)
    for c in range(counts.size):
        near = shares[:, c] > 1e-9
        away = np.sqrt(shares[near, c] / counts[c])[:, None] * (rows[near] - means[c])
        wide = len(away) < dim
        scatter = away @ away.T if wide else away.T @ away
        kept = min(rank, len(scatter))
        values, vectors = eigh(scatter, subset_by_index=[len(scatter) - kept, len(scatter) - 1])
        values = np.maximum(values, 0.0)
        floors[c] = max((float((away**2).sum()) - values.sum()) / (dim - rank), floor)
        real = values > floors[c]
        vectors = (away.T @ vectors[:, real]) / np.sqrt(values[real]) if wide else vectors[:, real]
        bases[c, : real.sum()] = vectors.T
        variances[c] = floors[c]
        variances[c, : real.sum()] = values[real]
    return Mixture(counts / counts.sum(), means, bases, variances, floors, item_shape, history)


def dataset(name, limit=6000):
    """Training items of a shared dataset: images in [-1, 1], speech in [-1, 1], ECG in millivolts."""
    if name not in DATASETS:
        raise ValueError(f"`name` must be one of {', '.join(DATASETS)}, got {name!r}.")
    folder = SHARED / "data"
    if name.startswith("mnist"):
        pixels = np.load(folder / "mnist.npz")["train"][:limit] / 127.5 - 1
        return (_halved(pixels) if name == "mnist14" else pixels)[:, None]
    if name == "cifar16":
        return np.moveaxis(_halved(_cifar(folder / "cifar10", limit) / 127.5 - 1, axis=1), -1, 1)
    if name == "speech":
        return np.load(folder / "speech_digits_wave4096.npz")["train"][:limit] / 32768.0
    return np.load(folder / "ecg512.npz")["train"][:limit] / 1000.0


def _halved(images, axis=-2):
    """Means of 2 x 2 pixels; `axis` is that of the rows, the next one that of the columns."""
    for which in (axis, axis + 1):
        images = 0.5 * (np.take(images, range(0, images.shape[which], 2), which)
                        + np.take(images, range(1, images.shape[which], 2), which))
    return images


def _cifar(folder, limit):
    from PIL import Image

    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    found.append(np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")))
                    if len(found) == limit:
                        return np.stack(found)
    return np.stack(found)


FITS = {"mnist14": (16, 24), "mnist28": (20, 40), "cifar16": (20, 60), "speech": (20, 24), "ecg": (20, 24)}
"""Components and rank of every dataset's mixture."""


def fitted(name, *, limit=6000, seed=0):
    """The mixture of that dataset."""
    items = dataset(name, limit)
    return fit(items, *FITS[name], seed=seed)


def main():
    import argparse
    import time

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=DATASETS)
    for name in parser.parse_args().names:
        start = time.perf_counter()
        mixture = fitted(name)
        spectrum = mixture.spectrum()
        print(
            f"{name}: {mixture.weights.size} components of rank {mixture.bases.shape[1]} on {mixture.item_shape}, "
            f"{len(mixture.history)} rounds, ln p {mixture.history[0]:.1f} -> {mixture.history[-1]:.1f} per item, standard "
            f"deviation {np.sqrt(spectrum.trace / spectrum.dim):.3f}, {time.perf_counter() - start:.1f} s"
        )


if __name__ == "__main__":
    main()
