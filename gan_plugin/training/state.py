"""All that training changes: networks, optimizers, what augmentation and the guard have learned, the best so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe
from gan_plugin.device import MEMORY_FORMAT
from gan_plugin.distributed import Ranks, seed_of_rank
from gan_plugin.networks import new_discriminators, new_generator
from gan_plugin.networks.wrappers import Discriminators
from gan_plugin.spec import SampleSpec
from gan_plugin.training.ada import AdaController
from gan_plugin.training.guard import GuardState
from gan_plugin.training.optimizers import new_optimizer, step_factor


@dataclass(frozen=True, kw_only=True)
class Best:
    """The averaged generator that is exported, as things are.

    Attributes:
        metric: the metric's name; lower is better.
        digest: of what decides the metric's value.
        value: of this generator.
        lowest: of all that were evaluated.
        step: when it was evaluated.
        evaluations: how many there have been.
        weights: its state, with batch norm's statistics measured anew.
    """

    metric: str
    digest: str
    value: float
    lowest: float
    step: int
    evaluations: int
    weights: dict[str, Tensor]


@dataclass(kw_only=True)
class TrainingState:
    """The state of a training run.

    Attributes:
        spec: what the generator makes.
        networks: "generator", "discriminator" and "ema", the averaged generator, which is always in eval mode. An
            autoencoder is a generator, and has no discriminator.
        optimizers: by the name of the network that they move.
        ada: the controller of adaptive augmentation.
        steps: batches that the discriminators have learned from.
        progress: how much of the training is behind, 0…1.
        seconds: that the run has taken, where it ends in time.
        best: None as long as nothing has been evaluated.
        rollbacks: how often the guard has gone back to a checkpoint.
        guard: what the guard remembers.
    """

    spec: SampleSpec
    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    ada: AdaController
    steps: int = 0
    progress: float = 0.0
    seconds: float = 0.0
    best: Best | None = None
    rollbacks: int = 0
    guard: GuardState = field(default_factory=GuardState)

    @property
    def generator(self) -> nn.Module:
        """The generator that is trained."""
        return self.networks["generator"]

    @property
    def discriminator(self) -> Discriminators:
        """All discriminators."""
        return cast(Discriminators, self.networks["discriminator"])

    @property
    def ema(self) -> nn.Module:
        """The averaged generator, which is sampled and exported."""
        return self.networks["ema"]


def new_state(recipe: Recipe, spec: SampleSpec, device: torch.device) -> TrainingState:
    """Make fresh networks from torch's global random state, and their optimizers, on ``device``."""
    is_gan = recipe.method == "gan"
    generator = new_generator(recipe, spec)
    discriminator = {"discriminator": new_discriminators(recipe, spec)} if is_gan else {}
    ema = new_generator(recipe, spec)
    ema.load_state_dict(generator.state_dict())
    networks = {"generator": generator, **discriminator, "ema": ema.eval().requires_grad_(False)}
    for network in networks.values():
        network.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]  # torch's stubs lack the pair
    first = recipe.at(0)
    optimizers = {"generator": new_optimizer(recipe, generator, lr=first.generator_lr, factor=1.0)}
    for name, network in discriminator.items():
        optimizers[name] = new_optimizer(recipe, network, lr=first.discriminator_lr, factor=step_factor(recipe))
    return TrainingState(spec=spec, networks=networks, optimizers=optimizers, ada=AdaController(device))


def first_state(recipe: Recipe, spec: SampleSpec, device: torch.device, *, seed: int, ranks: Ranks) -> TrainingState:
    """Make a new state with equal weights in all processes; from here on each draws with a seed of its own."""
    torch.manual_seed(seed)
    state = new_state(recipe, spec, device)
    if not ranks.is_main:
        torch.manual_seed(seed_of_rank(seed, ranks.rank))
    return state


def seed_after(seed: int, rollbacks: int) -> int:
    """Return another seed after each return to a checkpoint, or what failed would happen again.

    Within 32 bits, because PyTorch's generator on the CPU looks at no others.
    """
    return (seed + rollbacks * 2_654_435_761) % 2**32
