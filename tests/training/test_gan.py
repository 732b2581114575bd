"""One training step: both updates against their definitions, what comes only now and then, and what is seen of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_helpers import CPU, GAN_RECIPES, GRAY, Memory

from gan_plugin.config.recipe import Recipe, load_recipe, override
from gan_plugin.data.dataset import Dataset, make_dataset
from gan_plugin.data.loader import Batch
from gan_plugin.objectives import OBJECTIVES, mutual_information_loss
from gan_plugin.spec import SampleSpec, image_spec
from gan_plugin.training import gradients
from gan_plugin.training import steps as steps_module
from gan_plugin.training.ada import ADJUST_EVERY, RAMP_IMAGES
from gan_plugin.training.gan import GanStep
from gan_plugin.training.loop import train
from gan_plugin.training.plan import TrainingPlan
from gan_plugin.training.state import TrainingState, new_state
from gan_plugin.training.steps import metric_names

UPDATES = ["simultaneous", "alternating", "shared-fakes"]
BATCH, LATENT, CLASSES = 8, 8, 3
GENERATOR_LR, DISCRIMINATOR_LR = 1e-2, 1e-4
STILL = 1e-12  # a learning rate at which nothing moves
LABELED = image_spec(16, 16, 1, class_names="abc"[:CLASSES])


def small_recipe(**values: object) -> Recipe:
    """r1's networks and updates without what it adds, under plain SGD, whose movement is its gradient."""
    plain = {"conditional": False, "augment": "none", "penalty": "none", "penalty_every": 1}
    descent = {"optimizer": "sgd", "beta1": 0.0, "generator_lr": GENERATOR_LR, "discriminator_lr": DISCRIMINATOR_LR}
    sizes = {"batch_size": BATCH, "latent_size": LATENT}
    return override(load_recipe("r1"), **{**plain, **descent, **sizes, **values})


def lively_state(recipe: Recipe, spec: SampleSpec = GRAY) -> TrainingState:
    """A state whose discriminators have opinions, different ones and steep, so that no part of a loss is too small."""
    torch.manual_seed(0)
    state = new_state(recipe, spec, CPU)
    for weight in state.discriminator.parameters():
        nn.init.normal_(weight, std=0.05)
    for weight in (*state.generator.parameters(), *state.discriminator.parameters()):
        weight.grad = torch.ones_like(weight)  # an earlier step's, of which nothing may be left in the next
    return state


def random_batch(seed: int, labeled: bool = False) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (BATCH, 1, 16, 16), dtype=torch.uint8, generator=random)
    return Batch(images, torch.randint(0, CLASSES, (BATCH,), generator=random) if labeled else None)


def floats(batch: Batch) -> Tensor:
    return batch.samples / 127.5 - 1


def half_squared_slopes(logits: Tensor, images: Tensor) -> Tensor:
    """Σₖ ½E‖∇Dₖ‖² at the images, for logits [K, B]."""
    slopes = [torch.autograd.grad(member_logits.sum(), images, create_graph=True)[0] for member_logits in logits]
    return torch.stack([0.5 * slope.square().sum((1, 2, 3)).mean() for slope in slopes]).sum()


