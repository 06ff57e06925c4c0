"""ComfyUI nodes: noise levels planned for a model's own data. The planning is `eigenstep.adapters.comfyui`; this is its skin.

Written to ComfyUI's first node API (NODE_CLASS_MAPPINGS), which every release loads, the current ones before the newer API.
"""

import os

try:
    from eigenstep.adapters import comfyui as planner
except ImportError as error:
    raise ImportError(
        'The eigenstep nodes need the eigenstep package in ComfyUI\'s own Python: pip install "eigenstep>=0.1"'
    ) from error

import comfy.samplers
import folder_paths

CATEGORY = "sampling/custom_sampling/eigenstep"
NONE = "(put a spectrum into models/eigenstep)"

folder_paths.add_model_folder_path("eigenstep", os.path.join(folder_paths.models_dir, "eigenstep"))


def spectrum_folders():
    """Folders that hold spectra: models/eigenstep, and those of extra_model_paths.yaml."""
    return folder_paths.get_folder_paths("eigenstep")


def spectrum_input():
    """The choice of a spectrum file."""
    return (
        list(planner.spectrum_files(spectrum_folders())) or [NONE],
        {
            "tooltip": "What the model's images look like to the planner: a file made by `eigenstep spectrum`, in "
            "ComfyUI/models/eigenstep. Use one measured with the same VAE as the model. Press R after adding a file."
        },
    )


def sampler_input():
    """The choice of the sampler that will run."""
    return (
        list(planner.SAMPLERS),
        {
            "default": "euler",
            "tooltip": "The sampler that will use these sigmas: choose the same in KSamplerSelect. Flow models (SD3, Flux, "
            "Wan): euler, ddim or dpmpp_2m_sde.",
        },
    )


def objective_input():
    """What counts as an error."""
    return (
        planner.objectives(),
        {
            "default": "auto",
            "tooltip": "What the levels are best at. auto: w2, or blend where the sampler remembers steps; w2: closeness of "
            "the images; kl: no detail may be lost, small ones count as much as large ones (set a noise floor); local: each "
            "step by itself; blend: w2 and a fifth of local.",
        },
    )


NOISE_FLOOR = (
    "FLOAT",
    {
        "default": 0.0,
        "min": 0.0,
        "max": 100.0,
        "step": 0.001,
        "round": False,
        "tooltip": "Details weaker than this (in units of the latent) do not count. 0 counts everything.",
    },
)

DENOISE = (
    "FLOAT",
    {
        "default": 1.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "For image to image: the share of the model's time that is sampled. All the steps are planned on that "
        "share; none is thrown away.",
    },
)


def model_sampling_of(model):
    """What ComfyUI knows about a model's noise levels, or None."""
    return None if model is None else model.get_model_object("model_sampling")


