"""One training step of a GAN: gradients of both networks, and what is moved by them."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from gan_plugin.config.recipe import Hyperparameters, Recipe
from gan_plugin.data.loader import Batch
from gan_plugin.distributed import ALONE, Ranks
from gan_plugin.objectives import OBJECTIVES
from gan_plugin.penalties import OF_REAL_ALONE
from gan_plugin.training.capture import Capture, as_it_is
from gan_plugin.training.ema import Averager, ema_decay
from gan_plugin.training.gradients import GanGradients, Gradients
from gan_plugin.training.optimizers import follow_ramps
from gan_plugin.training.state import TrainingState


class GanStep(GanGradients):
    """A training step, called with a batch for the discriminators and one for the generator.

    The second batch is used only where the generator's loss needs real samples of its own (see ``needs_two_batches``).
    A call returns scalars on the device under the names in ``gan_metrics`` and never synchronizes with the host; a
    metric that a step does not compute has its value of the last step that did.

    Gradients are captured, but for those of shared fakes, whose graph leads from one network to the other.
    """

    def __init__(
        self,
        state: TrainingState,
        recipe: Recipe,
        precision: torch.dtype,
        *,
        capture: Capture = as_it_is,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(state, recipe, precision)
        self.ranks = ranks
        both = self.one_stage if is_one_stage(recipe) else self.simultaneous
        # By whether the penalty is due. Each is captured when it has been called some times, and not before.
        self.both = {due: capture(partial(both, penalized=due)) for due in (False, True)}
        self.discriminators = {due: capture(partial(self.of_discriminator, penalized=due)) for due in (False, True)}
        self.generators = capture(self.of_generator)
        self.update = {
            "alternating": self.alternating_update,
            "shared-fakes": self.shared_fakes_update,
            "simultaneous": self.simultaneous_update,
        }[recipe.updates]
        self.averager = Averager(state.ema, state.generator)
        self.values: Hyperparameters | None = None  # of the latest step
        self.metrics = dict.fromkeys(gan_metrics(recipe), torch.zeros((), device=self.device))

    def __call__(self, batch: Batch, generator_batch: Batch) -> dict[str, Tensor]:
        state, recipe = self.state, self.recipe
        self.follow_ramps()
        generator_moved = self.update(batch, generator_batch)
        state.steps += 1
        if generator_moved:
            assert self.values is not None
            self.averager.update(ema_decay(recipe, state.steps, self.values.ema_half_life))
        return self.metrics

    def follow_ramps(self) -> None:
        """Have what follows a ramp take this step's value."""
        values = self.recipe.at(self.state.progress)
        if values == self.values:
            return
        self.values = values
        follow_ramps(self.state.optimizers, self.recipe, values)
        # A penalty at every k-th step counts k times. It is a mean over the K discriminators: times K, each of them has
        # the whole weight.
        self.penalty_weight.fill_(self.recipe.discriminators * values.penalty_weight * self.recipe.penalty_every)
        self.augment_p.fill_(values.augment_p)

    # ---- updates -----------------------------------------------------------------------------------------------------

    def simultaneous_update(self, batch: Batch, _: Batch) -> bool:
        """Move both networks by gradients that were taken before either moved; returns that the generator moved."""
        self.move(self.both[self.penalty_is_due()](batch))
        return True

    def alternating_update(self, batch: Batch, generator_batch: Batch) -> bool:
        """Move the discriminators, then, every ``discriminator_steps``, the generator by fakes of its own.

        Returns whether the generator moved.
        """
        self.move(self.discriminators[self.penalty_is_due()](batch))
        generator_is_due = (self.state.steps + 1) % self.recipe.discriminator_steps == 0
        if generator_is_due:
            self.move(self.generators(generator_batch))
        return generator_is_due

    def shared_fakes_update(self, batch: Batch, _: Batch) -> bool:
        """Move the discriminators, then the generator by the fakes that they have just seen; returns that it moved.

        As in PyTorch's DCGAN tutorial: one forward pass through the generator fewer than with fakes of its own.
        """
        z = self.sample_latents(batch)
        fake = self.generate(z, batch.labels)  # [B, C, H, W]
        self.move(self.of_discriminator_on(batch, fake, z, penalized=self.penalty_is_due()))
        self.move(self.of_generator_through(batch, fake, z))
        return True

    def penalty_is_due(self) -> bool:
        """Return whether this step's gradients are penalized."""
        return self.penalty is not None and self.state.steps % self.recipe.penalty_every == 0

    def move(self, gradients: Gradients) -> None:
        """Move networks by their gradients, and keep what is logged."""
        gradients = gradients.averaged(self.ranks)
        gradients.move(self.state.optimizers, self.weights)
        # copies, since another captured function may compute where these lie
        self.metrics |= dict(zip(gradients.metrics, torch.stack(list(gradients.metrics.values())).unbind()))
        if "augment/overfitting" in gradients.metrics:
            ada, state = self.state.ada, self.state
            ada.update(gradients.metrics["augment/overfitting"], images=self.recipe.batch_size, progress=state.progress)
            self.metrics["augment/p"] = ada.p


def is_one_stage(recipe: Recipe) -> bool:
    """Return whether simultaneous updates need one backward pass through the discriminator only.

    For a single discriminator of single images, whose loss but for penalties on real images is the adversarial one.
    """
    alone = recipe.discriminators == recipe.pack == 1 and recipe.categorical_codes + recipe.continuous_codes == 0
    is_of_real = recipe.penalty == "none" or recipe.penalty in OF_REAL_ALONE
    return alone and is_of_real and OBJECTIVES[recipe.objective].slope_ratio is not None


def needs_two_batches(recipe: Recipe) -> bool:
    """Return whether the generator's step compares with real samples that the discriminators have not just seen."""
    return recipe.updates == "alternating" and OBJECTIVES[recipe.objective].relative


def work_cycle(recipe: Recipe) -> int:
    """Return after how many steps penalty and generator are due again, so that these take as long as those before."""
    penalty_every = 1 if recipe.penalty == "none" else recipe.penalty_every
    return math.lcm(penalty_every, recipe.discriminator_steps)


def gan_metrics(recipe: Recipe) -> list[str]:
    """Return the names of the metrics that a step of this recipe reports."""
    return [
        *("loss/discriminator", "loss/generator", "logit/real", "logit/fake", "logit/rank_accuracy"),
        *(["loss/penalty"] if recipe.penalty != "none" else []),
        *(["loss/code"] if recipe.categorical_codes + recipe.continuous_codes else []),
        *(["augment/overfitting", "augment/p"] if recipe.augment == "ada" else []),
    ]
