"""Operations that are differentiated twice, as penalties on gradients do, with derivatives that cost as little as they.

PyTorch's own second derivatives of a convolution take one convolution a group, with kernels as large as images, and
those of leaky ReLU add zeros. Here each derivative is again one of the operation's own kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.grad import conv2d_input, conv2d_weight


class Switch:
    """A switch that every thread sees: autograd runs what is on a GPU in threads of its own."""

    enabled = True


weights_learn = Switch()


@contextmanager
def for_images_alone() -> Iterator[None]:
    """Compute within it no gradients of weights: autograd does not tell a function whether they are asked for."""
    weights_learn.enabled = False
    try:
        yield
    finally:
        weights_learn.enabled = True


class Convolution(Function):
    """y = w ∗ x; stride, padding and groups as those of ``torch.conv2d``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options = stride, padding, groups
        return torch.conv2d(x, weight, None, stride, padding, 1, groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        needs_input, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and weights_learn.enabled
        of_input = ConvolutionInput.apply(gradient, weight, x.shape, *ctx.options) if needs_input else None
        of_weight = ConvolutionWeight.apply(gradient, x, weight.shape, *ctx.options) if needs_weight else None
        return of_input, of_weight, None, None, None


class ConvolutionInput(Function):
    """The derivative of a convolution by its input, in a direction g of its output: linear in g and in the weight."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, shape: Any, stride: Any, padding: Any, groups: int) -> Tensor:
        ctx.save_for_backward(g, weight)
        ctx.options = stride, padding, groups
        gradient: Tensor = conv2d_input(shape, weight, g, stride, padding, 1, groups)
        return gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,), (g, weight) = gradients, ctx.saved_tensors
        needs_g, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and weights_learn.enabled
        of_g = Convolution.apply(gradient, weight, *ctx.options) if needs_g else None
        of_weight = ConvolutionWeight.apply(g, gradient, weight.shape, *ctx.options) if needs_weight else None
        return of_g, of_weight, None, None, None, None


class ConvolutionWeight(Function):
    """The derivative of a convolution by its weight, in a direction g of its output: linear in g and in the input."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, shape: Any, stride: Any, padding: Any, groups: int) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.options = stride, padding, groups
        gradient: Tensor = conv2d_weight(x, shape, g, stride, padding, 1, groups)
        return gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,), (g, x) = gradients, ctx.saved_tensors
        of_g = Convolution.apply(x, gradient, *ctx.options) if ctx.needs_input_grad[0] else None
        of_x = ConvolutionInput.apply(g, gradient, x.shape, *ctx.options) if ctx.needs_input_grad[1] else None
        return of_g, of_x, None, None, None, None


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` whose derivatives are those above while it is trained, but on a CPU, where PyTorch's are faster."""

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if device == "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(device):  # which knows PyTorch's own operations only
            dtype = torch.get_autocast_dtype(device)
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        y: Tensor = Convolution.apply(x, weight, self.stride, self.padding, self.groups)
        return y if bias is None else y + per_map(bias, y)


class BiasedLeakyReLU(Function):
    """LeakyReLU(x + b), one b a feature map or none, of which the result alone is kept for the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, slope: float) -> Tensor:
        y = F.leaky_relu(x, slope) if bias is None else F.leaky_relu_(x + per_map(bias, x), slope)
        ctx.save_for_backward(y)
        ctx.slope, ctx.has_bias = slope, bias is not None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (y,) = ctx.saved_tensors
        of_x = LeakyReLUSlope.apply(gradients[0], y, ctx.slope)
        needs_bias = ctx.needs_input_grad[1] and weights_learn.enabled
        return of_x, of_x.sum((0, *range(2, of_x.dim()))) if needs_bias else None, None


class LeakyReLUSlope(Function):
    """g where the result y of a leaky ReLU is positive, else slope·g: linear in g, almost everywhere constant in y."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(y)
        ctx.slope = slope
        slopes: Tensor = torch.ops.aten.leaky_relu_backward(g, y, slope, True)
        return slopes

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (y,) = ctx.saved_tensors
        return LeakyReLUSlope.apply(gradients[0], y, ctx.slope), None, None


def leaky_relu(x: Tensor, slope: float, *, bias: Tensor | None = None) -> Tensor:
    """Return LeakyReLU(x + bias) of features [B, C, …], with the derivatives above but on a CPU.

    Args:
        x: features, in the type of the result.
        slope: where x + bias is negative.
        bias: [C], or None.
    """
    if x.device.type == "cpu" or not torch.is_grad_enabled():
        return F.leaky_relu(x if bias is None else x + per_map(bias.to(x.dtype), x), slope)
    y: Tensor = BiasedLeakyReLU.apply(x, None if bias is None else bias.to(x.dtype), slope)
    return y


def per_map(values: Tensor, x: Tensor) -> Tensor:
    """Return values [C] in a shape that is broadcast over features [B, C, …]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


class LeakyReLU(nn.LeakyReLU):
    """``nn.LeakyReLU`` with the derivatives above but on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.negative_slope)
