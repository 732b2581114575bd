"""The classifier's file, and the cache that holds the classifier of each dataset."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError, first_line
from gan_plugin.features.cache import cache_folder
from gan_plugin.features.classifier import VERSION, Classifier, Network
from gan_plugin.features.classifier_training import train_classifier
from gan_plugin.spec import image_spec
from gan_plugin.storage import write_atomically

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


def check_labeled(labeled: bool) -> None:
    """Refuse data without at least two classes.

    Raises:
        UserError: the data has no labels, or a single class.
    """
    if not labeled:
        raise UserError(
            "features=classifier is trained to tell classes apart and this data has fewer than two: "
            "choose features=inception or features=onnx:PATH."
        )


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write one safetensors file, atomically: the weights, and everything else as JSON in its header."""
    spec = classifier.spec
    header = {
        "version": VERSION,
        "height": spec.height,
        "width": spec.width,
        "channels": spec.channels,
        "classes": classifier.classes,
        "class_names": spec.class_names,
        "data_digest": classifier.data_digest,
        "digest": classifier.digest,
    }
    weights = {key: value.cpu().contiguous() for key, value in classifier.network.state_dict().items()}
    write_atomically(path, lambda partial: save_file(weights, partial, metadata={"gan_plugin": json.dumps(header)}))


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """Load the classifier that ``save_classifier`` wrote.

    Raises:
        UserError: the file is no classifier of this version, or damaged.
    """
    try:
        header = read_header(path)
        if header["version"] != VERSION:
            raise UserError(f"{path} has version {header['version']}; this gan_plugin reads version {VERSION}.")
        spec = image_spec(header["height"], header["width"], header["channels"], class_names=header["class_names"])
        network = Network(spec.shape, header["classes"])
        network.load_state_dict(load_file(path))
        network.to(device).eval().requires_grad_(False)
        classifier = Classifier(network, spec, device, data_digest=header["data_digest"])
        if classifier.digest != header["digest"]:
            raise UserError(f"{path} is damaged: its weights are not those that were written.")
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a classifier that gan_plugin saved, or damaged: {first_line(error)}.") from None
    return classifier


def read_header(path: Path) -> dict[str, Any]:
    """Read the JSON in a classifier's file; raises what ``load_classifier`` catches."""
    with safetensors.safe_open(path, framework="pt") as file:
        header: dict[str, Any] = json.loads((file.metadata() or {})["gan_plugin"])
    return header


def classifier_of(dataset: Dataset, device: torch.device) -> tuple[Classifier, Path]:
    """Return the classifier of labeled data and its file: from the cache, or trained now and put there.

    Raises:
        UserError: the data has no labels, or the cache folder cannot be written.
    """
    if dataset.labels is None:
        raise UserError(
            f"features=classifier is trained on labels and {dataset.name} has none: "
            "give features=inception or features=onnx:PATH."
        )
    path = cache_folder() / f"classifier-{VERSION}-{dataset.digest}.safetensors"
    if cached := load_cached(path, dataset, device):
        return cached, path
    started = time.perf_counter()
    logger.info("Training the classifier whose features describe %s; this happens once.", dataset.name)
    trained = train_classifier(dataset.samples, dataset.labels, dataset.spec.classes, device=device)
    logger.info("Trained the classifier in %.0f s; it is cached as %s.", time.perf_counter() - started, path)
    # Another process may have been first, with other bits (a GPU, more threads): what a run uses must be what it logs.
    if cached := load_cached(path, dataset, device):
        return cached, path
    classifier = replace(trained, spec=dataset.spec, data_digest=dataset.digest)
    save_classifier(classifier, path)
    return classifier, path


def load_cached(path: Path, dataset: Dataset, device: torch.device) -> Classifier | None:
    """Load the classifier from the cache; None, and a warning with the reason, where its file cannot be used."""
    if not path.exists():
        return None
    try:
        cached = load_classifier(path, device)
        if cached.data_digest != dataset.digest:
            raise UserError(f"{path} was trained on other data (digest {cached.data_digest}).")
    except UserError as error:
        logger.warning("%s The classifier is trained again.", error)
        return None
    return cached
