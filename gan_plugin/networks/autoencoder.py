"""A generator as the decoder of an autoencoder, the encoder, and the mixture from which codes are drawn.

The decoder is the family's generator and the encoder its discriminator, with a head for the code in place of that for
the logit: both have the capacity of a GAN's networks.

What the decoder has learned are codes of real images, which are not distributed like z ~ N(0, I). So a Gaussian
mixture is fitted to them afterwards, with full covariances, and z is turned into a draw from it: Ghosh et al. 2020,
"From variational to deterministic autoencoders", arXiv:1903.12436, section 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BEYOND = 100.0  # of every z: no seed has a component above this threshold


class MixtureParameters(NamedTuple):
    """Gaussian mixtures over codes, one for each of C classes, or one, of K components in D dimensions.

    Attributes:
        weights: float64 [C, K], which sum to 1; 0 for a component that a class lacks.
        means: float64 [C, K, D].
        factors: float64 [C, K, D, D], lower triangular, A of the covariance A·Aᵀ.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor


class GaussianMixture(nn.Module):
    """Draw of a code from a mixture by z ~ N(0, I), and the way back.

    With K = 1 the code is μ + A·z. With more, z₀ decides on a component k, each of which owns an interval of z₀ as
    likely as the component, and the code is μₖ + Aₖ·z₁…: a comparison, a look-up and a product, so that every runtime
    decides alike.

    Args:
        code_size: D.
        components: K ≥ 1, of each class.
        classes: C; 0 for codes without labels.
    """

    thresholds: Tensor  # [C, K]: where the interval of a component ends
    means: Tensor  # [C·K, D]; a row of these and of the next two is a component
    factors: Tensor  # [C·K, D·D]
    inverses: Tensor  # [C·K, D·D], of the factors
    centers: Tensor  # [C, K], of the intervals
    log_weights: Tensor  # [C, K], of the densities at the means

    def __init__(self, code_size: int, components: int, classes: int) -> None:
        super().__init__()
        self.code_size, self.components, self.classes = code_size, components, classes
        of_class, rows = (max(1, classes), components), max(1, classes) * components
        self.register_buffer("thresholds", torch.full(of_class, BEYOND))  # all draws from the first, N(0, I), to begin
        for name in ("centers", "log_weights"):
            self.register_buffer(name, torch.zeros(of_class))
        for name in ("factors", "inverses"):
            self.register_buffer(name, torch.eye(code_size).flatten().repeat(rows, 1))
        self.register_buffer("means", torch.zeros(rows, code_size))

    def set_parameters(self, parameters: MixtureParameters) -> None:
        """Become this mixture."""
        weights, means, factors = (values.double().cpu() for values in parameters)
        ends = weights.cumsum(1).clamp(0, 1)  # [C, K], of the intervals, as probabilities
        thresholds = torch.special.ndtri(ends).clamp(-BEYOND, BEYOND)
        thresholds[:, -1] = BEYOND
        inverses = torch.linalg.inv(factors)
        log_determinants = torch.linalg.diagonal(factors).log().sum(-1)
        values = {
            "thresholds": thresholds,
            "centers": torch.special.ndtri(ends - weights / 2).clamp(-BEYOND, BEYOND),
            "log_weights": weights.clamp(min=1e-300).log() - log_determinants,
            "means": means,
            "factors": factors,
            "inverses": inverses,
        }
        for name, value in values.items():
            buffer: Tensor = getattr(self, name)
            buffer.copy_(value.reshape(buffer.shape))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Return codes [B, D] of z [B, D], or [B, 1 + D] with several components, and labels int64 [B]."""
        row = torch.zeros_like(z[:, 0], dtype=torch.int64) if label is None else label
        if self.components > 1:
            thresholds = F.embedding(row, self.thresholds)  # [B, K]
            row = row * self.components + (z[:, :1] > thresholds).sum(1)
            z = z[:, 1:]
        factors = F.embedding(row, self.factors).view(-1, self.code_size, self.code_size)  # [B, D, D]
        return F.embedding(row, self.means) + (factors @ z[:, :, None])[:, :, 0]

    def inverse(self, code: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the z of codes [B, D], by the component that most likely made each: ``forward`` gives them back."""
        size, components = self.code_size, self.components
        row = torch.zeros_like(code[:, 0], dtype=torch.int64) if label is None else label
        means = F.embedding(row, self.means.view(-1, components * size)).view(-1, components, size)
        inverses = F.embedding(row, self.inverses.view(-1, components * size**2)).view(-1, components, size, size)
        z = (inverses @ (code[:, None] - means)[..., None])[..., 0]  # [B, K, D]
        if components == 1:
            return z[:, 0]
        likelihoods = F.embedding(row, self.log_weights) - z.square().sum(2) / 2  # [B, K], but for a constant
        component = likelihoods.argmax(1, keepdim=True)  # [B, 1]
        z = z.gather(1, component[:, :, None].expand(-1, -1, size))[:, 0]
        return torch.cat([F.embedding(row, self.centers).gather(1, component), z], 1)


