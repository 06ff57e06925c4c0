"""Prompts as embeddings: the text encoders of a pipeline, called by the pipeline's own `encode_prompt`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eigenstep._torch import diffusers_module, torch_module

_ONE = ("prompt_embeds", "negative_prompt_embeds")
_TWO = (*_ONE, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")

PROMPTED: Mapping[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": _ONE,
    "StableDiffusionImg2ImgPipeline": _ONE,
    "StableDiffusionXLPipeline": _TWO,
    "StableDiffusionXLImg2ImgPipeline": _TWO,
}
"""What the `encode_prompt` of a class of pipelines returns, in its order."""


def encoded_prompt(
    source: Any,
    prompt: str,
    *,
    negative_prompt: str | None = None,
    guided: bool = False,
    network: Any = None,
    device: Any = None,
    dtype: Any = None,
    variant: str | None = None,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """The embeddings of a prompt as `load_denoiser` takes them, by the pipeline's own `encode_prompt`.

    Parameters
    ----------
    source : folder or pipeline
        Of a folder the tokenizers and text encoders are read, and let go again.
    prompt, negative_prompt : str
        Without a negative one, what the pipeline itself guides away from: the empty prompt, or zeros.
    guided : bool
        Whether to encode what to guide away from.
    network : optional
        The U-Net of a folder's pipeline where it is in memory already: it is not read again.
    device, dtype, variant, allow_pickle
        As for `load_denoiser`.

    Raises
    ------
    ValueError
        A class of pipelines whose prompts are not known; a folder without its text encoders; a negative prompt where
        nothing is guided.
    ImportError
        transformers is missing; the message has the pip command.

    Examples
    --------
    >>> import torch
    >>> class StableDiffusionPipeline:                                              # in place of one of diffusers
    ...     text_encoder = torch.nn.Linear(1, 1)
    ...     def encode_prompt(self, prompt, negative_prompt, device, num_images_per_prompt, do_classifier_free_guidance):
    ...         return torch.full((1, 2, 3), float(len(prompt))), None
    >>> encoded_prompt(StableDiffusionPipeline(), "a cat")["prompt_embeds"].tolist()
    [[[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]]
    """
    for name, text in {"prompt": prompt, "negative_prompt": negative_prompt}.items():
        if not isinstance(text, str) and (text is not None or name == "prompt"):
            raise ValueError(f"`{name}` must be text, got {text!r}; give embeddings for one prompt of each item.")
    if negative_prompt is not None and not guided:
        raise ValueError(
            f"`negative_prompt` {negative_prompt!r} means nothing without guidance; give a `guidance_scale` other than 1, or "
            "leave it out."
        )
    folder = isinstance(source, Path)
    kind = _class_of(source) if folder else type(source).__name__
    if kind not in PROMPTED:
        raise ValueError(
            f"`prompt` can be encoded by {', '.join(PROMPTED)}, and this is {kind}; give embeddings by Python: "
            "load_denoiser(..., prompt_embeds=...), from what its encode_prompt returns."
        )
    pipeline = source
    if folder:
        pipeline = _read(source, kind, network, variant=variant, allow_pickle=allow_pickle)
    named = (getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2"))
    encoders = [each for each in named if each is not None]
    if not encoders:
        raise ValueError(f"`prompt` needs the text encoder of {kind}, which is not there; give embeddings, `prompt_embeds`.")
    for each in encoders if folder else ():
        each.to(device=device, dtype=torch_module().float32 if dtype is None else dtype)
    with torch_module().no_grad():
        found = pipeline.encode_prompt(
            prompt=prompt,
            negative_prompt=negative_prompt,
            device=next(encoders[0].parameters()).device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
        )
    return {name: value for name, value in zip(PROMPTED[kind], found, strict=True) if value is not None}


def _class_of(folder: Path) -> str:
    """The class of the pipeline that was saved in a folder."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"`prompt` needs a pipeline's folder, with its tokenizers and text encoders, and {folder} has no {index.name}; "
            "give embeddings by Python: load_denoiser(..., prompt_embeds=...)."
        )
    return str(json.loads(index.read_text(encoding="utf-8")).get("_class_name"))


def _read(folder: Path, kind: str, network: Any, *, variant: str | None, allow_pickle: bool) -> Any:
    """The pipeline of a folder around a network that may be there already."""
    try:
        import transformers
    except ImportError:
        raise ImportError("encoding a prompt needs transformers; install it with: pip install transformers") from None
    diffusers = diffusers_module()
    # No scheduler of its own: pipelines warn of what an old one would do in sampling.
    parts = {"scheduler": diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)}
    parts |= {"feature_extractor": None, "image_encoder": None} | ({} if network is None else {"unet": network})
    if PROMPTED[kind] is _ONE:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    if variant is not None:
        parts["variant"] = variant
    bars = [module.utils.logging for module in (diffusers, transformers)]
    shown = [each.is_progress_bar_enabled() for each in bars]
    for each in bars:
        each.disable_progress_bar()
    try:
        return getattr(diffusers, kind).from_pretrained(
            folder,
            **parts,
            use_safetensors=None if allow_pickle else True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(
            f"the text encoders and tokenizers in {folder} cannot be read ({why}); copy the folder again, all of it, or give "
            "embeddings, `prompt_embeds`."
        ) from error
    finally:
        for each, was in zip(bars, shown, strict=True):
            if was:
                each.enable_progress_bar()
