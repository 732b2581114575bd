"""The classifier's file, and the cache that holds the classifier of each dataset."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError, first_line
from gan_plugin.features.cache import Content, cached
from gan_plugin.features.classifier import VERSION, Classifier, Network
from gan_plugin.features.classifier_training import train_classifier
from gan_plugin.spec import image_spec
from gan_plugin.storage import DamagedFileError, load_tensors, save_tensors

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
    """Write one safetensors file, atomically: the weights, and everything else as JSON in its header.

    Raises:
        OSError: the file cannot be written.
    """
    save_tensors(path, *content_of(classifier))


@contextmanager
def classifier_file(classifier: Classifier) -> Iterator[Path]:
    """Write a classifier to a file that is there for the length of a block, to be logged under the name of the cache's.

    The cache's own file may be another by then, or there may be none.

    Raises:
        UserError: there is no space for temporary files.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            path = Path(folder) / f"{name_in_cache(classifier.data_digest)}.safetensors"
            save_classifier(classifier, path)
        except OSError as error:
            raise UserError(
                f"No temporary file can be written ({error.strerror or first_line(error)}): make space for them, or "
                "set TMPDIR to a folder that has some."
            ) from None
        yield path


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """Load the classifier that ``save_classifier`` wrote.

    Raises:
        UserError: the file is no classifier of this version, or damaged.
    """
    try:
        return classifier_in(load_tensors(path), device)
    except (OSError, DamagedFileError) as error:
        raise UserError(f"{path} is not a classifier that gan_plugin saved, or damaged: {first_line(error)}.") from None


def content_of(classifier: Classifier) -> Content:
    """Return the weights and the header of a classifier's file."""
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
    return {key: value.cpu() for key, value in classifier.network.state_dict().items()}, header


def classifier_in(content: Content, device: torch.device) -> Classifier:
    """Make the classifier of what is in its file.

    Raises:
        DamagedFileError: the content is that of another version, or of something else.
    """
    weights, header = content
    try:
        if header["version"] != VERSION:
            raise DamagedFileError(f"it has version {header['version']}; this gan_plugin reads version {VERSION}")
        spec = image_spec(header["height"], header["width"], header["channels"], class_names=header["class_names"])
        network = Network(spec.shape, header["classes"])
        network.load_state_dict(weights)
        data_digest, digest = header["data_digest"], header["digest"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise DamagedFileError(f"it holds no classifier: {first_line(error)}") from None
    network.to(device).eval().requires_grad_(False)
    classifier = Classifier(network, spec, device, data_digest=data_digest)
    if classifier.digest != digest:
        raise DamagedFileError("its weights are not those that were written")
    return classifier


def classifier_of(dataset: Dataset, device: torch.device) -> tuple[Classifier, Path | None]:
    """Return the classifier of labeled data and its file: from the cache, or trained now and put there.

    The file is None where the cache cannot be written; then the classifier is kept in memory.

    Raises:
        UserError: the data has no labels.
    """
    labels = dataset.labels
    if labels is None:
        raise UserError(
            f"features=classifier is trained on labels and {dataset.name} has none: "
            "give features=inception or features=onnx:PATH."
        )

    def compute() -> Content:
        started = time.perf_counter()
        logger.info("Training the classifier whose features describe %s; this happens once.", dataset.name)
        trained = train_classifier(dataset.samples, labels, dataset.spec.classes, device=device)
        logger.info("Trained the classifier in %.0f s.", time.perf_counter() - started)
        return content_of(replace(trained, spec=dataset.spec, data_digest=dataset.digest))

    def read(content: Content) -> Classifier:
        classifier = classifier_in(content, device)
        if classifier.data_digest != dataset.digest:
            raise DamagedFileError(f"it was trained on other data, of digest {classifier.data_digest}")
        return classifier

    return cached(name_in_cache(dataset.digest), compute, read)


def name_in_cache(data_digest: str) -> str:
    """Return the name of the file of a dataset's classifier, without its suffix."""
    return f"classifier-{VERSION}-{data_digest}"
