"""What the entry points do, from settings to a registered model: train, and evaluate."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
import sys
from pathlib import Path

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import EvaluationResult
from mlflow.pyfunc import PyFuncModel

from gan_plugin import flavor
from gan_plugin.config.recipe import Recipe, fit_augmentation, fit_batch, load_recipe, override
from gan_plugin.config.recipe import resolved as resolved_recipe
from gan_plugin.config.settings import DataSettings, EvaluateSettings, EvaluatorSettings, TrainSettings, as_typed
from gan_plugin.data import Dataset, check_data_argument, load_dataset
from gan_plugin.datasets import SampleDataset, from_samples
from gan_plugin.device import choose_device, choose_precision, precision_name
from gan_plugin.errors import UserError, first_line
from gan_plugin.evaluation.quick import QuickFid, make_quick_fid
from gan_plugin.export import Parity, ParityError, export_generator
from gan_plugin.features.classifier import Classifier
from gan_plugin.features.classifier_store import classifier_of
from gan_plugin.serving.generator import Description
from gan_plugin.tracking import MlflowTracker, StopSignals, log_dataset, log_parameters, project_run
from gan_plugin.training.checkpoint import FILE_NAME, check_identity
from gan_plugin.training.gan import TrainingState
from gan_plugin.training.loop import Diverged, Interrupted, TrainingPlan, check_moves, spec_of, train
from gan_plugin.training.rules import check_combination, check_effect, without_leftovers


def run_training(settings: TrainSettings) -> str:
    """Train, export, prove, log and register a generator; returns the registered model's URI.

    Raises:
        UserError: a setting, the data or the device is wrong, before anything is trained.
        SystemExit: SIGTERM or Ctrl-C came; the checkpoint is written and the run KILLED.
    """
    recipe = chosen_recipe(settings)
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    dtype = {"float32": torch.float32, "float16": torch.float16}[settings.export_precision]
    check_data_argument(settings.data, settings.split)
    with project_run() as run:
        run_id = run.info.run_id
        folder = make_folder(settings.output_dir, run_id)
        resume = None if settings.resume is None else find_checkpoint(settings.resume)
        dataset = load_dataset(
            settings.data,
            split=settings.split,
            image_size=settings.image_size,
            channels=settings.channels,
            skip_unreadable=settings.skip_unreadable,
        )
        recipe = fit(recipe, settings, dataset)
        recipe = without_leftovers(recipe)
        check_effect(recipe, overridden(settings).keys())
        check_combination(recipe, dataset)
        plan = TrainingPlan(
            recipe,
            settings.epochs,
            settings.seed,
            device,
            precision,
            settings.samples_every,
            settings.checkpoint_every,
            settings.evaluation_budget,
            settings.guard,
            settings.retries,
        )
        check_moves(dataset, recipe, settings.epochs)
        if resume is not None:
            check_identity(resume, plan.identity(dataset))
        describe(settings, plan, dataset, run_id)
        judge = judge_on_the_way(settings, dataset, plan)
        stop = StopSignals()
        try:
            with stop.caught(), MlflowTracker(run_id, folder) as tracker:
                state = train(dataset, plan, tracker, folder, resume, stop.asked, judge)
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
        except Diverged as diverged:
            mlflow.set_tag("failed", str(diverged))
            if diverged.state is not None:
                publish(diverged.state, recipe, dataset, None, run_id, folder, dtype)
            raise
        if stop.asked():  # perhaps after the last step, when there was nothing left to interrupt
            raise SystemExit(stop.exit_status())
        return publish(state, recipe, dataset, settings.model_name, run_id, folder, dtype)


def make_folder(output_dir: str, run_id: str) -> Path:
    """The run's own folder, made before training because its first file is written long after."""
    folder = Path(output_dir).resolve() / run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={output_dir!r} cannot be written to: {error.strerror}.") from None
    return folder


def chosen_recipe(settings: TrainSettings) -> Recipe:
    """The recipe with the settings that override it."""
    return override(load_recipe(settings.recipe), **overridden(settings))


def overridden(settings: TrainSettings) -> dict[str, object]:
    """The recipe's fields that the settings give, with their values."""
    names = {f.name for f in dataclasses.fields(Recipe)} & {f.name for f in dataclasses.fields(settings)}
    return {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}


