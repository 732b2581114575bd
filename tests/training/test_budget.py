"""How long a training goes on, in steps and in time, and the share of it that is behind, which every ramp follows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import FakeTime, refusal
from training_helpers import CPU, GRAY, Memory, Scripted, plan, small_recipe

from gan_plugin.config.parsing import parse_training
from gan_plugin.config.recipe import Recipe, load_recipe, override
from gan_plugin.config.settings import TrainSettings
from gan_plugin.data import Dataset, load_dataset
from gan_plugin.media.image import Image
from gan_plugin.training import budget, selection, speed
from gan_plugin.training.budget import Budget, Clock, StepBudget, TimeBudget
from gan_plugin.training.checkpoint import FILE_NAME, read_header
from gan_plugin.training.errors import Interrupted
from gan_plugin.training.loop import train
from gan_plugin.training.plan import TrainingPlan, make_plan
from gan_plugin.training.speed import fit_batch_to_time, grow_batch, seconds_per_step
from gan_plugin.training.state import TrainingState, new_state


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    digits = load_dataset("digits", image_size=16)
    return dataclasses.replace(digits, samples=digits.samples[:100], labels=None, spec=digits.spec.unlabeled())


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    for module in (budget, selection):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def state() -> TrainingState:
    return new_state(small_recipe(), GRAY, CPU)


def spend(limit: Budget, state: TrainingState, time: FakeTime, *, step_s: Callable[[float], float]) -> list[float]:
    """Make steps until the budget is used up, each as long as ``step_s`` says of the moment; the progress of each."""
    limit.update(state)
    shares = [state.progress]
    while not limit.is_over(state):
        time.now += step_s(time.now)
        limit.update(state)
        shares.append(state.progress)
    return shares


# ---- steps -----------------------------------------------------------------------------------------------------------


def test_a_training_of_steps_is_behind_by_its_share_of_them(state: TrainingState) -> None:
    limit = StepBudget(8)
    shares = []
    for state.steps in (0, 2, 7, 8, 9):
        limit.update(state)
        shares.append((state.progress, limit.is_over(state)))
    assert shares == [(0, False), (0.25, False), (0.875, False), (1, True), (1, True)]


# ---- time ------------------------------------------------------------------------------------------------------------


def test_at_constant_speed_progress_is_a_line_from_the_first_step_to_the_end(
    time: FakeTime, state: TrainingState
) -> None:
    time.now = 20.0  # that getting ready took
    limit = TimeBudget(seconds=130.0, spent=20.0, reserve=10.0)
    shares = spend(limit, state, time, step_s=lambda now: 0.5)
    assert shares == pytest.approx([step / 200 for step in range(201)])
    assert (time.now, state.seconds) == (120, 130)  # the rest is kept for the end


def test_a_training_that_slows_down_ends_in_time_and_has_annealed_everything(
    time: FakeTime, state: TrainingState
) -> None:
    limit = TimeBudget(seconds=100.0, spent=0.0, reserve=10.0)
    shares = spend(limit, state, time, step_s=lambda now: 1.0 if now < 45 else 3.0)
    assert time.now == 90
    assert (shares[45], shares[-1]) == (pytest.approx(0.5), 1)
    assert len(shares) == 1 + 45 + 15
    assert shares == sorted(shares)
    assert max(b - a for a, b in itertools.pairwise(shares)) < 0.04  # nothing jumps


def test_a_step_beyond_the_end_leaves_progress_at_one(time: FakeTime, state: TrainingState) -> None:
    limit = TimeBudget(seconds=10.0, spent=0.0, reserve=0.0)
    assert spend(limit, state, time, step_s=lambda now: 7.0) == pytest.approx([0, 0.7, 1])
    assert (state.progress, state.seconds) == (1, 10)
    time.now += 5
    limit.update(state)
    assert state.progress == 1


def test_a_checkpoint_goes_on_where_it_was_within_the_same_minutes(time: FakeTime, state: TrainingState) -> None:
    state.progress, state.seconds = 0.4, 50.0
    time.now = 1000.0  # of another process, 10 s after it began
    limit = TimeBudget(seconds=120.0, spent=state.seconds + 10.0, reserve=20.0)
    shares = spend(limit, state, time, step_s=lambda now: 1.0)
    assert shares[0] == 0.4
    assert shares[20] == pytest.approx(0.7)  # half of the time that was left
    assert (shares[-1], time.now, state.seconds) == (1, 1040, 120)


def test_minutes_that_are_prolonged_stretch_what_is_behind(time: FakeTime, state: TrainingState) -> None:
    """Or a training that has come to its end would not go on at all."""
    state.progress, state.seconds = 1.0, 60.0
    limit = TimeBudget(seconds=240.0, spent=state.seconds, reserve=0.0)
    shares = spend(limit, state, time, step_s=lambda now: 1.0)
    assert shares[:2] == pytest.approx([60 / 240, 61 / 240])
    assert (time.now, shares[-1]) == (180, 1)


@pytest.mark.parametrize(("spent", "reserve"), [(100.0, 0.0), (95.0, 10.0), (0.0, 100.0), (0.0, 300.0)])
def test_where_no_time_is_left_the_training_is_over_at_once(
    spent: float, reserve: float, time: FakeTime, state: TrainingState
) -> None:
    assert spend(TimeBudget(seconds=100.0, spent=spent, reserve=reserve), state, time, step_s=lambda now: 1.0) == [1]


def ticking(time: FakeTime, seconds: int) -> Callable[[], bool]:
    """What is asked after each step: so long as that takes, and no to stopping."""

    def tick() -> bool:
        time.now += seconds
        return False

    return tick


def in_minutes(minutes: float, **values: object) -> TrainingPlan:
    return dataclasses.replace(plan(**values), epochs=None, minutes=minutes)


def test_a_training_in_minutes_stops_goes_on_and_ends_within_an_epoch(
    dataset: Dataset, tmp_path: Path, time: FakeTime
) -> None:
    """Of three steps an epoch, a second each, seven go into ten seconds of which three are kept."""
    steps = []

    def tick(last: int) -> bool:
        time.now += 1
        steps.append(time.now)
        return len(steps) == last

    clock, tenth = Clock(started=0.0, reserve=3.0), in_minutes(1 / 6, generator_lr="1e-3..1e-4")
    with pytest.raises(Interrupted):
        train(dataset, tenth, Memory(), folder=tmp_path, stop_requested=lambda: tick(4), clock=clock)
    header = read_header(tmp_path / FILE_NAME)
    assert (header["steps"], header["progress"], header["seconds"]) == (4, pytest.approx(3 / 7), 3)

    time.now = 500.0
    memory, clock = Memory(), Clock(started=500.0, reserve=3.0)
    state = train(
        dataset,
        tenth,
        memory,
        folder=tmp_path,
        resume=tmp_path / FILE_NAME,
        stop_requested=lambda: tick(99),
        clock=clock,
    )
    assert (state.steps, state.progress, state.seconds) == (9, 1, 10)
    assert state.optimizers["generator"].param_groups[0]["lr"] < 2e-4  # near the end of its ramp
    assert memory.values[9]["epoch"] == 3
    assert set(memory.images) == {6, 9}

    clock = Clock(started=time.now)  # of a process that keeps less for the end
    done = train(dataset, tenth, Memory(), folder=tmp_path, resume=tmp_path / FILE_NAME, clock=clock)
    assert done.steps == 9  # nothing to train, but something to export
    shorter = in_minutes(0.1, generator_lr="1e-3..1e-4")
    assert refusal(
        lambda: train(dataset, shorter, Memory(), folder=tmp_path, resume=tmp_path / FILE_NAME, clock=clock)
    ) == ("minutes=0.1 is less than the 0.1667 minutes behind the checkpoint: give more.")


def test_a_training_that_goes_on_too_late_for_a_step_ends_all_the_same(
    dataset: Dataset, tmp_path: Path, time: FakeTime
) -> None:
    """What the next process needs to get ready may be all the time that was left."""

    def stop() -> bool:
        time.now += 1
        return True

    tenth = in_minutes(1 / 6)
    with pytest.raises(Interrupted):
        train(dataset, tenth, Memory(), folder=tmp_path, stop_requested=stop, clock=Clock(started=0.0))
    assert read_header(tmp_path / FILE_NAME)["steps"] == 1

    time.now = 520.0
    memory, evaluator = Memory(), Scripted(2.0)
    train(
        dataset,
        tenth,
        memory,
        folder=tmp_path,
        resume=tmp_path / FILE_NAME,
        evaluator=evaluator,
        clock=Clock(started=500.0, reserve=3.0),
    )
    header = read_header(tmp_path / FILE_NAME)
    assert (header["steps"], header["progress"], header["seconds"]) == (1, 1, 10)
    assert (set(memory.images), memory.values[1]["distance"]) == ({1}, 2)


def test_a_training_in_minutes_has_some_25_grids_of_samples_however_short_its_epochs_are(
    dataset: Dataset, tmp_path: Path, time: FakeTime
) -> None:
    """Three steps an epoch, a second each, are a thirtieth of the time: too little for samples each time."""

    tick = ticking(time, 1)

    memory, settled = Memory(), dataclasses.replace(in_minutes(1.5), samples_every=None, guard=False)
    train(dataset, settled, memory, folder=tmp_path, stop_requested=tick, clock=Clock(started=0.0))
    at_the_end = {max(memory.images)}
    assert 10 <= len(memory.images) <= 25
    assert {b - a for a, b in itertools.pairwise(sorted(memory.images.keys() - at_the_end))} == {6}


def test_samples_keep_within_their_share_of_a_training_in_minutes(
    dataset: Dataset, tmp_path: Path, time: FakeTime
) -> None:
    """A grid takes two of ninety seconds: one is within 2 % of them; then two are a quarter of them apart."""

    class Slow(Memory):
        def image(self, key: str, image: Image, step: int) -> None:
            super().image(key, image, step)
            time.now += 2

    tick = ticking(time, 3)

    plans = dataclasses.replace(in_minutes(1.5), samples_every=None, guard=False)
    memory = Slow()
    train(dataset, plans, memory, folder=tmp_path / "a", stop_requested=tick, clock=Clock(started=0.0))
    assert len(memory.images) == 4
    time.now, memory = 0, Slow()
    evaluated = dataclasses.replace(plans, evaluation_budget=0.1)
    evaluator = Scripted(*[1.0] * 20)
    train(
        dataset,
        evaluated,
        memory,
        folder=tmp_path / "b",
        stop_requested=tick,
        clock=Clock(started=0.0),
        evaluator=evaluator,
    )
    assert len(memory.images) == 6


def test_no_evaluation_begins_that_would_make_the_end_late(dataset: Dataset, tmp_path: Path, time: FakeTime) -> None:
    """After the fifth of seven seconds one would take three, and the last evaluation follows anyway."""

    tick = ticking(time, 1)

    evaluator, memory = Scripted(3.0, 1.0), Memory()
    train(
        dataset,
        dataclasses.replace(in_minutes(1 / 6), evaluation_budget=0.999),
        memory,
        folder=tmp_path,
        stop_requested=tick,
        evaluator=evaluator,
        clock=Clock(started=0.0, reserve=3.0),
    )
    assert {step: values["distance"] for step, values in memory.values.items() if "distance" in values} == {3: 3, 8: 1}
    assert (len(evaluator.weights), StepBudget(9).has_time_to_evaluate()) == (2, True)


def test_the_first_evaluation_waits_until_it_is_within_the_share(
    dataset: Dataset, tmp_path: Path, time: FakeTime
) -> None:
    """It takes three seconds, a tenth of thirty; an epoch are three steps, of a second each."""

    tick = ticking(time, 1)

    memory = Memory()
    train(
        dataset,
        dataclasses.replace(in_minutes(1), evaluation_budget=0.1),
        memory,
        folder=tmp_path,
        stop_requested=tick,
        evaluator=Scripted(*[1.0] * 20),
        clock=Clock(started=0.0, evaluation=3.0),
    )
    assert min(step for step, values in memory.values.items() if "distance" in values) == 30


# ---- the batch that there is time for --------------------------------------------------------------------------------


def fitted_batch(
    dataset: Dataset,
    patch: pytest.MonkeyPatch,
    *,
    seconds: float,
    step_s: Callable[[int], float],
    world_size: int = 1,
    **values: object,
) -> int:
    """The batch for data of 1,000 images, where a step takes as long as ``step_s`` says of a batch."""
    patch.setattr(speed, "seconds_per_step", lambda recipe, *rest, **options: step_s(recipe.batch_size))
    images = dataclasses.replace(dataset, samples=torch.zeros(1000, 1, 16, 16, dtype=torch.uint8))
    recipe = override(load_recipe("dcgan"), **{"batch_size": 256, **values})
    options = {"device": CPU, "precision": torch.float32, "seconds": seconds, "world_size": world_size}
    return fit_batch_to_time(recipe, images, GRAY, **options).batch_size  # type: ignore[arg-type]  # each has its own


def test_few_minutes_get_a_small_batch_and_many_the_recipes(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 256 images a step takes 256 ms: 4,500 of them take 19 minutes."""
    sizes = {
        minutes: fitted_batch(dataset, monkeypatch, seconds=60 * minutes, step_s=lambda size: size / 1000)
        for minutes in (0.1, 1, 2.4, 5, 10, 20, 100)
    }
    assert sizes == {0.1: 16, 1: 16, 2.4: 32, 5: 64, 10: 128, 20: 256, 100: 256}


