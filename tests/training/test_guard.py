"""The guard: each signal by itself, and a training that it rolls back or ends."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FakeTime
from torch import nn
from training_helpers import Memory, Scripted, evaluated_plan, plan

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.data.loader import epoch_order
from gan_plugin.objectives import OBJECTIVES
from gan_plugin.training import budget, loop
from gan_plugin.training import guard as guard_module
from gan_plugin.training import steps as steps_module
from gan_plugin.training.budget import Clock
from gan_plugin.training.checkpoint import read_header
from gan_plugin.training.errors import Diverged, Interrupted
from gan_plugin.training.gan import GanStep
from gan_plugin.training.guard import (
    CHECKS,
    LOSS_PATIENCE,
    MAX_STEPS,
    MIN_STEPS,
    Guard,
    GuardError,
    GuardState,
    chance_loss,
    check_finite,
    guard_seeds,
    pairwise_distance,
    real_diversity,
)
from gan_plugin.training.loop import seed_after, train
from gan_plugin.training.state import TrainingState

ONE_GROUP = torch.zeros(64, dtype=torch.int64)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    digits = load_dataset("digits", image_size=16)
    return dataclasses.replace(digits, samples=digits.samples[:100], labels=None, spec=digits.spec.unlabeled())


def new_guard() -> Guard:
    return Guard(chance_loss=1.0, real_diversity=50.0)


def observe_loss(guard: Guard, loss: float, step: int) -> dict[str, float]:
    """A step's loss as the loop hands it on: taken in, then checked."""
    signals = guard.add_loss(loss, step)
    guard.check(step)
    return signals


def observe_samples(guard: Guard, images: torch.Tensor, step: int) -> dict[str, float]:
    signals = guard.add_samples(images, ONE_GROUP, step)
    guard.check(step)
    return signals


def test_what_is_not_finite_is_an_alarm_at_once() -> None:
    with pytest.raises(GuardError, match=r"^loss/generator became nan$"):
        check_finite({"loss/discriminator": 1.0, "loss/generator": float("nan")})


@pytest.mark.parametrize(
    ("loss", "reason"), [(0.001, "the discriminator has won"), (9.0, "the discriminator has lost")]
)
def test_a_discriminator_that_wins_for_long_is_an_alarm(loss: float, reason: str) -> None:
    guard = new_guard()
    for step in range(50, LOSS_PATIENCE, 50):
        assert observe_loss(guard, loss, step) == {"guard/discriminator_loss": loss}
    assert guard.has_warning
    observe_loss(guard, 0.7, LOSS_PATIENCE)  # one good value, and the time begins anew
    assert not guard.has_warning
    for step in range(LOSS_PATIENCE + 10, 2 * LOSS_PATIENCE, 10):  # however many readings that are
        observe_loss(guard, loss, step)
    assert guard.add_loss(loss, 2 * LOSS_PATIENCE) == {"guard/discriminator_loss": loss}  # which is logged
    with pytest.raises(GuardError, match=reason):
        guard.check(2 * LOSS_PATIENCE)


def test_after_a_return_to_a_checkpoint_the_time_begins_there() -> None:
    guard = Guard(chance_loss=1.0, real_diversity=50.0, state=GuardState(last_balanced_step=5_000))
    observe_loss(guard, 9.0, 5_000 + LOSS_PATIENCE - 1)
    with pytest.raises(GuardError, match="has lost"):
        observe_loss(guard, 9.0, 5_000 + LOSS_PATIENCE)