def fit(recipe: Recipe, settings: TrainSettings, dataset: Dataset) -> Recipe:
    """The recipe for this data, where the user left it open: its batch, its augmentation, whether it takes labels.

    Raises:
        UserError: labels were asked of data that has none, or a bound for an augmentation that has none.
    """
    if settings.conditional and len(dataset.spec.class_names) < 2:
        raise UserError(
            f"conditional=true is not possible: {dataset.name} has no classes to choose from; give conditional=false."
        )
    if settings.augment_below is not None and (settings.augment is not None or recipe.augment == "none"):
        raise UserError(
            f"augment_below changes nothing where augment={recipe.augment} is settled: leave augment_below out, or "
            "give augment=auto and a recipe that augments."
        )
    if settings.batch_size is None:
        recipe = fit_batch(recipe, len(dataset))
    if settings.augment is None:
        recipe = fit_augmentation(recipe, len(dataset))
    return override(recipe, conditional=recipe.conditional and len(dataset.spec.class_names) > 1)


def find_checkpoint(resume: str) -> Path:
    """A checkpoint from its file, its folder, or the run that logged it."""
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


def describe(settings: TrainSettings, plan: TrainingPlan, dataset: Dataset, run_id: str) -> None:
    """Say, on the terminal and in the run, what is about to happen."""
    resolved = {
        **resolved_recipe(plan.recipe),
        "image_size": f"{dataset.spec.height}x{dataset.spec.width}",
        "channels": dataset.spec.channels,
        "device": plan.device.type,
        "precision": precision_name(plan.precision),
    }
    log_parameters(run_id, as_typed(settings), resolved)
    log_dataset(dataset, context="training")
    if settings.resume is not None:
        MlflowClient().set_tag(run_id, "resumed_from", settings.resume)
    for note in dataset.notes:
        print(note)
    print(f"{len(dataset):,} images of {dataset.spec} from {dataset.name}, recipe {plan.recipe.name}, ", end="")
    print(f"on {plan.device.type} in {resolved['precision']}", flush=True)


def judge_on_the_way(settings: TrainSettings, dataset: Dataset, plan: TrainingPlan) -> QuickFid | None:
    """What judges the generator while it is trained, or None where nothing may or can.

    Features that were asked for by name must be there. With auto a missing download does not end a training run: it
    goes on unjudged, and says so.
    """
    if settings.evaluation_budget == 0:
        return None
    weights = None if settings.inception_weights is None else Path(settings.inception_weights)
    try:
        judge = make_quick_fid(
            dataset,
            settings.features,
            plan.recipe.latent_size,
            spec_of(dataset, plan.recipe).classes,
            plan.device,
            weights,
        )
    except UserError as error:
        if settings.features is not None:
            raise
        print(f"Nothing judges the generator on the way, and the last one is exported: {error}", file=sys.stderr)
        return None
    print(f"{judge.metric} judges the generator on the way; getting ready took {judge.seconds:.1f} s.", flush=True)
    mlflow.set_tag("judge", f"{judge.network.name}, digest {judge.network.digest}")
    if isinstance(judge.network, Classifier):
        _, file = classifier_of(dataset, plan.device)  # from the cache
        mlflow.log_artifact(str(file), "judge")
    return judge


def why_exported(state: TrainingState) -> str:
    """A sentence on why this generator and no other is exported."""
    if state.best is None:
        return "It is the last one: none was judged on the way."
    if state.best.judged == 1:
        return f"It is the last one, with {state.best.metric} {state.best.value:.4g}: no other was judged."
    last = " It is the last one, too." if state.best.step == state.steps else ""
    return f"Its {state.best.metric} of {state.best.value:.4g} was the lowest of {state.best.judged}.{last}"


