"""Batches of images, and arithmetic that does not depend on the caller's settings."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from features_helpers import CPU, noise

from gan_plugin.features.network import batch_size, batches, exact_float32


def test_batches_hold_every_image_once() -> None:
    images = noise(7, 16, 16, 1)
    parts = list(batches(images, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert np.array_equal(np.concatenate(parts), images)


def test_a_batch_of_large_images_is_small() -> None:
    assert batch_size(16, 16) * 16 * 16 == batch_size(256, 256) * 256 * 256
    assert batch_size(10_000, 10_000) == 1


def test_tf32_is_off_inside_and_restored_afterwards() -> None:
    def precisions() -> tuple[str, str]:
        return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision

    before = precisions()
    assert before != ("ieee", "ieee")
    inside = []
    with suppress(KeyError), exact_float32(CPU):
        inside.append(precisions())
        raise KeyError
    assert inside == [("ieee", "ieee")]
    assert precisions() == before
