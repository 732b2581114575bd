"""Adversarial losses: pure functions of logits, computed with softplus, never as the log of a probability.

With D(x) = σ(logit), log D(x) = −softplus(−logit) and log(1 − D(x)) = −softplus(logit). The game is

    min over G, max over D of  V(D, G) = E log D(x) + E log(1 − D(G(z)))          Goodfellow et al. 2014, eq. 1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Objective(NamedTuple):
    """Both players' losses, each to be minimised: scalars from logits [B]."""

    discriminator: Callable[[Tensor, Tensor], Tensor]  # (real logits, fake logits)
    generator: Callable[[Tensor], Tensor]  # fake logits


def value_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−V(D, G) = −E log D(x) − E log(1 − D(G(z))): the discriminator maximises the value function."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_loss(fake: Tensor) -> Tensor:
    """E log(1 − D(G(z))): the generator minimises the value function. Goodfellow et al. 2014, eq. 1."""
    return -F.softplus(fake).mean()


def non_saturating_loss(fake: Tensor) -> Tensor:
    """−E log D(G(z)): the same fixed point, with a gradient where D is sure. Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake).mean()


OBJECTIVES: dict[str, Objective] = {
    "minimax": Objective(value_loss, minimax_loss),
    "non-saturating": Objective(value_loss, non_saturating_loss),
}