def assert_descended(before: nn.Module, after: nn.Module, *, loss: Tensor, lr: float) -> None:
    """Every weight went down the gradient of ``loss``, a function of the weights ``before``."""
    slopes = torch.autograd.grad(loss, list(before.parameters()))
    assert all(slope.any() for slope in slopes if slope.dim() > 1)  # or there is nothing to see
    for old, new, slope in zip(before.parameters(), after.parameters(), slopes, strict=True):
        torch.testing.assert_close(new.grad, slope, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(new.detach(), old.detach() - lr * slope, rtol=1e-5, atol=1e-6)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the passes through the discriminators, in their order."""
    sizes: list[int] = []
    original = gradients.GanGradients.run_discriminator

    def counted(self: gradients.GanGradients, samples: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        sizes.append(len(samples))
        return original(self, samples, labels)

    monkeypatch.setattr(gradients.GanGradients, "run_discriminator", counted)
    return sizes


@pytest.mark.parametrize("discriminator_passes", [[2 * BATCH], [BATCH, BATCH]])
@pytest.mark.parametrize(("steps", "weight"), [(0, 10 * 4), (2, 0), (4, 6 * 4), (8, 2 * 4)])
def test_alternating_updates_descend_a_relativistic_loss_with_r1_and_r2(
    steps: int, weight: float, discriminator_passes: list[int], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each network from its own images and labels; the penalty, at every fourth step, is a quarter's and ramped."""
    monkeypatch.setattr(gradients, "PIXELS_OF_ONE_PASS", BATCH * 16 * 16 - len(discriminator_passes) + 1)
    penalized = {"penalty": "r1+r2", "penalty_every": 4, "penalty_weight": "10..2"}
    recipe = small_recipe(
        objective="relativistic", conditional=True, discriminators=2, softmax_inverse_temperature=2, **penalized
    )
    state = lively_state(recipe, LABELED)
    state.steps, state.progress = steps, steps / 8
    before = copy.deepcopy(state)
    batch, generators = random_batch(1, labeled=True), random_batch(2, labeled=True)
    torch.manual_seed(3)
    metrics = GanStep(state, recipe, torch.float32)(batch, generators)
    assert passes == [*discriminator_passes, BATCH, BATCH]

    torch.manual_seed(3)
    fake = before.generator(torch.randn(BATCH, LATENT), batch.labels).detach().requires_grad_()
    real = floats(batch).requires_grad_()
    real_logits, fake_logits = (before.discriminator(x, batch.labels) for x in (real, fake))  # [2, B]
    losses = F.softplus(fake_logits - real_logits).mean(1)
    penalty = half_squared_slopes(real_logits, real) + half_squared_slopes(fake_logits, fake)
    lr = DISCRIMINATOR_LR * 4 / 5  # corrected for the penalty at every fourth step
    assert_descended(before.discriminator, state.discriminator, loss=losses.sum() + weight * penalty, lr=lr)
    torch.testing.assert_close(metrics["loss/discriminator"], losses.mean().detach())
    torch.testing.assert_close(metrics["loss/penalty"], penalty.detach() / 2 if weight else torch.tensor(0.0))
    torch.testing.assert_close(metrics["logit/real"], real_logits.mean().detach())
    torch.testing.assert_close(metrics["logit/fake"], fake_logits.mean().detach())
    torch.testing.assert_close(metrics["logit/rank_accuracy"], (real_logits > fake_logits).float().mean())

    fake = before.generator(torch.randn(BATCH, LATENT), generators.labels)
    real_logits, fake_logits = (state.discriminator(x, generators.labels) for x in (floats(generators), fake))
    losses = F.softplus(real_logits - fake_logits).mean(1)
    loss = (torch.softmax(2 * losses.detach(), 0) * losses).sum()
    assert_descended(before.generator, state.generator, loss=loss, lr=GENERATOR_LR)
    torch.testing.assert_close(metrics["loss/generator"], loss.detach())


@pytest.mark.parametrize(("steps", "weight"), [(0, 10 * 4), (3, 0), (4, 6 * 4)])
def test_simultaneous_updates_descend_their_losses_with_r1(steps: int, weight: float) -> None:
    penalized = {"penalty": "r1", "penalty_every": 4, "penalty_weight": "10..2"}
    recipe = small_recipe(updates="simultaneous", discriminators=2, softmax_inverse_temperature=2, **penalized)
    state = lively_state(recipe)
    state.steps, state.progress = steps, steps / 8
    before = copy.deepcopy(state)
    batch = random_batch(1)
    torch.manual_seed(3)
    GanStep(state, recipe, torch.float32)(batch, batch)

    torch.manual_seed(3)
    z, real = torch.randn(BATCH, LATENT), floats(batch).requires_grad_()
    real_logits, fake_logits = (before.discriminator(x) for x in (real, before.generator(z)))  # [2, B]
    loss = (F.softplus(-real_logits) + F.softplus(fake_logits)).mean(1).sum()
    penalty = half_squared_slopes(real_logits, real)
    assert_descended(
        before.discriminator, state.discriminator, loss=loss + weight * penalty, lr=DISCRIMINATOR_LR * 4 / 5
    )
    losses = F.softplus(-before.discriminator(before.generator(z))).mean(1)
    loss = (torch.softmax(2 * losses.detach(), 0) * losses).sum()
    assert_descended(before.generator, state.generator, loss=loss, lr=GENERATOR_LR)


GENERATOR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "minimax": lambda real, fake: -F.softplus(fake),
    "non-saturating": lambda real, fake: F.softplus(-fake),
    "relativistic": lambda real, fake: F.softplus(real - fake),
    "wasserstein": lambda real, fake: -fake,
    "hinge": lambda real, fake: -fake,  # whose discriminator has no slope where it is sure
}


