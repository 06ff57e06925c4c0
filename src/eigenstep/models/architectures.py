"""How each kind of diffusers network is called: what it is conditioned on, how latents are packed, what one item is.

A new kind is one row in `ARCHITECTURES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eigenstep._torch import torch_module

Config = Any
Tensor = Any


@dataclass(frozen=True)
class Conditions:
    """What a conditional model is asked for: one side of a guided pair.

    Attributes
    ----------
    labels : int, list of int or array, or None
        Class labels.
    prompt_embeds : (1 or batch, tokens, width) tensor, or None
    pooled_prompt_embeds : (1 or batch, width) tensor, or None
    guidance_embedding : float
        What a guidance-distilled network is told (Flux), which is no classifier-free guidance.
    image_size : (height, width) in pixels, or None
        What Stable Diffusion XL is told of the size of the image.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> classes = SimpleNamespace(class_embed_type=None, num_class_embeds=10)
    >>> ARCHITECTURES["UNet2DModel"].arguments(classes, Conditions(labels=3))
    {'class_labels': 3}
    """

    labels: Any = None
    prompt_embeds: Any = None
    pooled_prompt_embeds: Any = None
    guidance_embedding: float = 3.5
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Architecture:
    """One kind of network.

    Attributes
    ----------
    folder : its folder in a pipeline.
    arguments : from its configuration and `Conditions` to what it is passed by name; refuses what it cannot take.
    call : (module, x, t, arguments) to its output, shaped like `x` but for a learned variance.
    shape : shape of one item from the configuration, None where it does not tell.
    patch : side of the square of numbers that become one token.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> ARCHITECTURES["UNet2DModel"].shape(SimpleNamespace(in_channels=3, sample_size=32))
    (3, 32, 32)
    """

    folder: str
    arguments: Callable[[Config, Conditions], dict[str, Any]]
    call: Callable[[Any, Tensor, Tensor, Mapping[str, Any]], Any]
    shape: Callable[[Config], tuple[int, ...] | None]
    patch: Callable[[Config], int] = lambda config: 1


@dataclass(frozen=True)
class HostModule:
    """A diffusers network as module(x, t, **arguments), without the half of its output that is a learned variance.

    >>> import torch
    >>> learned = HostModule(None, lambda module, x, t, arguments: (torch.cat([2 * x, x], dim=1),))
    >>> learned(torch.ones(1, 1, 1, 1), torch.zeros(1)).ravel().tolist()
    [2.0]
    """

    module: Any
    call: Callable[[Any, Tensor, Tensor, Mapping[str, Any]], Any]

    def __call__(self, x: Tensor, t: Tensor, **arguments: Any) -> Tensor:
        """The prediction, shaped like `x`."""
        output = self.call(self.module, x, t, arguments)[0]
        channels = x.shape[1]
        return output[:, :channels] if output.shape[1] == 2 * channels else output


def architecture(module: Any) -> Architecture:
    """The row of `ARCHITECTURES` of a network.

    Raises
    ------
    ValueError
        For another kind; for one that takes more channels than it gives, as inpainting does.

    Examples
    --------
    >>> from diffusers import UNet2DModel
    >>> net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
    ...                   layers_per_block=1, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    >>> architecture(net).folder, architecture(net).shape(net.config)
    ('unet', (1, 8, 8))
    """
    kind = type(module).__name__
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"{kind} is no network whose call is known; known are {', '.join(ARCHITECTURES)}. Wrap it with "
            "ModelDenoiser.from_module, which takes any module, its path and prediction."
        )
    config = module.config
    given, made = config.in_channels, getattr(config, "out_channels", None) or config.in_channels
    if made not in (given, 2 * given):
        raise ValueError(
            f"{kind} takes {given} channels and gives {made}: it is conditioned on images, as for inpainting; wrap it with "
            "ModelDenoiser.from_module and a function that adds the other channels."
        )
    return ARCHITECTURES[kind]


def _square(channels: int, size: Any) -> tuple[int, ...] | None:
    if size is None:
        return None
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def _sized(config: Config) -> tuple[int, ...] | None:
    return _square(config.in_channels, config.sample_size)


def _refuse(name: str, value: Any, why: str) -> None:
    if value is not None:
        raise ValueError(f"`{name}` means nothing to this model, {why}; leave it out.")


def _needed(name: str, value: Any, why: str) -> Any:
    if value is None:
        raise ValueError(f"`{name}` is missing: {why}.")
    return value


_ENCODE = "pass what the pipeline's encode_prompt returns for the prompt"


def _labels(config: Config, asked: Conditions) -> dict[str, Any]:
    """The class label of a U-Net that takes one."""
    if config.class_embed_type is None and config.num_class_embeds is None:
        _refuse("labels", asked.labels, "which has no classes")
        return {}
    return {"class_labels": _needed("labels", asked.labels, "the model is class-conditional; pass a class label")}


def _unet_arguments(config: Config, asked: Conditions) -> dict[str, Any]:
    _refuse("prompt_embeds", asked.prompt_embeds, "which takes no prompts")
    _refuse("pooled_prompt_embeds", asked.pooled_prompt_embeds, "which takes no prompts")
    return _labels(config, asked)


def _unet_1d_arguments(config: Config, asked: Conditions) -> dict[str, Any]:
    _refuse("labels", asked.labels, "which has no classes")
    _refuse("prompt_embeds", asked.prompt_embeds, "which takes no prompts")
    _refuse("pooled_prompt_embeds", asked.pooled_prompt_embeds, "which takes no prompts")
    return {}


def _unet_condition_arguments(config: Config, asked: Conditions) -> dict[str, Any]:
    if config.time_cond_proj_dim is not None:
        raise ValueError(
            "`time_cond_proj_dim` is set: the model is a consistency model distilled from a guided one, no denoiser; it has "
            "no posterior mean to plan with."
        )
    arguments = _labels(config, asked)
    crosses = any("Cross" in block for block in (*config.down_block_types, str(config.mid_block_type)))
    if crosses:
        _needed("prompt_embeds", asked.prompt_embeds, f"the model attends to a prompt; {_ENCODE}")
    arguments["encoder_hidden_states"] = asked.prompt_embeds
    extra = config.addition_embed_type
    if extra is None:
        _refuse("pooled_prompt_embeds", asked.pooled_prompt_embeds, "which takes one embedding of the prompt")
    elif extra == "text_time":
        pooled = _needed("pooled_prompt_embeds", asked.pooled_prompt_embeds, f"the model takes it as well; {_ENCODE}")
        height, width = _needed(
            "image_size", asked.image_size, "the model is told the size of the image; pass (height, width) in pixels"
        )
        # Original size, the corner of the crop, target size: an image that is shown whole.
        ids = torch_module().tensor([[height, width, 0, 0, height, width]], dtype=torch_module().float32)
        arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
    else:
        raise ValueError(
            f"`addition_embed_type` {extra!r} is not known; wrap the network with ModelDenoiser.from_module and the arguments "
            "it takes."
        )
    return arguments


def _dit_arguments(config: Config, asked: Conditions) -> dict[str, Any]:
    _refuse("prompt_embeds", asked.prompt_embeds, "which takes classes")
    _refuse("pooled_prompt_embeds", asked.pooled_prompt_embeds, "which takes classes")
    return {"class_labels": _needed("labels", asked.labels, "the model is class-conditional; pass a class label")}


def _text_arguments(config: Config, asked: Conditions) -> dict[str, Any]:
    _refuse("labels", asked.labels, "which takes prompts")
    pooled = asked.pooled_prompt_embeds
    return {
        "encoder_hidden_states": _needed("prompt_embeds", asked.prompt_embeds, f"the model attends to a prompt; {_ENCODE}"),
        "pooled_projections": _needed("pooled_prompt_embeds", pooled, f"the model takes it as well; {_ENCODE}"),
    }


def _flux_arguments(config: Config, asked: Conditions) -> dict[str, Any]:
    arguments = _text_arguments(config, asked)
    if config.guidance_embeds:
        arguments["guidance"] = torch_module().tensor([float(asked.guidance_embedding)])
    return arguments


def _unet_call(module: Any, x: Tensor, t: Tensor, arguments: Mapping[str, Any]) -> Any:
    return module(x, t, return_dict=False, **arguments)


def _transformer_call(module: Any, x: Tensor, t: Tensor, arguments: Mapping[str, Any]) -> Any:
    return module(hidden_states=x, timestep=t, return_dict=False, **arguments)


def _flux_call(module: Any, x: Tensor, t: Tensor, arguments: Mapping[str, Any]) -> Any:
    """Latents in tokens of 2 x 2, each with its row and column; the time in [0, 1], which the network multiplies again."""
    torch = torch_module()
    batch, channels, height, width = x.shape
    if height % 2 or width % 2:
        raise ValueError(f"`x` must have an even height and width for Flux's 2 x 2 tokens, got {height} and {width}.")
    tokens = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    grid = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    image_ids = torch.stack([torch.zeros_like(grid[0]), *grid], dim=-1).reshape(-1, 3).to(x)
    text_ids = torch.zeros(arguments["encoder_hidden_states"].shape[1], 3).to(x)
    output = module(
        hidden_states=tokens.reshape(batch, -1, 4 * channels),
        timestep=t / 1000,
        img_ids=image_ids,
        txt_ids=text_ids,
        return_dict=False,
        **arguments,
    )[0]
    output = output.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return (output.reshape(batch, channels, height, width),)


def _patched(config: Config) -> int:
    return int(config.patch_size)


ARCHITECTURES: dict[str, Architecture] = {
    "UNet1DModel": Architecture("unet", _unet_1d_arguments, _unet_call, lambda c: (c.in_channels, c.sample_size)),
    "UNet2DModel": Architecture("unet", _unet_arguments, _unet_call, _sized),
    "UNet2DConditionModel": Architecture("unet", _unet_condition_arguments, _unet_call, _sized),
    "DiTTransformer2DModel": Architecture("transformer", _dit_arguments, _transformer_call, _sized, _patched),
    "SD3Transformer2DModel": Architecture("transformer", _text_arguments, _transformer_call, _sized, _patched),
    "FluxTransformer2DModel": Architecture("transformer", _flux_arguments, _flux_call, lambda config: None, lambda config: 2),
}
"""Networks of diffusers by class."""


def tokens(kind: Architecture, config: Config, item_shape: tuple[int, ...] | None) -> int | None:
    """How many tokens one item is, where its shape is known.

    >>> from types import SimpleNamespace
    >>> tokens(ARCHITECTURES["SD3Transformer2DModel"], SimpleNamespace(patch_size=2), (16, 8, 8))
    16
    """
    return None if item_shape is None else math.prod(side // kind.patch(config) for side in item_shape[1:])
