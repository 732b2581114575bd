"""What the processes beside rank 0 do in a training that torchrun has started: they read the data, and train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gan_plugin.config.settings import TrainSettings
from gan_plugin.data import Dataset
from gan_plugin.device import cpu_threads
from gan_plugin.distributed import RankLost, Ranks
from gan_plugin.errors import UserError
from gan_plugin.jobs.training_data import load_training_data
from gan_plugin.signals import StopSignals
from gan_plugin.tracking.tracker import Silent
from gan_plugin.training.errors import Diverged, Interrupted
from gan_plugin.training.loop import train
from gan_plugin.training.plan import TrainingPlan


class Assignment(NamedTuple):
    """What rank 0 has settled for all.

    Attributes:
        plan: of the training.
        digest: of the images to train on.
    """

    plan: TrainingPlan
    digest: str


@dataclass
class OtherRanks:
    """The processes beside rank 0, as it sees them.

    Attributes:
        ranks: all of them.
        uri: of the model that came of it, which they learn at the end.
    """

    ranks: Ranks
    uri: str | None = None

    def assign(self, plan: TrainingPlan, dataset: Dataset) -> None:
        """Have them train by this plan, once they have read the same images.

        Raises:
            UserError: one of them has read others.
        """
        self.ranks.broadcast(Assignment(plan, dataset.digest))
        check_data(self.ranks, dataset, dataset.digest)


@contextmanager
def other_ranks(ranks: Ranks) -> Iterator[OtherRanks]:
    """Give rank 0 the others, who wait for an assignment; at the end of the block they are let go, with or without."""
    others = OtherRanks(ranks)
    try:
        yield others
    finally:
        with suppress(RankLost):
            ranks.broadcast(others.uri)


def follow(settings: TrainSettings, ranks: Ranks) -> str:
    """Train as rank 0 says, and return the model's URI when it is done.

    Raises:
        UserError: the images here are not those of rank 0.
        RankLost: another process has ended.
        SystemExit: rank 0 did not come to an end, and says why; or a signal came, and it has written the checkpoint.
    """
    assignment: Assignment | None = ranks.broadcast(None)
    if not isinstance(assignment, Assignment):
        raise SystemExit(1)
    dataset = load_training_data(settings).dataset
    stop = StopSignals()
    try:
        with stop.installed(), cpu_threads(assignment.plan.device, settings.threads):
            check_data(ranks, dataset, assignment.digest)
            train(dataset, assignment.plan, Silent(), folder=Path(), stop_requested=stop.requested, ranks=ranks)
    except (Interrupted, Diverged):
        pass  # as rank 0 says
    uri: str | None = ranks.broadcast(None)  # when it has delivered all: torchrun ends the others with the first
    if uri is None:
        raise SystemExit(stop.exit_status() if stop.requested() else 1)
    return uri


def check_data(ranks: Ranks, dataset: Dataset, digest: str) -> None:
    """Refuse to train where the processes have not read the same images.

    Raises:
        UserError: names the first process that has read others.
    """

    def check() -> None:
        if dataset.digest != digest:
            raise UserError(
                f"Process {ranks.rank} has read other images than process 0, with digest {dataset.digest} in place of "
                f"{digest}: give all machines the same data."
            )

    ranks.check(check)