@pytest.mark.parametrize("objective", GENERATOR_LOSSES)
def test_simultaneous_updates_against_one_discriminator(objective: str) -> None:
    """One backward pass through it or two, both networks go down their own losses, with the penalty in one of them."""
    recipe = small_recipe(
        updates="simultaneous", objective=objective, conditional=True, penalty="r1", penalty_weight=10
    )
    state = lively_state(recipe, LABELED)
    before, batch = copy.deepcopy(state), random_batch(1, labeled=True)
    torch.manual_seed(3)
    metrics = GanStep(state, recipe, torch.float32)(batch, batch)

    torch.manual_seed(3)
    z, real = torch.randn(BATCH, LATENT), floats(batch).requires_grad_()
    images = (real, before.generator(z, batch.labels))
    real_logits, fake_logits = (before.discriminator(x, batch.labels) for x in images)  # [1, B]
    loss = OBJECTIVES[objective].discriminator(real_logits, fake_logits)
    penalty = half_squared_slopes(real_logits, real)
    torch.testing.assert_close(metrics["loss/discriminator"], loss.detach())
    assert_descended(before.discriminator, state.discriminator, loss=loss + 10 * penalty, lr=DISCRIMINATOR_LR)
    real_logits, fake_logits = (
        before.discriminator(x, batch.labels) for x in (real.detach(), before.generator(z, batch.labels))
    )
    loss = GENERATOR_LOSSES[objective](real_logits, fake_logits).mean()
    torch.testing.assert_close(metrics["loss/generator"], loss.detach())
    assert_descended(before.generator, state.generator, loss=loss, lr=GENERATOR_LR)


@pytest.mark.parametrize("updates", UPDATES)
def test_both_networks_pay_where_an_image_does_not_show_its_codes(updates: str) -> None:
    recipe = small_recipe(updates=updates, categorical_codes=3, continuous_codes=2)
    state = lively_state(recipe)
    before = copy.deepcopy(state)
    batch = random_batch(1)
    torch.manual_seed(3)
    metrics = GanStep(state, recipe, torch.float32)(batch, batch)

    torch.manual_seed(3)
    z = torch.randn(BATCH, LATENT)
    fake_logits, predicted_codes = before.discriminator.forward_with_codes(before.generator(z))
    assert predicted_codes is not None
    loss = F.softplus(-before.discriminator(floats(batch))).mean() + F.softplus(fake_logits).mean()
    loss = loss + mutual_information_loss(predicted_codes, z, categorical_codes=3, continuous_codes=2)
    assert_descended(before.discriminator, state.discriminator, loss=loss, lr=DISCRIMINATOR_LR)
    opponent = before.discriminator if updates == "simultaneous" else state.discriminator
    if updates == "alternating":
        z = torch.randn(BATCH, LATENT)
    fake_logits, predicted_codes = opponent.forward_with_codes(before.generator(z))
    assert predicted_codes is not None
    information = mutual_information_loss(predicted_codes, z, categorical_codes=3, continuous_codes=2)
    assert_descended(
        before.generator, state.generator, loss=F.softplus(-fake_logits).mean() + information, lr=GENERATOR_LR
    )
    torch.testing.assert_close(metrics["loss/code"], information.detach())


def test_a_pack_is_real_or_fake() -> None:
    """Also where one pass sees the real images and the fakes."""
    recipe = small_recipe(pack=4)
    state, batch = lively_state(recipe), random_batch(1)
    before = copy.deepcopy(state)
    torch.manual_seed(3)
    GanStep(state, recipe, torch.float32)(batch, batch)
    torch.manual_seed(3)
    fake = before.generator(torch.randn(BATCH, LATENT))
    real_logits, fake_logits = (before.discriminator(x) for x in (floats(batch), fake))  # [1, 2]
    loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    assert_descended(before.discriminator, state.discriminator, loss=loss, lr=DISCRIMINATOR_LR)


NETWORKS = ("generator", "ema", "discriminator")


def weights(state: TrainingState) -> dict[str, dict[str, Tensor]]:
    """What is learned, without batch norm's running statistics: those follow every batch of fakes."""
    networks = {name: getattr(state, name).named_parameters() for name in NETWORKS}
    return {name: {key: value.detach().clone() for key, value in tensors} for name, tensors in networks.items()}


