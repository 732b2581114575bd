"""Train: from settings to a registered model."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gan_plugin import flavor
from gan_plugin.config.recipe import load_recipe, override, resolved
from gan_plugin.config.settings import TrainSettings, explicit_texts
from gan_plugin.data import Dataset, check_data_argument, load_dataset
from gan_plugin.device import choose_device, choose_precision, cpu_threads, precision_name
from gan_plugin.errors import UserError
from gan_plugin.evaluation.quick import QuickFid, make_quick_fid
from gan_plugin.evaluation.reference import has_classes
from gan_plugin.export import Parity, ParityError, export_generator
from gan_plugin.features import choose_features
from gan_plugin.features.classifier import Classifier
from gan_plugin.features.classifier_store import classifier_of
from gan_plugin.jobs.describe import describe_run, describe_version, run_name
from gan_plugin.registry import set_description
from gan_plugin.serving.generator import Description
from gan_plugin.signals import StopSignals
from gan_plugin.spec import size_text
from gan_plugin.tracking.run import (
    RUN_NOTE,
    MlflowTracker,
    log_dataset,
    log_parameters,
    project_run,
    set_primary_metric,
)
from gan_plugin.training.checkpoint import FILE_NAME, check_identity
from gan_plugin.training.loop import Diverged, Interrupted, train
from gan_plugin.training.plan import TrainingPlan, check_resumed, make_plan, spec_of, steps_per_epoch
from gan_plugin.training.selection import export_reason
from gan_plugin.training.state import TrainingState

PRECISIONS = {"float32": torch.float32, "float16": torch.float16}  # of the exported file


def run_training(settings: TrainSettings, overrides: Mapping[str, object]) -> str:
    """Train, export, prove, log and register a generator; returns the registered model's URI.

    Args:
        overrides: the recipe's fields that the user set.

    Raises:
        UserError: a setting, the data or the device is wrong, before there is a run.
        SystemExit: SIGTERM or Ctrl-C came; the checkpoint is written and the run KILLED.
    """
    recipe = override(load_recipe(settings.recipe), **overrides)
    choose_precision(settings.precision, choose_device(settings.device))  # refused before the data is read
    check_data_argument(settings.data, settings.split)
    resume = None if settings.resume is None else find_checkpoint(settings.resume)
    dataset = load_dataset(
        settings.data,
        split=settings.split,
        image_size=settings.image_size,
        channels=settings.channels,
        skip_unreadable=settings.skip_unreadable,
    )
    plan = make_plan(recipe, settings, overrides=overrides, dataset=dataset)
    if resume is not None:
        header = check_identity(resume, plan.identity(dataset))
        check_resumed(header["steps"], steps_per_epoch=steps_per_epoch(dataset, plan.recipe), epochs=plan.epochs)
    if settings.features is not None and settings.evaluation_budget:
        choose_features(settings.features, has_classes(dataset))  # refused before there is a run
    check_folder(settings.output_dir)
    with project_run(run_name(plan, dataset)) as run, cpu_threads(plan.device, settings.threads):
        run_id = run.info.run_id
        folder = make_folder(settings.output_dir, run_id)
        log_start(settings, plan, dataset, run_id=run_id)
        evaluator = make_evaluator(settings, dataset, plan)
        log_parameters(run_id, {"features": None if evaluator is None else evaluator.network.name})
        stop = StopSignals()
        try:
            with stop.installed(), MlflowTracker(run_id, folder) as tracker:
                state = train(
                    dataset,
                    plan,
                    tracker,
                    folder=folder,
                    resume=resume,
                    stop_requested=stop.requested,
                    evaluator=evaluator,
                )
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
        except Diverged as diverged:
            mlflow.set_tag("failed", str(diverged))
            if diverged.state is not None:
                export_and_log(diverged.state, plan, dataset, settings=settings, folder=folder, register=False)
            raise
        if stop.requested():  # perhaps after the last step, when there was nothing left to interrupt
            raise SystemExit(stop.exit_status())
        return export_and_log(state, plan, dataset, settings=settings, folder=folder, register=True)


def check_folder(output_dir: str) -> None:
    """Refuse a folder for output that cannot be written to.

    Raises:
        UserError: names the folder and the reason.
    """
    try:
        Path(output_dir).resolve().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={output_dir!r} cannot be written to: {error.strerror}.") from None


def make_folder(output_dir: str, run_id: str) -> Path:
    """Make the run's own folder before training, because its first file is written long after.

    Raises:
        UserError: it cannot be made.
    """
    check_folder(f"{output_dir}/{run_id}")
    return Path(output_dir).resolve() / run_id


def find_checkpoint(resume: str) -> Path:
    """Find a checkpoint by its file, its folder, or the run that logged it."""
    path = Path(resume)
    if path.is_dir():
        path = path / FILE_NAME
    if path.exists():
        return path
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=resume, artifact_path=f"checkpoint/{FILE_NAME}"))
    except (MlflowException, OSError):
        raise UserError(
            f"resume={resume!r} is neither a checkpoint file, a folder with one, nor a run that logged one."
        ) from None


def log_start(settings: TrainSettings, plan: TrainingPlan, dataset: Dataset, *, run_id: str) -> None:
    """Log the run's parameters, each as it is used, and its data; print what is about to happen."""
    log_parameters(run_id, used_parameters(settings, plan, dataset))
    log_dataset(dataset, context="training")
    client = MlflowClient()
    client.set_tag(run_id, RUN_NOTE, describe_run(plan, dataset))
    if settings.resume is not None:
        client.set_tag(run_id, "resumed_from", settings.resume)
    for note in dataset.notes:
        print(note)
    print(f"{len(dataset):,} images of {dataset.spec} from {dataset.name}, recipe {plan.recipe.name}, ", end="")
    print(f"on {plan.device.type} in {precision_name(plan.precision)}", flush=True)


