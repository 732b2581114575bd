"""The encoder that is trained after a GAN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_helpers import CPU, Memory, small_recipe

from gan_plugin.config.recipe import Recipe, load_recipe, override
from gan_plugin.data import Dataset, load_dataset
from gan_plugin.training import encoder as encoder_module
from gan_plugin.training.encoder import new_encoder, rate, train_encoder
from gan_plugin.training.loop import train
from gan_plugin.training.plan import TrainingPlan
from gan_plugin.training.state import TrainingState, new_state


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", image_size=16).take(torch.arange(256))


def plan_of(recipe: Recipe) -> TrainingPlan:
    return TrainingPlan(
        recipe, epochs=1, seed=0, device=CPU, precision=torch.float32, samples_every=9, checkpoint_every=9
    )


def state_of(recipe: Recipe, digits: Dataset) -> TrainingState:
    torch.manual_seed(0)
    return new_state(recipe, digits.spec if recipe.conditional else digits.spec.unlabeled(), CPU)


def test_it_learns_the_z_of_generated_and_the_pixels_of_real_images(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a generator that shows z's first value as a gray level: that value is found, and of real images the mean."""

    class Gray(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

        def forward(self, z: Tensor) -> Tensor:
            return self.scale * (z[:, :1] / 3)[:, :, None, None].expand(-1, 1, 16, 16)

    monkeypatch.setattr(encoder_module, "EPOCHS", 30)
    recipe = small_recipe(latent_size=4)
    state = state_of(recipe, digits)
    state.networks["ema"] = Gray()
    encoder, losses = train_encoder(state, plan_of(recipe), digits, seconds=None)
    with torch.no_grad():
        z = torch.randn(64, 4)
        first = encoder(state.ema(z)).code[:, 0]
        real = digits.samples.float() / 127.5 - 1
        levels = encoder(real).code[:, 0] / 3
    assert torch.corrcoef(torch.stack([first, z[:, 0]]))[0, 1] > 0.98
    assert (levels - real.mean((1, 2, 3))).abs().mean() < 0.1
    assert losses["loss/encoder_z"] < 1  # the other three values cannot be known


def test_classes_are_learned_where_the_generator_takes_them(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_module, "EPOCHS", 15)
    recipe = override(load_recipe("subpixel"), batch_size=32, width=16, latent_size=8)
    state = state_of(recipe, digits)
    encoder, losses = train_encoder(state, plan_of(recipe), digits, seconds=None)
    assert set(losses) == {"loss/encoder_z", "loss/encoder_real", "loss/encoder_label"}
    with torch.no_grad():
        logits = encoder(digits.samples.float() / 127.5 - 1).class_logits
    assert logits is not None
    assert (logits.argmax(1) == digits.labels).float().mean() > 0.8


def test_it_begins_with_what_the_discriminator_has_learned(digits: Dataset) -> None:
    recipe = override(load_recipe("subpixel"), batch_size=32, width=16, latent_size=8)
    state = state_of(recipe, digits)
    learned = state.discriminator.members[0].state_dict()
    body = new_encoder(recipe, state).body.state_dict()
    assert all(torch.equal(value, learned[name]) for name, value in body.items())


@pytest.mark.parametrize("values", [{"pack": 2}, {"spectral_norm": True}])
def test_a_discriminator_of_another_kind_is_not_begun_with(values: dict[str, object], digits: Dataset) -> None:
    recipe = small_recipe(latent_size=4, **values)
    encoder = new_encoder(recipe, state_of(recipe, digits))
    assert encoder(torch.randn(2, 1, 16, 16)).code.shape == (2, 4)


def test_the_generators_training_is_left_as_it_was(digits: Dataset, tmp_path: Path) -> None:
    recipe = override(load_recipe("subpixel"), batch_size=32, width=16, latent_size=8)
    state = train(digits, plan_of(recipe), Memory(), folder=tmp_path)
    before = {name: value.clone() for name, value in state.ema.state_dict().items()}
    train_encoder(state, plan_of(recipe), digits, seconds=0.5)
    assert all(torch.equal(value, before[name]) for name, value in state.ema.state_dict().items())


def test_a_signal_ends_it(digits: Dataset) -> None:
    recipe = small_recipe(latent_size=4)
    steps = iter(range(100))
    train_encoder(
        state_of(recipe, digits), plan_of(recipe), digits, seconds=None, stop_requested=lambda: next(steps) == 2
    )
    assert next(steps) == 3


def test_rates_fall_along_half_a_cosine() -> None:
    assert [f"{rate(progress):.2e}" for progress in (0.0, 0.5, 1.0)] == ["1.00e-03", "5.05e-04", "1.00e-05"]
