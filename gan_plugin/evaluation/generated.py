"""The images of the generator under evaluation: their features, their labels and the first of them as pixels."""

from __future__ import annotations

import sys
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gan_plugin.evaluation.reference import Reference
from gan_plugin.features import Outputs
from gan_plugin.features.classifier import predict_labels
from gan_plugin.media.image import Images
from gan_plugin.seeds import default_labels
from gan_plugin.serving.generator import OnnxGenerator

BLOCK = 1024  # images generated at a time
MAX_KEPT = 10_000  # images kept as pixels: for the classifier trained on them and for their statistics


@dataclass(frozen=True)
class Generated:
    """The images of M consecutive seeds: all in the features, the first of them as pixels.

    Attributes:
        outputs: of the feature network, M rows.
        predicted: int64 [M], the classes that the data's classifier predicts; None for unlabeled data.
        requested: int64 [M], the classes that the generator was given; None for one that takes no label.
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


def generate(generator: OnnxGenerator, reference: Reference, *, count: int, first_seed: int) -> Generated:
    """Generate ``count`` images in blocks, of which only features, labels and the first pixels are kept."""
    classes = generator.description.spec.classes
    outputs: list[Outputs] = []
    second: list[Outputs] = []
    predicted: list[Tensor] = []
    pixels: list[Images] = []
    for start in tqdm(range(0, count, BLOCK), unit_scale=BLOCK, unit=" images", disable=not sys.stderr.isatty()):
        seeds = np.arange(first_seed + start, first_seed + min(start + BLOCK, count))
        block = generator.sample(seeds)
        outputs.append(reference.network(block))
        if reference.second is not None:
            second.append(reference.second(block))
        if reference.classifier is not None:
            same = reference.network is reference.classifier
            logits = outputs[-1].logits if same else None
            predicted.append(predict_labels(reference.classifier, block) if logits is None else logits.argmax(1))
        if start < MAX_KEPT:
            pixels.append(block[: MAX_KEPT - start])
    all_seeds = np.arange(first_seed, first_seed + count)
    return Generated(
        outputs=concatenate(outputs),
        predicted=torch.cat(predicted) if predicted else None,
        requested=torch.from_numpy(default_labels(all_seeds, classes)) if classes else None,
        pixels=np.concatenate(pixels),
        first_seed=first_seed,
        second=concatenate(second) if second else None,
    )


def concatenate(outputs: list[Outputs]) -> Outputs:
    """Concatenate the outputs of consecutive blocks."""
    logits = [output.logits for output in outputs if output.logits is not None]
    return Outputs(torch.cat([output.features for output in outputs]), torch.cat(logits) if logits else None)
