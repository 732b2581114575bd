"""The evaluator ``gan`` of ``mlflow.models.evaluate``, an entry point of ``mlflow.model_evaluator``.

    mlflow.models.evaluate(
        model="models:/gan/1", data=mlflow.data.from_samples("digits"), model_type="gan", evaluators="gan",
        evaluator_config={"images": 10_000},
    )

MLflow imports this module together with its own evaluators, so torch is imported only when something is evaluated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.models import EvaluationResult
from mlflow.models.evaluation.base import EvaluationArtifact, ModelEvaluator
from mlflow.pyfunc import PyFuncModel

from gan_plugin.config.parsing import parse
from gan_plugin.config.settings import EvaluatorSettings
from gan_plugin.datasets import SampleDataset, SampleEvaluationDataset
from gan_plugin.errors import UserError, different_classes
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator

if TYPE_CHECKING:
    from gan_plugin.data import Dataset
    from gan_plugin.evaluation.results import Evaluation

MODEL_TYPE = "gan"
ARTIFACT_FOLDER = "evaluation"
RESULTS = "metrics"  # the artifact with all numbers: its key in MLflow's result, and the name of its file


class GanEvaluator(ModelEvaluator):
    """Evaluates a generator on the images of a :class:`~gan_plugin.datasets.SampleDataset`."""

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: Mapping[str, Any], **others: Any) -> bool:
        """Tell MLflow that models of type ``gan``, and no others, are evaluated here."""
        return model_type == MODEL_TYPE

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: Mapping[str, Any] | None,
        model: PyFuncModel | None = None,
        model_id: str | None = None,
        **others: Any,
    ) -> EvaluationResult:
        """Evaluate ``model`` for MLflow. ``evaluator_config`` takes the fields of ``EvaluatorSettings``.

        MLflow records the metrics itself where it knows the LoggedModel's id, which it does not for a model named by
        version or alias; then they are recorded here, so that they are there once in either case.

        Raises:
            UserError: the model, the data or the configuration is wrong; the sentence says what would be right.
        """
        texts = {name: str(value) for name, value in (evaluator_config or {}).items() if value is not None}
        settings = parse(EvaluatorSettings, texts)
        if not isinstance(dataset, SampleEvaluationDataset):
            raise UserError('The data is not a set of images: give data=mlflow.data.from_samples("digits").')
        generator = generator_of(model)
        check_fit(generator.description, dataset.dataset.reference)
        evaluation = evaluate_on(dataset.dataset, generator, settings)
        result = EvaluationResult(evaluation.metrics(), log_report(evaluation, dataset.dataset), run_id)
        if model_id is None:
            log_model_metrics(model, dataset.dataset, result.metrics, run_id=run_id)
        return result


def generator_of(model: PyFuncModel | None) -> OnnxGenerator:
    """Return the generator inside a loaded model.

    Raises:
        UserError: the model is none of gan_plugin's.
    """
    try:
        raw = None if model is None else model.get_raw_model()
    except (AttributeError, NotImplementedError):  # MLflow's wrapper of a function has none
        raw = None
    if not isinstance(raw, OnnxGenerator):
        raise UserError("The model is not a generator: give one that gan_plugin logged, such as models:/gan/1.")
    return raw


def evaluate_on(dataset: SampleDataset, generator: OnnxGenerator, settings: EvaluatorSettings) -> Evaluation:
    """Evaluate a generator, with the networks on the device of the settings; logs those trained on the data."""
    from gan_plugin.device import choose_device, cpu_threads
    from gan_plugin.evaluation.evaluate import evaluate_generator
    from gan_plugin.evaluation.reference import prepare_reference
    from gan_plugin.features.store import network_file

    device = choose_device(settings.device)
    weights = None if settings.inception_weights is None else Path(settings.inception_weights)
    with cpu_threads(device):
        reference = prepare_reference(
            dataset.reference, dataset.held_out, settings.features, device=device, inception_weights=weights
        )
        for network in reference.trained_networks:
            with network_file(network) as file:
                mlflow.log_artifact(str(file), ARTIFACT_FOLDER)
        return evaluate_generator(generator, reference, count=settings.images, first_seed=settings.seed, device=device)


def log_report(evaluation: Evaluation, dataset: SampleDataset) -> dict[str, EvaluationArtifact]:
    """Log the page, its images and all numbers as JSON; returns what MLflow hands back beside the metrics."""
    from mlflow.models.evaluation.artifacts import ImageEvaluationArtifact, JsonEvaluationArtifact

    from gan_plugin.report import write_report

    artifacts: dict[str, EvaluationArtifact] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in write_report(evaluation, f"Evaluation on {dataset.name}", Path(folder)):
            mlflow.log_artifact(str(path), ARTIFACT_FOLDER)
            if path.suffix == ".png":
                artifact = ImageEvaluationArtifact(mlflow.get_artifact_uri(f"{ARTIFACT_FOLDER}/{path.name}"))
                artifact._load(str(path))
                artifacts[path.stem] = artifact
    name = f"{ARTIFACT_FOLDER}/{RESULTS}.json"
    results = JsonEvaluationArtifact(mlflow.get_artifact_uri(name), evaluation.as_json())
    mlflow.log_dict(results.content, name)
    return artifacts | {RESULTS: results}


def results_of(result: EvaluationResult) -> dict[str, Any]:
    """Return the measurements, classes, notes and protocol in MLflow's result, as ``Evaluation.as_json`` gives them."""
    content: dict[str, Any] = result.artifacts[RESULTS].content
    return content


def log_model_metrics(
    model: PyFuncModel | None, dataset: SampleDataset, metrics: dict[str, float], *, run_id: str
) -> None:
    """Log the metrics with the data set and, where there is one, the LoggedModel that the files came from."""
    model_id = None if model is None else model.metadata.model_id
    mlflow.log_metrics(metrics, run_id=run_id, model_id=model_id, dataset=dataset)


def check_fit(description: Description, dataset: Dataset) -> None:
    """Check that the model's images have the size and the classes of the real ones.

    Raises:
        UserError: they do not.
    """
    model, real = description.spec, dataset.spec
    if model.shape != real.shape:
        raise UserError(
            f"The model makes images of {model} and the data has {real}: give the data that it was trained on, "
            f"with image_size={model.height}x{model.width} and channels={model.channels} if it was converted then."
        )
    if model.class_names and model.class_names != real.class_names:
        model_classes, real_classes = different_classes(model.class_names, real.class_names)
        raise UserError(
            f"The model knows the classes {model_classes} and the data has {real_classes}: give the data that it was "
            "trained on."
        )
