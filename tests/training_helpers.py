"""Share what tests of training need: a tracker that remembers, a small plan, comparisons of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe, load_recipe, override, recipe_names
from gan_plugin.media.image import Image
from gan_plugin.spec import image_spec
from gan_plugin.training.plan import TrainingPlan
from gan_plugin.training.state import TrainingState

CPU = torch.device("cpu")


GAN_RECIPES = [name for name in recipe_names() if load_recipe(name).method == "gan"]
GRAY = image_spec(16, 16, 1)


class Memory:
    """A tracker that keeps what is logged."""

    def __init__(self) -> None:
        self.values: dict[int, dict[str, float]] = {}
        self.images: dict[int, Image] = {}
        self.files: list[tuple[str, str]] = []
        self.notes: dict[str, str] = {}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.values.setdefault(step, {}).update(values)

    def image(self, key: str, image: Image, step: int) -> None:
        self.images[step] = image

    def file(self, path: Path, folder: str) -> None:
        self.files.append((path.name, folder))

    def note(self, key: str, text: str) -> None:
        self.notes[key] = text


def small_recipe(**values: object) -> Recipe:
    return override(load_recipe("dcgan"), **{"batch_size": 32, "latent_size": 16, **values})


def plan(epochs: int = 2, seed: int = 0, **values: object) -> TrainingPlan:
    return TrainingPlan(
        small_recipe(**values),
        epochs=epochs,
        seed=seed,
        device=CPU,
        precision=torch.float32,
        samples_every=1,
        checkpoint_every=1,
    )


def weights(state: TrainingState) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, network in state.networks.items()
        for key, value in network.state_dict().items()
    }


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


class Scripted:
    """An evaluator that returns the values that it was made with, and keeps the weights that it was given."""

    def __init__(self, *values: float, seconds: float = 0.0, metric: str = "distance") -> None:
        self.values, self.seconds = list(values), seconds
        self.metric = self.digest = metric
        self.weights: list[dict[str, Tensor]] = []

    def __call__(self, generator: nn.Module) -> float:
        assert not generator.training
        self.weights.append({name: value.clone() for name, value in generator.state_dict().items()})
        return self.values[len(self.weights) - 1]


def evaluated_plan(epochs: int, share: float = 0.999) -> TrainingPlan:
    return dataclasses.replace(plan(epochs=epochs), evaluation_budget=share)
