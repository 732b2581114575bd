"""Train: from settings to a registered model."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import torch

from gan_plugin.config.parsing import explicit_texts
from gan_plugin.config.recipe import load_recipe, override, resolved
from gan_plugin.config.settings import TrainSettings
from gan_plugin.connection import without_password
from gan_plugin.data import Dataset, Division, check_data_argument, load_held_out
from gan_plugin.device import choose_device, choose_precision, cpu_threads, precision_name
from gan_plugin.distributed import Ranks, joined, ranks_of_environment
from gan_plugin.errors import UserError
from gan_plugin.evaluation.quick import QuickFid, make_quick_fid
from gan_plugin.evaluation.reference import has_classes
from gan_plugin.features import choose_quick_features
from gan_plugin.features.store import name_in_cache, save_network
from gan_plugin.features.trained import TrainedNetwork
from gan_plugin.jobs.describe import describe_run, primary_metric_tags, run_name
from gan_plugin.jobs.export import PRECISIONS, Origin, export, warn
from gan_plugin.jobs.ranks import OtherRanks, follow, other_ranks
from gan_plugin.jobs.rehearsal import plan_time
from gan_plugin.jobs.resume import AUTO, Resumed, find_resumed, find_unfinished
from gan_plugin.jobs.training_data import load_training_data
from gan_plugin.networks.autoencoder import Encoder
from gan_plugin.signals import StopSignals
from gan_plugin.spec import size_text
from gan_plugin.tracking.run import RUN_NOTE
from gan_plugin.tracking.training_run import TrainingRun, make_folder, training_run, undelivered
from gan_plugin.training.budget import Clock
from gan_plugin.training.checkpoint import check_identity, read_header
from gan_plugin.training.encoder import encoder_seconds, train_encoder
from gan_plugin.training.errors import Diverged, Interrupted
from gan_plugin.training.loop import train
from gan_plugin.training.plan import (
    TrainingPlan,
    check_resumed,
    check_share,
    epochs_of,
    make_plan,
    spec_of,
    steps_per_epoch,
)
from gan_plugin.training.speed import share_of
from gan_plugin.training.state import TrainingState

REHEARSAL = "rehearsal.onnx"


class Undelivered(RuntimeError):
    """Training is done, and MLflow does not have all of it; the message has the command that delivers the rest."""


def run_training(settings: TrainSettings, overrides: Mapping[str, object], *, started: float | None = None) -> str:
    """Train, export, prove, log and register a generator; returns its URI.

    In a process that torchrun has started it trains together with the others, and what else is done, rank 0 does.

    Args:
        overrides: the recipe's fields that the user set.
        started: since when minutes count, by ``time.monotonic``; None is now.

    Raises:
        UserError: a setting, the data or the device is wrong, before there is a run.
        Undelivered: all is done and on disk, and MLflow does not have all of it.
        RankLost: another of the processes has ended.
        SystemExit: SIGTERM, SIGHUP or Ctrl-C came; the checkpoint is written and the run KILLED.
    """
    started = time.monotonic() if started is None else started
    torch.backends.cudnn.benchmark = True  # batches have few shapes
    with joined(ranks_of_environment(), choose_device(settings.device)) as ranks:
        if not ranks.is_main:
            return follow(settings, ranks)
        with other_ranks(ranks) as others:
            others.uri = lead(settings, overrides, started=started, others=others)
            return others.uri


def lead(settings: TrainSettings, overrides: Mapping[str, object], *, started: float, others: OtherRanks) -> str:
    """Do what ``run_training`` says, in rank 0."""
    recipe = override(load_recipe(settings.recipe), **overrides)
    choose_precision(settings.precision, choose_device(settings.device))  # refused before the data is read
    epochs_of(settings)
    check_data_argument(settings.data, settings.split, settings.held_out)
    resumed = find_resumed(settings)
    division = load_training_data(settings)
    dataset = division.dataset
    world_size = others.ranks.world_size
    plan = make_plan(recipe, settings, overrides=overrides, dataset=dataset, world_size=world_size)
    output_dir = make_folder(Path(settings.output_dir).resolve(), settings.output_dir)
    fitted = {"batch_size"} if overrides.get("batch_size") is None else set[str]()
    if settings.resume == AUTO:
        resumed = find_unfinished(output_dir, plan.identity(dataset), fitted)
    if resumed is not None:
        header = read_header(resumed.checkpoint)
        plan = replace(plan, recipe=override(plan.recipe, **{name: header["identity"].get(name) for name in fitted}))
        check_share(plan.recipe, world_size)
        check_identity(header, plan.identity(dataset))
        check_resumed(header, plan, steps_per_epoch=steps_per_epoch(dataset, plan.recipe))
    if settings.features is not None and settings.evaluation_budget:
        choose_quick_features(settings.features, has_classes(dataset))  # refused before there is a run
    held_out = None
    if plan.recipe.method != "gan" or needs_encoder(settings, plan):  # whose encoder is described by them
        held_out = load_held_out(settings.data, division, skip_unreadable=settings.skip_unreadable)
    others.load(dataset)
    continued = None if resumed is None else resumed.run
    with (
        training_run(run_name(plan, dataset), output_dir, identity=plan.identity(dataset), continued=continued) as run,
        cpu_threads(plan.device, settings.threads),
    ):
        log_start(run, settings, plan, division=division, resumed=resumed, world_size=world_size)
        origin = Origin(plan, dataset, held_out)
        train_and_export(run, settings, origin, resumed=resumed, started=started, others=others)
    return announce(run, settings.model_name)


def train_and_export(
    run: TrainingRun,
    settings: TrainSettings,
    origin: Origin,
    *,
    resumed: Resumed | None,
    started: float,
    others: OtherRanks,
) -> None:
    """Train in a run that has begun, and export the generator, also that of a training that diverged at its best.

    Raises:
        Diverged: training failed.
        SystemExit: a signal came; the checkpoint is written.
    """
    plan, dataset = origin.plan, origin.dataset
    evaluator = make_evaluator(run, settings, dataset, plan=plan, ranks=others.ranks)
    run.parameters({"features": None if evaluator is None else evaluator.network.name})
    clock = make_clock(
        run,
        settings,
        origin,
        evaluator=evaluator,
        resumed=resumed,
        started=started,
        world_size=others.ranks.world_size,
    )
    origin = origin._replace(seen=() if evaluator is None else (evaluator.digest,))
    stop = StopSignals()
    try:
        with stop.installed(), others.training(plan, evaluator):
            state = train(
                dataset,
                plan,
                run.spool,
                folder=run.folder,
                resume=None if resumed is None else resumed.checkpoint,
                stop_requested=stop.requested,
                evaluator=evaluator,
                clock=clock,
                ranks=others.ranks,
            )
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        raise SystemExit(stop.exit_status()) from None
    except Diverged as diverged:
        run.diverged = True
        run.spool.note("failed", str(diverged))
        if diverged.state is not None:
            export(run, diverged.state, origin, precision=settings.export_precision, model_name=None)
        raise
    if stop.requested():  # perhaps after the last step, when there was nothing left to interrupt
        raise SystemExit(stop.exit_status())
    encoder = None
    if needs_encoder(settings, plan):
        encoder = make_encoder(run, state, origin, stop=stop, world_size=others.ranks.world_size)
    precision = settings.export_precision
    export(run, state, origin, precision=precision, model_name=settings.model_name, encoder=encoder)


def make_clock(
    run: TrainingRun,
    settings: TrainSettings,
    origin: Origin,
    *,
    evaluator: QuickFid | None,
    resumed: Resumed | None,
    started: float,
    world_size: int,
) -> Clock:
    """Return the clock of a training, which in minutes keeps time for what comes after it."""
    plan = origin.plan
    if plan.minutes is None:
        return Clock(started)
    return plan_time(
        plan,
        origin.dataset,
        evaluator,
        started=started,
        spent=0.0 if resumed is None else read_header(resumed.checkpoint)["seconds"],
        world_size=world_size,
        file=run.folder / REHEARSAL,
        dtype=PRECISIONS[settings.export_precision],
        encoder_s=encoder_seconds(plan.minutes) if needs_encoder(settings, plan) else 0.0,
        held_out=origin.held_out,
    )


def needs_encoder(settings: TrainSettings, plan: TrainingPlan) -> bool:
    """Return whether an encoder is trained after the generator: an autoencoder has its own."""
    return settings.encoder and plan.recipe.method == "gan"


def make_encoder(
    run: TrainingRun, state: TrainingState, origin: Origin, *, stop: StopSignals, world_size: int
) -> Encoder | None:
    """Train an encoder for a generator that has learned, and log its losses; None, with a warning, where that fails.

    It is trained by this process alone, in batches of its share.

    Raises:
        SystemExit: a signal came; the training's checkpoint has all but the encoder.
    """
    plan = replace(origin.plan, recipe=share_of(origin.plan.recipe, world_size))
    seconds = None if plan.minutes is None else encoder_seconds(plan.minutes)
    print("An encoder learns to find the z of an image.", flush=True)
    try:
        with stop.installed():
            encoder, losses = train_encoder(state, plan, origin.dataset, seconds=seconds, stop_requested=stop.requested)
    except torch.OutOfMemoryError as error:
        warn(run, f"The model is logged without an encoder, for which the GPU's memory does not suffice: {error}")
        return None
    if stop.requested():
        raise SystemExit(stop.exit_status())
    if not all(map(math.isfinite, losses.values())):
        warn(run, f"The model is logged without an encoder, whose training diverged: {losses}.")
        return None
    run.spool.metrics(losses, state.steps)
    return encoder


def log_start(
    run: TrainingRun,
    settings: TrainSettings,
    plan: TrainingPlan,
    *,
    division: Division,
    resumed: Resumed | None,
    world_size: int,
) -> None:
    """Log the run's parameters, each as it is used, and its data; print what is about to happen."""
    dataset = division.dataset
    run.parameters(used_parameters(settings, plan, division) | ({"world_size": world_size} if world_size > 1 else {}))
    run.dataset(dataset, context="training")
    if division.drawn is not None:  # a split of the data's own is not read to train
        run.dataset(division.drawn, context="held-out")
    run.spool.note(RUN_NOTE, describe_run(plan, dataset))
    if resumed is not None:
        run.spool.note("resumed_from", str(resumed.checkpoint))
    for note in dataset.notes:
        print(note)
    print(f"{len(dataset):,} images of {dataset.spec} from {dataset.name}, recipe {plan.recipe.name}, ", end="")
    processes = f", by {world_size} processes" if world_size > 1 else ""
    print(f"on {plan.device.type} in {precision_name(plan.precision)}{processes}", flush=True)


