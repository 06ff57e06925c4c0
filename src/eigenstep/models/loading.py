"""`load_denoiser`: from a diffusers pipeline, or the folder it was saved in, to a denoiser."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eigenstep import _checks
from eigenstep._torch import diffusers_module, torch_device, torch_dtype
from eigenstep.models.architectures import ARCHITECTURES, Conditions, HostModule, architecture, tokens
from eigenstep.models.denoiser import TIMESTEPS, Denoiser, GuidedDenoiser
from eigenstep.models.network import TorchNetwork
from eigenstep.models.prompts import encoded_prompt
from eigenstep.models.schedulers import scheduler_convention

INDEX = "model_index.json"
NETWORKS = ("unet", "transformer")
"""What a pipeline calls the network that denoises."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of checkpoints that may run code when they are opened."""


def load_denoiser(
    source: str | os.PathLike[str] | Any,
    *,
    labels: Any = None,
    negative_labels: Any = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    prompt_embeds: Any = None,
    negative_prompt_embeds: Any = None,
    pooled_prompt_embeds: Any = None,
    negative_pooled_prompt_embeds: Any = None,
    guidance_scale: float = 1.0,
    guidance_embedding: float = 3.5,
    image_size: tuple[int, int] | None = None,
    item_shape: tuple[int, ...] | None = None,
    scheduler: Any = None,
    timesteps: str = "fractional",
    device: Any = None,
    dtype: Any = None,
    batch_size: int | None = None,
    variant: str | None = None,
    allow_pickle: bool = False,
) -> Denoiser:
    """The denoiser D(x~, sigma) of a diffusers pipeline: its network, with the path and prediction its scheduler states.

    Only the network and the scheduler are read, and for a prompt the text encoders, which are let go again. With guidance
    the denoiser is the guided one, D_u + g (D_c - D_u), so that what is measured is what will be sampled.

    Parameters
    ----------
    source : path or pipeline
        A folder with a model_index.json (`save_pretrained`); a folder of one network, with the scheduler's configuration
        in it or beside it; or a pipeline in memory, whose network is used as it is, not copied.
    labels, negative_labels : int, or list of one per item
        Class labels; the negative one is guided away from (DiT's default: its null class).
    prompt, negative_prompt : str
        Encoded by the pipeline itself, for all items alike: of Stable Diffusion 1 and 2, and XL. What is guided away from
        without a negative one is what the pipeline takes.
    prompt_embeds, negative_prompt_embeds : (1 or batch, tokens, width) tensor
    pooled_prompt_embeds, negative_pooled_prompt_embeds : (1 or batch, width) tensor
        What the pipeline's `encode_prompt` returns, for pipelines or prompts of other kinds.
    guidance_scale : float
        g; 1 for none.
    guidance_embedding : float
        What a guidance-distilled network (Flux dev) is told, the pipeline's own default.
    image_size : (height, width)
        In pixels, for Stable Diffusion XL. Default: eight times the latents.
    item_shape : tuple of int
        Shape of one item (channels, height, width). Default: what the model's configuration tells; needed where a flow's
        shift depends on it (Flux).
    scheduler : a diffusers scheduler, or a folder of its configuration
        In place of the pipeline's: the one the network was trained with.
    timesteps : {"fractional", "integer"}
        As for `ModelDenoiser`: "integer" for networks that look their time up in a table.
    device, dtype : optional
        Where and in what the network runs; one in memory is moved. Default: where it is, in its type; a folder's on the
        CPU in float32.
    batch_size : int, optional
        Items per call at most; halved where memory runs out.
    variant : str, optional
        Such as "fp16", of files named so.
    allow_pickle : bool
        Read a checkpoint that is not safetensors. Such a file can run any code: only one you trust.

    Raises
    ------
    ValueError
        A folder with missing files; a checkpoint in pickle format that was not asked for; a network, scheduler or
        prediction type that is not known; conditioning that is missing or means nothing; CUDA absent.
    ImportError
        diffusers or torch is missing; the message has the pip command.

    Examples
    --------
    >>> import tempfile
    >>> from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    >>> net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
    ...                   layers_per_block=1, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     DDPMPipeline(net, DDPMScheduler()).save_pretrained(folder)
    ...     denoiser = load_denoiser(folder)
    >>> denoiser.path, denoiser.prediction, denoiser.item_shape
    (VPDiscrete(1000 timesteps, sigma 0.0100013 to 157.407), 'epsilon', (1, 8, 8))
    """
    diffusers_module()
    _checks.choice(timesteps, TIMESTEPS, "timesteps")
    guidance = _checks.real_number(guidance_scale, "guidance_scale")
    where = None if device is None else torch_device(device)
    kind = None if dtype is None else torch_dtype(dtype)
    if isinstance(source, (str, os.PathLike)):
        module, host = _read(Path(source).expanduser(), scheduler, dtype=kind, variant=variant, allow_pickle=allow_pickle)
    else:
        module, host = _taken(source, scheduler)
    known = architecture(module)
    shape = item_shape or known.shape(module.config)
    if image_size is None and shape is not None and len(shape) == 3:
        image_size = (8 * shape[1], 8 * shape[2])
    convention = scheduler_convention(host, tokens=tokens(known, module.config, shape))
    if prompt is not None or negative_prompt is not None:
        embeddings = {
            "prompt_embeds": prompt_embeds,
            "negative_prompt_embeds": negative_prompt_embeds,
            "pooled_prompt_embeds": pooled_prompt_embeds,
            "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
        }
        given = [name for name, value in embeddings.items() if value is not None]
        if given or prompt is None:
            why = f"beside `{given[0]}`" if given else "without `prompt`"
            raise ValueError(f"`{'negative_prompt' if prompt is None else 'prompt'}` means nothing {why}; give one of them.")
        embeddings |= encoded_prompt(
            Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else source,
            prompt,
            negative_prompt=negative_prompt,
            guided=guidance != 1.0,
            network=module,
            device=where,
            dtype=kind,
            variant=variant,
            allow_pickle=allow_pickle,
        )
        prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds = embeddings.values()

    def side(of: Conditions) -> Denoiser:
        network = TorchNetwork(
            module,
            call=HostModule(module, known.call),
            time_label=convention.time_label,
            arguments=known.arguments(module.config, of),
            device=where,
            dtype=kind,
            batch_size=batch_size,
        )
        return convention.denoiser(network, item_shape=shape, timesteps=timesteps)

    conditional = side(Conditions(labels, prompt_embeds, pooled_prompt_embeds, guidance_embedding, image_size))
    if guidance == 1.0:
        return conditional
    if labels is None and prompt_embeds is None:
        raise ValueError(f"`guidance_scale` needs a conditional model, got {guidance:g} for one without; leave it at 1.")
    if negative_labels is None and type(module).__name__ == "DiTTransformer2DModel":
        negative_labels = module.config.num_embeds_ada_norm
    away = Conditions(
        negative_labels, negative_prompt_embeds, negative_pooled_prompt_embeds, guidance_embedding, image_size
    )
    try:
        return GuidedDenoiser(conditional, side(away), guidance)
    except ValueError as error:
        raise ValueError(
            f"`guidance_scale` {guidance:g} needs what to guide away from, the `negative_...` of each condition: {error}"
        ) from None