def test_where_there_is_little_time_large_batches_are_not_tried_out(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def step_s(size: int) -> float:
        tried.append(size)
        return size / 100

    assert (fitted_batch(dataset, monkeypatch, seconds=600, step_s=step_s), tried) == (16, [16, 32])
    tried.clear()
    assert (fitted_batch(dataset, monkeypatch, seconds=60_000, step_s=step_s), tried) == (256, [16])


def test_where_a_large_batch_costs_little_it_is_tried_out_next(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU."""
    tried = []

    def step_s(size: int) -> float:
        tried.append(size)
        return 0.01 + size / 1e6

    assert (fitted_batch(dataset, monkeypatch, seconds=60, step_s=step_s), tried) == (256, [16, 256])


def test_a_batch_stays_where_half_of_it_takes_as_long(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which is not full: below 64 images a step takes as long as one of 64."""
    assert fitted_batch(dataset, monkeypatch, seconds=60, step_s=lambda size: max(size, 64) / 1000) == 64
    assert fitted_batch(dataset, monkeypatch, seconds=60, step_s=lambda size: 0.5) == 256


def test_of_a_batch_that_processes_share_a_share_is_timed(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of them take 19 minutes for what one takes 75 for."""
    sizes = [
        fitted_batch(dataset, monkeypatch, seconds=20 * 60, step_s=lambda size: size / 250, world_size=world_size)
        for world_size in (1, 4)
    ]
    assert sizes == [64, 256]
    tried: list[int] = []
    fitted_batch(
        dataset,
        monkeypatch,
        seconds=1,
        step_s=lambda size: tried.append(size) or 1,
        world_size=64,
        batch_size=32,
        pack=2,
    )
    assert tried[0] == 2  # one pack at least


def test_a_batch_that_time_halves_holds_whole_packs(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(pack: int, batch_size: int) -> int:
        step = {"step_s": lambda size: size / 1000, "pack": pack, "batch_size": batch_size}
        return fitted_batch(dataset, monkeypatch, seconds=1, **step)  # type: ignore[arg-type]

    assert [fitted(3, 255), fitted(10, 250), fitted(100, 200)] == [15, 10, 100]


def test_trying_out_steps_leaves_the_random_state(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "TRIAL_S", 1e-9)
    before = torch.get_rng_state()
    assert 0 < seconds_per_step(small_recipe(), dataset, GRAY, device=CPU, precision=torch.float32) < 60
    assert torch.equal(torch.get_rng_state(), before)


# ---- the plan --------------------------------------------------------------------------------------------------------


def planned(recipe: Recipe, dataset: Dataset, **values: object) -> TrainingPlan:
    return make_plan(recipe, TrainSettings(device="cpu", **values), overrides={}, dataset=dataset)  # type: ignore[arg-type]


def test_a_training_has_epochs_or_minutes(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "TRIAL_S", 1e-9)
    recipe = load_recipe("dcgan")
    plans = [planned(recipe, dataset, **values) for values in ({}, {"epochs": 7}, {"minutes": 0.5})]
    assert [(settled.epochs, settled.minutes) for settled in plans] == [(50, None), (7, None), (None, 0.5)]
    assert [settled.samples_every for settled in plans] == [2, 1, None]
    assert planned(recipe, dataset, minutes=0.5, samples_every=3).samples_every == 3
    assert refusal(lambda: planned(recipe, dataset, epochs=50, minutes=0.5)) == (
        "epochs=50 and minutes=0.5 both say how long to train: give one of them."
    )


@pytest.mark.parametrize(("pack", "batch_size"), [(3, 15), (32, 32), (100, 100)])
def test_a_batch_that_nobody_asked_for_holds_whole_packs(pack: int, batch_size: int, dataset: Dataset) -> None:
    recipe = override(load_recipe("dcgan"), pack=pack)
    assert planned(recipe, dataset).recipe.batch_size == batch_size


@pytest.mark.parametrize(
    ("data", "images", "seconds", "batch_size", "reason"),
    [
        (300, 10**9, None, 256, "the data has no more images"),
        (10**6, 10**9, None, 1024, "for twice as many the memory does not suffice"),
        (10**6, 4_500 * 200, None, 128, "twice as many would leave fewer than 4,500 steps"),
        (10**6, None, 4_500 * 0.3, 256, "twice as many would leave time for fewer than 4,500 steps"),
    ],
)
def test_an_automatic_batch_grows_as_far_as_data_memory_and_steps_allow(
    data: int, images: int | None, seconds: float | None, batch_size: int, reason: str
) -> None:
    """On a device where a step takes a millisecond an image, and memory is enough for 1,024 of them."""

    def step_seconds(recipe: Recipe) -> float | None:
        return recipe.batch_size / 1000 if recipe.batch_size <= 1024 else None

    grown = grow_batch(small_recipe(batch_size=64), data, step_seconds, images=images, seconds=seconds)
    assert (grown[0].batch_size, grown[1]) == (batch_size, reason)


def test_on_a_cpu_an_automatic_batch_is_the_one_that_is_fitted() -> None:
    digits = load_dataset("digits", image_size=16)
    texts = {"recipe": "dcgan", "epochs": "50", "device": "cpu"}
    sizes = []
    for batch in ({}, {"batch_size": "auto"}):
        settings, overrides = parse_training(texts | batch)
        recipe = override(load_recipe("dcgan"), **overrides)
        sizes.append(make_plan(recipe, settings, overrides=overrides, dataset=digits).recipe.batch_size)
    assert sizes == [16, 16]
