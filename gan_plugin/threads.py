"""How many threads compute fastest beside other programs: decided from timings, while the work goes on.

The threads of OpenMP wait for each other many times in a step of training. Where another program takes one of their
cores, all wait for the thread that lost it, and spin: two threads can be many times slower than one. On idle cores
they are faster. So fewer threads are tried when other programs take the cores, and more when cores are idle or fewer
than all compute. On a quiet machine nothing is tried, because the number of threads changes the order in which floats
are added up, and with it the last bits of the results. Imports no torch.
"""

from __future__ import annotations

import time
from dataclasses import KW_ONLY, dataclass

import psutil

from gan_plugin.cores import affinity, cpu_quota

PERIOD_S = 1.0  # from one reading of the cores to the next, and the least that is timed of one number of threads
LOOK_S = 0.1  # of the first readings
REST_S = 10.0  # at least, after a trial that failed
EXPLORE_S, EXPLORE_CYCLES = 30.0, 200  # before the first trial without a sign, which may last as long as 10 cycles
GAIN = 0.9  # another number of threads is kept when it needs at most this share of the time
SLACK = 0.25  # cores: what the system takes for itself now and then is no other program
HOPELESS = 2.0  # a trial ends when it has taken this many times what it would have taken without
SHARE = 0.01  # of the time that trials may lose


@dataclass(frozen=True)
class Change:
    """Another number of threads was faster.

    Attributes:
        before: the number that it replaces.
        after: the number that was faster.
        seconds_before: that a step took.
        seconds_after: that a step takes.
    """

    before: int
    after: int
    _: KW_ONLY
    seconds_before: float
    seconds_after: float

    def __str__(self) -> str:
        threads = "thread" if self.after == 1 else "threads"
        return (
            f"{self.after} CPU {threads} instead of {self.before}: a step takes {self.seconds_after:.2g} s and took "
            f"{self.seconds_before:.2g} s"
        )


