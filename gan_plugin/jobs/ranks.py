"""What the processes beside rank 0 do in a training that torchrun has started: they read the data, and train."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gan_plugin.config.settings import TrainSettings
from gan_plugin.data import Dataset
from gan_plugin.device import cpu_threads
from gan_plugin.distributed import RankLost, Ranks
from gan_plugin.errors import UserError
from gan_plugin.evaluation.quick import QuickFeatures, QuickFid
from gan_plugin.features import FeatureNetwork, load_network
from gan_plugin.features.cache import Content
from gan_plugin.features.store import content_of, network_in
from gan_plugin.features.trained import TrainedNetwork
from gan_plugin.jobs.training_data import load_training_data
from gan_plugin.signals import StopSignals, signals_ignored
from gan_plugin.tracking.tracker import Silent
from gan_plugin.training.errors import Diverged, Interrupted
from gan_plugin.training.loop import train
from gan_plugin.training.plan import TrainingPlan, spec_of
from gan_plugin.training.samples import generator_with
from gan_plugin.training.state import TrainingState

SentNetwork = tuple[type[TrainedNetwork[Any]], Content]


class Assignment(NamedTuple):
    """What rank 0 has settled for all.

    Attributes:
        plan: of the training.
        network: the feature network of evaluations, of which each process does its share; one that was trained on the
            data as what is in its file, of another one the digest; None where nothing is evaluated.
    """

    plan: TrainingPlan
    network: SentNetwork | str | None


@dataclass
class OtherRanks:
    """The processes beside rank 0, as it sees them.

    Attributes:
        ranks: all of them.
        uri: of the model that came of it, which they learn at the end.
    """

    ranks: Ranks
    uri: str | None = None
    are_waiting: bool = True

    def load(self, dataset: Dataset) -> None:
        """Have them read the images, which rank 0 has read, and wait for it: before any time is planned.

        Raises:
            UserError: one of them has others, or cannot read them.
        """
        self.ranks.broadcast(dataset.digest)
        self.are_waiting = False
        self.ranks.check(lambda: None)
        self.are_waiting = True

    @contextmanager
    def training(self, plan: TrainingPlan, evaluator: QuickFid | None) -> Iterator[None]:
        """Have them train by this plan within a block, once they have the feature network.

        Raises:
            UserError: one of them has another.
        """
        network = None if evaluator is None else sent_network(evaluator.network)
        self.ranks.broadcast(Assignment(plan, network))
        self.are_waiting = False
        self.ranks.check(lambda: None)
        try:
            yield
        except (Interrupted, Diverged):
            self.are_waiting = True
            raise
        self.are_waiting = True


def sent_network(network: FeatureNetwork) -> SentNetwork | str:
    """Return what the others need to have the same feature network: all of one that was trained, or the digest."""
    return (type(network), content_of(network)) if isinstance(network, TrainedNetwork) else network.digest


@contextmanager
def other_ranks(ranks: Ranks) -> Iterator[OtherRanks]:
    """Give rank 0 the others, who wait for what it says; at the end of the block they are let go, whatever it was.

    Where an error ends rank 0 while all train, they wait for it elsewhere, and notice that it is gone.
    """
    others = OtherRanks(ranks)
    try:
        yield others
    finally:
        if others.are_waiting:
            with suppress(RankLost):
                ranks.broadcast(others.uri)


def follow(settings: TrainSettings, ranks: Ranks) -> str:
    """Train as rank 0 says, and return the model's URI when it is done.

    Raises:
        UserError: the images here are not those of rank 0, or the feature network is not.
        RankLost: another process has ended.
        SystemExit: rank 0 did not come to an end, and says why; or a signal came, and it has written the checkpoint.
    """
    digest: str | None = ranks.broadcast(None)
    if digest is None:
        raise SystemExit(1)
    dataset = ranks.check(lambda: same_data(settings, digest, ranks))
    assignment: Assignment | None = ranks.broadcast(None)
    if assignment is None:
        raise SystemExit(1)
    plan, stop = assignment.plan, StopSignals()
    try:
        with stop.installed(), cpu_threads(plan.device, settings.threads):
            features = ranks.check(lambda: get_ready(assignment, settings, dataset, ranks=ranks))

            def share(state: TrainingState, buffers: Mapping[str, Tensor]) -> list[Tensor]:
                assert features is not None  # or rank 0 would not ask
                return [part.cpu() for part in features.share(generator_with(state, buffers))]

            train(dataset, plan, Silent(), folder=Path(), stop_requested=stop.requested, ranks=ranks, share=share)
    except (Interrupted, Diverged):
        pass  # as rank 0 says
    with signals_ignored() if stop.requested() else nullcontext():  # the same signal may come once more
        uri: str | None = ranks.broadcast(None)  # when it has delivered all: torchrun ends the others with the first
    if uri is None:
        raise SystemExit(stop.exit_status() if stop.requested() else 1)
    return uri


def same_data(settings: TrainSettings, digest: str, ranks: Ranks) -> Dataset:
    """Return the images to train on, as this process reads them.

    Raises:
        UserError: they cannot be read, or are not those of rank 0; the sentence names this process.
    """
    try:
        dataset = load_training_data(settings).dataset
    except UserError as error:
        raise UserError(f"Process {ranks.rank}, on {socket.gethostname()}: {error}") from error
    if dataset.digest != digest:
        raise UserError(
            f"Process {ranks.rank} has read other images than process 0, with digest {dataset.digest} in place of "
            f"{digest}: give all machines the same data."
        )
    return dataset


def get_ready(
    assignment: Assignment, settings: TrainSettings, dataset: Dataset, *, ranks: Ranks
) -> QuickFeatures | None:
    """Return what this process does of an evaluation; None where nothing is evaluated.

    Raises:
        UserError: this process has another feature network than rank 0; the sentence names it.
    """
    plan = assignment.plan
    if assignment.network is None:
        return None
    network: FeatureNetwork
    if isinstance(assignment.network, str):
        network = loaded_network(assignment.network, settings, dataset, plan=plan, ranks=ranks)
    else:
        network = network_in(*assignment.network, plan.device)
    classes = spec_of(dataset, plan.recipe).classes
    return QuickFeatures(network, latent_size=plan.recipe.latent_size, classes=classes, ranks=ranks)


def loaded_network(
    digest: str, settings: TrainSettings, dataset: Dataset, *, plan: TrainingPlan, ranks: Ranks
) -> FeatureNetwork:
    """Load the feature network that rank 0 has loaded from a file.

    Raises:
        UserError: the network cannot be had here, or is another one.
    """
    assert settings.features is not None  # what is chosen where nothing is given is trained on the data
    weights = None if settings.inception_weights is None else Path(settings.inception_weights)
    network = load_network(settings.features, dataset, plan.device, inception_weights=weights)
    if network.digest != digest:
        raise UserError(
            f"Process {ranks.rank} has another {settings.features} than process 0, with digest {network.digest} in "
            f"place of {digest}: give all machines the same file."
        )
    return network
