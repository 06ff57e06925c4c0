"""What two sets of items are compared in: pixels, random convolutions, a network trained in the run, Inception, DINOv2.

Every kind is one frozen class with `name`, `dim`, `identity` (what its values depend on, for a run that is gone on with) and a
call from items (n, *item_shape), numpy, to features (n, dim), float64. torch is imported when a network is first needed.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep._checks import Float, choice, integer, real_array
from eigenstep._torch import torch_module

DIM = 64
"""Features of the kinds that come along: few enough for covariances of a few hundred samples."""

_BATCH = 256
_SPREAD_FLOOR = 1e-6
_LABELLED_AS = ("rotations by 0, 90, 180 and 270 degrees", "the item, its mirror image, its negative, both")


class Features(Protocol):
    """A map from items to features."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    @property
    def dim(self) -> int:
        """How many features there are."""
        ...

    @property
    def identity(self) -> str:
        """What its values depend on besides the data it was fitted to."""
        ...

    def __call__(self, items: ArrayLike, *, device: Any = None) -> Float:
        """Features (n, dim) of items (n, *item_shape)."""
        ...


@dataclass(frozen=True)
class PixelFeatures:
    """The items themselves, turned into their leading principal axes: f = V^T (x - mean), in units of the data.

    Examples
    --------
    >>> pixels = PixelFeatures.of_data(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1], [0.0, -0.1]]), dim=1)
    >>> abs(pixels([[3.0, 5.0]])).round(6).tolist()
    [[3.0]]
    """

    mean: Float
    axes: Float
    name: str = "pixels"

    @classmethod
    def of_data(cls, items: ArrayLike, *, dim: int = DIM) -> PixelFeatures:
        """The principal axes of items (n, ...), at most `dim` of them.

        Raises
        ------
        ValueError
            For fewer than two items.
        """
        rows = _rows(items)
        mean = rows.mean(axis=0)
        kept = min(integer(dim, "dim"), rows.shape[1], len(rows) - 1)
        if rows.shape[1] <= kept:
            return cls(mean, np.eye(rows.shape[1]))
        centred = rows - mean
        if len(rows) >= rows.shape[1]:
            vectors = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
            return cls(mean, np.ascontiguousarray(vectors[:, :kept]))
        return cls(mean, np.ascontiguousarray(np.linalg.svd(centred, full_matrices=False)[2][:kept].T))

    @property
    def dim(self) -> int:
        """Number of principal axes."""
        return int(self.axes.shape[1])

    @property
    def identity(self) -> str:
        """The name and the number of axes: the rest follows from the data."""
        return f"{self.name}|{self.dim}"

    def __call__(self, items: ArrayLike, *, device: Any = None) -> Float:
        """Coordinates along the axes; computed by numpy wherever `device` is."""
        rows = real_array(items, "items").reshape(len(np.asarray(items)), -1)
        return np.asarray((rows - self.mean) @ self.axes)


@dataclass(frozen=True, eq=False)
class ConvolutionFeatures:
    """Three convolutions with stride 2; means and deviations of the channels, or a layer on top, standardised by the data's.

    Items of shape (c, h, w) and (h, w) are images, (c, n) and (n,) signals. They are first brought to mean 0 and deviation 1 by
    one number each for all of the data.

    Parameters
    ----------
    name : str
    item_shape : tuple of int
    weights : mapping of str to float32 arrays
        As `random_convolutions` and `trained_features` make them.
    shift, scale : (dim,)
        Mean and deviation of the raw features of the data.
    note : str
        What it was trained to tell, and how well it does; empty where it was not.

    Examples
    --------
    >>> made = random_convolutions(np.random.default_rng(0).standard_normal((20, 8, 8)))
    >>> twice = ConvolutionFeatures(made.name, made.item_shape, made.weights, made.shift, made.scale / 2)
    >>> bool(np.allclose(twice(np.ones((3, 8, 8))), 2 * made(np.ones((3, 8, 8))))), twice.identity == made.identity
    (True, True)
    """

    name: str
    item_shape: tuple[int, ...]
    weights: Mapping[str, NDArray[np.float32]]
    shift: Float
    scale: Float
    note: str = ""

    @property
    def dim(self) -> int:
        """Number of features."""
        return int(self.shift.size)

    @property
    def identity(self) -> str:
        """Digest of the weights; what standardises the features follows from the data."""
        return _digest(self.name, self.weights)

    def __call__(self, items: ArrayLike, *, device: Any = None) -> Float:
        """Standardised features."""
        return np.asarray((_raw_features(self.weights, _images(items, self.item_shape), device) - self.shift) / self.scale)


