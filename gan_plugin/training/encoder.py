"""An encoder for a generator that is trained already: from an image to the z whose image is close to it.

Of generated images it learns the z that they were made from, and of real ones a z that makes them again; the generator
stands still. Zhu et al. 2020, "In-domain GAN inversion", arXiv:2004.00049, section 3.1, in one stage.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.data import Dataset
from gan_plugin.data.loader import Batch, BatchLoader
from gan_plugin.device import MEMORY_FORMAT, autocast, without_tf32
from gan_plugin.media.image import normalize
from gan_plugin.networks import FAMILIES
from gan_plugin.networks.autoencoder import Encoder
from gan_plugin.training.plan import TrainingPlan
from gan_plugin.training.state import TrainingState

EPOCHS = 20  # of an encoder's training, where no time is set
FIRST_RATE, LAST_RATE = 1e-3, 1e-5  # of Adam, along half a cosine
REAL_WEIGHT = 10.0  # of the mean squared error of real images' values in −1…1, beside that of z
TIME_SHARE = 0.25  # of a run in minutes
SEED = 1  # beside the training's own


def new_encoder(recipe: Recipe, state: TrainingState) -> Encoder:
    """Return an encoder that begins with the features of the first discriminator, where it sees single images."""
    spec = state.spec
    body = FAMILIES[recipe.family].discriminator(dataclasses.replace(recipe, pack=1), spec.unlabeled())
    encoder = Encoder(body, recipe.latent_size, classes=spec.classes, detached=False)
    learned = state.discriminator.members[0].state_dict()
    own = encoder.body.state_dict()
    if all(name in learned and learned[name].shape == value.shape for name, value in own.items()):
        encoder.body.load_state_dict({name: learned[name] for name in own})
    return encoder


def train_encoder(
    state: TrainingState,
    plan: TrainingPlan,
    dataset: Dataset,
    *,
    seconds: float | None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[Encoder, dict[str, float]]:
    """Train an encoder for the averaged generator; returns it in eval mode, and the losses at the end.

    Args:
        state: of the generator's training, which has ended; it is not changed.
        plan: of that training.
        dataset: the images that it learned from.
        seconds: that this may take; None for EPOCHS passes over the data.
        stop_requested: called after each step; what has been learned until then is returned.
    """
    torch.manual_seed(plan.seed + SEED)
    generator = state.ema
    encoder = new_encoder(plan.recipe, state).to(plan.device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]  # torch's stubs lack the pair
    optimizer = torch.optim.Adam(encoder.parameters(), FIRST_RATE, fused=True)
    losses: dict[str, Tensor] = {}
    with without_tf32():
        for batch, progress in batches(plan, dataset, seconds):
            optimizer.param_groups[0]["lr"] = rate(progress)
            losses = encoder_losses(encoder, generator, batch, plan=plan)
            optimizer.zero_grad(set_to_none=True)
            total = torch.stack(list(losses.values())).sum()
            total.backward()
            optimizer.step()
            if stop_requested():
                break
    return encoder.eval(), {f"loss/encoder_{name}": loss.item() for name, loss in losses.items()}


def batches(plan: TrainingPlan, dataset: Dataset, seconds: float | None) -> Iterator[tuple[Batch, float]]:
    """Yield batches of real images, and how much of the training is behind, 0…1."""
    recipe = plan.recipe
    loader = BatchLoader(
        dataset, recipe.batch_size, plan.device, seed=plan.seed + SEED, labeled=recipe.conditional, paired=False
    )
    start, steps = time.monotonic(), EPOCHS * loader.steps_per_epoch
    epoch = 0
    while True:
        orders = loader.orders(epoch)
        for index in range(loader.steps_per_epoch):
            step = epoch * loader.steps_per_epoch + index
            progress = step / steps if seconds is None else (time.monotonic() - start) / seconds
            if progress >= 1:
                return
            yield loader.batches(orders, index)[0], progress
        epoch += 1


def encoder_losses(encoder: Encoder, generator: nn.Module, batch: Batch, *, plan: TrainingPlan) -> dict[str, Tensor]:
    """Return the losses whose sum the encoder minimizes, scalars: of z, of real images and, with labels, of these.

    Args:
        generator: in eval mode, without gradients for its weights.
        batch: real images.
    """
    labels, recipe = batch.labels, plan.recipe
    real = normalize(batch.samples.float()).contiguous(memory_format=MEMORY_FORMAT)  # [B, C, H, W]
    z = torch.randn(len(real), recipe.latent_size, device=plan.device)
    inputs = () if labels is None else (labels,)
    with torch.no_grad(), autocast(plan.device, plan.precision):
        fake = generator(z, *inputs).float().clamp(-1, 1)
    with autocast(plan.device, plan.precision):
        encoding = encoder(torch.cat([fake, real]))
        of_fake, of_real = encoding.code.chunk(2)
        reconstruction = generator(of_real, *inputs).float()
    losses = {"z": F.mse_loss(of_fake, z), "real": REAL_WEIGHT * F.mse_loss(reconstruction, real)}
    if labels is not None:
        losses["label"] = F.cross_entropy(encoding.class_logits, torch.cat([labels, labels]))
    return losses


def encoder_seconds(minutes: float) -> float:
    """Return how long an encoder is trained in a run of so many minutes."""
    return 60 * minutes * TIME_SHARE


def rate(progress: float) -> float:
    """Return the learning rate when a share ``progress`` of the training is behind."""
    return LAST_RATE + (FIRST_RATE - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2
