"""Every recipe trains for a few steps; what does not go together is refused before."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from helpers import refusal
from training_helpers import CPU, GAN_RECIPES, Memory, assert_same, weights

from gan_plugin.config.fitting import fit_augmentation
from gan_plugin.config.recipe import RAMPS, Recipe, check_effect, load_recipe, override, recipe_names, resolved
from gan_plugin.config.schedule import Ramp, lazy, parse_ramp
from gan_plugin.data import Dataset, load_dataset
from gan_plugin.data.loader import Batch
from gan_plugin.spec import image_spec
from gan_plugin.training.checkpoint import FILE_NAME, read_header
from gan_plugin.training.errors import Interrupted
from gan_plugin.training.gan import GanStep, needs_two_batches
from gan_plugin.training.loop import train
from gan_plugin.training.optimizers import follow_ramps
from gan_plugin.training.plan import TrainingPlan, check_updates
from gan_plugin.training.rules import check_combination, without_unused
from gan_plugin.training.state import TrainingState, new_state

# r3gan without any value that moves
STEADY = {"penalty": "none", "augment": "none", "beta2": 0.9, "generator_lr": 1e-3, "discriminator_lr": 1e-3}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    digits = load_dataset("digits", image_size=16)
    return dataclasses.replace(digits, samples=digits.samples[:96], labels=digits.labels[:96])


def small(name: str, **values: object) -> Recipe:
    """A recipe whose networks are small, and nothing else about it."""
    recipe = load_recipe(name)
    width = {"width": 32, "full_stages": 4, "blocks": 1} if recipe.family == "r3gan" else {}
    return override(recipe, **{"batch_size": 32, **width, **values})


def straight_and_resumed(recipe: Recipe, dataset: Dataset, folder: Path) -> tuple[TrainingState, TrainingState]:
    """Two epochs of three steps, without a stop, and with one after the third step."""
    plan = TrainingPlan(
        recipe, epochs=2, seed=0, device=CPU, precision=torch.float32, samples_every=9, checkpoint_every=1
    )
    full = train(dataset, plan, Memory(), folder=folder / "full")
    steps = iter(range(1, 100))
    with pytest.raises(Interrupted):
        train(dataset, plan, Memory(), folder=folder / "part", stop_requested=lambda: next(steps) == 3)
    checkpoint = folder / "part" / FILE_NAME
    assert read_header(checkpoint)["progress"] == 0.5
    return full, train(dataset, plan, Memory(), folder=folder / "rest", resume=checkpoint)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_reproducible_resumable_and_trains_both_networks(
    name: str, dataset: Dataset, tmp_path: Path
) -> None:
    """On the CPU: the same weights again, also after a stop in the middle; and none stays where it began."""
    recipe = small(name)
    check_combination(recipe, dataset)

    full, resumed = straight_and_resumed(recipe, dataset, tmp_path)
    assert_same(weights(full), weights(resumed))
    torch.manual_seed(0)
    fresh = new_state(recipe, full.spec, CPU)
    assert full.spec.classes == (10 if recipe.conditional else 0)
    for network in full.networks.keys() - {"ema"}:
        before = dict(fresh.networks[network].named_parameters())
        still = [k for k, v in full.networks[network].named_parameters() if torch.equal(v, before[k])]
        # a constant added to all logits is nothing to the Wasserstein distance
        assert still == (["members.0.logit.bias"] if (name, network) == ("wgan-gp", "discriminator") else [])


@pytest.mark.parametrize("name", [n for n in GAN_RECIPES if load_recipe(n).family != "r3gan"])
def test_the_discriminator_learns_to_tell(name: str, dataset: Dataset) -> None:
    """Against a generator that stands still its loss falls."""
    torch.manual_seed(0)
    recipe = small(
        name,
        generator_lr=1e-12,
        augment="none",
        discriminators=1,
        discriminator_dropout=0.0,
        softmax_inverse_temperature=0.0,
    )
    state = new_state(recipe, image_spec(16, 16, 1), CPU)
    step = GanStep(state, recipe, torch.float32)
    batch = Batch(dataset.samples[:32])
    losses = [step(batch, batch)["loss/discriminator"].item() for _ in range(30)]
    assert sum(losses[-5:]) / 5 < losses[0] - 0.1 * abs(losses[0])  # some tell them apart within five steps


def rates(state: TrainingState) -> tuple[float, ...]:
    g, d = (o.param_groups[0] for o in (*state.optimizers.values(),))
    return g["lr"], d["lr"], *d["betas"]


def test_optimizers_follow_the_ramps_and_lazy_penalties_correct_them() -> None:
    recipe = small("r1", penalty_every=4, generator_lr="4e-3..1e-3", beta2="0.9..0.99", anneal=0.5)
    state = new_state(recipe, image_spec(16, 16, 1), CPU)
    assert rates(state) == pytest.approx((4e-3, 2e-4 * 4 / 5, 0.5**0.8, 0.9**0.8))
    follow_ramps(state.optimizers, recipe, recipe.at(0.25))  # half-way
    assert rates(state) == pytest.approx((2.5e-3, 2e-4 * 0.8, 0.5**0.8, 0.945**0.8))
    follow_ramps(state.optimizers, recipe, recipe.at(0.8))
    assert rates(state)[0] == pytest.approx(1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_every_optimizer_resumes(optimizer: str, dataset: Dataset, tmp_path: Path) -> None:
    full, resumed = straight_and_resumed(
        small("dcgan", optimizer=optimizer, generator_lr="1e-3..1e-4"), dataset, tmp_path
    )
    assert_same(weights(full), weights(resumed))


def test_ramps() -> None:
    ramp = parse_ramp("2e-4..5e-5")
    assert (ramp.at(0), ramp.at(1), ramp.at(7)) == (2e-4, 5e-5, 5e-5)
    quarter = 5e-5 + 1.5e-4 * 0.5 * (1 + math.cos(math.pi / 4))
    assert ramp.at(0.25) == pytest.approx(quarter)
    assert str(ramp) == "0.0002..5e-05"
    assert str(parse_ramp(0.5)) == "0.5"
    assert [lazy(k) for k in (1, 4, 16)] == [1, 4 / 5, 16 / 17]
    with pytest.raises(ValueError, match="could not convert"):
        parse_ramp("1..")


def test_a_recipe_is_logged_as_it_was_given() -> None:
    assert {"generator_lr", "beta2", "penalty_weight", "ema_half_life", "augment_p"} <= RAMPS
    plain = resolved(load_recipe("r3gan-cifar10"))
    assert (plain["generator_lr"], plain["beta1"], plain["conditional"]) == ("0.0002..5e-05", 0.0, True)
    assert resolved(load_recipe("dcgan"))["generator_lr"] == 2e-4


def test_augmentation_is_for_little_data() -> None:
    recipe = load_recipe("lsgan")
    assert fit_augmentation(recipe, 1_438).augment == "diffaugment"
    assert fit_augmentation(recipe, 60_000).augment == "none"
    assert fit_augmentation(load_recipe("dcgan"), 1_438).augment == "none"  # the tutorial's, and nothing else
    assert fit_augmentation(load_recipe("r3gan-cifar10"), 50_000).augment == "scheduled"


def test_a_relative_loss_needs_real_images_for_the_generator() -> None:
    assert needs_two_batches(load_recipe("r3gan"))
    assert not needs_two_batches(load_recipe("wgan-gp"))
    assert not needs_two_batches(override(load_recipe("r3gan"), updates="shared-fakes"))


@pytest.mark.parametrize(
    ("recipe", "values", "sentence"),
    [
        ("dcgan", {"augment": "scheduled"}, "augment=scheduled needs a probability: give augment_p, for example"),
        (
            "dcgan",
            {"penalty": "r1"},
            "penalty=r1 needs a weight: give penalty_weight, for example 1 or 10, or penalty=",
        ),
        ("dcgan", {"discriminator_steps": 5}, "discriminator_steps=5 is not possible with updates=simultaneous"),
        ("dcgan", {"family": "r3gan"}, "family=r3gan needs width and blocks"),
        ("r3gan", {"spectral_norm": True}, "spectral_norm is not possible with family=r3gan"),
        ("wgan-gp", {"updates": "simultaneous"}, "discriminator_steps=5 is not possible with updates=simultaneous"),
        ("wgan-gp", {"updates": "shared-fakes"}, "discriminator_steps=5 is not possible with updates=shared-fakes"),
        ("dcgan", {"objective": "wasserstein"}, "objective=wasserstein needs a Lipschitz-bound critic"),
        ("pacgan", {"pack": 100}, "pack=100 is more than the 96 images of the data: give a smaller one."),
        ("infogan", {"categorical_codes": 1}, "categorical_codes=1 is a choice of one: give 0, or at least 2."),
        ("r3gan", {"width": 40}, "width=40 is not possible with family=r3gan"),
        ("pacgan", {"batch_size": 33}, "batch_size=33 is not a multiple of pack=2: give one that is."),
        ("infogan", {"pack": 2}, "codes are predicted from single images, and pack=2 packs them: give pack=1."),
        ("infogan", {"latent_size": 12}, "latent_size=12 leaves nothing beside 12 codes: give more."),
    ],
)
def test_what_does_not_go_together_is_refused(
    recipe: str, values: dict[str, object], sentence: str, dataset: Dataset
) -> None:
    assert refusal(lambda: check_combination(override(load_recipe(recipe), **values), dataset)).startswith(sentence)


@pytest.mark.parametrize(
    ("recipe", "values", "sentence"),
    [
        ("dcgan", {"penalty_weight": 1}, "penalty_weight changes nothing without a penalty: give that, too, or leave"),
        ("r1", {"penalty": "none", "penalty_every": 2}, "penalty_every changes nothing without a penalty"),
        ("r1", {"augment_p": 0.5}, "augment_p changes nothing without augment=scheduled"),
        ("dcgan", {"full_stages": 2}, "full_stages changes nothing without family=r3gan"),
        ("dcgan", {"width": 64}, "width changes nothing without family=subpixel or r3gan"),
        ("r3gan", {"dropout": 0.3}, "dropout changes nothing without family=dcgan"),
        (
            "dcgan",
            {"softmax_inverse_temperature": 1.0},
            "softmax_inverse_temperature changes nothing without discriminators=2 or more: give that",
        ),
        ("dcgan", {"penalty_weight": "1..0.1"}, "penalty_weight changes nothing without a penalty"),
        ("dcgan", {"optimizer": "rmsprop", "beta1": 0.9}, "beta1 changes nothing without optimizer=adam or sgd"),
        ("dcgan", {"optimizer": "sgd", "beta2": 0.9}, "beta2 changes nothing without optimizer=adam or rmsprop"),
        ("dcgan", {"anneal": 0.5}, "anneal changes nothing without a value A..B"),
        ("dcgan", {"anneal": 0.5, "augment_p": "0..0.3"}, "augment_p changes nothing without augment=scheduled"),
        ("r3gan", {"anneal": 0.5, **STEADY}, "anneal changes nothing without a value A..B"),
    ],
)
def test_what_would_change_nothing_is_refused(recipe: str, values: dict[str, object], sentence: str) -> None:
    left = without_unused(override(load_recipe(recipe), **values))
    assert refusal(lambda: check_effect(left, values)).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "values", "gone"),
    [
        ("r3gan", {"family": "dcgan"}, {"width": 0, "full_stages": 4, "blocks": 0}),
        ("dcgan", {"family": "r3gan", "width": 32, "blocks": 1}, {"dropout": 0.0}),
        ("r3gan", {"penalty": "none", "augment": "none"}, {"penalty_weight": Ramp(0, 0), "augment_p": Ramp(0, 0)}),
        ("gman", {"discriminators": 1}, {"softmax_inverse_temperature": 0.0, "discriminator_dropout": 0.0}),
        ("r1", {"penalty": "none"}, {"penalty_every": 1}),
        ("r3gan", {"augment": "ada"}, {"augment_p": Ramp(0, 0)}),
        ("dcgan", {"penalty_weight": "1..0.1", "anneal": 0.9}, {"penalty_weight": Ramp(0, 0), "anneal": 1}),
    ],
)
def test_what_an_override_takes_away_leaves_nothing_behind(
    name: str, values: dict[str, object], gone: dict[str, object], dataset: Dataset
) -> None:
    left = without_unused(override(load_recipe(name), **values))
    assert {field: getattr(left, field) for field in gone} == gone
    check_combination(left, dataset)
    left = override(left, batch_size=8, conditional=False)
    batch = Batch(dataset.samples[:8])
    metrics = GanStep(new_state(left, image_spec(16, 16, 1), CPU), left, torch.float32)(batch, batch)
    assert all(value.isfinite() for value in metrics.values())


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_has_leftovers(name: str) -> None:
    assert without_unused(load_recipe(name)) == load_recipe(name)


def test_a_generator_that_would_never_learn_is_refused(dataset: Dataset) -> None:
    plans = [  # of three steps an epoch
        TrainingPlan(
            small("wgan-gp"),
            epochs=epochs,
            seed=0,
            device=CPU,
            precision=torch.float32,
            samples_every=9,
            checkpoint_every=9,
        )
        for epochs in (1, 2)
    ]
    check_updates(plans[1], dataset)
    assert refusal(lambda: check_updates(plans[0], dataset)).startswith(
        "discriminator_steps=5 is more than the training's 3 steps"
    )


def test_each_of_several_discriminators_has_the_whole_penalty(dataset: Dataset) -> None:
    """Two equal ones learn what one alone learns from the same images."""
    gradients = []
    for members in (1, 2):
        recipe = small("r1", discriminators=members, augment="none", penalty_weight=100)
        torch.manual_seed(0)
        step = GanStep(new_state(recipe, image_spec(16, 16, 1), CPU), recipe, torch.float32)
        first = step.state.discriminator.members[0]
        torch.manual_seed(1)
        for weight in first.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        for other in step.state.discriminator.members:
            other.load_state_dict(first.state_dict())
        real = step.real_samples(Batch(dataset.samples[:8])).requires_grad_()
        fake = real.detach().flip(2)
        real_logits, fake_logits = step.run_discriminator(real, None)[0], step.run_discriminator(fake, None)[0]
        step.follow_ramps()
        loss = step.discriminator_loss(
            real, fake, real_logits=real_logits, fake_logits=fake_logits, labels=None, penalized=True
        )
        gradients.append(torch.autograd.grad(loss, list(first.parameters())))
    torch.testing.assert_close(gradients[1], gradients[0])
