"""One step of the state: both players' losses, what is added to them, and their updates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan_plugin.augment import AdaController, adaptive_augment, diff_augment, scheduled_augment
from gan_plugin.config.recipe import Recipe
from gan_plugin.device import autocast, memory_format
from gan_plugin.networks import new_discriminators, new_generator
from gan_plugin.networks.wrappers import Discriminators, one_power_iteration
from gan_plugin.objectives import OBJECTIVES, mutual_information_loss, softmax_mean
from gan_plugin.penalties import PENALTIES, PenaltyInputs
from gan_plugin.spec import SampleSpec
from gan_plugin.training.ema import ema_decay, update_ema
from gan_plugin.training.guard import Past
from gan_plugin.training.optimizers import follow_ramps, new_optimizers


class Batch(NamedTuple):
    """Real images uint8 [B, C, H, W] and their labels int64 [B], None where the generator takes none."""

    images: Tensor
    labels: Tensor | None = None


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
class TrainingState:
    """The players, the averaged generator and the optimizers: all that training changes."""

    spec: SampleSpec
    generator: nn.Module
    discriminator: Discriminators
    ema: nn.Module  # in eval mode, never trained
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    ada: AdaController
    steps: int = 0  # batches that the discriminators have learned from
    best: Best | None = None  # None as long as nothing has been judged
    rollbacks: int = 0  # how often the guard has gone back to a checkpoint
    past: Past = field(default_factory=Past)  # for the guard


def new_state(recipe: Recipe, spec: SampleSpec, device: torch.device) -> TrainingState:
    """Fresh networks from torch's global random state, and their optimizers, on ``device``."""
    generator = new_generator(recipe, spec)
    discriminator = new_discriminators(recipe, spec)
    ema = new_generator(recipe, spec)
    ema.load_state_dict(generator.state_dict())
    for network in (generator, discriminator, ema):
        network.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    optimizers = new_optimizers(recipe, generator, discriminator)
    return TrainingState(
        spec, generator, discriminator, ema.eval().requires_grad_(False), *optimizers, AdaController(device)
    )


Step = Callable[[Batch, Batch], dict[str, Tensor]]


def make_step(state: TrainingState, recipe: Recipe, precision: torch.dtype) -> Step:
    """A function that plays one step on a batch for the discriminators and one for the generator.

    The second is looked at where the generator's loss needs real images of its own (see ``wants_two_batches``). It
    returns scalars on the device, by the names under which they are logged, and makes no host synchronization.
    """
    turn = alternating if recipe.updates == "alternating" else simultaneous
    return functools.partial(turn, Play(state, recipe, precision))


def wants_two_batches(recipe: Recipe) -> bool:
    return recipe.updates == "alternating" and OBJECTIVES[recipe.objective].relative


class Play:
    """What both kinds of turns are made of. Values named in ``said`` are those of the latest step that had them."""

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        self.state, self.recipe, self.precision = state, recipe, precision
        self.objective = OBJECTIVES[recipe.objective]
        self.penalty = PENALTIES.get(recipe.penalty)
        self.generator_weights = list(state.generator.parameters())
        self.discriminator_weights = list(state.discriminator.parameters())
        self.device = next(state.generator.parameters()).device
        zero = torch.zeros((), device=self.device)
        self.said = dict.fromkeys(metric_names(recipe), zero)

    def real(self, batch: Batch) -> Tensor:
        """Dataset float32 [B, C, H, W] in −1…1."""
        return (batch.images.float() / 127.5 - 1).contiguous(memory_format=memory_format(self.device))

    def latents(self, batch: Batch) -> Tensor:
        return torch.randn(len(batch.images), self.recipe.latent_size, device=self.device)  # [B, latent_size]

    def fake(self, z: Tensor, labels: Tensor | None) -> Tensor:
        with autocast(self.device, self.precision):
            images: Tensor = self.state.generator(z) if labels is None else self.state.generator(z, labels)
        return images.float()

    def judge(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Augmented images [B, C, H, W] → logits [K, B / pack] and predicted_codes codes [B, codes]."""
        with autocast(self.device, self.precision):
            return self.state.discriminator.discriminate(self.augment(images), labels)

    def augment(self, images: Tensor) -> Tensor:
        match self.recipe.augment:
            case "diffaugment":
                return diff_augment(images)
            case "ada":
                return adaptive_augment(images, self.state.ada.p)
            case "scheduled":
                p = self.recipe.augment_p.at(self.state.steps * self.recipe.batch_size, self.recipe.anneal)
                return scheduled_augment(images, torch.full((), p, device=self.device))
            case _:
                return images

    def penalized(self) -> bool:
        """Whether this step's gradients are penalized."""
        return self.penalty is not None and self.state.steps % self.recipe.penalty_every == 0

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor, labels: Tensor | None
    ) -> Tensor:
        """The discriminators' losses, summed because each has its own weights, and the penalty where it is due."""
        losses = torch.stack([self.objective.discriminator(r, f) for r, f in zip(real_logits, fake_logits)])  # [K]
        self.say("loss/discriminator", losses.mean())
        self.say("logit/real", real_logits.mean())
        self.say("logit/fake", fake_logits.mean())
        self.say("logit/ranked_right", (real_logits > fake_logits).float().mean())
        if self.recipe.augment == "ada":
            assert self.objective.boundary is not None
            self.state.ada.observe(real_logits, self.objective.boundary, len(real))
            self.say("augment/p", self.state.ada.p)
        if self.penalty is None or not self.penalized():
            return losses.sum()
        judged = PenaltyInputs(lambda x: self.judge(x, labels)[0], real, fake, real_logits, fake_logits)
        penalty = self.penalty(judged)
        self.say("loss/penalty", penalty)
        weight = self.recipe.penalty_weight.at(self.state.steps * self.recipe.batch_size, self.recipe.anneal)
        # the penalty is a mean over the discriminators: times their number, each has the whole weight
        return losses.sum() + len(losses) * weight * self.recipe.penalty_every * penalty

    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """What the generator hears of each discriminator, mixed: scalar."""
        heard = self.heard()
        losses = torch.stack([self.objective.generator(real_logits[k], fake_logits[k]) for k in heard])
        loss = softmax_mean(losses, self.recipe.softmax_temperature)
        self.say("loss/generator", loss)
        return loss

    def heard(self) -> list[int]:
        """Which discriminators the generator hears: each with its probability, and at least one."""
        members, probability = len(self.state.discriminator.members), self.recipe.discriminator_dropout
        if probability == 0:
            return list(range(members))
        kept = [k for k, u in enumerate(torch.rand(members).tolist()) if u >= probability]
        return kept or [int(torch.randint(members, ()))]

    def information(self, predicted_codes: Tensor | None, z: Tensor) -> Tensor | float:
        """What both players pay where an image does not show the codes of its z."""
        if predicted_codes is None:
            return 0.0
        loss = mutual_information_loss(predicted_codes, z, self.recipe.categorical_codes, self.recipe.continuous_codes)
        self.say("loss/code", loss)
        return loss

    def say(self, name: str, value: Tensor) -> None:
        self.said[name] = value.detach()

    def end(self, generator_moved: bool) -> dict[str, Tensor]:
        state, recipe = self.state, self.recipe
        state.steps += 1
        if generator_moved:
            update_ema(state.ema, state.generator, ema_decay(recipe, state.steps))
        return self.said


