"""GANs as MLflow models: train on images, export to ONNX, register, serve.

    >>> import gan_plugin
    >>> uri = gan_plugin.train(data="digits", epochs=50)  # doctest: +SKIP
    >>> gan_plugin.evaluate(model=uri)["fid/classifier"]  # doctest: +SKIP
    >>> gan_plugin.load_model(uri).sample([0, 1, 2]).shape  # doctest: +SKIP
    (3, 28, 28, 1)

Importing the package imports neither torch nor mlflow; each function imports what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_plugin.serving.generator import OnnxGenerator

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "load_model", "promote", "save_model", "train"]

Value = str | int | float | bool | Path | Sequence[object] | None


def train(
    *,
    data: str | Path | None = None,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    model_name: str | None = None,
    **parameters: Value,
) -> str:
    """Train a GAN, verify its ONNX export, log and register it, in a new MLflow run.

    Args:
        data: "digits", a folder (IDX files, images, or parquet), a .parquet file, or "hub:owner/name".
        recipe: a name from ``gan-plugin recipes``, or the path of a .toml file.
        epochs: passes over the data.
        model_name: name of the registered model.
        parameters: any other parameter of ``gan-plugin train --help``, for example ``batch_size=64``,
            ``minutes=10`` in place of epochs, ``image_size=(256, 128)``, ``generator_lr=(1e-3, 1e-4)`` for a value that
            changes, or ``device="cpu"``.

    A parameter that is None or left out has the default of the command line.

    Returns:
        The URI of the registered model, for example "models:/gan/1".

    Raises:
        UserError: a parameter, the data or the device is wrong; the sentence says what would be right.
        Undelivered: training is done and on disk, and MLflow does not have all of it; the message has the command
            that delivers the rest.
        Diverged: training failed, in spite of returns to a good checkpoint.
        ExportError: the exported file does not compute what the generator does.
    """
    from gan_plugin.config.parsing import parse_training, texts_of
    from gan_plugin.config.settings import TrainSettings

    values = {"data": data, "recipe": recipe, "epochs": epochs, "model_name": model_name, **parameters}
    settings, overrides = parse_training(texts_of(TrainSettings, values))
    from gan_plugin.jobs.train import run_training

    return run_training(settings, overrides)


def evaluate(*, model: str, data: str | Path | None = None, **parameters: Value) -> dict[str, float]:
    """Measure how good a model's images are, beside real ones, in a new MLflow run with a report.

    Args:
        model: URI, for example "models:/gan/1" or "models:/gan@champion".
        data: the images to compare with, as in :func:`train`.
        parameters: any other parameter of ``gan-plugin evaluate --help``, for example ``images=50_000``.

    Returns:
        Metrics by name, for example "fid/classifier".

    Raises:
        UserError: the model, the data or a parameter is wrong, or they do not fit together.
    """
    from gan_plugin.config.parsing import parse, texts_of
    from gan_plugin.config.settings import EvaluateSettings

    settings = parse(EvaluateSettings, texts_of(EvaluateSettings, {"model": model, "data": data, **parameters}))
    from gan_plugin.jobs.evaluate import run_evaluation

    return run_evaluation(settings)


def compare(*, models: Sequence[str], data: str | Path | None = None, **parameters: Value) -> str:
    """Evaluate generators alike and log a page with all of them side by side, in a new MLflow run.

    Args:
        models: URIs such as "models:/gan/1", or ids of the runs that trained or evaluated them.
        data: the images to compare with, as in :func:`train`.
        parameters: any other parameter of ``gan-plugin compare --help``, for example ``images=50_000``.

    Returns:
        The URI of the page.

    Raises:
        UserError: a model, the data or a parameter is wrong, or the models cannot be compared.
    """
    from gan_plugin.config.parsing import parse, texts_of
    from gan_plugin.config.settings import CompareSettings

    settings = parse(CompareSettings, texts_of(CompareSettings, {"models": models, "data": data, **parameters}))
    from gan_plugin.jobs.compare import run_comparison

    return run_comparison(settings)


def promote(
    *, model_name: str | None = None, data: str | Path | None = None, rollback: bool = False, **parameters: Value
) -> str:
    """Make the newest version of a model its champion, if it is better than the current one.

    Args:
        model_name: name of the registered model.
        data: the images to compare with, as in :func:`train`.
        rollback: give the alias back to the previous champion instead, and compare nothing.
        parameters: any other parameter of ``gan-plugin promote --help``, for example ``metric="kid"`` or
            ``thresholds=["coverage>=0.3"]``.

    Returns:
        The URI of the champion, for example "models:/gan/2".

    Raises:
        UserError: something that was asked for does not exist or cannot be measured.
        Refused: the candidate misses a threshold, or is not better; the champion is the one that it was.
        Locked: another promotion of this model is changing the alias.
    """
    from gan_plugin.config.parsing import parse, texts_of
    from gan_plugin.config.settings import PromoteSettings

    values = {"model_name": model_name, "data": data, "rollback": rollback, **parameters}
    settings = parse(PromoteSettings, texts_of(PromoteSettings, values))
    from gan_plugin.jobs.promote import run_promotion

    return run_promotion(settings)


def load_model(model_uri: str, *, device: str = "auto") -> OnnxGenerator:
    """Load a logged generator, which makes images from seeds: ``load_model(uri).sample([0, 1, 2])``.

    Args:
        model_uri: for example "models:/gan/1", or a folder that :func:`save_model` wrote.
        device: "auto", "cuda" or "cpu".

    Raises:
        UserError: CUDA was asked for and cannot be used.
        mlflow.exceptions.MlflowException: there is no such model.
    """
    from gan_plugin import flavor

    return flavor.load_model(model_uri, device=device)


def save_model(onnx_file: str | Path, path: str | Path, **arguments: Any) -> None:
    """Write a folder with an MLflow model around an exported generator, to be served or loaded.

    Args:
        onnx_file: a file that training exported, such as ``outputs/RUN_ID/generator.onnx``.
        path: the folder; it must not exist, or be empty.
        arguments: others of :func:`gan_plugin.flavor.save_model`, such as ``pip_requirements``.
    """
    from gan_plugin import flavor

    flavor.save_model(onnx_file, path, **arguments)
