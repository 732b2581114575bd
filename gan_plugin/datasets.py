"""Dataset as MLflow data sets: logged as inputs with a digest over every pixel, and evaluated against.

``mlflow.data.from_samples("digits")`` makes one: the function is an entry point of ``mlflow.dataset_constructor``.
MLflow imports it with itself, so nothing here imports torch before images are read. Annotations are evaluated (no
``from __future__ import annotations``): MLflow looks at the constructor's.
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import mlflow
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.evaluation_dataset import EvaluationDataset
from mlflow.data.huggingface_dataset_source import HuggingFaceDatasetSource
from mlflow.data.numpy_dataset import NumpyDataset

if TYPE_CHECKING:
    from gan_plugin.data import Dataset


class SampleDataset(NumpyDataset):
    """Reference images, and where there are some, held-out ones beside them.

    Attributes:
        reference: the images that a generator was trained on and is held against.
        held_out: images of another split, from which the floor of each figure comes; or None.
    """

    def __init__(self, reference: "Dataset", held_out: Optional["Dataset"] = None) -> None:
        self.reference, self.held_out = reference, held_out
        super().__init__(
            reference.samples.numpy(),  # a view, nothing is copied
            source=dataset_source(reference.source),
            # None is MLflow's default and missing from its annotation
            targets=None if reference.labels is None else reference.labels.numpy(),  # type: ignore[arg-type]
            name=reference.name,
            digest=reference.digest,
        )

    def to_evaluation_dataset(self, path: Any = None, feature_names: Any = None) -> EvaluationDataset:
        return SampleEvaluationDataset(self)

    def tags(self) -> dict[str, str]:
        """What MLflow keeps beside the input."""
        return {"split": self.reference.split, "classes": json.dumps(list(self.reference.spec.class_names))}


class SampleEvaluationDataset(EvaluationDataset):
    """What ``mlflow.models.evaluate`` hands to an evaluator. MLflow's own class takes no 4-D arrays."""

    def __init__(self, dataset: SampleDataset) -> None:  # its __init__ would look for columns
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
    image_size: int | None = None,
    channels: int | None = None,
    skip_unreadable: bool = False,
    name: str | None = None,
    digest: str | None = None,
) -> SampleDataset:
    """Read images as :func:`gan_plugin.data.load_dataset` does, with held-out ones from another split.

    Args:
        data: "digits", a folder, a parquet file or "hub:owner/name".
        split: the reference, usually what the generator was trained on.
        held_out: the split of the floor; None takes "test" or "validation" where there is one.
        name: instead of the data's own.
        digest: must be the data's own, if given: MLflow's way of asking for certain data.

    Raises:
        UserError: an argument is wrong, an image cannot be read, or the digest is another.
    """
    import dataclasses

    from gan_plugin.data import load_dataset, load_held_out
    from gan_plugin.errors import UserError

    reference = load_dataset(
        data, split=split, image_size=image_size, channels=channels, skip_unreadable=skip_unreadable
    )
    if digest is not None and digest != reference.digest:
        raise UserError(f"data={data!r} has the digest {reference.digest}, not {digest}: these are other images.")
    if name is not None:
        reference = dataclasses.replace(reference, name=name)
    return SampleDataset(reference, load_held_out(data, reference, held_out, skip_unreadable))


def dataset_source(source: str) -> DatasetSource:
    if source.startswith("hub:"):
        _, path, config = f"{source}:".split(":", 2)
        return HuggingFaceDatasetSource(path, config_name=config.rstrip(":") or None)
    if Path(source).exists():
        with warnings.catch_warnings():  # MLflow has registered its class for local files twice and says so
            warnings.simplefilter("ignore", UserWarning)
            return mlflow.data.dataset_source_registry.resolve_dataset_source(Path(source).as_uri())
    return CodeDatasetSource(tags={"source": source})