def random_convolutions(items: ArrayLike, *, seed: int = 0) -> ConvolutionFeatures:
    """Features of a convolution network with random weights: they see local structure and need no training.

    Weights are normal with variance 2/fan-in, drawn from `seed` alone: the same for every run and machine. Cf. Saxe et al.
    (2011) on random weights.

    Parameters
    ----------
    items : (n, *item_shape) array
        Data, n >= 2, that standardise inputs and features.
    seed : int

    Raises
    ------
    ValueError
        For fewer than two items, or items of fewer than 8 numbers along an axis.
    ImportError
        Without torch.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((20, 1, 8, 8))
    >>> features = random_convolutions(x)
    >>> features(x).shape, float(abs(features(x).mean()).round(6))
    ((20, 64), 0.0)
    """
    data = _data(items)
    rng = np.random.default_rng(integer(seed, "seed", minimum=0))
    weights = _scaling(data)
    channels = (_channels(data.shape[1:]), 8, 16, DIM // 2)
    kernel = (3,) * _spatial(data.shape[1:])
    for layer in range(3):
        shape = (channels[layer + 1], channels[layer], *kernel)
        spread = math.sqrt(2.0 / math.prod(shape[1:]))
        weights[f"conv{layer}.weight"] = (spread * rng.standard_normal(shape)).astype(np.float32)
        weights[f"conv{layer}.bias"] = np.zeros(channels[layer + 1], dtype=np.float32)
    return _standardised("random-convolutions", weights, data)


def trained_features(
    items: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    steps: int = 400,
    batch_size: int = 128,
    seed: int = 0,
    device: Any = None,
    progress: Callable[[int, int], object] | None = None,
) -> ConvolutionFeatures:
    """Features of a small network trained on the data in this run: to tell its classes, or else what was done to an item.

    Without labels it learns to tell rotations of square images by 0, 90, 180 and 270 degrees (Gidaris et al.,
    arXiv:1803.07728), and whether any other item was mirrored, negated or both. A tenth of the items is kept apart and says how
    well it learned: see `note`.

    Parameters
    ----------
    items : (n, *item_shape) array
        n >= 20.
    labels : (n,) array of int, optional
        >= 0; at least two classes.
    steps, batch_size : int
        Of Adam, at a learning rate that falls to 0.
    seed : int
        Of the weights and the batches.
    device : torch.device or str, optional
        The CPU by default.
    progress : callable, optional
        Told (steps done, steps).

    Raises
    ------
    ValueError
        For too few items, items of fewer than 8 numbers along an axis, or labels that do not fit.
    ImportError
        Without torch.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 60)
    >>> x = rng.standard_normal((60, 8, 8)) + 4.0 * labels[:, None, None]
    >>> features = trained_features(x, labels, steps=30)
    >>> features.dim, features.note
    (64, 'trained to tell 2 labels; right for 100 % of 6 items kept apart')
    """
    torch = torch_module("evaluating a network")
    data = _data(items, least=20)
    steps, size = integer(steps, "steps"), integer(batch_size, "batch_size")
    kinds = None if labels is None else _labels(labels, len(data))
    spatial, square = _spatial(data.shape[1:]), data.shape[-1] == data.shape[-2] and _spatial(data.shape[1:]) == 2
    classes = 4 if kinds is None else int(kinds.max()) + 1
    rng = np.random.default_rng(integer(seed, "seed", minimum=0))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    conv = torch.nn.Conv2d if spatial == 2 else torch.nn.Conv1d
    channels = (_channels(data.shape[1:]), 16, 32, 64)
    layers = {f"conv{k}": conv(channels[k], channels[k + 1], 3, stride=2, padding=1) for k in range(3)}
    layers |= {"hidden": torch.nn.Linear(2 * channels[3], DIM), "head": torch.nn.Linear(DIM, classes)}
    parameters = {}
    for name, layer in layers.items():
        fan_in = math.prod(layer.weight.shape[1:])
        start = torch.randn(layer.weight.shape, generator=generator) * math.sqrt((1.0 if name == "head" else 2.0) / fan_in)
        parameters[f"{name}.weight"] = start.to(device).requires_grad_()
        parameters[f"{name}.bias"] = torch.zeros_like(layer.bias).to(device).requires_grad_()
    scaling = _scaling(data)
    order = rng.permutation(len(data))
    apart, rest = order[: max(len(data) // 10, 1)], order[max(len(data) // 10, 1) :]

    def batch(chosen: NDArray[np.intp]) -> tuple[Any, Any]:
        x = torch.as_tensor(_images(data[chosen], data.shape[1:]), device=device)
        if kinds is not None:
            return x, torch.as_tensor(kinds[chosen], device=device)
        done = torch.as_tensor(rng.integers(0, 4, len(chosen)), device=device)
        return _transformed(torch, x, done, square), done

    def scores(x: Any) -> Any:
        return _linear(torch, _network(torch, {**parameters, **_tensors(torch, scaling, device)}, x), parameters, "head")

    optimiser = torch.optim.Adam(parameters.values(), lr=2e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        x, y = batch(rng.choice(rest, min(size, len(rest)), replace=False))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(scores(x), y).backward()
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps)
    with torch.no_grad():
        pieces = [batch(apart[first : first + _BATCH]) for first in range(0, len(apart), _BATCH)]
        right = sum(int((scores(x).argmax(1) == y).sum()) for x, y in pieces)
    told = f"{classes} labels" if kinds is not None else _LABELLED_AS[0 if square else 1]
    note = f"trained to tell {told}; right for {100 * right / len(apart):.0f} % of {len(apart)} items kept apart"
    weights = {name: value.detach().cpu().numpy() for name, value in parameters.items() if not name.startswith("head")}
    return _standardised("trained", {**scaling, **weights}, data, note=note, device=device)


@dataclass(frozen=True)
class PretrainedFeatures:
    """Features of a network that others trained, from a package that the user has: Inception (FID, KID) or DINOv2.

    Items must be images (3, h, w), (1, h, w) or (h, w); their value range is mapped to the network's own, gray ones are
    repeated three times, and each network resizes as its package does.

    Parameters
    ----------
    name : {"inception", "dinov2"}
        torch-fidelity's Inception-v3 with the weights that FID is defined by, 2,048 features; timm's
        ViT-S/14 of DINOv2, 384 features at 224 x 224.
    value_range : (low, high)
        Of the items: mapped to 0 .. 1, values outside are cut as an image file would.
    weights : str, optional
        File of the weights. None lets the package find them in its own cache, or download them.

    Examples
    --------
    >>> PretrainedFeatures("inception", (-1.0, 1.0)).dim
    2048
    """

    name: str
    value_range: tuple[float, float]
    weights: str | None = None
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    PACKAGES = {"inception": ("torch_fidelity", "torch-fidelity"), "dinov2": ("timm", "timm")}  # noqa: RUF012
    DIMENSIONS = {"inception": 2048, "dinov2": 384}  # noqa: RUF012

    def __post_init__(self) -> None:
        """Check the name, the range and the file."""
        choice(self.name, self.PACKAGES, "features")
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"`value_range` must rise, got {self.value_range}.")
        if self.weights is not None and not os.path.isfile(self.weights):
            raise ValueError(f"`weights` for {self.name!r}: there is no file {self.weights!r}.")

    def __getstate__(self) -> dict[str, Any]:
        """Without the network: each process loads its own."""
        return {"name": self.name, "value_range": self.value_range, "weights": self.weights, "_loaded": {}}

    @property
    def dim(self) -> int:
        """Number of features."""
        return self.DIMENSIONS[self.name]

    @property
    def identity(self) -> str:
        """Digest of the network's name, the range, and the content of its file."""
        content = b"" if self.weights is None else Path(self.weights).read_bytes()
        return _digest(f"{self.name}|{self.value_range}|{hashlib.sha256(content).hexdigest()}", {})

    def require(self) -> None:
        """Refuse at once where the package is missing or cannot be imported.

        Raises
        ------
        ImportError
            With the pip command that mends it.
        """
        module, package = self.PACKAGES[self.name]
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"The features {self.name!r} need {package} ({error}); install it with `pip install {package}`."
            ) from error
        except RuntimeError as error:
            # A torchvision built for another torch: "operator torchvision::nms does not exist".
            torch = torch_module("evaluating a network")
            raise ImportError(
                f"The features {self.name!r} need {package}, which cannot be imported ({str(error).splitlines()[0]}); install "
                f"the torchvision that belongs to torch {torch.__version__}."
            ) from error

    def __call__(self, items: ArrayLike, *, device: Any = None) -> Float:
        """Features of images."""
        torch = torch_module("evaluating a network")
        array = np.asarray(items)
        shape = array.shape[1:]
        if _spatial(shape) != 2 or _channels(shape) not in (1, 3):
            raise ValueError(f"The features {self.name!r} are those of images of 1 or 3 channels, got items of shape {shape}.")
        network = self._network(torch, device)
        low, high = self.value_range
        found = []
        with torch.no_grad():
            for first in range(0, len(array), 32):
                x = torch.as_tensor(_images(array[first : first + 32], shape), device=device)
                x = ((x - low) / (high - low)).clamp(0.0, 1.0).expand(-1, 3, -1, -1)
                found.append(network(x).double().cpu().numpy())
        return np.concatenate(found)

    def _network(self, torch: Any, device: Any) -> Callable[[Any], Any]:
        place = str(device)
        if place not in self._loaded:
            self.require()
            maker = {"inception": self._inception, "dinov2": self._dinov2}[self.name]
            try:
                self._loaded[place] = maker(torch, device)
            except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
                raise ValueError(
                    f"The weights of {self.name!r} could not be loaded from {self.weights or 'the package'} "
                    f"({type(error).__name__}: {str(error).splitlines()[0]}); give their file as {self.name}=FILE."
                ) from error
        loaded: Callable[[Any], Any] = self._loaded[place]
        return loaded

    def _inception(self, torch: Any, device: Any) -> Callable[[Any], Any]:
        fidelity = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        if self.weights is not None:
            # The package would run whatever code a pickle holds: tensors only.
            torch.load(self.weights, weights_only=True, map_location="cpu")
        network = fidelity.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=self.weights
        )
        network = network.eval().to(device)
        # It was defined on the bytes of image files.
        return lambda x: network((255.0 * x).round().to(torch.uint8))[0]

    def _dinov2(self, torch: Any, device: Any) -> Callable[[Any], Any]:
        timm = importlib.import_module("timm")
        # As `pretrained` and not as `checkpoint_path`: only so are the positions, kept for 518 x 518, resampled.
        network = timm.create_model(
            "vit_small_patch14_dinov2.lvd142m",
            pretrained=True,
            pretrained_cfg_overlay=None if self.weights is None else {"file": self.weights},
            num_classes=0,
            img_size=224,
        )
        network = network.eval().to(device)
        mean = torch.tensor([0.485, 0.456, 0.406], device=device)[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225], device=device)[:, None, None]

        def features(x: Any) -> Any:
            larger = torch.nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True)
            return network((larger.clamp(0.0, 1.0) - mean) / deviation)

        return features


