"""Losses: pure functions. Adversarial ones are computed with softplus, never as the log of a probability.

With D(x) = σ(logit), log D(x) = −softplus(−logit) and log(1 − D(x)) = −softplus(logit). The two networks solve

    min over G, max over D of  V(D, G) = E log D(x) + E log(1 − D(G(z)))          Goodfellow et al. 2014, eq. 1

What several discriminators (GMAN) and codes (InfoGAN) add to these losses is here, too, and the losses of autoencoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_EXPONENT = 80.0  # of float32 is 88: beyond, a gradient that has vanished would become 0 · ∞
ROUNDING = (2 / 255) ** 2 / 12  # variance of rounding −1…1 to 256 levels: no image is known more closely
CONTINUOUS_CODE_WEIGHT = 0.1  # λ of the loss of continuous codes; that of categorical ones is 1


class Objective(NamedTuple):
    """The losses of discriminator and generator, both to be minimized: scalars from real and fake logits, [B] each.

    Attributes:
        boundary: logit of a discriminator that cannot tell real from fake; None where only differences of logits have
            a meaning.
        relative: whether the generator's loss depends on the real logits.
        slope_ratio: by what an image's gradient of the discriminator's loss has to be multiplied to be that of the
            generator's: the quotient of the losses' slopes at its logit, [B]; None where the former may be 0.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    boundary: float | None = 0.0
    relative: bool = False
    slope_ratio: Callable[[Tensor, Tensor], Tensor] | None = None


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


def opposite_slopes(_real: Tensor, fake: Tensor) -> Tensor:
    """−1: what one network loses, the other one gains."""
    return -torch.ones_like(fake)


def non_saturating_slopes(_real: Tensor, fake: Tensor) -> Tensor:
    """−σ(−logit) / σ(logit) = −exp(−logit)."""
    return -torch.exp((-fake).clamp(max=MAX_EXPONENT))


def relativistic_slopes(real: Tensor, fake: Tensor) -> Tensor:
    """−exp(D(x) − D(G(z))), as above for the difference of logits."""
    return -torch.exp((real - fake).clamp(max=MAX_EXPONENT))


OBJECTIVES: dict[str, Objective] = {
    "minimax": Objective(value_loss, minimax_loss, slope_ratio=opposite_slopes),
    "non-saturating": Objective(value_loss, non_saturating_loss, slope_ratio=non_saturating_slopes),
    "least-squares": Objective(least_squares_loss, least_squares_generator_loss, boundary=0.5),
    "hinge": Objective(hinge_loss, critic_loss),
    "wasserstein": Objective(wasserstein_loss, critic_loss, boundary=None, slope_ratio=opposite_slopes),
    "relativistic": Objective(
        relativistic_loss, relativistic_generator_loss, boundary=None, relative=True, slope_ratio=relativistic_slopes
    ),
}


def softmax_mean(losses: Tensor, inverse_temperature: float, active: Tensor | None = None) -> Tensor:
    """Return Σ wᵢ ℓᵢ with w = softmax(λ ℓ) over a generator's losses [K] against K discriminators.

    λ = ``inverse_temperature``: 0 gives their mean, a large one the largest of them. The weights are constants here, so
    the generator lowers its losses and not the weights. Durugkar et al. 2017, arXiv:1611.01673, section 4.

    >>> losses = torch.tensor([1.0, 3.0])
    >>> softmax_mean(losses, 0), softmax_mean(losses, 10), softmax_mean(losses, 0, torch.tensor([True, False]))
    (tensor(2.), tensor(3.), tensor(1.))

    Args:
        active: bool [K], which losses count; None for all.
    """
    scores = inverse_temperature * losses.detach()
    if active is not None:
        scores = torch.where(active, scores, -torch.inf)
    return (torch.softmax(scores, 0) * losses).sum()


def mutual_information_loss(
    predicted_codes: Tensor, z: Tensor, *, categorical_codes: int, continuous_codes: int
) -> Tensor:
    """−λ L_I without its constants: how badly codes are predicted from images. Chen et al. 2016, eq. 5.

    For the categorical code the cross entropy with λ = 1, for continuous ones ½E(prediction − code)², a Gaussian of
    unit variance, with λ = .1. The paper (arXiv:1606.03657), too, takes 1 for categorical and less for continuous
    codes, which keeps both on the scale of the adversarial loss.

    Args:
        predicted_codes: of the images, [B, categorical_codes + continuous_codes]; the first are logits.
        z: latents [B, latent_size] of the images. The categorical code is the largest of its first
            ``categorical_codes`` numbers; the next ``continuous_codes`` are the continuous ones.
        categorical_codes: number of values of the categorical code; 0 where there is none.
        continuous_codes: number of continuous codes.
    """
    loss = predicted_codes.new_zeros(())
    if categorical_codes:
        category = z[:, :categorical_codes].argmax(1)  # int64 [B]
        loss = loss + F.cross_entropy(predicted_codes[:, :categorical_codes], category)
    if continuous_codes:
        codes = z[:, categorical_codes : categorical_codes + continuous_codes]  # [B, continuous_codes]
        squares = (predicted_codes[:, categorical_codes:] - codes).square().sum(1)  # [B]
        loss = loss + CONTINUOUS_CODE_WEIGHT * 0.5 * squares.mean()
    return loss


# ---- autoencoders ----------------------------------------------------------------------------------------------------


def squared_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """E‖x − x̂‖², of images [B, C, H, W]: a sum over the values of an image, and a mean over images."""
    return (x - reconstruction).square().flatten(1).sum(1).mean()


def gaussian_nll(x: Tensor, reconstruction: Tensor) -> Tensor:
    """−E log N(x; x̂, σ²I) without its constant, at the σ² that is best for the batch: D/2·ln(E‖x − x̂‖²/D).

    So there is no weight to be tuned beside the divergence of the codes. Rybkin et al. 2021, "Simple and effective VAE
    training with calibrated decoders", arXiv:2006.13202, section 3.
    """
    values = x[0].numel()
    return values / 2 * (squared_error(x, reconstruction) / values).clamp(min=ROUNDING).log()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """E KL(N(μ, σ²) ‖ N(0, I)) = E Σ ½(μ² + σ² − 1 − ln σ²), of codes [B, D]. Kingma & Welling 2014, appendix B."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def code_norm(code: Tensor) -> Tensor:
    """½E‖z‖², of codes [B, D]: what keeps a regularized autoencoder's together. Ghosh et al. 2020, eq. 9."""
    return 0.5 * code.square().sum(1).mean()


def weight_norm(weights: Iterable[Tensor]) -> Tensor:
    """‖θ‖², the sum over all weights. Ghosh et al. 2020, arXiv:1903.12436, eq. 10."""
    return torch.stack([weight.square().sum() for weight in weights]).sum()
