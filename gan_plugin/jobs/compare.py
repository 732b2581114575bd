"""Compare generators: evaluated alike, and shown side by side."""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import onnx
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel

from gan_plugin.config.settings import CompareSettings
from gan_plugin.connection import connected
from gan_plugin.data import Dataset, check_data_argument
from gan_plugin.data.stored import pixels_of
from gan_plugin.datasets import SampleDataset
from gan_plugin.device import choose_device
from gan_plugin.errors import UserError
from gan_plugin.evaluation.context import in_words, model_in_words, seeds_in_words
from gan_plugin.evaluation.results import regular_indices
from gan_plugin.evaluator import ARTIFACT_FOLDER, RESULTS, check_fit, generator_of, results_of
from gan_plugin.jobs.evaluate import evaluate_model, import_evaluators, load_pyfunc, reference_of, used_parameters
from gan_plugin.media.image import Images
from gan_plugin.process import this_process
from gan_plugin.report.comparison import FILE, ComparedModel, Reconstructions, fact, write_comparison
from gan_plugin.seeds import between, latents
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.projection import EVALUATIONS, MIN_EVALUATIONS, project, reconstruct
from gan_plugin.tracking.run import PROCESS, log_parameters, project_run

FOLDER = "comparison"  # of the artifact
SAMPLES = 24  # seeds
REAL_IMAGES = 10  # real images that each model makes again
SEARCH_S = 60.0  # that it may take for them
TRIAL = 16  # images by which a generator is timed
WALK = 10  # images from one seed to another
WALK_SEEDS = (0, 1)
SAME = ("generated", "reference", "held out", "features", "second features", "resize")  # in the protocols of all
RUN_ID = re.compile(r"[0-9a-f]{32}")


class Named(NamedTuple):
    """A model that was named to be compared.

    Attributes:
        name: as it was given.
        uri: of the model.
        results: of an evaluation that was named; None for one that is to come.
    """

    name: str
    uri: str
    results: Mapping[str, Any] | None


@dataclass(frozen=True)
class Opened:
    """A named model, loaded."""

    named: Named
    model: PyFuncModel
    generator: OnnxGenerator


def run_comparison(settings: CompareSettings) -> str:
    """Evaluate the models that are not evaluated yet, and log a page that compares all; returns its artifact's URI.

    Raises:
        UserError: a model, the data or the device is wrong, or the models cannot be compared: they learned from other
            images, or were evaluated on others, or in other features.
    """
    check_data_argument(settings.data, settings.split, settings.held_out)
    choose_device(settings.device)  # refused before there is a run
    import_evaluators()
    with connected(), project_run("compare") as run:
        named = [resolve(name) for name in settings.models]
        opened = [open_model(one, settings.device) for one in named]
        dataset = reference_of(settings)
        log_parameters(run.info.run_id, used_parameters(settings, dataset))
        for one in opened:
            check_data(one, dataset, settings)
        check_protocols(named)
        results = []
        for one in opened:
            results.append(one.named.results or evaluate_one(one, dataset, settings))
            check_protocols([model._replace(results=value) for model, value in zip(named, results)])
        return log_comparison(list(zip(opened, results)), dataset)


# ---- what is compared ------------------------------------------------------------------------------------------------


def resolve(name: str) -> Named:
    """Return the model that a URI names, or the id of a run that trained or evaluated it.

    Raises:
        UserError: there is no such run, or it has no model.
    """
    if not RUN_ID.fullmatch(name):
        return Named(name, name, None)
    client = MlflowClient()
    try:
        run = client.get_run(name)
    except MlflowException:
        raise UserError(
            f"There is no run {name}: give the id of a run, or a model's URI such as models:/gan/1."
        ) from None
    if "model" in run.data.params and has_results(client, name):
        text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{ARTIFACT_FOLDER}/{RESULTS}.json")
        return Named(name, run.data.params["model"], json.loads(text))
    outputs = [] if run.outputs is None else run.outputs.model_outputs
    if not outputs:
        raise UserError(f"The run {name} has logged no generator and evaluated none: give another.")
    return Named(name, f"models:/{outputs[-1].model_id}", None)


