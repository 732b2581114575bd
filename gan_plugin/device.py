"""Where training runs and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from gan_plugin.errors import UserError


def choose_device(name: str) -> torch.device:
    """Choose a device that works for ``auto``, ``cuda`` or ``cpu``.

    Raises:
        UserError: CUDA was demanded and is not there; the message names the cause.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        reason = "PyTorch sees no usable NVIDIA GPU" if built else f"torch {torch.__version__} was built without CUDA"
        raise UserError(f"device=cuda is not possible, {reason}: give device=cpu, or install what is missing.")
    return torch.device("cuda")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Map ``auto``, ``bf16`` or ``float32`` to the type in which autocast computes; weights always stay float32."""
    fast = bf16_is_native(device) if name == "auto" else name == "bf16"
    return torch.bfloat16 if fast else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """Return the precision as a user writes it."""
    return "bf16" if precision == torch.bfloat16 else "float32"


def bf16_is_native(device: torch.device) -> bool:
    """Return whether the hardware computes bfloat16 products; emulated ones are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which forward passes compute in ``precision``."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the layout of images and weights: channels_last spares tensor cores transposes, and a CPU nothing."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
