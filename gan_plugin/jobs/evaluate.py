"""Evaluate: a model by its URI against real images."""

from __future__ import annotations

import dataclasses
import importlib
import re

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import EvaluationResult
from mlflow.pyfunc import PyFuncModel
from mlflow.store.artifact.utils.models import get_model_name_and_version

from gan_plugin.config.parsing import as_texts, explicit_texts
from gan_plugin.config.settings import (
    CompareSettings,
    DataSettings,
    EvaluateSettings,
    EvaluatorSettings,
    PromoteSettings,
)
from gan_plugin.connection import connected, without_password
from gan_plugin.data import check_data_argument
from gan_plugin.datasets import SampleDataset, from_samples
from gan_plugin.device import choose_device
from gan_plugin.errors import UserError, first_line
from gan_plugin.evaluation.reference import has_classes
from gan_plugin.evaluator import results_of
from gan_plugin.features import choose_features
from gan_plugin.jobs.describe import with_metrics
from gan_plugin.registry import set_description
from gan_plugin.spec import size_text
from gan_plugin.tracking.run import log_dataset, log_parameters, project_run


def run_evaluation(settings: EvaluateSettings) -> dict[str, float]:
    """Load the model by its URI and evaluate it by ``mlflow.models.evaluate``; returns the metrics.

    Raises:
        UserError: the model, the data or the device is wrong, they do not fit together, or MLflow does not answer.
    """
    check_data_argument(settings.data, settings.split, settings.held_out)
    choose_device(settings.device)  # refused before there is a run
    import_evaluators()
    with connected(), project_run(f"evaluate-{settings.model.removeprefix('models:/')}") as run:
        model = load_pyfunc(settings.model, settings.device)
        dataset = reference_of(settings)
        log_parameters(run.info.run_id, used_parameters(settings, dataset))
        return evaluate_model(model, dataset, settings, uri=settings.model).metrics


def used_parameters(
    settings: EvaluateSettings | CompareSettings | PromoteSettings, dataset: SampleDataset
) -> dict[str, object]:
    """Return every parameter with the value that it has in effect: none is ``auto``."""
    spec, held_out = dataset.reference.spec, dataset.held_out
    return {
        **explicit_texts(settings),
        "held_out": "none" if held_out is None else held_out.split,
        "image_size": size_text(spec.size),
        "channels": spec.channels,
        "features": choose_features(settings.features, has_classes(dataset.reference)),
        "device": choose_device(settings.device).type,
    }


def import_evaluators() -> None:
    """Import MLflow's evaluators, before a run that logs system metrics begins.

    MLflow imports them under its lock for import hooks. The monitor's thread takes that lock inside imports of its own:
    at the same time, the two would wait for each other for ever.
    """
    importlib.import_module("mlflow.models.evaluation.evaluator_registry")


def load_pyfunc(uri: str, device: str) -> PyFuncModel:
    """Load a logged model to be evaluated.

    Raises:
        UserError: there is none at this URI.
    """
    try:
        model: PyFuncModel = mlflow.pyfunc.load_model(uri, model_config={"device": device})
    except UserError:
        raise
    except (MlflowException, OSError) as error:
        raise UserError(f"model={uri!r} cannot be loaded: {without_password(first_line(error))}.") from None
    return model


def reference_of(settings: DataSettings) -> SampleDataset:
    """Load the images to compare with and the held-out ones, and log them as inputs of the active run."""
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


def evaluate_model(
    model: PyFuncModel, dataset: SampleDataset, settings: EvaluatorSettings, *, uri: str
) -> EvaluationResult:
    """Evaluate a model in the active run; the results are recorded there, with the dataset and with the LoggedModel.

    Where ``uri`` is that of a registered version, its description gets the metrics, too.
    """
    names = [field.name for field in dataclasses.fields(EvaluatorSettings)]
    texts = as_texts(settings)
    result: EvaluationResult = mlflow.models.evaluate(
        model=model,
        data=dataset,
        model_type="gan",
        evaluators="gan",
        evaluator_config={name: texts[name] for name in names},
    )
    print_measurements(result)
    if (version := registered_version(uri)) is not None:
        client, run = MlflowClient(), mlflow.active_run()
        assert run is not None
        description = client.get_model_version(*version).description or ""
        updated = with_metrics(description, results_of(result), run_id=run.info.run_id)
        set_description(client, *version, text=updated)
    return result


def registered_version(uri: str) -> tuple[str, str] | None:
    """Return name and version behind ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``; None for any other URI."""
    if not re.match(r"models:/[^/@]+[/@]", uri):
        return None
    name, version = get_model_name_and_version(MlflowClient(), uri)
    return name, str(version)


def print_measurements(result: EvaluationResult) -> None:
    """Print the verdict and the report's table of metrics."""
    results = results_of(result)
    print(results["verdict"])
    print(f"{'':34} {'model':>10} {'real':>10}")
    for measurement in results["measurements"]:
        real = "" if measurement["real"] is None else f"{measurement['real']:10.4g}"
        name = f"{measurement['name']}/{measurement['network'] or results['network']}"
        print(f"{name:34} {measurement['value']:10.4g} {real:>10}  {measurement['note']}".rstrip())
    for note in results["notes"]:
        print(note)
