"""One training step of a GAN: the losses of both networks, what is added to them, and their updates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gan_plugin.augment import adaptive_augment, diff_augment, scheduled_augment
from gan_plugin.config.recipe import Recipe
from gan_plugin.data.loader import Batch
from gan_plugin.device import MEMORY_FORMAT, autocast
from gan_plugin.media.image import normalize
from gan_plugin.networks.wrappers import one_power_iteration
from gan_plugin.objectives import OBJECTIVES, mutual_information_loss, softmax_mean
from gan_plugin.penalties import PENALTIES, PenaltyInputs
from gan_plugin.training.ema import ema_decay, update_ema
from gan_plugin.training.optimizers import follow_ramps
from gan_plugin.training.state import TrainingState


class GanStep:
    """A training step, called with a batch for the discriminators and one for the generator.

    The second batch is used only where the generator's loss needs real samples of its own (see ``needs_two_batches``).
    A call returns scalars on the device under the names in ``metric_names`` and never synchronizes with the host; a
    metric that a step does not compute has its value of the last step that did.
    """

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        self.state, self.recipe, self.precision = state, recipe, precision
        self.objective = OBJECTIVES[recipe.objective]
        self.penalty = PENALTIES.get(recipe.penalty)
        self.update = {
            "alternating": self.alternating_update,
            "shared-fakes": self.shared_fakes_update,
            "simultaneous": self.one_stage_update if is_one_stage(recipe) else self.simultaneous_update,
        }[recipe.updates]
        self.values = recipe.at(state.progress)
        self.generator_weights = list(state.generator.parameters())
        self.discriminator_weights = list(state.discriminator.parameters())
        self.device = self.generator_weights[0].device
        self.metrics = dict.fromkeys(metric_names(recipe), torch.zeros((), device=self.device))

    def __call__(self, batch: Batch, generator_batch: Batch) -> dict[str, Tensor]:
        state, recipe = self.state, self.recipe
        self.values = recipe.at(state.progress)
        if recipe.is_annealed:
            follow_ramps(state.optimizers, recipe, self.values)
        generator_moved = self.update(batch, generator_batch)
        state.steps += 1
        if generator_moved:
            update_ema(state.ema, state.generator, ema_decay(recipe, state.steps, self.values.ema_half_life))
        return self.metrics

    # ---- updates -----------------------------------------------------------------------------------------------------

    def simultaneous_update(self, batch: Batch, _: Batch) -> bool:
        """Update both networks from one batch of fakes; returns that the generator moved.

        As in TensorFlow's DCGAN tutorial.
        """
        optimizers, labels = self.state.optimizers, batch.labels
        real, z = self.real_samples(batch), self.sample_latents(batch)
        fake = self.generate(z, labels)  # [B, C, H, W]
        real.requires_grad_(self.has_penalty())
        with one_power_iteration():
            fake_logits, codes = self.run_discriminator(fake, labels)  # [K, B / pack], [B, codes]
            real_logits, _codes = self.run_discriminator(real, labels)
            code_loss = self.code_loss(codes, z)
            generator_loss = self.generator_loss(real_logits, fake_logits) + code_loss
            discriminator_loss = (
                self.discriminator_loss(real, fake, real_logits=real_logits, fake_logits=fake_logits, labels=labels)
                + code_loss
            )

        for optimizer in optimizers.values():
            optimizer.zero_grad()
        # inputs= leaves the other network's gradients uncomputed. backward() and not grad(), because it lays a gradient
        # out in memory like its weight, which the fused optimizer takes for granted.
        generator_loss.backward(inputs=self.generator_weights, retain_graph=True)
        discriminator_loss.backward(inputs=self.discriminator_weights)
        # both gradients are taken before either network moves: that is what makes the update simultaneous
        optimizers["generator"].step()
        optimizers["discriminator"].step()
        return True

    def one_stage_update(self, batch: Batch, _: Batch) -> bool:
        """Update both networks as ``simultaneous_update`` does, with one backward pass through the discriminator.

        Where no image has a part in the logits of others, the gradients of both losses at an image differ by a factor
        alone, the quotient of the losses' slopes at its logit. Shen et al. 2021, arXiv:2103.00430.
        """
        optimizers, labels = self.state.optimizers, batch.labels
        real, z = self.real_samples(batch), self.sample_latents(batch)
        fake = self.generate(z, labels)  # [B, C, H, W]
        seen = fake.detach().requires_grad_()
        real.requires_grad_(self.has_penalty())
        with one_power_iteration():
            fake_logits, real_logits = (self.run_discriminator(x, labels)[0] for x in (seen, real))  # [1, B]
            loss = self.discriminator_loss(real, seen, real_logits=real_logits, fake_logits=fake_logits, labels=labels)
        real_logits, fake_logits = real_logits.detach().float(), fake_logits.detach().float()
        self.generator_loss(real_logits, fake_logits)  # for the metrics: its gradient follows from the other loss's
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward(inputs=[*self.discriminator_weights, seen])
        assert seen.grad is not None
        assert self.objective.slope_ratio is not None
        factors = self.objective.slope_ratio(real_logits[0], fake_logits[0])  # [B]
        fake.backward(seen.grad * factors[:, None, None, None], inputs=self.generator_weights)
        optimizers["generator"].step()
        optimizers["discriminator"].step()
        return True

    def alternating_update(self, batch: Batch, generator_batch: Batch) -> bool:
        """Update the discriminators, then, every ``discriminator_steps``, the generator with fakes of its own.

        Returns whether the generator moved.
        """
        with torch.no_grad():  # the generator is not moved: no graph through it
            z = self.sample_latents(batch)
            fake = self.generate(z, batch.labels)  # [B, C, H, W]
        self.discriminator_step(batch, fake, z)
        generator_is_due = (self.state.steps + 1) % self.recipe.discriminator_steps == 0
        if generator_is_due:
            z = self.sample_latents(generator_batch)
            self.generator_step(generator_batch, self.generate(z, generator_batch.labels), z)
        return generator_is_due

    def shared_fakes_update(self, batch: Batch, _: Batch) -> bool:
        """Update the discriminators, then the generator with the fakes that they have just seen; returns that it moved.

        As in PyTorch's DCGAN tutorial: one forward pass through the generator fewer than with fakes of its own.
        """
        z = self.sample_latents(batch)
        fake = self.generate(z, batch.labels)  # [B, C, H, W]
        self.discriminator_step(batch, fake, z)
        self.generator_step(batch, fake, z)
        return True

    def discriminator_step(self, batch: Batch, fake: Tensor, z: Tensor) -> None:
        """Update the discriminators on real samples and on fakes [B, C, H, W], which were made from z."""
        optimizer = self.state.optimizers["discriminator"]
        real = self.real_samples(batch).requires_grad_(self.has_penalty())
        fake = fake.detach().requires_grad_(self.has_penalty())
        with one_power_iteration():
            real_logits, fake_logits, codes = self.run_on_both(real, fake, batch.labels)
            loss = self.discriminator_loss(
                real, fake, real_logits=real_logits, fake_logits=fake_logits, labels=batch.labels
            ) + self.code_loss(codes, z)
        optimizer.zero_grad()
        loss.backward(inputs=self.discriminator_weights)
        optimizer.step()

    def generator_step(self, batch: Batch, fake: Tensor, z: Tensor) -> None:
        """Update the generator, which made fakes [B, C, H, W] from z, against the discriminators as they are now."""
        optimizer = self.state.optimizers["generator"]
        with one_power_iteration():
            fake_logits, codes = self.run_discriminator(fake, batch.labels)  # [K, B / pack], [B, codes]
            real_logits = fake_logits  # unused by an objective that is not relative
            if self.objective.relative:
                with torch.no_grad():  # real samples do not depend on the generator
                    real_logits, _ = self.run_discriminator(self.real_samples(batch), batch.labels)
        loss = self.generator_loss(real_logits.detach(), fake_logits) + self.code_loss(codes, z)
        optimizer.zero_grad()
        loss.backward(inputs=self.generator_weights)
        optimizer.step()

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
        with autocast(self.device, self.precision):
            return self.state.discriminator.forward_with_codes(self.augment(samples), labels)

    def run_on_both(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the logits [K, B / pack] of real samples and of fakes [B, C, H, W], and the codes [B, codes] of these.

        One pass over both costs less than two, and but for rounding it is no different where a sample has no part in
        the logits of others. With a penalty there are two: that of R1 would go back through the fakes, too.
        """
        if self.has_penalty():
            fake_logits, codes = self.run_discriminator(fake, labels)
            return self.run_discriminator(real, labels)[0], fake_logits, codes
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
                return scheduled_augment(samples, torch.full((), self.values.augment_p, device=self.device))
            case _:
                return samples

    # ---- losses ------------------------------------------------------------------------------------------------------

    def has_penalty(self) -> bool:
        """Return whether this step's gradients are penalized."""
        return self.penalty is not None and self.state.steps % self.recipe.penalty_every == 0

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, *, real_logits: Tensor, fake_logits: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Return the sum of the K discriminators' losses, each of which has its own weights, and the penalty if due.

        Args:
            real: float32 [B, C, H, W]; ``fake`` likewise.
            real_logits: float32 [K, B / pack]; ``fake_logits`` likewise.
            labels: int64 [B] or None.
        """
        losses = torch.stack([self.objective.discriminator(r, f) for r, f in zip(real_logits, fake_logits)])  # [K]
        self.log("loss/discriminator", losses.mean())
        self.log("logit/real", real_logits.mean())
        self.log("logit/fake", fake_logits.mean())
        self.log("logit/rank_accuracy", (real_logits > fake_logits).float().mean())
        if self.recipe.augment == "ada":
            reference = fake_logits if self.objective.boundary is None else self.objective.boundary
            self.state.ada.update(real_logits - reference, images=len(real), progress=self.state.progress)
            self.log("augment/p", self.state.ada.p)
        if self.penalty is None or not self.has_penalty():
            return losses.sum()
        penalty = self.penalty(
            PenaltyInputs(lambda x: self.run_discriminator(x, labels)[0], real, fake, real_logits, fake_logits)
        )
        self.log("loss/penalty", penalty)
        # A penalty at every k-th step counts k times. It is a mean over the K discriminators: times K, each of them has
        # the whole weight.
        return losses.sum() + len(losses) * self.values.penalty_weight * self.recipe.penalty_every * penalty

    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the weighted mean of the generator's losses against the active discriminators, a scalar."""
        active = self.active_discriminators()
        losses = torch.stack([self.objective.generator(real_logits[k], fake_logits[k]) for k in active])
        loss = softmax_mean(losses, self.recipe.softmax_inverse_temperature)
        self.log("loss/generator", loss)
        return loss

    def active_discriminators(self) -> list[int]:
        """Draw the discriminators that the generator learns from: each with its probability, and at least one.

        Dropping some at random keeps the generator from settling on what fools one of them (Mordido et al. 2018,
        arXiv:1807.11346).
        """
        count, probability = len(self.state.discriminator.members), self.recipe.discriminator_dropout
        if probability == 0:
            return list(range(count))
        active = [k for k, u in enumerate(torch.rand(count).tolist()) if u >= probability]
        return active or [int(torch.randint(count, ()))]

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
        """Keep a value, without its graph, for the step's metrics."""
        self.metrics[name] = value.detach()


