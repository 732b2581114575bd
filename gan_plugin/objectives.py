"""Adversarial losses: pure functions of logits, computed with softplus, never as the log of a probability.

With D(x) = σ(logit), log D(x) = −softplus(−logit) and log(1 − D(x)) = −softplus(logit). The game is

    min over G, max over D of  V(D, G) = E log D(x) + E log(1 − D(G(z)))          Goodfellow et al. 2014, eq. 1

Several discriminators and codes (GMAN, InfoGAN) add to these losses; what they add is here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CODE_VALUE_WEIGHT = 0.1  # of the loss of codes that are numbers; one that is a choice counts fully


class Objective(NamedTuple):
    """Both players' losses, each to be minimized: scalars from (real logits [B], fake logits [B]).

    Attributes:
        boundary: the logit of a discriminator that cannot tell; None where only differences of logits mean something.
        relative: whether the generator's loss needs real logits.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    boundary: float | None = 0.0
    relative: bool = False


def value_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−V(D, G) = −E log D(x) − E log(1 − D(G(z))): the discriminator maximizes the value function."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_loss(_real: Tensor, fake: Tensor) -> Tensor:
    """E log(1 − D(G(z))): the generator minimizes the value function. Goodfellow et al. 2014, eq. 1."""
    return -F.softplus(fake).mean()


def non_saturating_loss(_real: Tensor, fake: Tensor) -> Tensor:
    """−E log D(G(z)): the same fixed point, with a gradient where D is sure. Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake).mean()


def least_squares_loss(real: Tensor, fake: Tensor) -> Tensor:
    """½E(D(x) − 1)² + ½E D(G(z))². Mao et al. 2017, eq. 2 with the targets a = 0, b = 1."""
    return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()


def least_squares_generator_loss(_real: Tensor, fake: Tensor) -> Tensor:
    """½E(D(G(z)) − 1)². Mao et al. 2017, eq. 9."""
    return 0.5 * (fake - 1).square().mean()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))). Lim & Ye 2017, arXiv:1705.02894; Miyato et al. 2018, eq. 16."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def wasserstein_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) − E D(x). Arjovsky et al. 2017, arXiv:1701.07875, eq. 2."""
    return fake.mean() - real.mean()


def critic_loss(_real: Tensor, fake: Tensor) -> Tensor:
    """−E D(G(z)): the generator's side of hinge and Wasserstein losses. Miyato et al. 2018, eq. 17."""
    return -fake.mean()


def relativistic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(D(G(z)) − D(x)) over pairs. Jolicoeur-Martineau 2018, arXiv:1807.00734; Huang et al. 2024, eq. 2."""
    return F.softplus(fake - real).mean()


def relativistic_generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(D(x) − D(G(z))) over pairs."""
    return F.softplus(real - fake).mean()


OBJECTIVES: dict[str, Objective] = {
    "minimax": Objective(value_loss, minimax_loss),
    "non-saturating": Objective(value_loss, non_saturating_loss),
    "least-squares": Objective(least_squares_loss, least_squares_generator_loss, boundary=0.5),
    "hinge": Objective(hinge_loss, critic_loss),
    "wasserstein": Objective(wasserstein_loss, critic_loss, boundary=None),
    "relativistic": Objective(relativistic_loss, relativistic_generator_loss, boundary=None, relative=True),
}


def softmax_mean(losses: Tensor, softmax_temperature: float) -> Tensor:
    """Σ wᵢ ℓᵢ with w = softmax(λ ℓ) over the losses [K] that several discriminators give one generator.

    λ = 0 is their mean, a large λ the strictest of them. The weights are constants here: the generator answers the
    discriminators, and does not choose whom to hear. Durugkar et al. 2017, arXiv:1611.01673, section 4.
    """
    return (torch.softmax(softmax_temperature * losses.detach(), 0) * losses).sum()


def mutual_information_loss(predicted_codes: Tensor, z: Tensor, classes: int, values: int) -> Tensor:
    """How badly the codes of z [B, latent] are seen in the images, from what was predicted_codes [B, classes + values].

    −λ L_I without its constants, Chen et al. 2016, arXiv:1606.03657, eq. 5: the cross entropy of the choice (the
    largest of the first ``classes`` numbers of z) with λ = 1, and ½E(guess − code)² of a Gaussian with unit variance
    for the next ``values`` numbers with λ = .1: the paper takes 1 for choices and less for numbers, which keeps
    both on the scale of the game.
    """
    loss = predicted_codes.new_zeros(())
    if classes:
        loss = loss + F.cross_entropy(predicted_codes[:, :classes], z[:, :classes].argmax(1))
    if values:
        squares = (predicted_codes[:, classes:] - z[:, classes : classes + values]).square().sum(1)  # [B]
        loss = loss + CODE_VALUE_WEIGHT * 0.5 * squares.mean()
    return loss
