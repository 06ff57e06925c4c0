"""A solver of your own, planned for and sampled with: nothing in the package needs to know it.

    python examples/custom_solver.py

Ralston's second-order method on dx/dsigma = (x - D)/sigma, whose second call is at two thirds of the step: nodes and weights of
Radau's quadrature. A solver is one function on arrays of any kind, and a record that says what it costs.
"""

import numpy as np

from eigenstep import SOLVERS, Solver, Spectrum, divergence, optimal_grid, propagate, sample


def ralston(denoise, x, history, sigma, sigma_next, context):
    slope = (x - denoise(x, sigma)) / sigma
    step = sigma_next - sigma
    if context.order == 1:  # onto sigma = 0, where no second call is possible
        return x + step * slope, ()
    sigma_two = sigma + 2 / 3 * step
    x_two = x + 2 / 3 * step * slope
    slope_two = (x_two - denoise(x_two, sigma_two)) / sigma_two
    return x + step * (slope + 3 * slope_two) / 4, ()


RALSTON = Solver(name="ralston", order=2, step=ralston, evaluations=2, source="Ralston (1962)")


def main():
    spectrum = Spectrum.from_zoo("cifar10")
    print("calls   ralston      heun  (error as a share of the variance, each on its own grid)")
    for n in (4, 6, 8, 12):
        shares = []
        for solver in (RALSTON, SOLVERS["heun"]):
            plan = optimal_grid(spectrum, n, 0.002, 80.0, solver=solver)
            shares.append(divergence(spectrum, plan.sigmas, solver=solver) / spectrum.trace)
        print(f"{RALSTON.nfe(n):5d}", *(f"{share:9.3%}" for share in shares))

    # The same function on samples: a Gaussian of variance 4, whose denoiser is x 4/(4 + sigma^2).
    source = Spectrum.from_eigenvalues([4.0])
    sigmas = optimal_grid(source, 4, 0.01, 20.0, solver=RALSTON).sigmas
    x = np.sqrt(4 + sigmas[0] ** 2) * np.random.default_rng(0).standard_normal(200_000)
    out = sample(lambda x, sigma: x * 4 / (4 + sigma**2), x, sigmas, solver=RALSTON)
    print(f"variance of 200,000 samples {out.var():.3f}, predicted {propagate(source, sigmas, solver=RALSTON)[0]:.3f}")


if __name__ == "__main__":
    main()