class Encoding(NamedTuple):
    """What an encoder makes of B images.

    Attributes:
        features: [B, F], of the encoder's body.
        code: float32 [B, D]; of a variational encoder, its mean.
        log_variance: float32 [B, D], of a variational encoder; None otherwise.
        class_logits: float32 [B, C]; None where the encoder knows no classes.
    """

    features: Tensor
    code: Tensor
    log_variance: Tensor | None
    class_logits: Tensor | None


class Encoder(nn.Module):
    """Encoder of images float32 [B, channels, H, W] in −1…1: a code and, where there are classes, their logits.

    The classes are read off the features: so that an image that comes without a label can be decoded all the same.

    Args:
        body: a discriminator of single images without labels, whose features are used and whose head is dropped.
        code_size: D.
        classes: C; 0 for none.
        variational: whether codes have a variance.
        detached: whether the features do not learn from the classes: then codes are those of an autoencoder alone.
    """

    def __init__(
        self, body: nn.Module, code_size: int, *, classes: int, variational: bool = False, detached: bool = True
    ) -> None:
        super().__init__()
        for name in cast(tuple[str, ...], body.head):
            delattr(body, name)
        self.body, self.variational, self.detached = body, variational, detached
        features = cast(int, body.feature_size)
        self.code = nn.Linear(features, 2 * code_size if variational else code_size)
        self.class_logits = nn.Linear(features, classes) if classes else None

    def forward(self, x: Tensor) -> Encoding:
        features = cast(Any, self.body).embed(x)
        code = self.code(features).float()
        log_variance = None
        if self.variational:
            code, log_variance = code.chunk(2, 1)
        logits = None
        if self.class_logits is not None:
            logits = self.class_logits(features.detach() if self.detached else features).float()
        return Encoding(features, code, log_variance, logits)


class Autoencoder(nn.Module):
    """An autoencoder as a generator: images [B, C, H, W] in −1…1 from z float32 [B, latent_size] and labels int64 [B].

    Attributes:
        prior: from z to a code; None where they are the same.
        decoder: from codes and labels to images.
        encoder: from images to codes.
    """

    def __init__(self, decoder: nn.Module, encoder: Encoder, prior: GaussianMixture | None) -> None:
        super().__init__()
        self.prior, self.decoder, self.encoder = prior, decoder, encoder

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return self.decode(z if self.prior is None else self.prior(z, label), label)

    def decode(self, code: Tensor, label: Tensor | None) -> Tensor:
        """Return the images of codes float32 [B, D]."""
        image: Tensor = self.decoder(code) if label is None else self.decoder(code, label)
        return image


def code_size(latent_size: int, components: int) -> int:
    """Return the length of a code: with several components, z has one value more."""
    return latent_size - 1 if components > 1 else latent_size