def test_a_training_that_swings_from_one_outright_end_to_the_other_is_an_alarm() -> None:
    guard = new_guard()
    for step in range(50, LOSS_PATIENCE, 50):
        observe_loss(guard, (0.0, 5_000.0)[step // 50 % 2], step)
    with pytest.raises(GuardError, match="the discriminator has won"):
        observe_loss(guard, 0.0, LOSS_PATIENCE)


def test_where_a_loss_has_no_chance_level_nobody_wins() -> None:
    assert chance_loss(OBJECTIVES["wasserstein"]) is None
    assert chance_loss(OBJECTIVES["least-squares"]) == pytest.approx(0.25)
    guard = Guard(None, 50.0)
    assert [observe_loss(guard, -1000.0, step) for step in (1, LOSS_PATIENCE, 3 * LOSS_PATIENCE)] == [{}] * 3


def sheet(deviation: float) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 16, 16, 1, generator=random) * deviation + 128
    return noise.clamp(0, 255).to(torch.uint8)


def test_the_pairwise_distance_is_the_mean_distance_in_gray_levels() -> None:
    black_and_white = torch.tensor([[0, 0], [255, 255]], dtype=torch.uint8)
    assert pairwise_distance(black_and_white, torch.tensor([7, 7])) == pytest.approx(255)
    assert pairwise_distance(black_and_white, torch.tensor([7, 8])) == 0  # no two of a group
    assert pairwise_distance(sheet(30), ONE_GROUP) == pytest.approx(30 * 2**0.5, rel=0.02)


def test_the_pairwise_distance_of_classes_is_that_within_them() -> None:
    gray_levels = torch.tensor([0, 100, 0, 30, 200], dtype=torch.uint8)[:, None]
    assert pairwise_distance(gray_levels, torch.tensor([1, 1, 2, 2, 3])) == pytest.approx((100 + 30) / 2)


def test_the_guard_observes_several_images_of_each_of_some_classes() -> None:
    seeds, groups = guard_seeds(0)
    assert (list(seeds), groups.tolist()) == (list(range(64)), [0] * 64)
    for classes, per_class in ((2, 32), (10, 8), (1000, 8)):
        seeds, groups = guard_seeds(classes)
        assert len(set(seeds)) == 64
        assert groups.tolist() == [seed % classes for seed in seeds]
        assert groups.bincount().tolist() == [per_class] * min(classes, 8)


def test_one_image_a_class_is_no_variety() -> None:
    """Of real digits, of all classes, one of each would pass for varied if the guard looked across."""
    digits = load_dataset("digits", image_size=16)
    assert digits.labels is not None
    _, groups = guard_seeds(10)
    first = torch.stack([digits.samples[digits.labels == label][0] for label in range(10)])[groups]
    varied = torch.cat([digits.samples[digits.labels == label][5:125:15] for label in range(8)])
    guard = Guard(1.0, real_diversity(digits, classes=10))
    assert guard.add_samples(varied, groups, MIN_STEPS)["guard/diversity"] == pytest.approx(1, abs=0.15)
    assert guard.add_samples(first, groups, MIN_STEPS + 1)["guard/diversity"] == 0
    assert guard.has_warning
    across = Guard(1.0, real_diversity(digits, classes=0))
    assert across.add_samples(first, ONE_GROUP, 2)["guard/diversity"] > 0.8
    assert (
        Guard(1.0, real_diversity=0).add_samples(first, groups, 2) == {}
    )  # no two real images of a class to compare with


def test_a_collapse_after_variety_is_an_alarm() -> None:
    guard = Guard(1.0, pairwise_distance(sheet(40), ONE_GROUP))
    observe_samples(guard, sheet(30), 1)  # as the images of any network that has not learned yet
    for step in range(2, 7):
        observe_samples(guard, sheet(1), step)
    assert observe_samples(guard, sheet(30), MIN_STEPS)["guard/diversity"] == pytest.approx(0.75, abs=0.02)
    for _ in range(CHECKS - 1):
        observe_samples(guard, sheet(2), MIN_STEPS + 1)
    with pytest.raises(GuardError, match=r"collapsed: their diversity is 0\.0\d+ of that of real samples"):
        observe_samples(guard, sheet(2), MIN_STEPS + 2)


def test_images_that_never_become_varied_are_an_alarm_in_the_end() -> None:
    guard = Guard(1.0, pairwise_distance(sheet(40), ONE_GROUP))
    for _ in range(CHECKS - 1):
        observe_samples(guard, sheet(2), MAX_STEPS + 1)
    with pytest.raises(GuardError, match="collapsed"):
        observe_samples(guard, sheet(2), MAX_STEPS + 1)


def test_at_the_end_one_look_at_uniform_images_is_enough() -> None:
    guard = Guard(1.0, pairwise_distance(sheet(40), ONE_GROUP))
    guard.final_check()  # nothing was looked at
    observe_samples(guard, sheet(3), 1)
    guard.final_check()  # not constant, and too early to be varied
    observe_samples(guard, sheet(0), 1)
    with pytest.raises(GuardError, match="collapsed"):
        guard.final_check()
    observe_samples(guard, sheet(30), MIN_STEPS)
    observe_samples(guard, sheet(3), MIN_STEPS + 1)
    with pytest.raises(GuardError, match="collapsed"):
        guard.final_check()


def test_a_distance_far_above_the_best_is_an_alarm() -> None:
    guard = new_guard()
    for distance in (8.0, 5.0, 21.0, 6.0, 21.0):
        guard.add_fid(distance)
        guard.check(1)
    guard.add_fid(22.0)
    with pytest.raises(GuardError, match=r"^the distance from the data is 22, and was 5$"):
        guard.check(1)


def test_a_training_that_diverges_goes_back_tries_again_and_ends_with_the_reason(
    dataset: Dataset, tmp_path: Path
) -> None:
    memory = Memory()
    reckless = dataclasses.replace(plan(epochs=4, generator_lr=1e30, discriminator_lr=1e30), retries=2)
    with pytest.raises(Diverged, match=r"^In step \d+ [\w/.]+ became (nan|inf|-inf), and") as failed:
        train(dataset, reckless, memory, folder=tmp_path)
    assert "and going back is used up with retries=2: training has diverged; a smaller" in str(failed.value)
    assert set(memory.notes) == {"guard.1", "guard.2"}
    assert memory.notes["guard.1"].endswith(": back to the start with another seed.")
    assert failed.value.state is None  # nothing was good


def test_another_try_draws_other_numbers() -> None:
    """Dataset in another order and other noise, each time: PyTorch's generator takes only 32 bits of a seed."""

    def drawn(seed: int) -> tuple[float, ...]:
        torch.manual_seed(seed)
        return (*torch.rand(3).tolist(), *epoch_order(50, seed, 4).tolist())

    assert len({drawn(seed_after(seed, again)) for seed in (0, 2**32 - 1) for again in range(4)}) == 8
    assert seed_after(7, 0) == 7


class Poisoned(Scripted):
    """A evaluator that, when called for the ``at``-th time, puts a NaN into the generator that is being trained."""

    def __init__(self, state: list[TrainingState], at: int, times: int = 1) -> None:
        super().__init__(*[5.0, 4.0, 3.0, 2.0, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0])
        self.state, self.at, self.times = state, at, times

    def __call__(self, generator: nn.Module) -> float:
        value = super().__call__(generator)
        if len(self.weights) >= self.at and self.times:
            self.times -= 1
            with torch.no_grad():
                next(self.state[-1].generator.parameters()).fill_(float("nan"))
        return value


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[TrainingState]:
    """Every state that training makes."""
    states: list[TrainingState] = []
    first_state = loop.first_state

    def remembered(*arguments: object, **options: object) -> TrainingState:
        states.append(first_state(*arguments, **options))  # type: ignore[arg-type]  # as training does
        return states[-1]

    monkeypatch.setattr(loop, "first_state", remembered)
    return states


def test_after_one_accident_training_goes_on_from_the_last_good_checkpoint(
    dataset: Dataset, tmp_path: Path, states: list[TrainingState], caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory()
    # poisoned after epoch 2 is evaluated, before its checkpoint is written: only every second epoch has one
    scripted_plan = dataclasses.replace(evaluated_plan(5), checkpoint_every=2)
    state = train(dataset, scripted_plan, memory, folder=tmp_path, evaluator=Poisoned(states, at=3))
    assert state.steps == 15
    assert state.rollbacks == 1
    assert memory.notes["guard.1"].startswith("In step 12 loss/discriminator became nan")
    assert memory.notes["guard.1"].endswith("back to step 6 with another seed.")
    assert "back to step 6 with another seed, 1 of 3." in caplog.text
    assert state.best is not None
    assert state.best.value == 2.0
    assert all(value.isfinite().all() for value in state.ema.state_dict().values())
    assert read_header(tmp_path / "checkpoint.safetensors")["rollbacks"] == 1


def test_what_failed_is_freed_before_training_goes_on(
    dataset: Dataset, tmp_path: Path, states: list[TrainingState], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a GPU that held one training would have to hold two."""
    steps: list[weakref.ref[GanStep]] = []
    alive: list[int] = []

    def counted(*arguments: Any, **options: Any) -> GanStep:
        alive.append(sum(step() is not None for step in steps))
        step = GanStep(*arguments, **options)
        steps.append(weakref.ref(step))
        return step

    monkeypatch.setattr(steps_module, "GanStep", counted)
    scripted_plan = dataclasses.replace(evaluated_plan(5), checkpoint_every=2)
    train(dataset, scripted_plan, Memory(), folder=tmp_path, evaluator=Poisoned(states, at=3))
    assert alive == [0, 0]


def test_when_nothing_helps_the_best_is_kept(dataset: Dataset, tmp_path: Path, states: list[TrainingState]) -> None:
    scripted_plan = dataclasses.replace(evaluated_plan(9), retries=1)
    with pytest.raises(Diverged, match="going back is used up with retries=1") as failed:
        train(dataset, scripted_plan, Memory(), folder=tmp_path, evaluator=Poisoned(states, at=4, times=9))
    kept = failed.value.state
    assert kept is not None
    assert kept.best is not None
    assert kept.best.value == 2.0
    for name, value in kept.ema.state_dict().items():
        assert torch.equal(value, kept.best.weights[name])


def spoil(state: TrainingState) -> None:
    with torch.no_grad():
        next(state.discriminator.parameters())[0] = float("nan")


class AfterAnEpoch(Memory):
    """A tracker that does something when an epoch's last step is done, and its end is not."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        super().metrics(values, step)
        if "epoch" in values:
            self.act()


def test_a_training_does_not_end_well_with_one_image_for_all_seeds(
    dataset: Dataset, tmp_path: Path, states: list[TrainingState]
) -> None:
    """However short it was: what is registered makes images."""

    def paint_gray() -> None:
        with torch.no_grad():
            for weight in states[-1].ema.parameters():
                weight.zero_()

    with pytest.raises(Diverged, match="In step 3 the samples have collapsed: their diversity is 0 of that of real"):
        train(dataset, dataclasses.replace(plan(1), retries=0), AfterAnEpoch(paint_gray), folder=tmp_path)


@pytest.mark.parametrize(
    ("step_s", "reason"),
    [
        (60, "neither a good checkpoint nor time to begin anew"),  # the time is over
        (47.5, "neither a good checkpoint nor time to begin anew"),  # there are five seconds
        (10, "going back is used up with retries=2"),  # after three tries of twenty seconds
    ],
)
def test_a_training_that_is_lost_when_little_time_is_left_does_not_end_in_an_untrained_generator(
    dataset: Dataset,
    tmp_path: Path,
    states: list[TrainingState],
    monkeypatch: pytest.MonkeyPatch,
    *,
    step_s: float,
    reason: str,
) -> None:
    """The guard may go back to the start twice, and in the first epoch two of three steps take time, of 100 seconds."""
    clock = FakeTime()
    monkeypatch.setattr(budget, "time", clock)

    def tick() -> bool:
        clock.now += step_s
        return False

    with pytest.raises(Diverged, match=f"became nan, and .*{reason}: training has diverged") as failed:
        train(
            dataset,
            dataclasses.replace(plan(), epochs=None, minutes=100 / 60, retries=2),
            memory := AfterAnEpoch(lambda: spoil(states[-1])),
            folder=tmp_path,
            stop_requested=tick,
            clock=Clock(started=0.0),
        )
    assert failed.value.state is None
    assert not memory.files  # checkpoints


def test_a_checkpoint_with_weights_that_are_not_finite_is_not_written(
    dataset: Dataset, tmp_path: Path, states: list[TrainingState]
) -> None:
    """A step's losses are those of the weights before it: what its last update spoils shows only in the weights."""

    memory, evaluator = AfterAnEpoch(lambda: spoil(states[-1])), Scripted(1.0, 1.0)
    with pytest.raises(Diverged, match=r"discriminator\.members\.0\.\S+ became nan, and going back") as failed:
        train(dataset, dataclasses.replace(evaluated_plan(2), retries=1), memory, folder=tmp_path, evaluator=evaluator)
    assert memory.notes["guard.1"].endswith("became nan: back to the start with another seed.")
    assert failed.value.state is None
    assert not evaluator.weights
    assert not list(tmp_path.iterdir())


def test_a_stop_does_not_put_lost_weights_in_the_place_of_a_good_checkpoint(
    dataset: Dataset, tmp_path: Path, states: list[TrainingState]
) -> None:
    requests = iter([False] * 3 + [True])

    def stop() -> bool:
        if now := next(requests):
            spoil(states[-1])
        return now

    with pytest.raises(Interrupted, match=r"go on with resume=.*checkpoint\.good\.safetensors\.$"):
        train(dataset, plan(epochs=3), Memory(), folder=tmp_path, stop_requested=stop)
    assert states[-1].steps == 4
    assert read_header(tmp_path / "checkpoint.safetensors")["steps"] == 3
    requests = iter([True])
    with pytest.raises(Interrupted, match=r"^Training stopped as asked; there is nothing to go on from\.$"):
        train(dataset, plan(epochs=3), Memory(), folder=tmp_path / "none", stop_requested=stop)


def test_the_guard_remembers_across_a_return_what_was_before_the_checkpoint(
    dataset: Dataset, tmp_path: Path, states: list[TrainingState]
) -> None:
    """Lowest before the checkpoint of step 6 was 2: after the return, distances of 50 are an alarm again, and again."""
    memory = Memory()
    scripted_plan = dataclasses.replace(evaluated_plan(9), checkpoint_every=2, retries=2)
    with pytest.raises(Diverged, match="the distance from the data is 50, and was 2"):
        train(dataset, scripted_plan, memory, folder=tmp_path, evaluator=Scripted(3.0, 2.0, *[50.0] * 9))
    assert [note.split(":")[1] for note in memory.notes.values()] == [" back to step 6 with another seed."] * 2


def test_the_guards_clocks_survive_a_stop(dataset: Dataset, tmp_path: Path) -> None:
    """Of two large distances in a row the second comes after a stop."""
    scripted_plan = dataclasses.replace(evaluated_plan(4), retries=0)
    requests = iter([False] * 6 + [True])
    with pytest.raises(Interrupted):
        train(
            dataset,
            scripted_plan,
            Memory(),
            folder=tmp_path,
            stop_requested=requests.__next__,
            evaluator=Scripted(2.0, 50.0),
        )
    checkpoint = tmp_path / "checkpoint.safetensors"
    assert read_header(checkpoint)["guard"] == {
        "last_balanced_step": 6,
        "was_diverse": False,
        "lowest_distance": 2.0,
        "collapsed_checks": 0,
        "worse_checks": 1,
    }
    with pytest.raises(Diverged, match="the distance from the data is 51, and was 2"):
        train(dataset, scripted_plan, Memory(), folder=tmp_path, resume=checkpoint, evaluator=Scripted(51.0))


def test_the_best_after_the_checkpoint_is_no_measure_for_another_try(dataset: Dataset, tmp_path: Path) -> None:
    """The lowest before the checkpoint of step 6 was 8: 9 and 7 are no alarm, though 1 was reached after it."""
    memory = Memory()
    scripted_plan = dataclasses.replace(evaluated_plan(6), checkpoint_every=2)
    state = train(
        dataset,
        scripted_plan,
        memory,
        folder=tmp_path,
        evaluator=Scripted(9.0, 8.0, 1.0, 40.0, 41.0, 9.0, 7.0, 7.0, 7.0),
    )
    assert len(memory.notes) == 1
    assert state.best is not None
    assert state.best.value == 1.0


def test_without_the_guard_only_what_is_not_finite_ends_a_training(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "WORSE", 0.5)  # every distance is an alarm
    rising = [1.0, 2.0, 3.0, 4.0]
    state = train(
        dataset,
        dataclasses.replace(evaluated_plan(4), guard=False),
        memory := Memory(),
        folder=tmp_path,
        evaluator=Scripted(*rising),
    )
    assert state.steps == 12
    assert len(memory.files) == 4  # checkpoints
    with pytest.raises(Diverged, match="the distance from the data is"):
        train(
            dataset,
            dataclasses.replace(evaluated_plan(4), retries=0),
            Memory(),
            folder=tmp_path,
            evaluator=Scripted(*rising),
        )
    reckless = dataclasses.replace(plan(epochs=9, generator_lr=1e30, discriminator_lr=1e30), guard=False)
    with pytest.raises(Diverged, match=r"^In step \d+ [\w/.]+ became (nan|inf|-inf): training has"):
        train(dataset, reckless, Memory(), folder=tmp_path)
