"""Pretrained denoisers that others made, read from plain tensors: the two families described in the shared folder's README.

    EIGENSTEP_SHARED=../shared python experiments/shared_networks.py       # the check of a correct forward pass

Evidence only, never part of the package: the weights stay where they lie, and this file knows their architectures.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from eigenstep import VPDiscrete
from eigenstep.models import ModelDenoiser

SHARED = Path(os.environ.get("EIGENSTEP_SHARED", "../shared"))
SDALOGLU = ("sdaloglu_mnist_lin", "sdaloglu_mnist_geo", "sdaloglu_mnist_cos", "sdaloglu_mnist_lin100ep")
PULFER = ("pulfer_mnist", "pulfer_fashion")
NAMES = (*SDALOGLU, *PULFER)


class SdalogluNet:
    """Epsilon prediction, time t/T in (0, 1), 28 x 28 images in [-0.5, 0.5]; T = 1000, trained on t = 1 .. T-1."""

    def __init__(self, name, dtype=torch.float32):
        arrays = np.load(SHARED / "weights" / f"{name}.npz")
        self.alphas_cumprod = arrays["alpha_t"].astype(np.float64)
        self.n_timesteps = self.alphas_cumprod.size - 1
        self.w = {key[3:]: torch.tensor(arrays[key], dtype=dtype) for key in arrays.files if key.startswith("gt.")}
        # Path index i = 0 .. T-2 stands for the network's t = i + 1: t = 0 has no noise and was never trained.
        self.path = VPDiscrete.from_alphas_cumprod(self.alphas_cumprod[1 : self.n_timesteps])

    def __call__(self, x, index):
        w = self.w
        phase = torch.as_tensor((index + 1) / self.n_timesteps, dtype=x.dtype) * w["frequencies"]
        time = torch.cat([torch.sin(phase), torch.cos(phase) - 1])[None]
        for layer in (0, 2, 4, 6):
            time = F.linear(time, w[f"time_embed.{layer}.weight"], w[f"time_embed.{layer}.bias"])
            time = F.gelu(time) if layer < 6 else time
        for block in range(4):
            prefix = f"blocks.{block}.net"
            x = F.conv2d(x, w[f"{prefix}.0.weight"], w[f"{prefix}.0.bias"], padding="same")
            x = F.gelu(F.layer_norm(x, x.shape[1:], w[f"{prefix}.1.weight"], w[f"{prefix}.1.bias"]))
            x = x + time[:, :, None, None] if block == 0 else x
        return F.conv2d(x, w["blocks.4.weight"], w["blocks.4.bias"], padding="same")


class PulferNet:
    """Epsilon prediction, integer t = 0 .. 999, 28 x 28 images in [-1, 1]; a small U-Net on a linear-beta DDPM path."""

    def __init__(self, name, dtype=torch.float32):
        arrays = np.load(SHARED / "weights" / f"{name}.npz")
        prefix = "network."
        self.w = {k[len(prefix) :]: torch.tensor(arrays[k], dtype=dtype) for k in arrays.files if k.startswith(prefix)}
        self.path = VPDiscrete.ddpm()
        self.n_timesteps = 1000

    def _conv(self, x, name, **options):
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **options)

    def _up(self, x, name, **options):
        return F.conv_transpose2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **options)

    def _stage(self, x, name, embedding, time):
        hidden = F.silu(F.linear(embedding, self.w[f"{time}.0.weight"], self.w[f"{time}.0.bias"]))
        x = x + F.linear(hidden, self.w[f"{time}.2.weight"], self.w[f"{time}.2.bias"])[:, :, None, None]
        for k in range(3):
            block = f"{name}.{k}"
            if not (name == "b_out" and k == 2):
                x = F.layer_norm(x, x.shape[1:], self.w[f"{block}.ln.weight"], self.w[f"{block}.ln.bias"])
            x = F.silu(self._conv(x, f"{block}.conv1", padding=1))
            x = F.silu(self._conv(x, f"{block}.conv2", padding=1))
        return x

    def __call__(self, x, index):
        row = int(index)
        if row != index:
            raise ValueError(f"`index` must be an integer timestep for this network, got {index}.")
        embedding = self.w["time_embed.weight"][row][None]
        first = self._stage(x, "b1", embedding, "te1")
        second = self._stage(self._conv(first, "down1", stride=2, padding=1), "b2", embedding, "te2")
        third = self._stage(self._conv(second, "down2", stride=2, padding=1), "b3", embedding, "te3")
        middle = self._conv(F.silu(self._conv(third, "down3.0")), "down3.2", stride=2, padding=1)
        middle = self._stage(middle, "b_mid", embedding, "te_mid")
        up = self._up(F.silu(self._up(middle, "up1.0", stride=2, padding=1)), "up1.2")
        up = self._stage(torch.cat([third, up], dim=1), "b4", embedding, "te4")
        up = self._stage(torch.cat([second, self._up(up, "up2", stride=2, padding=1)], dim=1), "b5", embedding, "te5")
        up = self._stage(torch.cat([first, self._up(up, "up3", stride=2, padding=1)], dim=1), "b_out", embedding, "te_out")
        return self._conv(up, "conv_out", padding=1)


def load(name):
    """The network of that name; call it as net(x_t, path index), x_t of shape (batch, 1, 28, 28)."""
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}, got {name!r}.")
    return SdalogluNet(name) if name in SDALOGLU else PulferNet(name)


def denoiser(name):
    """The network of that name as a denoiser, for `eigenstep evaluate "experiments/shared_networks.py:denoiser(NAME)"`."""
    net = load(name)

    def network(x, index):
        # Numpy in, numpy out; tensors stay tensors, so that samples may be drawn by either.
        with torch.no_grad():
            if isinstance(x, np.ndarray):
                return net(torch.as_tensor(x, dtype=torch.float32), index).numpy().astype(x.dtype)
            return net(x.float(), index).to(x.dtype)

    times = "integer" if name in PULFER else "fractional"
    return ModelDenoiser(network, net.path, "epsilon", item_shape=(1, 28, 28), timesteps=times)


def images(name, split="test"):
    """The network's own data in its own range: (n, 1, 28, 28) float32."""
    file = "fashion_mnist.npz" if name == "pulfer_fashion" else "mnist.npz"
    pixels = np.load(SHARED / "data" / file)[split].astype(np.float32)[:, None]
    return pixels / 255 - 0.5 if name in SDALOGLU else pixels / 127.5 - 1


@torch.no_grad()
def forward_check(name, seed=0):
    """Mean epsilon error on 200 test images at ten times, the number that the shared README gives."""
    net = load(name)
    x = torch.tensor(images(name)[:200])
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for fraction in (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.999):
        index = round(fraction * net.n_timesteps) - 1
        alpha = float(net.path.alpha(index))
        noise = torch.randn(x.shape, generator=generator)
        errors.append(float(((net(alpha * x + (1 - alpha**2) ** 0.5 * noise, index) - noise) ** 2).mean()))
    return float(np.mean(errors))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    for name in parser.parse_args().names:
        draws = [forward_check(name, seed) for seed in range(3)]
        print(f"{name:26s} epsilon error {np.mean(draws):.4f} +- {np.std(draws, ddof=1):.4f} (three noise draws)")


if __name__ == "__main__":
    main()