KINDS = ("pixels", "random-convolutions", "trained", *PretrainedFeatures.PACKAGES)
"""What `features_named` knows."""


def features_named(
    names: Sequence[str],
    items: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    value_range: tuple[float, float] | None = None,
    weights: Mapping[str, str] | None = None,
    seed: int = 0,
    device: Any = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Features, ...]:
    """The features of these names, fitted to data where they need it.

    Parameters
    ----------
    names : sequence of str
        From `KINDS`.
    items : (n, *item_shape) array
        Data.
    labels : (n,) array, optional
        For "trained".
    value_range : (low, high), optional
        Of the items, for pretrained networks; None takes the first of [-0.5, 0.5], [-1, 1], [0, 1], [0, 255] that holds the
        data, the narrowest one that they reach below 0 in, else their own smallest and largest value.
    weights : mapping, optional
        Files of pretrained networks by name.
    seed, device, progress
        As for `trained_features`.

    Raises
    ------
    ValueError
        For an unknown name, no name, or as each kind does.
    ImportError
        A package that a kind needs is missing.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((30, 4))
    >>> [(f.name, f.dim) for f in features_named(["pixels"], x)]
    [('pixels', 4)]
    """
    if not names:
        raise ValueError(f"`features` must name at least one of {', '.join(KINDS)}, got none.")
    chosen = list(dict.fromkeys(choice(name, KINDS, "features") for name in names))
    files = dict(weights or {})
    for name in files:
        choice(name, PretrainedFeatures.PACKAGES, "weights")
    data = real_array(items, "items")
    ends = data_range(data) if value_range is None else value_range
    pretrained = {n: PretrainedFeatures(n, ends, files.get(n)) for n in chosen if n in PretrainedFeatures.PACKAGES}
    for network in pretrained.values():
        network.require()
    makers: dict[str, Callable[[], Features]] = {
        "pixels": lambda: PixelFeatures.of_data(data),
        "random-convolutions": lambda: random_convolutions(data, seed=seed),
        "trained": lambda: trained_features(data, labels, seed=seed, device=device, progress=progress),
    }
    return tuple(pretrained[name] if name in pretrained else makers[name]() for name in chosen)


