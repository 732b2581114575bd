"""Modules around the networks of any family: several discriminators, packs, codes in z, quantized output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from gan_plugin.media.image import CHANNELS_FIRST, CHANNELS_LAST, WHITE, denormalize, normalize
from gan_plugin.networks.autoencoder import Autoencoder, Encoding, GaussianMixture
from gan_plugin.seeds import default_labels, latents


class Discriminators(nn.Module):
    """K discriminators of the same images, each of which classifies ``pack`` images together.

    More than one: Durugkar et al. 2017, "Generative Multi-Adversarial Networks", arXiv:1611.01673. Packs: Lin et al.
    2018, "PacGAN", arXiv:1712.04086. With ``codes`` the first one has a head that predicts the codes of an image: Chen
    et al. 2016, "InfoGAN", arXiv:1606.03657.
    """

    def __init__(self, members: Sequence[nn.Module], pack: int = 1, codes: int = 0) -> None:
        super().__init__()
        self.members, self.pack = nn.ModuleList(members), pack
        self.code_head = nn.Linear(cast(int, members[0].feature_size), codes) if codes else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the logits [K, B / pack] of images [B, C, H, W] and their labels int64 [B]."""
        return self.forward_with_codes(x, label)[0]

    def forward_with_codes(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return logits float32 [K, B / pack] and, where there is a head for them, predicted codes float32 [B, codes].

        Args:
            x: images [B, C, H, W]; ``pack`` consecutive ones make a pack.
            label: int64 [B], where the discriminators take labels.
        """
        x = x.reshape(-1, self.pack * x.shape[1], *x.shape[2:])  # [B / pack, pack·C, H, W]
        label = None if label is None else label.view(-1, self.pack)
        features = [cast(Any, member).embed(x) for member in self.members]  # K × [B / pack, F]
        logits = [cast(Any, member).score(f, label) for member, f in zip(self.members, features)]
        # float32 under autocast, too: losses and penalties are computed from them
        return torch.stack(logits).float(), None if self.code_head is None else self.code_head(features[0]).float()


class OneHotGenerator(nn.Module):
    """A generator whose first ``categorical_codes`` latents become a one-hot code: 1 at the largest of them.

    So z stays standard normal for everyone who asks for images, all codes are equally likely, and one can be set by
    hand: make its latent the largest. InfoGAN's continuous codes are latents as they are.
    """

    def __init__(self, generator: nn.Module, categorical_codes: int) -> None:
        super().__init__()
        self.generator, self.categorical_codes = generator, categorical_codes

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        scores, rest = z[:, : self.categorical_codes], z[:, self.categorical_codes :]
        code = torch.arange(self.categorical_codes, device=z.device) == scores.argmax(1, keepdim=True)  # [B, codes]
        image: Tensor = self.generator(torch.cat([code.to(z.dtype), rest], 1), label)
        return image


class Quantized(nn.Module):
    """A generator whose −1…1 images [B, C, H, W] come out as uint8 [B, H, W, C].

    The generator is moved to ``dtype``, and computes in it; z, the code that a mixture draws by it, and the step to
    gray levels are float32 always.
    """

    def __init__(self, generator: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.prior = generator.prior if isinstance(generator, Autoencoder) else None
        self.generator = (generator.decoder if isinstance(generator, Autoencoder) else generator).to(dtype)
        self.dtype = dtype

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        z = (z if self.prior is None else self.prior(z, label)).to(self.dtype)
        x: Tensor = self.generator(z) if label is None else self.generator(z, label)
        levels = denormalize(x.float()).round().clamp(0, WHITE)
        return levels.to(torch.uint8).permute(CHANNELS_LAST)


class QuantizedEncoder(nn.Module):
    """The encoder of a generator, from images uint8 [B, H, W, C] as that returns them.

    Returns the z float32 [B, latent_size] whose image is close, features float32 [B, F] and, where the generator takes
    labels, logits float32 [B, classes]; z is then that of the likeliest class.
    """

    def __init__(self, encoder: nn.Module, prior: GaussianMixture | None) -> None:
        super().__init__()
        self.encoder, self.prior = encoder, prior

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        encoding: Encoding = self.encoder(normalize(image.permute(CHANNELS_FIRST).float()))
        logits, z = encoding.class_logits, encoding.code
        if self.prior is not None:
            z = self.prior.inverse(z, None if logits is None else logits.argmax(1))
        return (z, encoding.features) if logits is None else (z, encoding.features, logits)


def generator_inputs(
    seeds: npt.ArrayLike, *, latent_size: int, classes: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Return what a generator takes for N seeds: z float32 [N, latent_size] and, where it takes labels, int64 [N].

    A seed's label is the class that it has by default.

    >>> [tuple(x.shape) for x in generator_inputs([0, 1], latent_size=16, classes=10, device=torch.device("cpu"))]
    [(2, 16), (2,)]
    """
    z = torch.from_numpy(latents(seeds, latent_size)).to(device)
    return (z, torch.from_numpy(default_labels(seeds, classes)).to(device)) if classes else (z,)


# Within it, a discriminator with spectral norm is the same function of real and generated images.
one_power_iteration = parametrize.cached


def add_spectral_norm(discriminator: nn.Module) -> nn.Module:
    """Divide every weight by its largest singular value: Miyato et al. 2018, arXiv:1802.05957, section 2.

    The power iteration's vectors are part of the state. It moves on at each forward pass in training, or once for all
    those within :func:`one_power_iteration`.
    """
    for module in list(discriminator.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            spectral_norm(module)
    return discriminator
