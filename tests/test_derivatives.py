"""First and second derivatives of the operations that a GPU computes otherwise than PyTorch, against numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gan_plugin.derivatives import BiasedLeakyReLU, Convolution, for_images_alone

Function = Callable[..., Tensor]
convolution, leaky_relu = cast(Function, Convolution.apply), cast(Function, BiasedLeakyReLU.apply)
SLOPE = 0.3
CONVOLUTIONS = [  # stride, padding, groups, kernel
    ((1, 1), (1, 1), 1, 3),
    ((2, 2), (1, 1), 1, 4),
    ((2, 1), (2, 1), 2, 5),
    ((1, 1), (0, 0), 4, 1),
    ((1, 1), (0, 0), 4, 6),
]


def numbers(*shape: int) -> Tensor:
    """Numbers that are not near 0, where a leaky ReLU has no derivative."""
    values = torch.randn(*shape, dtype=torch.float64)
    return (values + 0.1 * values.sign()).requires_grad_()


@pytest.mark.parametrize(("stride", "padding", "groups", "kernel"), CONVOLUTIONS)
def test_a_convolution(stride: Any, padding: Any, groups: int, kernel: int) -> None:
    torch.manual_seed(0)
    x, weight = numbers(2, 4, 6, 7), numbers(4, 4 // groups, kernel, kernel)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return convolution(x, weight, stride, padding, groups)

    torch.testing.assert_close(function(x, weight), F.conv2d(x, weight, None, stride, padding, 1, groups))
    assert gradcheck(function, (x, weight))
    assert gradgradcheck(function, (x, weight))


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_leaky_relu(shape: tuple[int, ...], biased: bool) -> None:
    torch.manual_seed(0)
    x, bias = numbers(*shape), 0.01 * numbers(4).detach()
    if biased:
        bias.requires_grad_()

    def function(x: Tensor, bias: Tensor) -> Tensor:
        return leaky_relu(x, bias if biased else None, SLOPE)

    moved = x + bias.view(1, -1, *[1] * (x.dim() - 2)) if biased else x
    torch.testing.assert_close(function(x, bias), F.leaky_relu(moved, SLOPE))
    assert gradcheck(function, (x, bias))
    assert gradgradcheck(function, (x, bias))


def test_gradients_of_images_alone_compute_none_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """And their own derivatives are all there."""
    torch.manual_seed(0)
    x, weight = numbers(2, 4, 6, 6), numbers(4, 4, 3, 3)
    computed: list[str] = []
    for name in ("conv2d_input", "conv2d_weight"):
        original = getattr(torch.nn.grad, name)

        def watched(*arguments: Any, name: str = name, original: Any = original) -> Tensor:
            computed.append(name)
            return cast(Tensor, original(*arguments))

        monkeypatch.setattr(f"gan_plugin.derivatives.{name}", watched)
    y = convolution(x, weight, (1, 1), (1, 1), 1).square().sum()
    with for_images_alone():
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    assert computed == ["conv2d_input"]
    of_weight, of_x = torch.autograd.grad(gradient.square().sum(), (weight, x))
    plain = F.conv2d(x, weight, padding=1).square().sum()
    (expected,) = torch.autograd.grad(plain, x, create_graph=True)
    expected_weight, expected_x = torch.autograd.grad(expected.square().sum(), (weight, x))
    torch.testing.assert_close(of_weight, expected_weight)
    torch.testing.assert_close(of_x, expected_x)
