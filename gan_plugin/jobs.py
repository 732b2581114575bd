"""What the entry points do, from settings to a registered model: train, and evaluate."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gan_plugin import flavor
from gan_plugin.data import Pictures, check_data_argument, load_pictures
from gan_plugin.errors import UserError
from gan_plugin.export import Parity, ParityError, export_generator
from gan_plugin.metrics.pixels import pixel_statistics
from gan_plugin.recipes import Recipe, fit_batch, load_recipe, override
from gan_plugin.sampling import load_generator
from gan_plugin.serving.generator import Description
from gan_plugin.serving.pictures import contact_sheet
from gan_plugin.settings import EvaluateSettings, TrainSettings, as_typed
from gan_plugin.tracking import MlflowTracker, StopSignals, log_parameters, log_pictures, project_run
from gan_plugin.training.checkpoint import FILE_NAME
from gan_plugin.training.device import choose_device, choose_precision, precision_name
from gan_plugin.training.loop import GRID_COLUMNS, GRID_SEEDS, Interrupted, Plan, train
from gan_plugin.training.step import Game


def run_training(settings: TrainSettings) -> str:
    """Train, export, prove, log and register a generator; returns the registered model's URI.

    Raises:
        UserError: a setting, the data or the device is wrong, before anything is trained.
        SystemExit: SIGTERM or Ctrl-C came; the checkpoint is written and the run KILLED.
    """
    recipe = chosen_recipe(settings)
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    check_data_argument(settings.data, settings.split)
    with project_run() as run:
        run_id = run.info.run_id
        folder = make_folder(settings.output_dir, run_id)
        resume = None if settings.resume is None else find_checkpoint(settings.resume)
        pictures = load_pictures(
            settings.data,
            split=settings.split,
            image_size=settings.image_size,
            channels=settings.channels,
            skip_unreadable=settings.skip_unreadable,
        )
        if settings.batch_size is None:
            recipe = fit_batch(recipe, len(pictures))
        plan = Plan(
            recipe, settings.epochs, settings.seed, device, precision, settings.samples_every, settings.checkpoint_every
        )
        describe(settings, plan, pictures, run_id)
        stop = StopSignals()
        try:
            with stop.caught(), MlflowTracker(run_id, folder) as tracker:
                game = train(pictures, plan, tracker, folder, resume, stop.asked)
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
        if stop.asked():  # perhaps after the last step, when there was nothing left to interrupt
            raise SystemExit(stop.exit_status())
        return publish(game, recipe, pictures, settings.model_name, run_id, folder)


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
    names = {f.name for f in dataclasses.fields(Recipe)} & {f.name for f in dataclasses.fields(settings)}
    return override(load_recipe(settings.recipe), **{name: getattr(settings, name) for name in names})


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


def describe(settings: TrainSettings, plan: Plan, pictures: Pictures, run_id: str) -> None:
    """Say, on the terminal and in the run, what is about to happen."""
    resolved = {
        **{name: value for name, value in dataclasses.asdict(plan.recipe).items() if name not in ("name", "summary")},
        "image_size": pictures.size,
        "channels": pictures.channels,
        "device": plan.device.type,
        "precision": precision_name(plan.precision),
    }
    log_parameters(run_id, as_typed(settings), resolved)
    log_pictures(pictures, context="training")
    if settings.resume is not None:
        MlflowClient().set_tag(run_id, "resumed_from", settings.resume)
    for note in pictures.notes:
        print(note)
    shape = shape_text(pictures.size, pictures.size, pictures.channels)
    print(f"{len(pictures):,} pictures of {shape} from {pictures.name}, recipe {plan.recipe.name}, ", end="")
    print(f"on {plan.device.type} in {resolved['precision']}", flush=True)


def publish(game: Game, recipe: Recipe, pictures: Pictures, model_name: str, run_id: str, folder: Path) -> str:
    """Export the averaged generator, prove the file equal to it, log and register it; returns its URI."""
    description = Description(
        latent_size=recipe.latent_size,
        height=pictures.size,
        width=pictures.size,
        channels=pictures.channels,
        recipe=recipe.name,
        run_id=run_id,
        data=pictures.name,
        data_digest=pictures.digest,
    )
    onnx_file = folder / flavor.ONNX_FILE
    try:
        parity = export_generator(game.ema, description, onnx_file)
    except ParityError as error:
        log_parity(error.parity, game.steps)
        raise
    log_parity(parity, game.steps)
    info = flavor.log_model(
        onnx_file,
        registered_model_name=model_name,
        params={"recipe": recipe.name, "data": pictures.name, "data_digest": pictures.digest},
        step=game.steps,
    )
    uri = f"models:/{model_name}/{info.registered_model_version}"
    print(
        f"{uri} is registered: PyTorch and ONNX Runtime are at most {parity.largest_difference} of 255 grey levels "
        f"apart, over {parity.pictures} pictures.\nServe it:"
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
    """Load the model by its URI, hold it against the pictures, log a sample grid and statistics of the pixels.

    Raises:
        UserError: the model, the data or the device is wrong, or the two do not fit together.
    """
    check_data_argument(settings.data, settings.split)
    with project_run() as run:
        generator = load_generator(settings.model, settings.device)
        pictures = load_pictures(
            settings.data,
            split=settings.split,
            image_size=settings.image_size,
            channels=settings.channels,
            skip_unreadable=settings.skip_unreadable,
        )
        check_fit(generator.description, pictures)
        resolved = {"provider": generator.provider, "image_size": pictures.size, "channels": pictures.channels}
        log_parameters(run.info.run_id, as_typed(settings), resolved)
        log_pictures(pictures, context="evaluation")
        generated = generator.sample(np.arange(settings.seed, settings.seed + settings.pictures))
        reference = pictures.images.permute(0, 2, 3, 1).numpy()  # [N, H, W, C]
        mlflow.log_image(contact_sheet(generated[: len(GRID_SEEDS)], GRID_COLUMNS), artifact_file="generated.png")
        mlflow.log_image(contact_sheet(reference[: len(GRID_SEEDS)], GRID_COLUMNS), artifact_file="reference.png")
        statistics = pixel_statistics(generated, reference)
        mlflow.log_metrics(statistics)
        print(f"{len(generated):,} pictures of {settings.model} beside {len(reference):,} of {pictures.name}:")
        for name, value in statistics.items():
            print(f"  {name:34} {value:8.2f}")
        return statistics


def check_fit(description: Description, pictures: Pictures) -> None:
    made = shape_text(description.height, description.width, description.channels)
    given = shape_text(pictures.size, pictures.size, pictures.channels)
    if made != given:
        raise UserError(
            f"The model makes pictures of {made} and the data has {given}: give the data that it was trained on, "
            f"with image_size={description.width} and channels={description.channels} if it was converted then."
        )
    if description.class_names and description.class_names != pictures.class_names:
        raise UserError(
            f"The model knows the classes {', '.join(description.class_names)} and the data has "
            f"{', '.join(pictures.class_names) or 'none'}: give the data that it was trained on."
        )


def shape_text(height: int, width: int, channels: int) -> str:
    return f"{height}×{width}×{channels}"
