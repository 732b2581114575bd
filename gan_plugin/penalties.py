"""Penalties on the gradient of a discriminator with respect to the images: pure functions, headed by their formula.

Norms are those of one image's gradient, over channels, height and width (of one pack's, where images are packed);
expectations are over the batch and over several discriminators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gan_plugin.derivatives import for_images_alone

EPSILON = 1e-12  # under the root of a norm, whose gradient at 0 would not be finite


class PenaltyInputs(NamedTuple):
    """Images and what the discriminators make of them: everything that a penalty is computed from.

    Attributes:
        critic: images [B, C, H, W] → logits [K, B / pack] of K discriminators of packs of images.
        real, fake: such images, which require gradients.
        real_logits, fake_logits: the critic's logits of them, with their graph.
    """

    critic: Callable[[Tensor], Tensor]
    real: Tensor
    fake: Tensor
    real_logits: Tensor
    fake_logits: Tensor


Penalty = Callable[[PenaltyInputs], Tensor]


def squared_norms(logits: Tensor, *images: Tensor) -> Tensor:
    """‖∇D(x)‖² [K, B / pack] of K discriminators' logits [K, B / pack] with respect to the images [B, C, H, W].

    One backward pass through each discriminator is enough for several batches of images, whose logits are in a row.
    """
    rows = []
    for member in logits:
        # An image has no part in the logits of others (no discriminator here has batch norm): the sum's gradient is
        # each image's own
        with for_images_alone():
            gradients = torch.autograd.grad(member.sum(), images, create_graph=True)
        packs = len(member) // len(images)  # of a batch
        rows.append(torch.cat([g.float().reshape(packs, -1).square().sum(1) for g in gradients]))
    return torch.stack(rows)


def deviation_from_one(inputs: PenaltyInputs, images: Tensor) -> Tensor:
    """E(‖∇D(x)‖ − 1)² at ``images``."""
    images = images.detach().requires_grad_()
    norms = (squared_norms(inputs.critic(images), images) + EPSILON).sqrt()
    return (norms - 1).square().mean()


def wgan_gp_penalty(inputs: PenaltyInputs) -> Tensor:
    """E(‖∇D(x̂)‖ − 1)², x̂ = u x + (1 − u) G(z), u ~ U(0, 1) an image. Gulrajani et al. 2017, eq. 3."""
    u = torch.rand(len(inputs.real), 1, 1, 1, dtype=inputs.real.dtype, device=inputs.real.device)
    return deviation_from_one(inputs, torch.lerp(inputs.fake, inputs.real, u))


def dragan_penalty(inputs: PenaltyInputs) -> Tensor:
    """E(‖∇D(x + δ)‖ − 1)², δ = ½ σ(x) U(0, 1) a value. Kodali et al. 2017, arXiv:1705.07215, as its authors draw δ."""
    noise = 0.5 * inputs.real.std() * torch.rand_like(inputs.real)
    return deviation_from_one(inputs, inputs.real + noise)


def r1_penalty(inputs: PenaltyInputs) -> Tensor:
    """½E‖∇D(x)‖². Mescheder et al. 2018, arXiv:1801.04406, eq. 9."""
    return 0.5 * squared_norms(inputs.real_logits, inputs.real).mean()


def r1_r2_penalty(inputs: PenaltyInputs) -> Tensor:
    """½E‖∇D(x)‖² + ½E‖∇D(G(z))‖². Huang et al. 2024, arXiv:2501.05441, eq. 3."""
    logits = torch.cat([inputs.fake_logits, inputs.real_logits], 1)
    return squared_norms(logits, inputs.fake, inputs.real).mean()


PENALTIES: dict[str, Penalty] = {
    "wgan-gp": wgan_gp_penalty,
    "dragan": dragan_penalty,
    "r1": r1_penalty,
    "r1+r2": r1_r2_penalty,
}

OF_REAL_ALONE = frozenset({"r1"})  # whose backward pass would be of twice the images, were fakes in one pass with them
