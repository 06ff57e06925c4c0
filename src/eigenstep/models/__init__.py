"""Pretrained networks as one protocol, and the gauge that says how good they are beside the Gaussian."""

from eigenstep.models.denoiser import PREDICTIONS, Denoiser, GuidedDenoiser, ModelDenoiser, Preconditioned
from eigenstep.models.effective import effective_spectrum
from eigenstep.models.fitting import Fitted, fit_levels
from eigenstep.models.gauge import ErrorCurve, error_curve
from eigenstep.models.loading import load_denoiser
from eigenstep.models.network import TorchNetwork
from eigenstep.models.plan import Candidate, Plan, plan
from eigenstep.models.profile import TARGETS, ModelProfile, profile
from eigenstep.models.sampling import SamplingError, generate, item_noise
from eigenstep.models.schedulers import HostConvention, scheduler_convention
from eigenstep.models.warm import WarmStart

__all__ = [
    "PREDICTIONS", "TARGETS", "Candidate", "Denoiser", "ErrorCurve", "Fitted", "GuidedDenoiser", "HostConvention",
    "ModelDenoiser", "ModelProfile", "Plan", "Preconditioned", "SamplingError", "TorchNetwork", "WarmStart",
    "effective_spectrum", "error_curve", "fit_levels", "generate", "item_noise", "load_denoiser", "plan", "profile",
    "scheduler_convention",
]  # fmt: skip
