"""What tests of feature networks share: images of noise, a small dataset."""

from __future__ import annotations

import numpy as np
import torch

from gan_plugin.data import Dataset
from gan_plugin.data.dataset import make_dataset
from gan_plugin.media.image import Images

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noisy_dataset(labeled: bool = True, seed: int = 0) -> Dataset:
    """Twelve gray images of 16x16 pixels in three classes."""
    images = torch.from_numpy(noise(12, 1, 16, 16, seed=seed))
    labels, names = (torch.arange(12) % 3, ("a", "b", "c")) if labeled else (None, ())
    return make_dataset(images, labels, names, name="noise", source="here", split="train", notes=())


def pixels(dataset: Dataset) -> Images:
    return dataset.samples.permute(0, 2, 3, 1).numpy()
