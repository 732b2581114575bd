"""The images that are held out of training where the data has no split for that.

They are drawn by what they show and nothing else: each image has the rank that a SHA-256 of its pixels gives it, and
the lowest ranks are held out. So the draw is the same whatever the files are called and in whichever order they come,
and images that are equal in every pixel, whose ranks are equal, are never on both sides.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_plugin.data.dataset import Dataset
from gan_plugin.data.limits import check_memory
from gan_plugin.data.stored import Samples, StoredSamples, blocks_of
from gan_plugin.metrics.neighbors import MIN_SAMPLES
from gan_plugin.waiting import announced

DRAWN = "drawn by digest"  # the split of such images, which no source can have: names of splits have no spaces
MAX_HELD_OUT = 10_000  # as many as an evaluation generates
ENOUGH = 200  # for which more than a tenth is held out, up to a fifth
RANK_BYTES = 8  # of the SHA-256: should two images share them by chance, they are on one side, and no harm is done


@dataclass(frozen=True)
class Division:
    """The images of a split, apart from what is held out of them.

    Attributes:
        dataset: the images to train on.
        drawn: those that were drawn from the same split and are in ``dataset`` no more; None where none were.
        held_out_split: the split that is held out: another one of the data, ``DRAWN``, or None for nothing.
    """

    dataset: Dataset
    _: KW_ONLY
    drawn: Dataset | None
    held_out_split: str | None


def divide(dataset: Dataset) -> Division:
    """Draw the images that are held out; where too few can be, all are left to training and a note says so.

    Raises:
        UserError: there is no memory for the two parts beside the images themselves.
    """
    if not isinstance(dataset.samples, StoredSamples):  # the parts of which are no copies
        check_memory(dataset.samples.nbytes, f"Holding out images of {dataset.name} (held_out=none does not)")
    rows = draw(dataset.samples, dataset.labels)
    count = int(rows.sum())
    if count < MIN_SAMPLES:
        note = (
            f"Nothing is held out of training: of {len(dataset):,} images no {MIN_SAMPLES} can be spared, the fewest "
            "that an evaluation needs."
        )
        return Division(with_note(dataset, note), drawn=None, held_out_split=None)
    note = (
        f"Held out of training: {count:,} of {len(dataset):,} images, drawn by their digests; held_out=none trains on "
        "all."
    )
    whole_digest = dataset.digest
    training, drawn = (
        dataclasses.replace(with_note(part, note), drawn_from=whole_digest)
        for part in (dataset.take(~rows), dataset.take(rows))
    )
    return Division(training, drawn=dataclasses.replace(drawn, split=DRAWN), held_out_split=DRAWN)


def with_note(dataset: Dataset, note: str) -> Dataset:
    """Return the same images with one more sentence about them."""
    return dataclasses.replace(dataset, notes=(*dataset.notes, note))


def held_out_count(images: int) -> int:
    """Return how many of so many images are held out.

    >>> [held_out_count(images) for images in (29, 500, 1_601, 60_000, 1_000_000)]
    [5, 100, 200, 6000, 10000]
    """
    return min(max(images // 10, min(ENOUGH, images // 5)), MAX_HELD_OUT)


def draw(samples: Samples, labels: Tensor | None) -> Tensor:
    """Return which images are held out, bool [N]: those of the lowest ranks, ``held_out_count`` of them.

    Equal images are drawn together or, where they are more than are still to be drawn, not at all. The image of the
    highest rank in each class is left to training, so that no class is without any.

    Args:
        samples: uint8 [N, C, H, W].
        labels: int64 [N], or None.
    """
    _, group, sizes = np.unique(pixel_ranks(samples), return_inverse=True, return_counts=True)  # ascending ranks
    remaining = held_out_count(len(samples))
    drawn = np.zeros(len(sizes), np.bool_)
    spared = last_of_classes(group, labels)
    for index, size in enumerate(sizes.tolist()):
        if remaining == 0:
            break
        if size <= remaining and index not in spared:
            drawn[index] = True
            remaining -= size
    return torch.from_numpy(drawn[group])


def last_of_classes(group: npt.NDArray[np.int64], labels: Tensor | None) -> set[int]:
    """Return for each class the highest number among its images' groups.

    Args:
        group: [N], the number of the group of equal images that each one is in.
        labels: int64 [N], or None.
    """
    if labels is None:
        return set()
    last = np.full(int(labels.max()) + 1, -1)
    np.maximum.at(last, labels.numpy(), group)
    return set(last.tolist())


def pixel_ranks(samples: Samples) -> npt.NDArray[np.uint64]:
    """Return for each image of uint8 [N, C, H, W] the beginning of its pixels' SHA-256 as a number, uint64 [N].

    Image by image, so that nothing is copied but one that does not lie in memory as a piece. Of stored samples the
    ranks are computed once.
    """

    def compute() -> bytes:
        return b"".join(
            hashlib.sha256(np.ascontiguousarray(image).data).digest()[:RANK_BYTES]
            for block in blocks_of(samples)
            for image in block.numpy()
        )

    if isinstance(samples, StoredSamples):
        with announced(f"Drawing the images to hold out of {len(samples):,}."):
            ranks = samples.remembered("ranks", b"", compute)
    else:
        ranks = compute()
    return np.frombuffer(ranks, ">u8").astype(np.uint64)
