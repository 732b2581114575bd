"""The dataset that loading gives: samples, their labels and where they come from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch

from gan_plugin.data.files import check_text, escaped
from gan_plugin.data.stored import Samples, StoredSamples, blocks_of, take
from gan_plugin.errors import UserError
from gan_plugin.spec import SampleSpec, image_spec
from gan_plugin.waiting import announced

MIN_SAMPLES = 2


class SplitNotFoundError(UserError):
    """The data exists and has no split of this name."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training samples of one shape, in memory or in a file.

    Attributes:
        samples: uint8 [N, C, H, W], values 0 (black) to 255: a tensor, or what reads one from a file by rows.
        labels: int64 [N], indices into the spec's class names, or None where the data has no classes.
        spec: the shape of a sample and the class names.
        name: a short name for people, such as "digits" or "fashion-mnist".
        source: where the samples came from: an absolute path, "sklearn.datasets.load_digits" or "hub:owner/name".
        split: the split that was read, such as "train".
        digest: 32 hexadecimal characters, a SHA-256 over the shape, every pixel, every label and the class names.
        notes: sentences about the conversion: resizing, cropping, color, images left out.
        drawn_from: the digest of all images, where these are the part of them that is trained on, or is held out.
        attributes: float32 [N] by name, what a table beside the images says of them; NaN where it says nothing.
    """

    samples: Samples
    labels: torch.Tensor | None
    spec: SampleSpec
    _: KW_ONLY
    name: str
    source: str
    split: str
    digest: str
    notes: tuple[str, ...]
    drawn_from: str | None = None
    attributes: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.samples.shape[0]

    def take(self, rows: torch.Tensor) -> Dataset:
        """Return the subset of these rows, with a digest of its own.

        Args:
            rows: int64 [M], indices in any order, or bool [N].
        """
        samples = take(self.samples, rows)
        labels = None if self.labels is None else self.labels[rows]
        return dataclasses.replace(
            self,
            samples=samples,
            labels=labels,
            digest=compute_digest(samples, labels, self.spec.class_names),
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )


def make_dataset(
    samples: Samples,
    labels: torch.Tensor | None,
    class_names: Sequence[str],
    *,
    name: str,
    source: str,
    split: str,
    notes: Sequence[str],
    attributes: Mapping[str, torch.Tensor] | None = None,
) -> Dataset:
    """Return the dataset of these samples with its spec and digest; arguments as the attributes of ``Dataset``.

    Raises:
        UserError: there are fewer than 2 samples, or a name is no text that can be stored.
    """
    check_text(name, "The data set")
    check_class_names(class_names, source)
    if len(samples) < MIN_SAMPLES:
        raise UserError(f"{source} has {len(samples)} readable images: training needs at least {MIN_SAMPLES}.")
    _, channels, height, width = samples.shape
    return Dataset(
        samples,
        labels,
        image_spec(height, width, channels, class_names=class_names),
        name=name,
        source=source,
        split=split,
        digest=compute_digest(samples, labels, class_names),
        notes=tuple(notes),
        attributes=attributes or {},
    )


def compute_digest(samples: Samples, labels: torch.Tensor | None, class_names: Sequence[str]) -> str:
    """Return the first 32 hexadecimal characters of a SHA-256 over shape, pixels, labels and class names.

    Of stored samples it is computed once.

    Args:
        samples: uint8 [N, C, H, W].
        labels: int64 [N] or None.
        class_names: one name per class.
    """
    header = {
        "shape": list(samples.shape),
        "labelled": labels is not None,  # the spelling is part of every digest already recorded
        "class_names": list(class_names),
    }
    prefix = json.dumps(header, sort_keys=True).encode()
    suffix = b"" if labels is None else labels.numpy().astype("<i8").tobytes()  # one byte order on every machine

    def compute() -> bytes:
        hasher = hashlib.sha256(prefix)
        for block in blocks_of(samples):
            hasher.update(np.ascontiguousarray(block.numpy()).data)
        hasher.update(suffix)
        return hasher.hexdigest()[:32].encode()

    if isinstance(samples, StoredSamples):
        with announced(f"Computing the digest of {len(samples):,} stored images."):
            return samples.remembered("digest", prefix + suffix, compute).decode()
    return compute().decode()


def check_class_names(class_names: Sequence[str], source: str) -> None:
    """Refuse class names that cannot be stored, or that several classes share.

    Raises:
        UserError: names one of them.
    """
    for class_name in class_names:
        check_text(class_name, f"In {source} the class")
    if repeated := sorted({name for name, count in Counter(class_names).items() if count > 1}):
        raise UserError(f"In {source} several classes are called {repeated[0]!r}: give each a name of its own.")


def check_channels(channels: int | None) -> None:
    """Refuse ``channels`` other than None, 1 and 3.

    Raises:
        UserError: the number is none of those.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels={channels} is neither 1 (gray) nor 3 (RGB).")


def list_first(items: Sequence[str], limit: int = 10) -> str:
    """Join the first ``limit`` items by commas, and add how many more there are.

    >>> list_first(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    rest = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(map(escaped, items[:limit])) + rest
