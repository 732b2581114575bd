"""How many threads compute: decisions from timings alone, and what is done with them in a real process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from gan_plugin import device as module
from gan_plugin.cores import VARIABLES
from gan_plugin.device import cpu_threads, tuned
from gan_plugin.threads import EXPLORE_S, SHARE, Change, CoreUsage, ThreadTuner

CPU = torch.device("cpu")
Speed = Callable[[int], float]  # threads → seconds a step
FREE = 9.0


def run(tuner: ThreadTuner, speed: Speed, *, seconds: float, free: Callable[[int], float]) -> list[Change]:
    """Let a tuner work for so many seconds, with a reading of the free cores each second."""
    changes, elapsed, read = [], 0.0, 0.0
    while elapsed < seconds:
        took = speed(tuner.count)
        elapsed += took
        due = tuner.trial is None and elapsed - read >= 1
        change = tuner.step(took, free(tuner.count) if due else None)
        read = elapsed if due or tuner.trial is not None else read
        changes += [] if change is None else [change]
    return changes


def test_alone_nothing_is_tried() -> None:
    counts, tuner = set(), ThreadTuner(4, 4)

    def step(count: int) -> float:
        counts.add(count)
        return 0.1 / count

    assert run(tuner, step, seconds=1000, free=lambda count: 3.9) == []
    assert counts == {4}


def test_beside_another_program_fewer_are_tried_and_kept_and_idle_cores_are_taken_again() -> None:
    tuner = ThreadTuner(2, 2)
    (change,) = run(tuner, lambda count: {1: 0.2, 2: 0.5}[count], seconds=10, free=lambda count: 1.3)
    assert (change.before, change.after, tuner.count) == (2, 1, 1)
    assert str(change) == "1 CPU thread instead of 2: a step takes 0.2 s and took 0.5 s"
    (change,) = run(tuner, lambda count: 0.2 / count, seconds=10, free=lambda count: 2.0)
    assert (change.before, change.after, tuner.count) == (1, 2, 2)


def test_many_cores_go_down_by_as_many_as_others_use() -> None:
    tuner = ThreadTuner(16, 16)
    (change,) = run(tuner, lambda count: 1 / count if count <= 15 else 0.2, seconds=10, free=lambda count: 15.1)
    assert change.after == 15


def test_fewer_that_are_not_clearly_faster_are_given_up() -> None:
    tuner = ThreadTuner(2, 2)
    assert run(tuner, lambda count: {1: 0.19, 2: 0.2}[count], seconds=60, free=lambda count: 1.3) == []


def test_a_moment_s_load_is_no_reason() -> None:
    readings = iter([2.0, 1.0] * 1000)
    tuner, counts = ThreadTuner(2, 2), set()

    def step(count: int) -> float:
        counts.add(count)
        return 0.1

    run(tuner, step, seconds=100, free=lambda count: next(readings))
    assert counts == {2}


@pytest.mark.parametrize("slow", [0.3, 5.0, 60.0])
def test_trials_that_fail_cost_a_hundredth_of_the_time(slow: float) -> None:
    """One thread beside others that leave nothing idle: two are tried now and then, because nothing tells of them."""
    spent, tuner = {1: 0.0, 2: 0.0}, ThreadTuner(2, 1)
    steps = {1: 0, 2: 0}

    def step(count: int) -> float:
        seconds = {1: 0.2, 2: slow}[count]
        spent[count] += seconds
        steps[count] += 1
        return seconds

    assert run(tuner, step, seconds=20_000, free=lambda count: 1.0) == []
    assert tuner.count in (1, 2)
    assert steps[2] > 0
    assert spent[2] - 0.2 * steps[2] < 1.5 * SHARE * 20_000


def test_more_are_found_where_no_core_is_idle() -> None:
    """Beside programs of low priority, which leave no core idle and take none away."""
    tuner = ThreadTuner(16, 1)
    changes = run(tuner, lambda count: 0.1 / count, seconds=2 * EXPLORE_S, free=float)
    assert [change.after for change in changes] == [2, 4, 8, 16]


def test_only_whole_cycles_are_compared() -> None:
    """Every fourth step is ten times as long: between single steps, anything could look faster."""
    number = 0

    def step(count: int) -> float:
        nonlocal number
        number += 1
        return 1.3 if number % 4 == 0 else 0.1

    assert run(ThreadTuner(2, 2, cycle=4), step, seconds=2000, free=lambda count: 1.3) == []


def test_equal_timings_give_equal_decisions() -> None:
    def counts() -> list[int]:
        tuner, seen = ThreadTuner(8, 8), []
        for i in range(500):
            tuner.step(0.3 if i % 7 else 0.1 * tuner.count, 5.0 if i % 4 == 0 else None)
            seen.append(tuner.count)
        return seen

    assert counts() == counts()
    assert len(set(counts())) > 1


# ---- in a process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in which nobody has set torch's threads, on two cores of which ``FREE`` are free."""
    before = torch.get_num_threads()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "default_threads", lambda: {2})
    monkeypatch.setattr(module, "cores", lambda: 2)
    monkeypatch.setattr(module, "free_at_start", lambda: FREE)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("unset")
