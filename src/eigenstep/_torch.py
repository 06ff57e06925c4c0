"""The door to torch: imported on demand, with devices and types refused in whole sentences."""

from __future__ import annotations

from typing import Any


def torch_module() -> Any:
    """The module torch, or the pip command that brings it.

    >>> torch_module().float32
    torch.float32
    """
    try:
        import torch
    except ImportError:
        raise ImportError('running networks needs torch; install it with: pip install "eigenstep[torch]"') from None
    return torch


def diffusers_module() -> Any:
    """The module diffusers, or the pip command that brings it.

    >>> diffusers_module().__name__
    'diffusers'
    """
    torch_module()
    try:
        import diffusers
    except ImportError:
        raise ImportError(
            'loading pipelines needs diffusers; install it with: pip install "eigenstep[diffusers]"'
        ) from None
    return diffusers


def torch_device(device: Any) -> Any:
    """A torch device that is there.

    Raises
    ------
    ValueError
        For a name that torch does not know; for CUDA where there is none.

    Examples
    --------
    >>> torch_device("cpu")
    device(type='cpu')
    """
    torch = torch_module()
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"`device` must be a device of torch such as 'cpu' or 'cuda:0', got {device!r}.") from None
    count = torch.cuda.device_count() if found.type == "cuda" else 0
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= count):
        raise ValueError(
            f"`device` {str(device)!r} is not there: torch {torch.__version__} sees {count} CUDA devices; pass device='cpu', "
            "or install a driver and a build of torch for CUDA."
        )
    return found


def torch_dtype(dtype: Any) -> Any:
    """A floating type of torch, by itself or by name.

    >>> torch_dtype("float16")
    torch.float16
    """
    torch = torch_module()
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"`dtype` must be a floating type such as 'float32' or torch.float16, got {dtype!r}.")
    return found
