"""The images of the generator under evaluation: their features, their labels and the first of them as pixels."""

from __future__ import annotations

import sys
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from gan_plugin.evaluation.reference import Reference
from gan_plugin.features import Outputs
from gan_plugin.features.network import batch_factor, concatenate
from gan_plugin.media.image import Images
from gan_plugin.seeds import default_labels, latents
from gan_plugin.serving.generator import BUCKETS, OnnxGenerator
from gan_plugin.serving.session import CUDA

BLOCK = 1024  # images generated at a time
RUN_PIXELS = 64 * 32 * 32  # of one run on a GPU, for each FACTOR_BYTES of its memory
MAX_KEPT = 10_000  # images kept as pixels: for the classifier trained on them and for their statistics

Seeds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Generated:
    """The images of M consecutive seeds: all in the features, the first of them as pixels.

    Attributes:
        outputs: of the feature network, M rows, on the device on which they are compared.
        predicted: int64 [M], the classes that the data's classifier predicts, on the CPU; None for unlabeled data.
        requested: int64 [M], on the CPU, the classes that the generator was given; None for one that takes no label.
        pixels: uint8 [≤ MAX_KEPT, H, W, C].
        first_seed: the first of the seeds.
        second: outputs of the reference's second network; None without one.
    """

    outputs: Outputs
    predicted: Tensor | None
    _: KW_ONLY
    requested: Tensor | None
    pixels: Images
    first_seed: int
    second: Outputs | None = None

    @property
    def labels(self) -> Tensor | None:
        """The requested classes, int64 [M], or where none were requested the predicted ones."""
        return self.predicted if self.requested is None else self.requested


class Sample(NamedTuple):
    """What a list of seeds gives: images of M of them, all in the features, the first of them as pixels.

    Attributes:
        outputs: of the feature network, M rows, where it computes.
        second: of the second one; None without one.
        predicted: int64 [M], the classes that the data's classifier predicts, where it computes; None without one.
        pixels: uint8 [≤ M, H, W, C].
    """

    outputs: Outputs
    second: Outputs | None
    predicted: Tensor | None
    pixels: Images


def generate(
    generator: OnnxGenerator, reference: Reference, *, count: int, first_seed: int, device: torch.device
) -> Generated:
    """Generate ``count`` images, of which only features, labels and the first pixels are kept.

    Features and logits come to ``device``, labels to the CPU.
    """
    classes = generator.description.spec.classes
    seeds = np.arange(first_seed, first_seed + count)
    sample = sample_features(generator, reference, seeds, kept=MAX_KEPT)
    return Generated(
        outputs=sample.outputs.to(device),
        predicted=None if sample.predicted is None else sample.predicted.cpu(),
        requested=torch.from_numpy(default_labels(seeds, classes)) if classes else None,
        pixels=sample.pixels,
        first_seed=first_seed,
        second=None if sample.second is None else sample.second.to(device),
    )


def sample_features(generator: OnnxGenerator, reference: Reference, seeds: Seeds, *, kept: int) -> Sample:
    """Generate the images of seeds in blocks, and compute what is kept of them; nothing of it but pixels is read.

    What comes of a seed does not depend, but for rounding on a GPU, on the others: the parts of a list that is divided
    give what the whole list gives.

    Args:
        generator: of the images.
        reference: whose networks compute features and classes.
        seeds: int64 [M], M ≥ 1.
        kept: of how many of the seeds, the first ones, the pixels are kept.
    """
    outputs: list[Outputs] = []
    second: list[Outputs] = []
    predicted: list[Tensor] = []
    pixels: list[Images] = []
    starts = range(0, len(seeds), BLOCK)
    for start in tqdm(starts, unit_scale=BLOCK, unit=" images", disable=not sys.stderr.isatty()):
        block = images_of(generator, seeds[start : start + BLOCK])
        outputs.append(reference.network(block))
        if reference.second is not None:
            second.append(reference.second(block))
        if reference.classifier is not None:
            same = reference.network is reference.classifier
            logits = (outputs[-1] if same else reference.classifier(block)).logits
            assert logits is not None
            predicted.append(logits.argmax(1))
        # a view of a part would keep the whole block in memory
        pixels.append(block if start + len(block) <= kept else block[: max(kept - start, 0)].copy())
    return Sample(
        concatenate(outputs),
        concatenate(second) if second else None,
        torch.cat(predicted) if predicted else None,
        np.concatenate(pixels),
    )


def images_of(generator: OnnxGenerator, seeds: Seeds) -> Images:
    """Return the images of seeds int64 [M], on a GPU in larger runs than those of requests: nobody waits for one.

    The runs are of one size, as another one would have to be prepared first.
    """
    if generator.provider != CUDA:
        return generator.sample(seeds)
    spec, latent_size = generator.description.spec, generator.description.latent_size
    rows = run_rows(spec.height, spec.width, batch_factor(torch.device("cuda")))
    size = -(-len(seeds) // -(-len(seeds) // rows))
    runs = [seeds[first : first + size] for first in range(0, len(seeds), size)]
    labels = [default_labels(run, spec.classes) if spec.classes else None for run in runs]
    return np.concatenate([generator.run(latents(run, latent_size), label) for run, label in zip(runs, labels)])


def run_rows(height: int, width: int, factor: int) -> int:
    """Return how many images of this size a GPU generates at once, by :func:`batch_factor` of its memory.

    >>> [run_rows(side, side, 8) for side in (28, 64, 256)], run_rows(28, 28, 1)
    ([668, 128, 64], 83)
    """
    return min(max(factor * RUN_PIXELS // (height * width), BUCKETS[-1]), BLOCK)