def moves(state: TrainingState, recipe: Recipe, steps: int) -> dict[str, list[int]]:
    """The steps in which each network moved: all of its matrices, or none."""
    step, batch = GanStep(state, recipe, torch.float32), random_batch(1)
    steps_moved: dict[str, list[int]] = {name: [] for name in NETWORKS}
    for _ in range(steps):
        before = weights(state)
        step(batch, batch)
        for name, after in weights(state).items():
            moved = {not torch.equal(value, before[name][key]) for key, value in after.items() if value.dim() > 1}
            assert len(moved) == 1
            if moved == {True}:
                steps_moved[name].append(state.steps)
    return steps_moved


def test_the_generator_and_its_average_move_at_every_fifth_step_of_the_discriminators() -> None:
    """Counted over the whole training, also where it is resumed in between."""
    recipe = small_recipe(discriminator_steps=5)
    state = lively_state(recipe)
    state.steps = 3
    assert moves(state, recipe, 8) == {"generator": [5, 10], "ema": [5, 10], "discriminator": list(range(4, 12))}


@pytest.mark.parametrize("updates", UPDATES)
def test_where_nothing_else_is_asked_for_both_networks_move_at_every_step(updates: str) -> None:
    recipe = small_recipe(updates=updates)
    assert moves(lively_state(recipe), recipe, 3) == {name: [1, 2, 3] for name in NETWORKS}


@pytest.mark.parametrize("discriminator_steps", [1, 5])
def test_a_move_of_the_average_forgets_as_much_as_the_discriminators_steps_make(discriminator_steps: int) -> None:
    """At a half-life of ten steps' images, which is a hundredth of those seen."""
    recipe = small_recipe(discriminator_steps=discriminator_steps, ema_half_life=0.01)
    state = lively_state(recipe)
    for weight in state.ema.parameters():
        nn.init.normal_(weight)  # far from the generator, as after many steps
    state.steps = 999  # before the thousandth step
    before, batch = weights(state)["ema"], random_batch(1)
    GanStep(state, recipe, torch.float32)(batch, batch)
    after, share = weights(state), 0.5 ** (discriminator_steps / 10)
    for name, average in after["ema"].items():
        torch.testing.assert_close(average, share * before[name] + (1 - share) * after["generator"][name])


def test_the_generator_learns_from_each_discriminator_with_its_probability_and_at_least_one() -> None:
    """Of three losses 1, 10 and 100 the mean says which were active."""
    recipe = small_recipe(objective="hinge", discriminators=3, discriminator_dropout=0.6)
    step = GanStep(lively_state(recipe), recipe, torch.float32)
    logits = torch.tensor([[-1.0], [-10.0], [-100.0]])  # [3, 1]
    torch.manual_seed(0)
    draws = 3000
    means = [round(step.generator_loss(logits, logits).item(), 1) for _ in range(draws)]
    alone, two, three = 0.4 * 0.6**2 + 0.6**3 / 3, 0.4**2 * 0.6, 0.4**3
    expected = {1.0: alone, 10.0: alone, 100.0: alone, 5.5: two, 50.5: two, 55.0: two, 37.0: three}
    assert set(means) == set(expected)
    assert {mean: means.count(mean) / draws for mean in expected} == pytest.approx(expected, abs=0.03)


MARKS = {"none": 0.0, "diffaugment": 100.0, "ada": 200.0, "scheduled": 300.0}


