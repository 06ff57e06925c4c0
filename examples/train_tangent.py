"""Train a small network with the noise levels of a tangent law, and sample it on a planned grid.

    python examples/train_tangent.py --updates 1500

The data are points on a spiral in the plane; the network answers with the clean point. Training levels are law(u), u
uniform: equal effort along the law, whose one parameter is computed from the data. Needs `eigenstep[torch]`.
"""

import argparse

import numpy as np
import torch

from eigenstep import EDM, Spectrum, alphas_cumprod, optimal_grid, tangent_gamma, tangent_law
from eigenstep.evaluation import sliced_w2
from eigenstep.models import ModelDenoiser, generate

SIGMA_MIN, SIGMA_MAX = 0.01, 20.0


def spiral(rng, count):
    angle = 3 * np.pi * np.sqrt(rng.random(count))
    return np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1) / 5 + 0.03 * rng.standard_normal((count, 2))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=1500)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    data = spiral(rng, 4000)
    spectrum = Spectrum.from_samples(data)
    gamma = tangent_gamma(spectrum)
    law = tangent_law(SIGMA_MIN, SIGMA_MAX, gamma=gamma)
    print(f"gamma {gamma:.3f}; as a DDPM of five timesteps:", alphas_cumprod(law, 5).round(4))
    first, second, last = (torch.nn.Linear(*sizes) for sizes in ((3, 96), (96, 96), (96, 2)))
    net = torch.nn.Sequential(first, torch.nn.SiLU(), second, torch.nn.SiLU(), last)
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)

    def denoise(x, sigma):  # EDM's scaling of what goes in, gamma standing for the data's standard deviation
        return net(torch.cat([x / (gamma**2 + sigma[:, None] ** 2) ** 0.5, torch.log(sigma[:, None]) / 4], dim=1))

    for _ in range(parser.parse_args().updates):
        clean, sigma = (torch.tensor(a).float() for a in (data[rng.integers(4000, size=256)], law(rng.random(256))))
        error = denoise(clean + sigma[:, None] * torch.randn_like(clean), sigma) - clean
        loss = (error**2 * (1 + gamma**2 / sigma[:, None] ** 2)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    denoiser = ModelDenoiser.from_module(denoise, EDM(SIGMA_MIN, SIGMA_MAX), "x0", item_shape=(2,))
    fresh = spiral(np.random.default_rng(1), 2000)
    print(f"steps  sliced W2 to fresh data (data to data: {sliced_w2(data[:2000], fresh):.3f})")
    for n in (2, 4, 8):
        made = generate(denoiser, optimal_grid(spectrum, n, SIGMA_MIN, SIGMA_MAX).sigmas, 2000, solver="ddim")
        print(f"{n:5d}  {sliced_w2(made.numpy(), fresh):.3f}")


if __name__ == "__main__":
    main()