def has_results(client: MlflowClient, run_id: str) -> bool:
    """Return whether a run has the results of an evaluation."""
    path = f"{ARTIFACT_FOLDER}/{RESULTS}.json"
    return any(file.path == path for file in client.list_artifacts(run_id, ARTIFACT_FOLDER))


def open_model(named: Named, device: str) -> Opened:
    """Load a model.

    Raises:
        UserError: there is none, or it is another one than the run evaluated.
    """
    model = load_pyfunc(named.uri, device)
    generator = generator_of(model)
    if named.results is not None and named.results["protocol"]["model"] != model_in_words(generator.description):
        raise UserError(f"The run {named.name} evaluated another generator than {named.uri} names now: give its URI.")
    return Opened(named, model, generator)


def check_data(opened: Opened, dataset: SampleDataset, settings: CompareSettings) -> None:
    """Check that a model learned from the data, and was evaluated on it, if it was.

    Raises:
        UserError: on other images.
    """
    description, reference, name = opened.generator.description, dataset.reference, opened.named.name
    try:
        check_fit(description, reference)
    except UserError as error:
        raise UserError(f"{name} cannot be compared on this data. {error}") from None
    if description.data_digest not in ("", reference.digest, reference.drawn_from):
        raise UserError(
            f"{name} learned from other images, {description.data} with digest {description.data_digest}, than "
            f"{in_words(reference)}: compare generators that learned from the same."
        )
    if opened.named.results is None:
        return
    known = opened.named.results["protocol"]["generated"]
    if known != (here := seeds_in_words(settings.images, settings.seed)):
        raise UserError(
            f"{name} was evaluated by {known}, and others would be by {here}: give images and seed of that evaluation, "
            "or the model's URI, which evaluates it anew."
        )
    protocol, held_out = opened.named.results["protocol"], dataset.held_out
    own = {"reference": in_words(reference), "held out": "none" if held_out is None else in_words(held_out)}
    for key, words in own.items():
        if protocol[key] != words:
            raise UserError(
                f"{name} was evaluated on other images: {key} is {protocol[key]} there and {words} here. Give the data "
                "of that evaluation, or the model's URI, which evaluates it anew."
            )


def check_protocols(named: Sequence[Named]) -> None:
    """Check that what is evaluated was evaluated alike.

    Raises:
        UserError: on other data, in other features, or from other seeds; names the first difference.
    """
    known = [one for one in named if one.results is not None]
    for one in known[1:]:
        first, other = (entry.results["protocol"] for entry in (known[0], one) if entry.results is not None)
        for key in SAME:
            if first.get(key) != other.get(key):
                raise UserError(
                    f"{known[0].name} and {one.name} cannot be compared, because they were evaluated differently: "
                    f"{key} is {first.get(key, 'none')} of the one and {other.get(key, 'none')} of the other. Give the "
                    "models' URIs, which evaluates both alike."
                )


def evaluate_one(opened: Opened, dataset: SampleDataset, settings: CompareSettings) -> Mapping[str, Any]:
    """Evaluate a model in a run of its own inside the comparison's; returns the results."""
    uri = opened.named.uri
    print(f"\n{uri}:")
    with mlflow.start_run(run_name=f"evaluate {uri.removeprefix('models:/')}", nested=True):
        mlflow.set_tags({PROCESS: this_process().to_json(), "gan.model": uri})
        mlflow.log_param("model", uri)  # as a run of evaluate has it
        return results_of(evaluate_model(opened.model, dataset, settings, uri=uri))


# ---- the page --------------------------------------------------------------------------------------------------------


def real_images(dataset: SampleDataset) -> tuple[Images, list[int] | None, str]:
    """Return the real images that each model makes again, their classes where they have some, and what they are."""
    held_out = dataset.held_out
    source: Dataset = dataset.reference if held_out is None else held_out
    rows = regular_indices(len(source), REAL_IMAGES)
    images = pixels_of(source.samples)[rows]
    labels = None if source.labels is None else source.labels[torch.from_numpy(rows)].tolist()
    kind = "images to train on, since none are held out," if held_out is None else "held-out images"
    return images, labels, f"{kind} of {source.name}"