def data_range(items: ArrayLike) -> tuple[float, float]:
    """The conventional range of values that holds these, else their own ends.

    >>> data_range([0.0, 0.7]), data_range([-0.5, 0.5]), data_range([-0.9, 0.1]), data_range([-3.0, 5.0])
    ((0.0, 1.0), (-0.5, 0.5), (-1.0, 1.0), (-3.0, 5.0))
    """
    values = real_array(items, "items")
    low, high = float(values.min()), float(values.max())
    for ends in ((-0.5, 0.5), (-1.0, 1.0)) if low < 0 else ((0.0, 1.0), (0.0, 255.0)):
        if ends[0] <= low and high <= ends[1]:
            return ends
    return low, high


# ---------------------------------------------------------------------- networks


def _network(torch: Any, weights: Mapping[str, Any], x: Any) -> Any:
    """Raw features of images or signals (n, channels, ...): channel means and deviations, or the hidden layer on top."""
    conv = torch.nn.functional.conv2d if x.ndim == 4 else torch.nn.functional.conv1d
    x = (x - weights["centre"]) / weights["spread"]
    for layer in range(3):
        x = conv(x, weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"], stride=2, padding=1)
        x = torch.nn.functional.gelu(x)
    flat = x.flatten(2)
    # The square root needs room below for its gradient.
    pooled = torch.cat([flat.mean(2), (flat.var(2, unbiased=False) + 1e-8).sqrt()], dim=1)
    return torch.nn.functional.gelu(_linear(torch, pooled, weights, "hidden")) if "hidden.weight" in weights else pooled


def _linear(torch: Any, x: Any, weights: Mapping[str, Any], name: str) -> Any:
    return torch.nn.functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _raw_features(weights: Mapping[str, NDArray[np.float32]], x: NDArray[np.float32], device: Any) -> Float:
    torch = torch_module("evaluating a network")
    given = _tensors(torch, weights, device)
    with torch.no_grad():
        found = [
            _network(torch, given, torch.as_tensor(x[first : first + _BATCH], device=device)).double().cpu().numpy()
            for first in range(0, len(x), _BATCH)
        ]
    return np.concatenate(found)


def _standardised(
    name: str, weights: Mapping[str, NDArray[np.float32]], data: Float, *, note: str = "", device: Any = None
) -> ConvolutionFeatures:
    shape = data.shape[1:]
    raw = _raw_features(weights, _images(data, shape), device)
    spread = raw.std(axis=0)
    # A feature that is the same for all of the data would be divided by nothing.
    return ConvolutionFeatures(name, shape, weights, raw.mean(axis=0), np.maximum(spread, _SPREAD_FLOOR), note)


def _transformed(torch: Any, x: Any, done: Any, square: bool) -> Any:
    """Each item as `done`, 0 to 3, says: rotated by quarter turns, or mirrored (1), negated (2), both (3)."""
    out = x.clone()
    for k in (1, 2, 3):
        rows = done == k
        if square:
            out[rows] = torch.rot90(x[rows], k, (-2, -1))
        else:
            out[rows] = (-1.0 if k >= 2 else 1.0) * (x[rows].flip(-1) if k % 2 else x[rows])
    return out


def _tensors(torch: Any, weights: Mapping[str, NDArray[np.float32]], device: Any) -> dict[str, Any]:
    return {name: torch.as_tensor(value, device=device) for name, value in weights.items()}


def _scaling(data: Float) -> dict[str, NDArray[np.float32]]:
    spread = float(data.std())
    if spread == 0:
        raise ValueError("`items` are all the same number: there is nothing to tell apart.")
    return {"centre": np.array([data.mean()], dtype=np.float32), "spread": np.array([spread], dtype=np.float32)}


def _data(items: ArrayLike, *, least: int = 2) -> Float:
    data = real_array(items, "items")
    if data.ndim < 2 or len(data) < least:
        raise ValueError(f"`items` must hold at least {least} items, got shape {data.shape}.")
    sides = data.shape[-_spatial(data.shape[1:]) :]
    if min(sides) < 8:
        raise ValueError(
            f"`items` of shape {data.shape[1:]} are too small for convolutions, which need 8 numbers along an axis; compare "
            "them in `pixels`."
        )
    return data


def _labels(labels: ArrayLike, count: int) -> NDArray[np.int64]:
    kinds = np.asarray(labels)
    if kinds.shape != (count,) or kinds.dtype.kind not in "iu" or kinds.min() < 0 or kinds.max() == kinds.min():
        raise ValueError(
            f"`labels` must be {count} integers >= 0, one per item and of at least two kinds, got {kinds.dtype} of shape "
            f"{kinds.shape}."
        )
    return kinds.astype(np.int64)


def _rows(items: ArrayLike) -> Float:
    data = real_array(items, "items")
    if data.ndim < 2 or len(data) < 2:
        raise ValueError(f"`items` must hold at least 2 items, got shape {data.shape}.")
    return data.reshape(len(data), -1)


def _spatial(shape: Sequence[int]) -> int:
    """2 for images, 1 for signals: (c, h, w) and (h, w) with more than 4 rows are images."""
    return 2 if len(shape) == 3 or (len(shape) == 2 and shape[0] > 4) else 1


def _channels(shape: Sequence[int]) -> int:
    return int(shape[0]) if len(shape) == _spatial(shape) + 1 else 1


def _images(items: ArrayLike, shape: Sequence[int]) -> NDArray[np.float32]:
    """float32 items (n, channels, ...)."""
    array = np.asarray(items, dtype=np.float32)
    if tuple(array.shape[1:]) != tuple(shape):
        raise ValueError(f"`items` must have shape (n, {', '.join(map(str, shape))}), got {array.shape}.")
    return array.reshape(len(array), _channels(shape), *shape[len(shape) - _spatial(shape) :])


def _digest(name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(name.encode())
    for key in sorted(arrays):
        digest.update(key.encode() + np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()[:16]