class Timing:
    """The time of steps with one number of threads.

    Args:
        cycle: after how many steps the same work comes again.
        warm: whether the first cycle counts; with another number of threads it also prepares the operators.
    """

    def __init__(self, cycle: int, *, warm: bool) -> None:
        self.cycle, self.skip = cycle, 0 if warm else cycle
        self.steps, self.total, self.elapsed = 0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Add a step."""
        self.elapsed += seconds
        self.steps += 1
        if self.steps > self.skip:
            self.total += seconds

    @property
    def counted(self) -> int:
        """Steps in ``total``."""
        return max(0, self.steps - self.skip)

    @property
    def is_enough(self) -> bool:
        """Whether whole cycles were timed for long enough."""
        return self.counted > 0 and self.counted % self.cycle == 0 and self.total >= PERIOD_S

    @property
    def mean(self) -> float:
        """Seconds a step."""
        return self.total / self.counted


@dataclass
class Trial:
    """An attempt with another number of threads.

    Attributes:
        before: the number of threads to go back to.
        usual: seconds that a step took with it.
        timing: of the attempt.
        explores: whether it was made without a sign that it would succeed.
    """

    before: int
    usual: float
    timing: Timing
    explores: bool

    @property
    def loss(self) -> float:
        """Seconds more than the steps would have taken."""
        return self.timing.elapsed - self.usual * self.timing.steps

    @property
    def is_hopeless(self) -> bool:
        """Whether it costs more than one may pay for knowing exactly."""
        return self.timing.elapsed > HOPELESS * max(PERIOD_S, self.usual * max(self.timing.steps, self.timing.cycle))


class ThreadTuner:
    """Decides how many threads the next step gets, from how long steps took and from how many cores were free.

    It reads no clock, so that equal timings give equal decisions.

    Args:
        most: the largest number of threads.
        count: the number to begin with.
        cycle: after how many steps the same work comes again; only whole cycles are compared.

    Attributes:
        count: of threads for the next step.
    """

    def __init__(self, most: int, count: int, *, cycle: int = 1) -> None:
        self.most, self.count, self.cycle = most, count, cycle
        self.timing = Timing(cycle, warm=False)
        self.trial: Trial | None = None
        self.suggestions = (count, count)  # of the last two readings
        self.rest = 0.0  # seconds until the next trial
        self.exploration_rest: float | None = None  # until the next one without a sign; None until steps are timed

    def step(self, seconds: float, free_cores: float | None = None) -> Change | None:
        """Take in a step of ``count`` threads; returns the change that it completed, if it did.

        Args:
            seconds: that the step took.
            free_cores: how many cores this process had or could have had since the last reading; None without a
                reading.
        """
        self.rest -= seconds
        if self.exploration_rest is not None:
            self.exploration_rest -= seconds
        if self.trial is not None:
            self.trial.timing.add(seconds)
            return self._conclude(self.trial)
        self.timing.add(seconds)
        if free_cores is not None:
            self.suggestions = (self.suggestions[1], suggest(free_cores, self.most))
        if self.timing.is_enough:
            usual, self.timing = self.timing.mean, Timing(self.cycle, warm=True)
            if self.exploration_rest is None:
                self.exploration_rest = max(EXPLORE_S, EXPLORE_CYCLES * self.cycle * usual)
            if (candidate := self._candidate()) is not None:
                explores = candidate not in self.suggestions
                self.trial = Trial(self.count, usual, Timing(self.cycle, warm=False), explores)
                self.count = candidate
        return None

    def _candidate(self) -> int | None:
        """Return the number of threads to try now, or None."""
        if self.rest <= 0 and (max(self.suggestions) < self.count or min(self.suggestions) > self.count):
            return self.suggestions[1]
        if self.exploration_rest is not None and self.exploration_rest <= 0 and self.count < self.most:
            return min(2 * self.count, self.most)
        return None

    def _conclude(self, trial: Trial) -> Change | None:
        timing = trial.timing
        if not timing.is_enough and not trial.is_hopeless:
            return None
        self.trial, self.suggestions = None, (self.count, self.count)
        if timing.is_enough and timing.mean <= GAIN * trial.usual:
            self.timing, self.rest = Timing(self.cycle, warm=True), 0.0
            self.exploration_rest = 0.0 if self.count > trial.before else None
            return Change(trial.before, self.count, seconds_before=trial.usual, seconds_after=timing.mean)
        self.count, self.timing = trial.before, Timing(self.cycle, warm=False)
        self.suggestions = (self.count, self.count)
        rest = max(REST_S, trial.loss / SHARE)
        self.exploration_rest = rest
        if not trial.explores:
            self.rest = rest
        return None


def suggest(free_cores: float, most: int) -> int:
    """Return how many threads would have a core each.

    >>> [suggest(free, 16) for free in (0.1, 1.3, 1.8, 15.1, 15.9, 40)]
    [1, 1, 2, 15, 16, 16]
    """
    return max(1, min(most, int(free_cores + SLACK)))


class CoreUsage:
    """Reads how many cores this process had, or could have had, since the last reading."""

    def __init__(self) -> None:
        quota = cpu_quota()
        self.quota = float("inf") if quota is None else quota.cores
        self.last = self._now()

    @property
    def seconds(self) -> float:
        """How long ago the last reading was."""
        return time.perf_counter() - self.last[0]

    def free_cores(self) -> float:
        """Return the cores that this process used plus the idle ones, on average since the last reading."""
        before, self.last = self.last, self._now()
        wall, own, idle = (now - then for now, then in zip(self.last, before))
        return min((own + max(0.0, idle)) / max(wall, 1e-9), self.quota)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Return the time, this process's CPU time and the idle time of all cores that it may use, in seconds."""
        allowed = affinity()
        times = [core for number, core in enumerate(psutil.cpu_times(percpu=True)) if number in allowed]
        idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in times)
        return time.perf_counter(), time.process_time(), idle


def free_at_start() -> float:
    """Return how many cores are free now, the most of three short looks: a moment's work of another is no load."""
    usage, looks = CoreUsage(), list[float]()
    for _ in range(3):
        time.sleep(LOOK_S)
        looks.append(usage.free_cores())
    return max(looks)