class Augmented:
    """Stands in for the three augmentations: each leaves a mark of its own, and the probabilities are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.probabilities: list[float] = []
        monkeypatch.setattr(gradients, "diff_augment", lambda x: x + MARKS["diffaugment"])
        for kind, name in (("ada", "adaptive_augment"), ("scheduled", "scheduled_augment")):
            monkeypatch.setattr(gradients, name, self.with_probability(MARKS[kind]))

    def with_probability(self, mark: float) -> Callable[[Tensor, Tensor], Tensor]:
        def augment(x: Tensor, p: Tensor) -> Tensor:
            self.probabilities.append(p.item())
            return x + mark

        return augment


@pytest.fixture
def augmented(monkeypatch: pytest.MonkeyPatch) -> Augmented:
    return Augmented(monkeypatch)


SEEN = {  # how often real images are, and others: fakes, and what the penalty puts between them
    ("simultaneous", "least-squares"): (1, 2),
    ("alternating", "least-squares"): (1, 3),
    ("alternating", "relativistic"): (2, 3),
    ("shared-fakes", "least-squares"): (1, 3),
    ("shared-fakes", "relativistic"): (2, 3),
}


@pytest.mark.parametrize(
    ("kind", "updates", "objective"),
    [(kind, *state) for kind in MARKS for state in SEEN],
)
def test_all_that_a_discriminator_sees_is_augmented(
    kind: str, updates: str, objective: str, augmented: Augmented, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either network's update."""
    recipe = small_recipe(
        updates=updates, objective=objective, augment=kind, augment_p=0.4, penalty="wgan-gp", penalty_weight=1
    )
    state = lively_state(recipe)
    state.ada.p.fill_(0.4)
    (member,) = state.discriminator.members
    seen: list[Tensor] = []
    passes = 0
    embed = cast(Callable[[Tensor], Tensor], member.embed)

    def watched(x: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        seen.extend(x.detach().split(BATCH))  # real images and fakes, where one pass sees both
        return embed(x)

    monkeypatch.setattr(member, "embed", watched)
    white = Batch(torch.full((BATCH, 1, 16, 16), 255, dtype=torch.uint8))
    GanStep(state, recipe, torch.float32)(white, white)
    bare = [x - MARKS[kind] for x in seen]
    assert all(x.abs().max() < 2 for x in bare)
    real = sum(bool((x == 1).all()) for x in bare)
    assert (real, len(bare) - real) == SEEN[updates, objective]
    assert augmented.probabilities == pytest.approx([0.4] * passes if kind in ("ada", "scheduled") else [])


@pytest.mark.parametrize(("steps", "p"), [(0, 0.0), (2, 0.4 * (1 - 0.5**0.5)), (4, 0.4), (8, 0.8)])
def test_the_scheduled_probability_follows_its_ramp(steps: int, p: float, augmented: Augmented) -> None:
    recipe = small_recipe(augment="scheduled", augment_p="0..0.8")
    state = lively_state(recipe)
    state.steps, state.progress = steps, steps / 8
    GanStep(state, recipe, torch.float32)(random_batch(1), random_batch(2))
    assert augmented.probabilities == pytest.approx([p] * 2)  # real and fake together, then the generator's


def test_adas_probability_is_the_controllers(augmented: Augmented) -> None:
    recipe = small_recipe(augment="ada")
    state = lively_state(recipe)
    state.ada.p.fill_(0.5)
    step, batch = GanStep(state, recipe, torch.float32), random_batch(1)
    for _ in range(ADJUST_EVERY + 1):
        step(batch, batch)
    assert state.ada.p != 0.5
    assert list(dict.fromkeys(augmented.probabilities)) == [0.5, state.ada.p.item()]


@pytest.mark.parametrize("updates", UPDATES)
@pytest.mark.parametrize(("bias", "direction"), [(50.0, 1), (-50.0, -1)])
def test_ada_answers_discriminators_that_are_sure_of_real_images(updates: str, bias: float, direction: int) -> None:
    recipe = small_recipe(updates=updates, augment="ada", discriminator_lr=STILL)
    state = lively_state(recipe)
    nn.init.constant_(state.discriminator.get_parameter("members.0.logit.bias"), bias)
    state.ada.p.fill_(0.5)
    step, batch = GanStep(state, recipe, torch.float32), random_batch(1)
    for _ in range(ADJUST_EVERY):
        metrics = step(batch, batch)
    assert state.ada.p.item() == pytest.approx(0.5 + direction * ADJUST_EVERY * BATCH / RAMP_IMAGES, abs=1e-7)
    assert metrics["augment/p"] == state.ada.p


@pytest.mark.parametrize(
    ("objective", "mean_sign"), [("non-saturating", 0.5), ("least-squares", -0.5), ("relativistic", -1.0)]
)
def test_overfitting_is_that_of_real_images_margins_above_boundary_or_fakes(objective: str, mean_sign: float) -> None:
    """Half of these logits lie between the boundaries 0 and ½, all below the fakes'; half as many as images."""
    recipe = small_recipe(objective=objective, augment="ada", pack=2)
    step = GanStep(lively_state(recipe), recipe, torch.float32)
    images = floats(random_batch(1))
    real_logits, fake_logits = torch.tensor([[0.9, 0.3, 0.3, -0.1]]), torch.ones(1, 4)
    step.discriminator_loss(
        images, images, real_logits=real_logits, fake_logits=fake_logits, labels=None, penalized=False
    )
    assert step.logged["augment/overfitting"].item() == pytest.approx(mean_sign)


def test_ada_hears_of_every_batch_and_of_all_its_images() -> None:
    recipe = small_recipe(augment="ada", pack=2)
    step, batch = GanStep(lively_state(recipe), recipe, torch.float32), random_batch(1)
    metrics = [step(batch, batch)["augment/overfitting"] for _ in range(ADJUST_EVERY - 1)]
    assert (step.state.ada.batches, step.state.ada.images) == (ADJUST_EVERY - 1, (ADJUST_EVERY - 1) * BATCH)
    torch.testing.assert_close(step.state.ada.signs, torch.stack(metrics).sum() * BATCH)


def numbered_images(count: int) -> Dataset:
    """Each image shows its own number, and its label follows from that."""
    numbers = torch.arange(count)
    images = numbers.to(torch.uint8)[:, None, None, None].repeat(1, 1, 16, 16)
    labels, names = numbers % CLASSES, [str(label) for label in range(CLASSES)]
    return make_dataset(images, labels, names, name="numbers", source="numbers", split="train", notes=[])


@pytest.mark.parametrize(("objective", "own"), [("relativistic", True), ("non-saturating", False)])
def test_a_relative_generator_draws_images_of_its_own_with_their_labels(
    objective: str, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them once an epoch, as the discriminators do, in another order; other objectives need one order only."""
    recipe = small_recipe(objective=objective, conditional=True)
    seen: list[tuple[Batch, Batch]] = []

    def watched(
        state: TrainingState, recipe: Recipe, precision: torch.dtype, **options: Any
    ) -> Callable[..., dict[str, Tensor]]:
        step = GanStep(state, recipe, precision, **options)

        def watch(batch: Batch, generators: Batch) -> dict[str, Tensor]:
            seen.append((batch, generators))
            return step(batch, generators)

        return watch

    monkeypatch.setattr(steps_module, "GanStep", watched)
    plan = TrainingPlan(
        recipe, epochs=1, seed=0, device=CPU, precision=torch.float32, samples_every=9, checkpoint_every=9, guard=False
    )
    train(numbered_images(5 * BATCH), plan, Memory(), folder=tmp_path)
    orders = []
    for batches in zip(*seen, strict=True):
        numbers = torch.cat([batch.samples[:, 0, 0, 0] for batch in batches]).long()
        labels = [batch.labels for batch in batches if batch.labels is not None]
        assert torch.equal(torch.cat(labels), numbers % CLASSES)
        assert sorted(numbers.tolist()) == list(range(5 * BATCH))
        orders.append(numbers)
    places_shared = (orders[0] == orders[1]).float().mean().item()
    assert places_shared < 0.2 if own else places_shared == 1


@pytest.mark.parametrize("name", GAN_RECIPES)
def test_a_step_reports_what_it_is_said_to_report(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(name)
    width = {"width": 16, "full_stages": 4, "blocks": 1} if recipe.family == "r3gan" else {}
    recipe = override(recipe, batch_size=BATCH, latent_size=16, **width)
    torch.manual_seed(0)
    state = new_state(recipe, LABELED if recipe.conditional else GRAY, CPU)
    named: set[str] = set()
    log = GanStep.log

    def watched(step: GanStep, name: str, value: Tensor) -> None:
        named.add(name)
        log(step, name, value)

    monkeypatch.setattr(GanStep, "log", watched)
    step, batch = GanStep(state, recipe, torch.float32), random_batch(1, recipe.conditional)
    for _ in range(recipe.discriminator_steps):
        metrics = step(batch, batch)
    assert named | ({"augment/p"} if recipe.augment == "ada" else set()) == set(metric_names(recipe)) == set(metrics)
    assert all(value.shape == () and value.isfinite() and not value.requires_grad for value in metrics.values())


def small_r3gan(**values: object) -> Recipe:
    size = {"batch_size": BATCH, "latent_size": 16, "width": 32, "full_stages": 4, "blocks": 1}
    return override(load_recipe("r3gan"), **{**size, "augment": "none", **values})


def test_r3gans_discriminators_learn_to_tell_and_its_generator_to_be_taken_for_real() -> None:
    """Each against an opponent that stands still: first one that makes random fakes, then the one that knows them."""
    torch.manual_seed(0)
    batch, learning = random_batch(1, labeled=True), small_r3gan(generator_lr=STILL)
    state = new_state(learning, LABELED, CPU)
    step = GanStep(state, learning, torch.float32)
    losses = [step(batch, batch)["loss/discriminator"].item() for _ in range(30)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])

    learning, before = small_r3gan(discriminator_lr=STILL), weights(state)["discriminator"]
    step = GanStep(state, learning, torch.float32)  # the optimizers follow the recipe's learning rates
    losses = [step(batch, batch)["loss/generator"].item() for _ in range(30)]
    torch.testing.assert_close(weights(state)["discriminator"], before)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
