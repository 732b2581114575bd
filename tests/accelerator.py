"""An accelerator that is not there: fake tensors on a device of its own, so that a CPU can prove what holds on a GPU.

Operations compute shapes and no values. So a value that is read on the host, or that decides what is computed, raises
``DataDependentOutputException`` or ``DynamicOutputShapeException``; tensors of two devices in one operation raise
``FakeTensorDeviceMismatchError``. The device is PyTorch's PrivateUse1, which may be written in Python, where autograd
asks a device named "cuda" for what a build without CUDA lacks.

Importing this registers the device in the whole process: do that in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "fake"
AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
LOWERED = ("linear", "conv2d", "conv_transpose2d.input", "matmul", "mm", "bmm", "addmm", "convolution")


class Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]  # PyTorch gives it no type
    """What PyTorch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def lowered(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator with its floating point tensors cast to what autocast says, as CUDA does for products."""

    def run(*arguments: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME)
        cast = [a.to(dtype) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST):
            return operator(*cast)

    return run


def register() -> list[torch.library.Library]:
    """Register the device and its autocast; returns what has to be kept for that to last."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    rest = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    rest.fallback(torch.library.fallthrough_kernel)
    products = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for name in LOWERED:
        packet, _, overload = name.partition(".")
        products.impl(name, lowered(getattr(getattr(torch.ops.aten, packet), overload or "default")))
    return [rest, products]


LIBRARIES = register()
DEVICE = torch.device(NAME, 0)  # with its index: without one PyTorch would ask for the current device


class Fake(FakeTensorMode):
    """Tensors made within it are fake."""

    avoid_device_init = True

    def __init__(self) -> None:
        super().__init__()
        # or Module.to() could not put other tensors in the place of parameters that something refers to
        self.fake_tensor_converter.set_tensor_memo = lambda tensor, fake: None


class Trace(TorchDispatchMode):
    """Lists operations within it.

    Attributes:
        calls: each with its arguments, of tensors their shape, strides and type.
        host: the names of those that touch a tensor elsewhere than on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.host: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "aten":
            self.calls.append(f"{func} {tree_map(described, (args, kwargs))}")
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            if any(tensor.device != DEVICE for tensor in tensors):
                self.host.append(str(func))
        return result


def described(value: Any) -> Any:
    """Return what is the same for two tensors of one kind, and any other value as it is."""
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, torch.Tensor) else value
