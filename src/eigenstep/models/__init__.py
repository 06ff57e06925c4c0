"""Pretrained networks as one protocol, and the gauge that says how good they are beside the Gaussian."""

from eigenstep.models.denoiser import PREDICTIONS, Denoiser, GuidedDenoiser, ModelDenoiser, Preconditioned
from eigenstep.models.gauge import ErrorCurve, error_curve
from eigenstep.models.loading import load_denoiser
from eigenstep.models.network import TorchNetwork
from eigenstep.models.sampling import SamplingError, generate, item_noise
from eigenstep.models.schedulers import HostConvention, scheduler_convention

__all__ = [
    "PREDICTIONS", "Denoiser", "ErrorCurve", "GuidedDenoiser", "HostConvention", "ModelDenoiser", "Preconditioned",
    "SamplingError", "TorchNetwork", "error_curve", "generate", "item_noise", "load_denoiser", "scheduler_convention",
]  # fmt: skip
