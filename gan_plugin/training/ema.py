"""The averaged generator: the one that is sampled, exported and served."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.networks.wrappers import generator_inputs

CALIBRATION_SEEDS = np.arange(1024) + 2**52  # far from the seeds that people ask for
CALIBRATION_BATCH = 128


def ema_decay(recipe: Recipe, steps: int, half_life: float) -> float:
    """Return the decay β = ½^(images / half-life), Karras et al. 2018 (arXiv:1710.10196), for one generator step.

    The half-life grows with the images seen, so that the first, random weights are soon forgotten, and a longer
    training averages over more: Karras et al. 2024, arXiv:2312.02696, section 3.1.

    Args:
        recipe: its batch and discriminator_steps say how many images a generator step stands for.
        steps: until now.
        half_life: as a fraction of the images seen.
    """
    return float(0.5 ** (recipe.discriminator_steps / (half_life * steps))) if half_life else 0.0


class Averager:
    """Averages a generator over its steps: weights, and batch norm's statistics."""

    def __init__(self, ema: nn.Module, generator: nn.Module) -> None:
        # both networks keep their tensors, and listing them takes as long as moving them
        pairs = list(zip(ema.state_dict().values(), generator.state_dict().values()))
        self.averaged, self.current = ([pair[i] for pair in pairs if pair[0].is_floating_point()] for i in (0, 1))
        self.counts = [pair for pair in pairs if not pair[0].is_floating_point()]  # batch norm's, of batches

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the average: ema ← decay·ema + (1 − decay)·generator."""
        torch._foreach_lerp_(self.averaged, self.current, 1 - decay)
        for averaged, current in self.counts:
            averaged.copy_(current)


@torch.no_grad()
def update_batch_norm(ema: nn.Module, latent_size: int, classes: int = 0) -> None:
    """Measure batch norm's statistics anew, with the averaged weights, over 1,024 fixed latents and all ``classes``.

    The averages of running statistics belong to none of the weights that they were collected with; images get
    visibly better with statistics of the average itself (Izmailov et al. 2018, arXiv:1803.05407, section 3.2). A
    network without batch norm is left as it is. Uses and changes no random state.
    """
    norms = [module for module in ema.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    device = next(ema.parameters()).device
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    ema.train()
    for seeds in CALIBRATION_SEEDS.reshape(-1, CALIBRATION_BATCH):
        ema(*generator_inputs(seeds, latent_size=latent_size, classes=classes, device=device))
    ema.eval()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