def compare_one(
    opened: Opened, results: Mapping[str, Any], dataset: SampleDataset, *, evaluations: int
) -> ComparedModel:
    """Return what a page shows of one model.

    Args:
        evaluations: images that it makes in search of each real one.
    """
    generator, (real, labels, _) = opened.generator, real_images(dataset)
    known = labels if generator.description.spec.classes else None
    projected = project(generator, real, labels=known, evaluations=evaluations)
    encoded = None if generator.encoder is None else reconstruct(generator, generator.encoder, real)
    return ComparedModel(
        opened.named.name,
        results=results,
        facts=facts_of(generator),
        samples=generator.sample(np.arange(SAMPLES)),
        walk=walk(generator),
        reconstructions=[
            Reconstructions(f"by {evaluations:,} images in search of z", projected.images, projected.psnr),
            *([] if encoded is None else [Reconstructions("by its encoder", encoded.images, encoded.psnr)]),
        ],
    )


def affordable(generator: OnnxGenerator) -> int:
    """Return how many images a generator may make in search of a z, so that all searches take about SEARCH_S."""
    start = time.perf_counter()
    generator.sample(np.arange(TRIAL))
    image_s = (time.perf_counter() - start) / TRIAL
    return int(min(max(SEARCH_S / REAL_IMAGES / image_s, MIN_EVALUATIONS), EVALUATIONS))


def walk(generator: OnnxGenerator) -> Images:
    """Return images from one seed to another, of the first class where there are classes."""
    start, end = (latents([seed] * WALK, generator.description.latent_size) for seed in WALK_SEEDS)
    labels = np.zeros(WALK, np.int64) if generator.description.spec.classes else None
    return generator.generate(between(start, end, np.linspace(0, 1, WALK)), labels)


def facts_of(generator: OnnxGenerator) -> dict[str, str]:
    """Return what there is to know of a generator beside its images: from its file, and from its training's run."""
    description, run = generator.description, training_run_of(generator)
    metrics = {} if run is None else run.data.metrics
    return {
        "recipe": description.recipe or "unknown",
        "z": f"{description.latent_size:,} values",
        "parameters of the generator": fact(parameter_count(generator.onnx_file)),
        "training, from its beginning to its end": fact(None if run is None else minutes_of(run), "min"),
        "images seen": fact(metrics.get("images")),
        "speed of training": fact(metrics.get("throughput/images_per_second"), "images/s"),
    }


def training_run_of(generator: OnnxGenerator) -> Run | None:
    """Return the run that trained a generator; None where this store does not know it."""
    try:
        return MlflowClient().get_run(generator.description.run_id) if generator.description.run_id else None
    except MlflowException:
        return None


def minutes_of(run: Run) -> float | None:
    """Return how long a run took; None while it goes on."""
    return None if run.info.end_time is None else (run.info.end_time - run.info.start_time) / 60_000


def parameter_count(onnx_file: Path) -> int:
    """Return the number of weights in a generator's file."""
    tensors = onnx.load(onnx_file).graph.initializer
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.data_type in floats)


def log_comparison(models: Sequence[tuple[Opened, Mapping[str, Any]]], dataset: SampleDataset) -> str:
    """Log the page to the active run; returns its artifact's URI.

    Args:
        models: with the results of their evaluations.
    """
    evaluations = min(affordable(opened.generator) for opened, _ in models)  # of the slowest, for all alike
    compared = [compare_one(opened, results, dataset, evaluations=evaluations) for opened, results in models]
    real, _, real_name = real_images(dataset)
    title = f"{len(compared)} generators on {dataset.name}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        write_comparison(compared, real, title=title, real_name=real_name, path=path)
        mlflow.log_artifact(str(path), FOLDER)
    uri: str = mlflow.get_artifact_uri(f"{FOLDER}/{FILE}")
    return uri