def _taken(pipeline: Any, scheduler: Any) -> tuple[Any, Any]:
    """The network and scheduler of a pipeline in memory."""
    found = [getattr(pipeline, name) for name in NETWORKS if getattr(pipeline, name, None) is not None]
    host = _scheduler(scheduler) if scheduler is not None else getattr(pipeline, "scheduler", None)
    if type(pipeline).__name__ in ARCHITECTURES:
        found = [pipeline]
    if not found:
        raise ValueError(
            "`source` must be a folder or a diffusers pipeline with a `unet` or `transformer`, got "
            f"{type(pipeline).__name__}; wrap any other network with ModelDenoiser.from_module."
        )
    if host is None:
        raise ValueError(
            f"{type(pipeline).__name__} has no scheduler, which states the path; pass `scheduler`, the one it was trained with."
        )
    return found[0], host


def _read(source: Path, scheduler: Any, *, dtype: Any, variant: str | None, allow_pickle: bool) -> tuple[Any, Any]:
    """The network and scheduler of a folder."""
    if source.is_file():
        pickled = source.suffix.lower() in PICKLED
        raise ValueError(
            f"`source` {str(source)!r} is one file"
            + (" in pickle format, which can run any code when it is opened" if pickled else "")
            + ", without the configuration that says what it is; load it with a pipeline's from_single_file"
            + (" if you trust it" if pickled else "")
            + ", and pass that pipeline or the folder of its save_pretrained."
        )
    if not source.is_dir():
        raise ValueError(
            f"there is no folder {str(source)!r}; for a name on the Hub pass "
            f"DiffusionPipeline.from_pretrained({str(source)!r}), or the folder that its save_pretrained wrote."
        )
    folder, name = source, None
    if (source / INDEX).is_file():
        index = _json(source / INDEX)
        name = next((each for each in NETWORKS if (index.get(each) or [None])[0] is not None), None)
        if name is None:
            raise ValueError(
                f"{source / INDEX} names no `unet` or `transformer`; it is no pipeline that denoises step by step."
            )
        # Pipelines of old keep their network's files beside the index.
        folder = source / name if (source / name).is_dir() or not (source / "config.json").is_file() else source
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no config.json"
            + (
                f", which {INDEX} asks for; copy the folder again, all of it."
                if name
                else f" and no {INDEX}; pass the folder that save_pretrained of a pipeline or of its network wrote."
            )
        )
    module = _network(folder, dtype=dtype, variant=variant, allow_pickle=allow_pickle)
    return module, _scheduler(scheduler) if scheduler is not None else _scheduler_of(source)


