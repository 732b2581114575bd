"""A quick look at a generator while it is trained: one Fréchet distance from few pictures."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_plugin.data import Pictures
from gan_plugin.evaluation.reference import gaussian_of, has_classes
from gan_plugin.export import Showable
from gan_plugin.features import FeatureNetwork, choose_spec, load_network
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian, frechet_distance
from gan_plugin.serving.latents import latents

PICTURES = 2048
BATCH = 128


class LightJudge:
    """Fréchet distance between 2,048 pictures of fixed seeds and all training pictures.

    Always the same seeds, so that two generators differ by what they learned and not by what they were asked. The
    figure is comparable within a run and not with ``fid``, which is from more pictures: hence its own name.

    Attributes:
        metric: ``fid_2k/`` and the network's name.
        seconds: spent so far, on loading or training the network and on the reference's features, too.
    """

    def __init__(self, network: FeatureNetwork, reference: Gaussian, latent_size: int, seconds: float) -> None:
        self.metric = f"fid_2k/{network.name}"
        self.seconds = seconds
        self.network, self.reference = network, reference
        self.z = torch.from_numpy(latents(range(PICTURES), latent_size))

    @torch.no_grad()
    def __call__(self, generator: nn.Module) -> float:
        """The distance for a generator in eval mode, which makes −1…1 pictures [B, C, H, W] from z [B, latent_size]."""
        began = time.perf_counter()
        show = Showable(generator)
        device = next(generator.parameters()).device
        features: list[Tensor] = []
        for z in self.z.split(BATCH):
            features.append(self.network(show(z.to(device)).cpu().numpy()).features)
        distance = frechet_distance(fit_gaussian(torch.cat(features)), self.reference)
        self.seconds += time.perf_counter() - began
        return distance


def make_light_judge(
    pictures: Pictures, features: str | None, latent_size: int, device: torch.device, weights: Path | None = None
) -> LightJudge:
    """Load or train the network, and fit the Gaussian of the training pictures, unless the cache holds them.

    Raises:
        UserError: the network cannot be had for these pictures.
    """
    began = time.perf_counter()
    network = load_network(choose_spec(features, has_classes(pictures)), pictures, device, weights)
    reference = gaussian_of(network, pictures)
    return LightJudge(network, reference, latent_size, time.perf_counter() - began)