def test_a_loop_beside_others_goes_over_to_one_thread_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gan_plugin.threads.PERIOD_S", 0.02)
    monkeypatch.setattr(module, "PERIOD_S", 0.02)
    monkeypatch.setattr(CoreUsage, "free_cores", lambda self: 1.0)
    caplog.set_level(logging.INFO, "mlflow.gan_plugin.device")
    with cpu_threads(CPU):
        assert torch.get_num_threads() == 2
        for _ in tuned(range(200), "training"):
            time.sleep(0.001 if torch.get_num_threads() == 1 else 0.004)
        assert torch.get_num_threads() == 1
        with cpu_threads(CPU):  # as an evaluation inside of a job
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    chosen, changed = caplog.messages
    assert chosen.startswith("CPU threads: 2, because ")
    assert changed.startswith("Training with 1 CPU thread instead of 2: a step takes 0.00")


@pytest.mark.usefixtures("unset")
def test_a_start_beside_others_begins_with_the_free_cores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "free_at_start", lambda: 1.04)
    caplog.set_level(logging.INFO, "mlflow.gan_plugin.device")
    with cpu_threads(CPU):
        assert torch.get_num_threads() == 1
    assert caplog.messages == ["CPU threads: 1, because only 1.0 cores are free of other programs."]


@pytest.mark.usefixtures("unset")
def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "free_at_start", lambda: 1.0)
    caplog.set_level(logging.INFO, "mlflow.gan_plugin.device")
    with cpu_threads(CPU, 3):
        assert torch.get_num_threads() == 3
        list(tuned(range(3), "training"))
        assert torch.get_num_threads() == 3
    torch.set_num_threads(5)
    with cpu_threads(CPU):
        assert torch.get_num_threads() == 5
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with cpu_threads(CPU):
        assert torch.get_num_threads() == 2
    assert [message.partition("because ")[2] for message in caplog.messages] == [
        "threads=3.",
        "torch.set_num_threads is kept.",
        "OMP_NUM_THREADS=2 is kept.",
    ]


@pytest.mark.usefixtures("unset")
def test_a_gpu_and_loops_outside_of_a_job_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mlflow.gan_plugin.device")
    with cpu_threads(torch.device("cuda")):
        assert list(tuned(range(3), "training")) == [0, 1, 2]
    assert torch.get_num_threads() == 2
    assert caplog.messages == []


def test_free_cores_are_those_of_this_process_and_the_idle_ones() -> None:
    usage = CoreUsage()
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end:
        pass
    assert usage.seconds >= 0.2
    assert 0 < usage.free_cores() < len(module.affinity()) + 0.5
    assert usage.seconds < 0.2
