"""The losses of both networks, what is added to them, and their gradients, as functions of tensors.

Each is the same operations with the same numbers at every call, and reads nothing on the host, so that CUDA can capture
it: what changes from step to step is the batch, the weights, or a scalar on the device that is filled in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from gan_plugin.augment import adaptive_augment, diff_augment, scheduled_augment
from gan_plugin.config.recipe import Recipe
from gan_plugin.data.loader import Batch
from gan_plugin.derivatives import for_images_alone
from gan_plugin.device import MEMORY_FORMAT, autocast
from gan_plugin.distributed import Ranks
from gan_plugin.media.image import normalize
from gan_plugin.networks.wrappers import one_power_iteration
from gan_plugin.objectives import OBJECTIVES, mutual_information_loss, softmax_mean
from gan_plugin.penalties import OF_REAL_ALONE, PENALTIES, PenaltyInputs
from gan_plugin.training.ada import overfitting
from gan_plugin.training.state import TrainingState

# Of real samples, on a CPU: of more, half the activations at a time lie better in its caches, by up to 10 % of a step.
PIXELS_OF_ONE_PASS = 2**14


class Gradients(NamedTuple):
    """Gradients of the networks' losses, and what is logged of them.

    Attributes:
        of: by the network's name, one for each of its weights, laid out in memory like it.
        metrics: scalars on the device, without their graph.
    """

    of: dict[str, list[Tensor]]
    metrics: dict[str, Tensor]

    def averaged(self, ranks: Ranks) -> Gradients:
        """Return the mean over all processes of gradients and metrics, by one all-reduce."""
        values = [value for values in self.of.values() for value in values]
        averages = iter(ranks.average([*values, *self.metrics.values()]))
        of = {name: list(itertools.islice(averages, len(values))) for name, values in self.of.items()}
        return Gradients(of, dict(zip(self.metrics, averages)))

    def move(self, optimizers: Mapping[str, Optimizer], weights: Mapping[str, Sequence[Tensor]]) -> None:
        """Have the networks' optimizers move their weights."""
        for name, values in self.of.items():
            for weight, gradient in zip(weights[name], values):
                weight.grad = gradient
            optimizers[name].step()


