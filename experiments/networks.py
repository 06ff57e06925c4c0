"""Every model that the evidence is measured on, under one name each: others' networks, our own, and exact mixtures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eigenstep import Spectrum
from eigenstep.models import Denoiser

BASIS = 200
EXACT = ("mnist14", "mnist28", "cifar16", "speech", "ecg")
SHARED = (
    "sdaloglu_mnist_lin", "sdaloglu_mnist_geo", "sdaloglu_mnist_cos", "sdaloglu_mnist_lin100ep", "pulfer_mnist",
    "pulfer_fashion",
)  # fmt: skip
OWN = ("mnist_v", "edm_fashion", "eps_cifar", "v_fashion_classes", "flow_latent", "ecg_eps", "speech_flow")
"""`mnist_v` is the network that the package ships; the others are made by `train.py`."""

WHAT = {
    "mnist14": "exact mixture, MNIST 14 × 14", "mnist28": "exact mixture, MNIST", "cifar16": "exact mixture, CIFAR-10 16 × 16",
    "speech": "exact mixture, speech", "ecg": "exact mixture, ECG",
    "sdaloglu_mnist_lin100ep": "others', ε, linear β, 100 epochs", "sdaloglu_mnist_lin": "others', ε, linear β",
    "sdaloglu_mnist_cos": "others', ε, cosine-shaped β", "sdaloglu_mnist_geo": "others', ε, ends at σ = 6.5",
    "pulfer_mnist": "others', ε, MNIST", "pulfer_fashion": "others', ε, Fashion-MNIST",
    "mnist_v": "the bundled network, v", "edm_fashion": "own, EDM, Fashion-MNIST",
    "v_fashion_classes": "own, v, class and guidance 2", "eps_cifar": "own, ε, CIFAR-10 in colour",
    "flow_latent": "own, rectified flow in VAE latents", "ecg_eps": "own, ε, ECG",
    "speech_flow": "own, rectified flow, spectrograms",
}  # fmt: skip
"""Every model in a few words, in the order of the tables."""

LABEL, GUIDANCE = 7, 2.0
"""The class (sneakers) and the guidance that the conditional network is sampled with."""


@dataclass(frozen=True)
class Subject:
    """A model with the spectrum of its data and some of the data that it was not trained on.

    `exact` says that the denoiser is the posterior mean itself: nothing but discretisation is measured.
    """

    name: str
    denoiser: Denoiser
    spectrum: Spectrum
    data: np.ndarray
    exact: bool = False


def subject(name, folder=Path("networks")):
    """The subject of that name; our own networks lie in `folder`.

    Torch is imported for those that need it only.
    """
    if name in EXACT:
        return _mixture(name)
    if name in SHARED:
        import shared_networks

        spectrum = Spectrum.from_samples(shared_networks.images(name, "train"), basis=BASIS)
        return Subject(name, shared_networks.denoiser(name), spectrum, shared_networks.images(name))
    if name not in OWN:
        raise ValueError(f"`name` must be one of {', '.join((*EXACT, *SHARED, *OWN))}, got {name!r}.")
    return _own(name, Path(folder))


def _mixture(name):
    import mixtures

    mixture = mixtures.fitted(name)
    spectrum = mixture.spectrum(basis=min(BASIS, int(np.prod(mixture.item_shape)) - 1))
    return Subject(name, mixture.denoiser(), spectrum, mixture.draw(1024, 7), exact=True)


def _own(name, folder):
    import train

    from eigenstep.models import load_denoiser

    if name == "mnist_v":
        from eigenstep.cli.demo import bundled

        return Subject(name, load_denoiser(bundled()), Spectrum.load(bundled() / "spectrum.npz"), train.mnist("test"))
    given, kept, held_out = {}, train.items(name, "train", folder), train.items(name, "test", folder)
    recipe = train.RECIPES[name]
    if recipe.labels is not None:
        given = {"labels": LABEL, "negative_labels": recipe.classes, "guidance_scale": GUIDANCE}
        kept, held_out = kept[recipe.labels("train") == LABEL], held_out[recipe.labels("test") == LABEL]
    basis = min(BASIS, kept[0].size - 1, len(kept) - 1)
    return Subject(name, load_denoiser(folder / name, **given), Spectrum.from_samples(kept, basis=basis), held_out)