def _network(folder: Path, *, dtype: Any, variant: str | None, allow_pickle: bool) -> Any:
    """The network of a folder with a config.json, from safetensors only unless pickle was asked for."""
    diffusers = diffusers_module()
    kind = _json(folder / "config.json").get("_class_name")
    maker = getattr(diffusers, str(kind), None)
    # Pipelines with DiT were saved under a class that diffusers itself now reads as DiT's.
    if (kind not in ARCHITECTURES and kind != "Transformer2DModel") or maker is None:
        raise ValueError(
            f"{folder / 'config.json'} says `_class_name` {kind!r}, no network whose call is known; known are "
            f"{', '.join(ARCHITECTURES)}. Wrap it with ModelDenoiser.from_module, which takes any module."
        )
    pickled = _weights(folder, variant, allow_pickle)
    options: dict[str, Any] = {"use_safetensors": not pickled, "local_files_only": True}
    if variant is not None:
        options["variant"] = variant
    if dtype is not None:
        options["torch_dtype"] = dtype
    try:
        return maker.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights in {folder} cannot be read ({why}); copy them again.") from error


def _weights(folder: Path, variant: str | None, allow_pickle: bool) -> bool:
    """Whether the weights are pickled; refuses where there are none, or where that was not allowed."""
    middle = "" if variant is None else f".{variant}"
    stem = "diffusion_pytorch_model"
    if (folder / f"{stem}{middle}.safetensors").is_file():
        return False
    index = folder / f"{stem}.safetensors.index{middle}.json"
    if index.is_file():
        missing = sorted(set(_json(index).get("weight_map", {}).values()) - {each.name for each in folder.iterdir()})
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of the files that {index.name} lists, the first {missing[0]}; copy the folder "
                "again, all of it."
            )
        return False
    others = sorted(each.name for each in folder.iterdir() if each.suffix == ".safetensors")
    pickles = sorted(each.name for each in folder.iterdir() if each.suffix.lower() in PICKLED)
    if pickles and not others:
        if not allow_pickle:
            raise ValueError(
                f"the weights in {folder} are in pickle format ({pickles[0]}), which can run any code when it is opened; "
                "pass allow_pickle=True if you trust them, or save the model again as safetensors."
            )
        return True
    remedy = "copy the folder again, all of it"
    if others:
        remedy = f"found {', '.join(others)}: choose with `variant`, the middle of such a name"
    raise ValueError(f"{folder} holds no {stem}{middle}.safetensors; {remedy}.")


def _scheduler_of(source: Path) -> Any:
    """The scheduler whose configuration is in a folder, in its `scheduler` folder, or in that of the folder above."""
    for folder in (source / "scheduler", source, source.parent / "scheduler"):
        if (folder / "scheduler_config.json").is_file():
            return _scheduler(folder)
    raise ValueError(
        f"{source} has no scheduler/scheduler_config.json, which states the path; copy it there, or pass `scheduler`, the one "
        "the model was trained with."
    )


def _scheduler(scheduler: Any) -> Any:
    """A scheduler object from itself or from the folder of its configuration."""
    if not isinstance(scheduler, (str, os.PathLike)):
        return scheduler
    folder = Path(scheduler)
    if not (folder / "scheduler_config.json").is_file():
        raise ValueError(f"`scheduler` {str(scheduler)!r} holds no scheduler_config.json; pass its folder, or the object.")
    diffusers = diffusers_module()
    config = _json(folder / "scheduler_config.json")
    kind = config.get("_class_name")
    maker = getattr(diffusers, str(kind), None)
    if maker is None or not hasattr(maker, "from_config"):
        raise ValueError(
            f"{folder / 'scheduler_config.json'} says `_class_name` {kind!r}, no scheduler of diffusers "
            f"{diffusers.__version__}; pass `scheduler`, another one that the model was trained with."
        )
    return maker.from_config(config)


def _json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged and no JSON ({error}); copy it again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it holds no object of JSON; copy it again.")
    return content