def publish(
    state: TrainingState,
    recipe: Recipe,
    dataset: Dataset,
    model_name: str | None,
    run_id: str,
    folder: Path,
    dtype: torch.dtype,
) -> str:
    """Export the averaged generator, prove the file equal to it, log it and, by ``model_name``, register it.

    Returns the model's URI.
    """
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
        parity = export_generator(state.ema, description, onnx_file, dtype)
    except ParityError as error:
        log_parity(error.parity, state.steps)
        raise
    log_parity(parity, state.steps)
    step = state.steps if state.best is None else state.best.step
    of_all = (
        f" of {state.steps:,}" if step <= state.steps else ""
    )  # after an alarm the best may be younger than the state
    reason = f"Exported: the averaged generator of step {step:,}{of_all}. {why_exported(state)}"
    MlflowClient().set_tag(run_id, "exported", reason)
    print(reason)
    info = flavor.log_model(
        onnx_file,
        registered_model_name=model_name,
        params={"recipe": recipe.name, "data": dataset.name, "data_digest": dataset.digest, "exported": reason},
        step=step,
    )
    uri = info.model_uri if model_name is None else f"models:/{model_name}/{info.registered_model_version}"
    done = "logged" if model_name is None else "registered"
    print(
        f"{uri} is {done}: PyTorch and ONNX Runtime are at most {parity.largest_difference} of 255 gray levels "
        f"apart, over {parity.images} images.\nServe it:"
    )
    serve = f"mlflow models serve -m {uri} --env-manager local --port 5001"
    print(f"  MLFLOW_TRACKING_URI={shlex.quote(without_password(mlflow.get_tracking_uri()))} {serve}", flush=True)
    return uri


def without_password(uri: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def log_parity(parity: Parity, step: int) -> None:
    values = {
        "export/largest_difference": float(parity.largest_difference),
        "export/differing_pixels": parity.differing_pixels,
    }
    mlflow.log_metrics(values, step=step)


def run_evaluation(settings: EvaluateSettings) -> dict[str, float]:
    """Load the model by its URI and judge it by ``mlflow.models.evaluate``; returns the metrics.

    Raises:
        UserError: the model, the data or the device is wrong, or they do not fit together.
    """
    check_data_argument(settings.data, settings.split)
    import_evaluators()
    with project_run() as run:
        model = load_pyfunc(settings.model, settings.device)
        dataset = reference_of(settings)
        resolved = {
            "image_size": f"{dataset.reference.spec.height}x{dataset.reference.spec.width}",
            "channels": dataset.reference.spec.channels,
        }
        log_parameters(run.info.run_id, as_typed(settings), resolved)
        return evaluate_model(model, dataset, settings).metrics


def import_evaluators() -> None:
    """Import MLflow's evaluators, which is to be done before a run with a monitor of the machine begins.

    MLflow imports them under its lock for import hooks. The monitor's thread takes that lock inside imports of its own:
    at the same time, the two would wait for each other for ever.
    """
    importlib.import_module("mlflow.models.evaluation.evaluator_registry")


def load_pyfunc(uri: str, device: str) -> PyFuncModel:
    """A logged model, ready to be evaluated; UserError in one sentence where there is none."""
    try:
        model: PyFuncModel = mlflow.pyfunc.load_model(uri, model_config={"device": device})
    except UserError:
        raise
    except (MlflowException, OSError) as error:
        raise UserError(f"model={uri!r} cannot be loaded: {first_line(error)}.") from None
    return model


def reference_of(settings: DataSettings) -> SampleDataset:
    """The images to compare with, and the held-out ones, logged as inputs of the active run."""
    dataset = from_samples(
        settings.data,
        split=settings.split,
        held_out=settings.held_out,
        image_size=settings.image_size,
        channels=settings.channels,
        skip_unreadable=settings.skip_unreadable,
    )
    log_dataset(dataset.reference, context="evaluation")
    if dataset.held_out is not None:
        log_dataset(dataset.held_out, context="held-out")
    return dataset


def evaluate_model(model: PyFuncModel, dataset: SampleDataset, settings: EvaluatorSettings) -> EvaluationResult:
    """One evaluation in the active run, recorded there, with the data set and with the LoggedModel."""
    names = [field.name for field in dataclasses.fields(EvaluatorSettings)]
    typed = as_typed(settings)
    result: EvaluationResult = mlflow.models.evaluate(
        model=model,
        data=dataset,
        model_type="gan",
        evaluators="gan",
        evaluator_config={name: typed[name] for name in names},
    )
    print_figures(result)
    return result


def print_figures(result: EvaluationResult) -> None:
    """The table of the report, for the terminal."""
    found = result.artifacts["figures"].content
    print(f"{'':34} {'model':>10} {'real':>10}")
    for figure in found["figures"]:
        floor = "" if figure["floor"] is None else f"{figure['floor']:10.4g}"
        name = f"{figure['name']}/{figure['network'] or found['network']}"
        print(f"{name:34} {figure['value']:10.4g} {floor:>10}  {figure['note']}".rstrip())
    for note in found["notes"]:
        print(note)