def laid_out_like(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient laid out in memory like its weight, which the fused optimizers take for granted."""
    return gradient if gradient.stride() == weight.stride() else torch.empty_like(weight).copy_(gradient)


@contextmanager
def frozen(weights: Sequence[Tensor]) -> Iterator[None]:
    """Have forward passes within it record nothing that the gradients of these weights would need."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


class GanGradients:
    """The gradients of both networks' losses, at the weights that ``state`` has when they are asked for.

    Attributes:
        weights: of each network, those that are trained.
        penalty_weight: by which a penalty is multiplied, a scalar float32 on the device.
        augment_p: how often scheduled augmentation acts, likewise.
    """

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        self.state, self.recipe, self.precision = state, recipe, precision
        self.objective = OBJECTIVES[recipe.objective]
        self.penalty = PENALTIES.get(recipe.penalty)
        self.weights = {name: list(state.networks[name].parameters()) for name in ("generator", "discriminator")}
        self.device = self.weights["generator"][0].device
        self.penalty_weight, self.augment_p = torch.zeros(2, device=self.device).unbind()
        self.logged: dict[str, Tensor] = {}

    # ---- gradients ---------------------------------------------------------------------------------------------------

    def simultaneous(self, batch: Batch, *, penalized: bool) -> Gradients:
        """Return the gradients of both networks from one batch of fakes.

        As in TensorFlow's DCGAN tutorial.
        """
        labels = batch.labels
        real, z = self.real_samples(batch).requires_grad_(penalized), self.sample_latents(batch)
        fake = self.generate(z, labels)  # [B, C, H, W]
        with one_power_iteration():
            fake_logits, codes = self.run_discriminator(fake, labels)  # [K, B / pack], [B, codes]
            real_logits, _codes = self.run_discriminator(real, labels)
            code_loss = self.code_loss(codes, z)
            generator_loss = self.generator_loss(real_logits, fake_logits) + code_loss
            logits = {"real_logits": real_logits, "fake_logits": fake_logits}
            discriminator_loss = self.discriminator_loss(real, fake, **logits, labels=labels, penalized=penalized)
        with for_images_alone():
            of_fake = torch.autograd.grad(generator_loss, fake, retain_graph=True)
        generators = torch.autograd.grad(fake, self.weights["generator"], of_fake)
        discriminators = torch.autograd.grad(discriminator_loss + code_loss, self.weights["discriminator"])
        return self.collected(generator=generators, discriminator=discriminators)

    def one_stage(self, batch: Batch, *, penalized: bool) -> Gradients:
        """Return what ``simultaneous`` does, with one backward pass through the discriminator.

        Where no image has a part in the logits of others, the gradients of both losses at an image differ by a factor
        alone, the quotient of the losses' slopes at its logit. Shen et al. 2021, arXiv:2103.00430.
        """
        labels = batch.labels
        real, z = self.real_samples(batch).requires_grad_(penalized), self.sample_latents(batch)
        fake = self.generate(z, labels)  # [B, C, H, W]
        seen = fake.detach().requires_grad_()
        with one_power_iteration():
            run = self.run_apart if penalized else self.run_on_both  # of the penalties, it is R1 that is possible here
            real_logits, fake_logits, _codes = run(real, seen, labels)  # [1, B]
            logits = {"real_logits": real_logits, "fake_logits": fake_logits}
            loss = self.discriminator_loss(real, seen, **logits, labels=labels, penalized=penalized)
        *discriminators, of_seen = torch.autograd.grad(loss, [*self.weights["discriminator"], seen])
        real_logits, fake_logits = real_logits.detach().float(), fake_logits.detach().float()
        self.generator_loss(real_logits, fake_logits)  # for the metrics: its gradient follows from the other loss's
        assert self.objective.slope_ratio is not None
        factors = self.objective.slope_ratio(real_logits[0], fake_logits[0])  # [B]
        generators = torch.autograd.grad(fake, self.weights["generator"], of_seen * factors[:, None, None, None])
        return self.collected(generator=generators, discriminator=discriminators)

    def of_discriminator(self, batch: Batch, *, penalized: bool) -> Gradients:
        """Return the discriminators' gradients from real samples and from fakes that are made for them."""
        with torch.no_grad():  # the generator is not moved: no graph through it
            z = self.sample_latents(batch)
            fake = self.generate(z, batch.labels)  # [B, C, H, W]
        return self.of_discriminator_on(batch, fake, z, penalized=penalized)

    def of_discriminator_on(self, batch: Batch, fake: Tensor, z: Tensor, *, penalized: bool) -> Gradients:
        """Return the discriminators' gradients from real samples and from fakes [B, C, H, W], made from z."""
        of_real_alone = penalized and self.recipe.penalty in OF_REAL_ALONE
        real = self.real_samples(batch).requires_grad_(penalized)
        fake = fake.detach().requires_grad_(penalized and not of_real_alone)
        with one_power_iteration():
            run = self.run_apart if of_real_alone else self.run_on_both
            real_logits, fake_logits, codes = run(real, fake, batch.labels)
            logits = {"real_logits": real_logits, "fake_logits": fake_logits}
            loss = self.discriminator_loss(real, fake, **logits, labels=batch.labels, penalized=penalized)
            loss = loss + self.code_loss(codes, z)
        return self.collected(discriminator=torch.autograd.grad(loss, self.weights["discriminator"]))

    def of_generator(self, batch: Batch) -> Gradients:
        """Return the generator's gradients from fakes of its own."""
        z = self.sample_latents(batch)
        return self.of_generator_through(batch, self.generate(z, batch.labels), z)

    def of_generator_through(self, batch: Batch, fake: Tensor, z: Tensor) -> Gradients:
        """Return the gradients of the generator through fakes [B, C, H, W], which it made from z."""
        with one_power_iteration(), frozen(self.weights["discriminator"]):
            fake_logits, codes = self.run_discriminator(fake, batch.labels)  # [K, B / pack], [B, codes]
            real_logits = fake_logits  # unused by an objective that is not relative
            if self.objective.relative:
                with torch.no_grad():  # real samples do not depend on the generator
                    real_logits, _ = self.run_discriminator(self.real_samples(batch), batch.labels)
        loss = self.generator_loss(real_logits.detach(), fake_logits) + self.code_loss(codes, z)
        return self.collected(generator=torch.autograd.grad(loss, self.weights["generator"]))

    def collected(self, **gradients: Sequence[Tensor]) -> Gradients:
        """Return gradients, by the networks' names, with what was logged since the last call."""
        metrics, self.logged = self.logged, {}
        of = {
            name: [laid_out_like(weight, gradient) for weight, gradient in zip(self.weights[name], values, strict=True)]
            for name, values in gradients.items()
        }
        return Gradients(of, metrics)

    # ---- forward passes ----------------------------------------------------------------------------------------------

    def real_samples(self, batch: Batch) -> Tensor:
        """Return the batch's samples as float32 [B, C, H, W] in −1…1."""
        return normalize(batch.samples.float()).contiguous(memory_format=MEMORY_FORMAT)

    def sample_latents(self, batch: Batch) -> Tensor:
        """Draw z ~ N(0, I) float32 [B, latent_size], one for each sample of the batch."""
        return torch.randn(len(batch.samples), self.recipe.latent_size, device=self.device)

    def generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the generator's samples float32 [B, C, H, W], about −1…1."""
        with autocast(self.device, self.precision):
            fake: Tensor = self.state.generator(z) if labels is None else self.state.generator(z, labels)
        return fake.float()

    def run_discriminator(self, samples: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Augment samples [B, C, H, W] and return logits [K, B / pack] and predicted codes [B, codes]."""
        # Each pass has an autocast of its own: one for all would keep what was cast without a graph for those with one.
        with autocast(self.device, self.precision):
            return self.state.discriminator.forward_with_codes(self.augment(samples), labels)

    def run_apart(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the logits [K, B / pack] of real samples and of fakes [B, C, H, W], and codes [B, codes] of these."""
        fake_logits, codes = self.run_discriminator(fake, labels)
        return self.run_discriminator(real, labels)[0], fake_logits, codes

    def run_on_both(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what ``run_apart`` does, from one pass, but for many pixels on a CPU.

        It is fewer operations than two, and but for rounding it is no different where a sample has no part in the
        logits of others.
        """
        if real.device.type == "cpu" and real[:, 0].numel() > PIXELS_OF_ONE_PASS:
            return self.run_apart(real, fake, labels)
        logits, codes = self.run_discriminator(
            torch.cat([fake, real]), None if labels is None else torch.cat([labels, labels])
        )
        fake_logits, real_logits = logits.chunk(2, dim=1)
        return real_logits, fake_logits, None if codes is None else codes[: len(fake)]

    def augment(self, samples: Tensor) -> Tensor:
        """Augment what a discriminator sees, real and fake alike, so that the generator does not learn to augment."""
        match self.recipe.augment:
            case "diffaugment":
                return diff_augment(samples)
            case "ada":
                return adaptive_augment(samples, self.state.ada.p)
            case "scheduled":
                return scheduled_augment(samples, self.augment_p)
            case _:
                return samples

    # ---- losses ------------------------------------------------------------------------------------------------------

    def discriminator_loss(
        self,
        real: Tensor,
        fake: Tensor,
        *,
        real_logits: Tensor,
        fake_logits: Tensor,
        labels: Tensor | None,
        penalized: bool,
    ) -> Tensor:
        """Return the sum of the K discriminators' losses, each of which has its own weights, and the penalty if due.

        Args:
            real: float32 [B, C, H, W]; ``fake`` likewise.
            real_logits: float32 [K, B / pack]; ``fake_logits`` likewise.
            labels: int64 [B] or None.
            penalized: whether the penalty is due.
        """
        losses = torch.stack([self.objective.discriminator(r, f) for r, f in zip(real_logits, fake_logits)])  # [K]
        self.log("loss/discriminator", losses.mean())
        self.log("logit/real", real_logits.mean())
        self.log("logit/fake", fake_logits.mean())
        self.log("logit/rank_accuracy", (real_logits > fake_logits).float().mean())
        if self.recipe.augment == "ada":
            reference = fake_logits if self.objective.boundary is None else self.objective.boundary
            self.log("augment/overfitting", overfitting(real_logits - reference))
        if self.penalty is None or not penalized:
            return losses.sum()
        penalty = self.penalty(
            PenaltyInputs(lambda x: self.run_discriminator(x, labels)[0], real, fake, real_logits, fake_logits)
        )
        self.log("loss/penalty", penalty)
        return losses.sum() + self.penalty_weight * penalty

    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the weighted mean of the generator's losses against the active discriminators, a scalar."""
        losses = torch.stack([self.objective.generator(r, f) for r, f in zip(real_logits, fake_logits)])  # [K]
        loss = softmax_mean(losses, self.recipe.softmax_inverse_temperature, self.active_discriminators())
        self.log("loss/generator", loss)
        return loss

    def active_discriminators(self) -> Tensor | None:
        """Draw which discriminators the generator learns from, bool [K]: each with its probability, and at least one.

        None stands for all. Dropping some at random keeps the generator from settling on what fools one of them
        (Mordido et al. 2018, arXiv:1807.11346).
        """
        if self.recipe.discriminator_dropout == 0:
            return None
        draws = torch.rand(len(self.state.discriminator.members), device=self.device)
        return (draws >= self.recipe.discriminator_dropout) | (draws == draws.max())

    def code_loss(self, predicted_codes: Tensor | None, z: Tensor) -> Tensor | float:
        """Return InfoGAN's loss, which both networks pay where a sample does not show the codes in its z."""
        if predicted_codes is None:
            return 0.0
        recipe = self.recipe
        loss = mutual_information_loss(
            predicted_codes, z, categorical_codes=recipe.categorical_codes, continuous_codes=recipe.continuous_codes
        )
        self.log("loss/code", loss)
        return loss

    def log(self, name: str, value: Tensor) -> None:
        """Keep a value, without its graph, for the metrics."""
        self.logged[name] = value.detach()
