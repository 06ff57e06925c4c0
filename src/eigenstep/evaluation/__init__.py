"""Planned grids beside hand-made ones on a real network: distances, their intervals, and runs that can be gone on with."""

from eigenstep.evaluation.metrics import (
    Interval,
    KernelDistance,
    bootstrap_interval,
    frechet_distance,
    gaussian_frechet,
    kernel_distance,
    paired_interval,
    rmse,
    sliced_w2,
    squared_errors,
    t_interval,
)

__all__ = [
    "Interval",
    "KernelDistance",
    "bootstrap_interval",
    "frechet_distance",
    "gaussian_frechet",
    "kernel_distance",
    "paired_interval",
    "rmse",
    "sliced_w2",
    "squared_errors",
    "t_interval",
]
