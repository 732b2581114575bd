"""Take steps of every recipe on an accelerator that is not there, and of some with a fault; print a line of JSON each.

A line has the recipe or the fault, ``host``, the operations that touched the host, ``differing``, those that were not
the same with the same numbers in two calls of one function, and ``error``, the exception's name or null.
"""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Callable
from typing import Any

import torch
from accelerator import DEVICE, Fake, Trace
from torch import Tensor

from gan_plugin.config.recipe import Recipe, load_recipe, override, recipe_names
from gan_plugin.data.loader import Batch
from gan_plugin.spec import image_spec
from gan_plugin.training.gan import GanStep, work_cycle
from gan_plugin.training.state import new_state
from gan_plugin.training.steps import new_step

BATCH, SIDE, CHANNELS = 4, 16, 3
CYCLES = 3  # the first one makes what all others find


class Traced:
    """Stands where CUDA would capture, and keeps the operations of each call of each function."""

    def __init__(self) -> None:
        self.calls: dict[object, list[list[str]]] = collections.defaultdict(list)

    def __call__(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(inputs: Any) -> Any:
            with Trace() as trace:
                outputs = function(inputs)
            self.calls[function].append(trace.calls)
            return outputs

        return run

    def differing(self) -> list[str]:
        """Return the operations that are not those of the call before, of the same function; its first call aside."""
        pairs = [pair for calls in self.calls.values() for pair in itertools.pairwise(calls[1:])]
        lengths = ["another number of operations" for a, b in pairs if len(a) != len(b)]
        return sorted({x.split()[0] for a, b in pairs for x, y in zip(a, b) if x != y} | set(lengths))


def small(name: str, **values: object) -> Recipe:
    recipe = load_recipe(name)
    width = {"width": 32, "full_stages": 4, "blocks": 1} if recipe.family == "r3gan" else {}
    return override(recipe, **{"batch_size": BATCH, "latent_size": 16, **width, **values})


def report(name: str, recipe: Recipe, step_class: Callable[..., Any] = new_step) -> None:
    """Take steps, while the recipe's ramps move, and print what came of it."""
    traced, host, error = Traced(), list[str](), None
    try:
        with Fake():
            spec = image_spec(SIDE, SIDE, CHANNELS, class_names="abc" if recipe.conditional else ())
            state = new_state(recipe, spec, DEVICE)
            step = step_class(state, recipe, torch.bfloat16, capture=traced)
            images = torch.randint(0, 256, (BATCH, CHANNELS, SIDE, SIDE), dtype=torch.uint8, device=DEVICE)
            batch = Batch(images, torch.randint(0, 3, (BATCH,), device=DEVICE) if recipe.conditional else None)
            count = CYCLES * work_cycle(recipe)
            for index in range(count):
                state.progress = 0.5 * index / count
                with Trace() as trace:
                    metrics = step(batch, batch)
                host += trace.host
        host += [f"metric {name}" for name, value in metrics.items() if value.device != DEVICE]
    except Exception as exception:
        error = type(exception).__name__
    print(json.dumps({"name": name, "host": host, "differing": traced.differing(), "error": error}), flush=True)


# ---- faults ----------------------------------------------------------------------------------------------------------


class LatentsOnTheHost(GanStep):
    def sample_latents(self, batch: Batch) -> Tensor:
        return torch.randn(len(batch.samples), self.recipe.latent_size)


class LossThatIsRead(GanStep):
    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        loss = super().generator_loss(real_logits, fake_logits)
        return loss * loss.item()


class LossThatDecides(GanStep):
    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        loss = super().generator_loss(real_logits, fake_logits)
        return loss if loss > 0 else -loss


class MaskedLogits(GanStep):
    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        wrong = fake_logits < 0
        return super().generator_loss(real_logits[wrong][None], fake_logits[wrong][None])


class NumberFromTheHost(GanStep):
    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return super().generator_loss(real_logits, fake_logits) * torch.tensor(2.0)


class NumberThatMoves(GanStep):
    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return super().generator_loss(real_logits, fake_logits) * (1 + self.state.progress)


class WorkThatMoves(GanStep):
    def generator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        loss = super().generator_loss(real_logits, fake_logits)
        return loss if self.state.steps % 2 else loss + 1


FAULTS = (
    LatentsOnTheHost,
    LossThatIsRead,
    LossThatDecides,
    MaskedLogits,
    NumberFromTheHost,
    NumberThatMoves,
    WorkThatMoves,
)


def main() -> None:
    for name in recipe_names():
        report(name, small(name))
    report("shared-fakes", small("dcgan", updates="shared-fakes"))
    for fault in FAULTS:
        report(fault.__name__, small("dcgan", updates="alternating"), fault)


if __name__ == "__main__":
    main()