def used_parameters(settings: TrainSettings, plan: TrainingPlan, dataset: Dataset) -> dict[str, object]:
    """Return every parameter of the run with the value that it has in effect: none is ``auto``."""
    spec = dataset.spec
    return {
        **explicit_texts(settings),
        **resolved(plan.recipe),
        "image_size": size_text(spec.size),
        "channels": spec.channels,
        "device": plan.device.type,
        "precision": precision_name(plan.precision),
        **({"threads": torch.get_num_threads()} if plan.device.type == "cpu" else {}),  # to begin with
    }


def make_evaluator(settings: TrainSettings, dataset: Dataset, plan: TrainingPlan) -> QuickFid | None:
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
        )
    except UserError as error:
        if settings.features is not None:
            raise
        print(f"No evaluation during training, and the last generator is exported: {error}", file=sys.stderr)
        return None
    print(f"{evaluator.metric} is measured during training; getting ready took {evaluator.seconds:.1f} s.", flush=True)
    mlflow.set_tag("quick_evaluation", f"{evaluator.network.name}, digest {evaluator.network.digest}")
    set_primary_metric(evaluator.metric)
    if isinstance(evaluator.network, Classifier):
        _, file = classifier_of(dataset, plan.device)  # from the cache
        mlflow.log_artifact(str(file), "quick_evaluation")
    return evaluator


def export_and_log(
    state: TrainingState, plan: TrainingPlan, dataset: Dataset, *, settings: TrainSettings, folder: Path, register: bool
) -> str:
    """Export the averaged generator, prove the file equal to it, and log it; register it where that is asked for.

    Returns the model's URI.

    Raises:
        ExportError: the file is not what it must be.
    """
    recipe, run_id = plan.recipe, folder.name
    description = Description(
        latent_size=recipe.latent_size,
        spec=spec_of(dataset, recipe),
        recipe=recipe.name,
        run_id=run_id,
        data=dataset.name,
        data_digest=dataset.digest,
    )
    onnx_file = folder / flavor.ONNX_FILE
    try:
        parity = export_generator(state.ema, description, onnx_file, dtype=PRECISIONS[settings.export_precision])
    except ParityError as error:
        log_parity(error.parity, state.steps)
        raise
    log_parity(parity, state.steps)
    step = state.steps if state.best is None else state.best.step
    of_all = f" of {state.steps:,}" if step <= state.steps else ""  # after a rollback the best may be the younger one
    reason = f"Exported: the averaged generator of step {step:,}{of_all}. {export_reason(state)}"
    MlflowClient().set_tag(run_id, "exported", reason)
    print(reason)
    model_name = settings.model_name if register else None
    info = flavor.log_model(
        onnx_file,
        registered_model_name=model_name,
        params={"recipe": recipe.name, "data": dataset.name, "data_digest": dataset.digest, "exported": reason},
        step=step,
    )
    if model_name is None:
        uri, done = info.model_uri, "logged"
    else:
        version = str(info.registered_model_version)
        uri, done = f"models:/{model_name}/{version}", "registered"
        text = describe_version(plan, dataset, uri=uri, reason=reason)
        set_description(MlflowClient(), model_name, version, text=text)
    print(
        f"{uri} is {done}: PyTorch and ONNX Runtime are at most {parity.largest_difference} of 255 gray levels "
        f"apart, over {parity.images} images.\nServe it:"
    )
    serve = f"mlflow models serve -m {uri} --env-manager local --port 5001"
    print(f"  MLFLOW_TRACKING_URI={shlex.quote(without_password(mlflow.get_tracking_uri()))} {serve}", flush=True)
    return uri


def without_password(uri: str) -> str:
    """Return a URI less the user and password in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def log_parity(parity: Parity, step: int) -> None:
    """Log how far the exported file is from the generator."""
    values = {
        "export/largest_difference": float(parity.largest_difference),
        "export/differing_pixels": parity.differing_pixels,
    }
    mlflow.log_metrics(values, step=step)