def is_one_stage(recipe: Recipe) -> bool:
    """Return whether simultaneous updates need one backward pass through the discriminator only.

    For a single discriminator of single images, whose loss but for penalties on real images is the adversarial one.
    """
    alone = recipe.discriminators == recipe.pack == 1 and recipe.categorical_codes + recipe.continuous_codes == 0
    return alone and recipe.penalty in ("none", "r1") and OBJECTIVES[recipe.objective].slope_ratio is not None


def needs_two_batches(recipe: Recipe) -> bool:
    """Return whether the generator's step compares with real samples that the discriminators have not just seen."""
    return recipe.updates == "alternating" and OBJECTIVES[recipe.objective].relative


def work_cycle(recipe: Recipe) -> int:
    """Return after how many steps penalty and generator are due again, so that these take as long as those before."""
    penalty_every = 1 if recipe.penalty == "none" else recipe.penalty_every
    return math.lcm(penalty_every, recipe.discriminator_steps)


def metric_names(recipe: Recipe) -> list[str]:
    """Return the names of the metrics that a step of this recipe reports."""
    return [
        *("loss/discriminator", "loss/generator", "logit/real", "logit/fake", "logit/rank_accuracy"),
        *(["loss/penalty"] if recipe.penalty != "none" else []),
        *(["loss/code"] if recipe.categorical_codes + recipe.continuous_codes else []),
        *(["augment/p"] if recipe.augment == "ada" else []),
    ]
