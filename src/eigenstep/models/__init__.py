"""Pretrained networks as one protocol, and the gauge that says how good they are beside the Gaussian."""

from eigenstep.models.denoiser import PREDICTIONS, ModelDenoiser
from eigenstep.models.gauge import ErrorCurve, error_curve
from eigenstep.models.sampling import SamplingError, generate, item_noise

__all__ = ["PREDICTIONS", "ErrorCurve", "ModelDenoiser", "SamplingError", "error_curve", "generate", "item_noise"]
