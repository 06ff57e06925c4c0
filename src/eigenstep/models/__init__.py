"""Pretrained networks as one protocol, and the gauge that says how good they are beside the Gaussian."""

from eigenstep.models.denoiser import PREDICTIONS, ModelDenoiser
from eigenstep.models.gauge import ErrorCurve, error_curve

__all__ = ["PREDICTIONS", "ErrorCurve", "ModelDenoiser", "error_curve"]