class EigenstepSigmas:
    """The best noise levels for a model's data, a number of steps and a sampler."""

    @classmethod
    def INPUT_TYPES(cls):
        """Inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "spectrum": spectrum_input(),
                "steps": ("INT", {"default": 8, "min": 1, "max": 200, "tooltip": "Steps to plan, whatever denoise is."}),
                "sampler": sampler_input(),
                "objective": objective_input(),
                "denoise": DENOISE,
            },
            "optional": {
                "model": (
                    "MODEL",
                    {
                        "tooltip": "Connect the model as it is sampled, behind any shift node: its own range of levels is "
                        "used. Without it, start_at_sigma must be given and levels are those of SD 1.x and SDXL."
                    },
                ),
                "start_at_sigma": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 100000.0,
                        "step": 0.001,
                        "round": False,
                        "tooltip": "Level to start at, in the model's own numbers (flow models: 1 ... 0). 0: by denoise.",
                    },
                ),
                "end_at_sigma": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 100000.0,
                        "step": 0.001,
                        "round": False,
                        "tooltip": "Level to stop at, leaving its noise for another sampler. 0: denoise fully.",
                    },
                ),
                "noise_floor": NOISE_FLOOR,
            },
        }

    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "plan"
    CATEGORY = CATEGORY
    DESCRIPTION = "Noise levels planned for your model's data: connect to SamplerCustom or SamplerCustomAdvanced."

    def plan(
        self, spectrum, steps, sampler, objective, denoise, model=None, start_at_sigma=0.0, end_at_sigma=0.0, noise_floor=0.0
    ):
        """Steps + 1 levels, the last 0 unless `end_at_sigma` is given."""
        levels = planner.plan_sigmas(
            planner.load_spectrum(spectrum, spectrum_folders()),
            steps,
            model_sampling_of(model),
            sampler=sampler,
            objective=objective,
            noise_floor=noise_floor,
            denoise=denoise,
            start_at=start_at_sigma or None,
            end_at=end_at_sigma,
        )
        return (planner.tensor(levels),)


class EigenstepTwoModels:
    """The best noise levels for two models that change places at a sigma, and each one's share of the steps."""

    @classmethod
    def INPUT_TYPES(cls):
        """Inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model for high noise, behind any shift node."}),
                "spectrum": spectrum_input(),
                "steps": ("INT", {"default": 8, "min": 2, "max": 200, "tooltip": "Steps of both models together."}),
                "boundary": (
                    "FLOAT",
                    {
                        "default": 0.875,
                        "min": 0.0,
                        "max": 100000.0,
                        "step": 0.001,
                        "round": False,
                        "tooltip": "Where the second model takes over, in the model's own numbers. Wan 2.2: 0.875 for text to "
                        "video, 0.9 for image to video.",
                    },
                ),
                "high_steps": (
                    "INT",
                    {"default": 0, "min": 0, "max": 199, "tooltip": "Steps of the first model. 0: the share with least error."},
                ),
                "sampler": sampler_input(),
                "objective": objective_input(),
                "denoise": DENOISE,
            },
            "optional": {"noise_floor": NOISE_FLOOR},
        }

    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")
    FUNCTION = "plan"
    CATEGORY = CATEGORY
    DESCRIPTION = "Two lists that share the level where the models change places: one sampler for each."

    def plan(self, model, spectrum, steps, boundary, high_steps, sampler, objective, denoise, noise_floor=0.0):
        """The levels of the first model and those of the second."""
        parts = planner.plan_split(
            planner.load_spectrum(spectrum, spectrum_folders()),
            steps,
            boundary,
            model_sampling_of(model),
            high_steps=high_steps or None,
            sampler=sampler,
            objective=objective,
            noise_floor=noise_floor,
            denoise=denoise,
        )
        return tuple(planner.tensor(part) for part in parts)


class EigenstepSplitSigmas:
    """Any list of sigmas, cut where a second model takes over; no level is moved."""

    @classmethod
    def INPUT_TYPES(cls):
        """Inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "sigmas": ("SIGMAS",),
                "sigma": (
                    "FLOAT",
                    {
                        "default": 0.875,
                        "min": 0.0,
                        "max": 100000.0,
                        "step": 0.001,
                        "round": False,
                        "tooltip": "The second list begins at the first level not above this one.",
                    },
                ),
            }
        }

    RETURN_TYPES = ("SIGMAS", "SIGMAS")
    RETURN_NAMES = ("high_sigmas", "low_sigmas")
    FUNCTION = "split"
    CATEGORY = CATEGORY

    def split(self, sigmas, sigma):
        """The levels down to the one where the second model takes over, and those from it."""
        return tuple(planner.tensor(part) for part in planner.split_sigmas(sigmas.tolist(), sigma))


# Older releases have no registry of schedulers; the nodes work there all the same.
if hasattr(comfy.samplers, "SCHEDULER_HANDLERS"):
    planner.register(
        comfy.samplers.SCHEDULER_NAMES, comfy.samplers.SCHEDULER_HANDLERS, comfy.samplers.SchedulerHandler, spectrum_folders
    )

NODE_CLASS_MAPPINGS = {
    "EigenstepSigmas": EigenstepSigmas,
    "EigenstepTwoModels": EigenstepTwoModels,
    "EigenstepSplitSigmas": EigenstepSplitSigmas,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "EigenstepSigmas": "Eigenstep Sigmas",
    "EigenstepTwoModels": "Eigenstep Two Models",
    "EigenstepSplitSigmas": "Eigenstep Split Sigmas",
}