def metric_names(recipe: Recipe) -> list[str]:
    """What a step of this recipe reports."""
    return [
        *("loss/discriminator", "loss/generator", "logit/real", "logit/fake", "logit/ranked_right"),
        *(["loss/penalty"] if recipe.penalty != "none" else []),
        *(["loss/code"] if recipe.categorical_codes + recipe.continuous_codes else []),
        *(["augment/p"] if recipe.augment == "ada" else []),
    ]


def simultaneous(play: Play, batch: Batch, _: Batch) -> dict[str, Tensor]:
    """Both players learn from one batch of fakes, as in the tutorial: one pass of the generator, two of the others."""
    state, labels = play.state, batch.labels
    follow_ramps(state, play.recipe)
    real, z = play.real(batch), play.latents(batch)
    fake = play.fake(z, labels)  # [B, C, H, W]
    real.requires_grad_(play.penalized())
    with one_power_iteration():
        fake_logits, predicted_codes = play.judge(fake, labels)  # [K, B / pack], [B, codes]
        real_logits, _guessed = play.judge(real, labels)
        information = play.information(predicted_codes, z)
        generator_loss = play.generator_loss(real_logits, fake_logits) + information
        discriminator_loss = play.discriminator_loss(real, fake, real_logits, fake_logits, labels) + information

    state.generator_optimizer.zero_grad()
    state.discriminator_optimizer.zero_grad()
    # inputs= leaves the other player's gradients uncomputed. backward() and not grad(), because it lays a gradient
    # out in memory like its weight, which the fused optimizer takes for granted.
    generator_loss.backward(inputs=play.generator_weights, retain_graph=True)
    discriminator_loss.backward(inputs=play.discriminator_weights)
    state.generator_optimizer.step()
    state.discriminator_optimizer.step()
    return play.end(generator_moved=True)


def alternating(play: Play, batch: Batch, generators: Batch) -> dict[str, Tensor]:
    """First the discriminators learn, then, every ``discriminator_steps``, the generator from images of its own."""
    follow_ramps(play.state, play.recipe)
    teach_discriminators(play, batch)
    generators_turn = (play.state.steps + 1) % play.recipe.discriminator_steps == 0
    if generators_turn:
        teach_generator(play, generators)
    return play.end(generator_moved=generators_turn)


def teach_discriminators(play: Play, batch: Batch) -> None:
    labels, optimizer = batch.labels, play.state.discriminator_optimizer
    with torch.no_grad():
        z = play.latents(batch)
        fake = play.fake(z, labels)  # [B, C, H, W]
    real = play.real(batch).requires_grad_(play.penalized())
    fake = fake.detach().requires_grad_(play.penalized())
    with one_power_iteration():
        fake_logits, predicted_codes = play.judge(fake, labels)  # [K, B / pack], [B, codes]
        real_logits, _ = play.judge(real, labels)
        loss = play.discriminator_loss(real, fake, real_logits, fake_logits, labels) + play.information(
            predicted_codes, z
        )
    optimizer.zero_grad()
    loss.backward(inputs=play.discriminator_weights)
    optimizer.step()


def teach_generator(play: Play, batch: Batch) -> None:
    z = play.latents(batch)
    with one_power_iteration():
        fake_logits, predicted_codes = play.judge(play.fake(z, batch.labels), batch.labels)  # [K, B / pack], [B, codes]
        real_logits = fake_logits  # where the objective does not look at them
        if play.objective.relative:
            with torch.no_grad():
                real_logits, _ = play.judge(play.real(batch), batch.labels)
    loss = play.generator_loss(real_logits.detach(), fake_logits) + play.information(predicted_codes, z)
    play.state.generator_optimizer.zero_grad()
    loss.backward(inputs=play.generator_weights)
    play.state.generator_optimizer.step()
