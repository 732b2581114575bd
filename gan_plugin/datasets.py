"""Datasets for MLflow: logged as inputs of a run with a digest over every pixel, and evaluated against.

``mlflow.data.from_samples("digits")`` loads one: the function is an entry point of ``mlflow.dataset_constructor``.
MLflow imports this module whenever it is imported itself, so nothing here imports torch before images are read.
Annotations are evaluated (no ``from __future__ import annotations``), because MLflow inspects the constructor's.
"""

import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import mlflow
import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.evaluation_dataset import EvaluationDataset
from mlflow.data.huggingface_dataset_source import HuggingFaceDatasetSource
from mlflow.data.numpy_dataset import NumpyDataset
from mlflow.data.schema import TensorDatasetSchema
from mlflow.types import Schema, TensorSpec

if TYPE_CHECKING:
    from gan_plugin.data import Dataset


class SampleDataset(NumpyDataset):
    """Reference samples and, where there are any, held-out ones.

    Attributes:
        reference: the samples that a generator was trained on and is compared with.
        held_out: samples that it was not trained on, from which each metric's real-data baseline comes; or None.
    """

    def __init__(self, reference: "Dataset", held_out: Optional["Dataset"] = None) -> None:
        from gan_plugin.data.stored import StoredSamples

        self.reference, self.held_out = reference, held_out
        samples = reference.samples
        super().__init__(
            # Nothing is copied: a view, or what reads from a file, which has what MLflow's profile asks for
            samples if isinstance(samples, StoredSamples) else samples.numpy(),  # type: ignore[arg-type]  # as said
            source=dataset_source(reference.source),
            # None is MLflow's default and missing from its annotation
            targets=None if reference.labels is None else reference.labels.numpy(),  # type: ignore[arg-type]
            name=reference.name,
            digest=reference.digest,
        )

    @cached_property
    def schema(self) -> TensorDatasetSchema:
        """Shapes and types of samples and labels, which MLflow would infer from arrays alone."""
        shapes = {"uint8": (-1, *self.reference.samples.shape[1:])}
        if self.reference.labels is not None:
            shapes["int64"] = (-1,)
        return TensorDatasetSchema(*(Schema([TensorSpec(np.dtype(of), shape)]) for of, shape in shapes.items()))

    def to_evaluation_dataset(self, path: Any = None, feature_names: Any = None) -> EvaluationDataset:
        """Return what ``mlflow.models.evaluate`` needs; the arguments are MLflow's and have no effect."""
        return SampleEvaluationDataset(self)

    def tags(self) -> dict[str, str]:
        """Return what MLflow stores with the input: little, since such a tag has at most 500 characters."""
        return {"split": self.reference.split, "classes": str(self.reference.spec.classes)}

    def summary(self) -> dict[str, Any]:
        """Describe the reference for a JSON file, with the name of every class and its number of images."""
        dataset, spec = self.reference, self.reference.spec
        counts = [] if dataset.labels is None else dataset.labels.bincount(minlength=spec.classes).tolist()
        return {
            "name": dataset.name,
            "split": dataset.split,
            "digest": dataset.digest,
            "images": len(dataset),
            "image_size": list(spec.size),  # height, width
            "channels": spec.channels,
            "classes": [{"name": name, "images": count} for name, count in zip(spec.class_names, counts, strict=True)],
        }


class SampleEvaluationDataset(EvaluationDataset):
    """The form in which ``mlflow.models.evaluate`` passes samples to an evaluator: MLflow's own takes no 4-D arrays."""

    def __init__(self, dataset: SampleDataset) -> None:  # without super().__init__, which looks for columns
        self.dataset = dataset
        self._user_specified_name = dataset.name
        self._path = None
        self._hash = self._digest = dataset.digest
        self._features_data = dataset.features
        self._labels_data = None if dataset.reference.labels is None else dataset.reference.labels.numpy()
        self._has_targets = dataset.targets is not None
        self._targets_name = "label" if self._has_targets else None
        self._feature_names = ["image"]
        self._predictions_data = self._predictions_name = None
        self._has_predictions = False


def from_samples(
    data: str,
    *,
    split: str = "train",
    held_out: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    skip_unreadable: bool = False,
    name: str | None = None,
    digest: str | None = None,
) -> SampleDataset:
    """Load images as :func:`gan_plugin.data.load_dataset` does, divided as for training, and the held-out ones.

    Args:
        data: "digits", a folder, a parquet file or "hub:owner/name".
        split: the reference, usually what the generator was trained on.
        held_out: the split of the real-data baseline, or "none"; None takes "test" or "validation" where there is one,
            else the part of the split "train" that training leaves out, too.
        image_size: (height, width), or the side of a square; None keeps the data's own size.
        channels: 1 or 3; None decides by the images.
        skip_unreadable: leave out images that cannot be read.
        name: a name that replaces the data's own.
        digest: the digest that the reference must have.

    Raises:
        UserError: an argument is wrong, an image cannot be read, or the digest is another.
    """
    import dataclasses

    from gan_plugin.data import load_divided, load_held_out
    from gan_plugin.errors import UserError

    division = load_divided(
        data,
        split=split,
        held_out=held_out,
        image_size=image_size,
        channels=channels,
        skip_unreadable=skip_unreadable,
    )
    reference = division.dataset
    if digest is not None and digest != reference.digest:
        raise UserError(f"data={data!r} has the digest {reference.digest}, not {digest}: these are other images.")
    if name is not None:
        reference = dataclasses.replace(reference, name=name)
    return SampleDataset(reference, load_held_out(data, division, skip_unreadable=skip_unreadable))


def dataset_source(source: str) -> DatasetSource:
    """Return MLflow's record of a ``Dataset.source``: the hub, a file or folder, or code."""
    if source.startswith("hub:"):
        _, path, config = f"{source}:".split(":", 2)
        return HuggingFaceDatasetSource(path, config_name=config.rstrip(":") or None)
    if Path(source).exists():
        with warnings.catch_warnings():  # MLflow registers its class for local files twice, and warns of it
            warnings.simplefilter("ignore", UserWarning)
            return mlflow.data.dataset_source_registry.resolve_dataset_source(Path(source).as_uri())
    return CodeDatasetSource(tags={"source": source})
