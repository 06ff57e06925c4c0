"""Planned grids beside hand-made ones on a real network: distances, their intervals, and runs that can be gone on with."""

from eigenstep.evaluation.cells import Cell
from eigenstep.evaluation.competitors import OURS, WARM_SUFFIX, WITHOUT_WARM, Entry, ModelPlanner, Planner
from eigenstep.evaluation.contest import Evaluation, Verdict, evaluate, headline_metrics, metric_title
from eigenstep.evaluation.features import (
    KINDS,
    ConvolutionFeatures,
    Features,
    PixelFeatures,
    PretrainedFeatures,
    features_named,
    random_convolutions,
    trained_features,
)
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
from eigenstep.evaluation.subject import Model

__all__ = [
    "KINDS",
    "OURS",
    "WARM_SUFFIX",
    "WITHOUT_WARM",
    "Cell",
    "ConvolutionFeatures",
    "Entry",
    "Evaluation",
    "Features",
    "Interval",
    "KernelDistance",
    "Model",
    "ModelPlanner",
    "PixelFeatures",
    "Planner",
    "PretrainedFeatures",
    "Verdict",
    "bootstrap_interval",
    "evaluate",
    "features_named",
    "frechet_distance",
    "gaussian_frechet",
    "headline_metrics",
    "kernel_distance",
    "metric_title",
    "paired_interval",
    "random_convolutions",
    "rmse",
    "sliced_w2",
    "squared_errors",
    "t_interval",
    "trained_features",
]