def used_parameters(settings: TrainSettings, plan: TrainingPlan, division: Division) -> dict[str, object]:
    """Return every parameter of the run with the value that it has in effect: none is ``auto``."""
    spec = division.dataset.spec
    return {
        **explicit_texts(settings),
        **({} if plan.epochs is None else {"epochs": plan.epochs}),
        **({} if plan.samples_every is None else {"samples_every": plan.samples_every}),
        **resolved(plan.recipe),
        "held_out": "none" if division.held_out_split is None else division.held_out_split,
        "image_size": size_text(spec.size),
        "channels": spec.channels,
        "device": plan.device.type,
        "precision": precision_name(plan.precision),
        **({"threads": torch.get_num_threads()} if plan.device.type == "cpu" else {}),  # to begin with
    }


def make_evaluator(
    run: TrainingRun, settings: TrainSettings, dataset: Dataset, *, plan: TrainingPlan, ranks: Ranks
) -> QuickFid | None:
    """Return what evaluates the generator during training, or None where nothing may or can.

    Features that were asked for by name must be there. With auto a missing download does not end a training run: it
    goes on without evaluations, and says so.
    """
    if settings.evaluation_budget == 0:
        return None
    weights = None if settings.inception_weights is None else Path(settings.inception_weights)
    classes = spec_of(dataset, plan.recipe).classes
    try:
        evaluator = make_quick_fid(
            dataset,
            settings.features,
            latent_size=plan.recipe.latent_size,
            classes=classes,
            device=plan.device,
            weights=weights,
            ranks=ranks,
        )
    except UserError as error:
        if settings.features is not None:
            raise
        print(f"No evaluation during training, and the last generator is exported: {error}", file=sys.stderr)
        return None
    print(f"{evaluator.metric} is measured during training; getting ready took {evaluator.seconds:.1f} s.", flush=True)
    run.spool.note("quick_evaluation", f"{evaluator.network.name}, digest {evaluator.network.digest}")
    run.spool.add("experiment_tags", values=primary_metric_tags(evaluator.metric))
    if isinstance(network := evaluator.network, TrainedNetwork):
        file = run.folder / f"{name_in_cache(type(network), dataset.digest)}.safetensors"
        save_network(network, file)
        run.spool.file(file, "quick_evaluation")
    return evaluator


def announce(run: TrainingRun, model_name: str | None) -> str:
    """Print where the model is and how to serve it; returns its URI.

    Args:
        model_name: under which it was to be registered; None for a model that was only to be logged.

    Raises:
        Undelivered: MLflow does not have everything.
    """
    if not run.delivered:
        raise Undelivered(f"Training is done. {undelivered(run.folder)}")
    if run.model_uri is None:
        raise Undelivered(f"Training is done and {run.folder} has it, but MLflow refuses: {'; '.join(run.refused)}")
    uri = run.model_uri
    serve = f"mlflow models serve -m {uri} --env-manager local --port 5001"
    store = shlex.quote(without_password(mlflow.get_tracking_uri()))
    done = "is logged, and not registered" if model_name is None else "is registered"
    print(f"{uri} {done}. Serve it:\n  MLFLOW_TRACKING_URI={store} {serve}", flush=True)
    return uri
