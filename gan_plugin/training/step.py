"""One step of the game: both players' gradients from one batch of fakes, then both updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_plugin.networks import FAMILIES
from gan_plugin.objectives import OBJECTIVES
from gan_plugin.recipes import Recipe
from gan_plugin.training.device import autocast, memory_format
from gan_plugin.training.ema import ema_decay, update_ema

STEP_METRICS = ("loss/discriminator", "loss/generator", "probability_real/real", "probability_real/fake")


@dataclass(frozen=True)
class Best:
    """The averaged generator as it was when it was judged best so far.

    Attributes:
        metric: what it was judged by, lower is better.
        digest: of the judge.
        value: of this generator.
        step: when.
        judged: how often, so far.
        weights: its state, with batch norm's statistics measured anew.
    """

    metric: str
    digest: str
    value: float
    step: int
    judged: int
    weights: dict[str, Tensor]


@dataclass
class Game:
    """The players, the averaged generator and the optimisers: all that training changes."""

    generator: nn.Module
    discriminator: nn.Module
    ema: nn.Module  # in eval mode, never trained
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    steps: int = 0  # updates made so far
    best: Best | None = None  # None as long as nothing has been judged


def new_game(recipe: Recipe, image_size: int, channels: int, device: torch.device) -> Game:
    """Fresh networks from torch's global random state, and their optimisers, on ``device``."""
    family = FAMILIES[recipe.family]
    generator = family.generator(recipe.latent_size, image_size, channels)
    discriminator = family.discriminator(image_size, channels)
    ema = family.generator(recipe.latent_size, image_size, channels)
    ema.load_state_dict(generator.state_dict())
    for network in (generator, discriminator, ema):
        network.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    return Game(
        generator,
        discriminator,
        ema.eval().requires_grad_(False),
        adam(generator, recipe.generator_lr, recipe),
        adam(discriminator, recipe.discriminator_lr, recipe),
    )


def adam(network: nn.Module, lr: float, recipe: Recipe) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr, betas=(recipe.beta1, recipe.beta2), fused=True)


def make_step(game: Game, recipe: Recipe, precision: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A function that plays one step on real pictures uint8 [B, C, H, W].

    It returns float32 [4] on the device, the values of STEP_METRICS, and makes no host synchronisation.
    """
    objective = OBJECTIVES[recipe.objective]
    generator_weights = list(game.generator.parameters())
    discriminator_weights = list(game.discriminator.parameters())

    def step(pictures: Tensor) -> Tensor:
        device = pictures.device
        real = (pictures.float() / 127.5 - 1).contiguous(memory_format=memory_format(device))  # [B, C, H, W]
        z = torch.randn(len(real), recipe.latent_size, device=device)  # [B, latent_size]
        with autocast(device, precision):
            fake = game.generator(z)  # [B, C, H, W], shared by both losses
            fake_logits = game.discriminator(fake).float()  # [B]
            real_logits = game.discriminator(real).float()  # [B]
        generator_loss = objective.generator(fake_logits)
        discriminator_loss = objective.discriminator(real_logits, fake_logits)

        game.generator_optimizer.zero_grad()
        game.discriminator_optimizer.zero_grad()
        # inputs= leaves the other player's gradients uncomputed. backward() and not grad(), because it lays a gradient
        # out in memory like its weight, which the fused optimiser takes for granted.
        generator_loss.backward(inputs=generator_weights, retain_graph=True)
        discriminator_loss.backward(inputs=discriminator_weights)
        game.generator_optimizer.step()
        game.discriminator_optimizer.step()
        game.steps += 1
        update_ema(game.ema, game.generator, ema_decay(recipe.ema_half_life, len(real), game.steps))
        return torch.stack(
            [discriminator_loss, generator_loss, real_logits.sigmoid().mean(), fake_logits.sigmoid().mean()]
        ).detach()

    return step
