"""How close pairs of images are, and how sharp images are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gan_plugin.data import load_dataset
from gan_plugin.media.image import Images, psnr
from gan_plugin.metrics.pixels import sharpness
from gan_plugin.metrics.reconstruction import ssim

CPU = torch.device("cpu")


@pytest.fixture
def digits() -> Images:
    images: Images = load_dataset("digits", image_size=16).samples[torch.arange(300)].permute(0, 2, 3, 1).numpy()
    return images


def blurred(images: Images) -> Images:
    wide = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    mean = sum(wide[:, i : i + 16, j : j + 16] for i in range(3) for j in range(3)) / 9
    return np.asarray(mean, dtype=np.uint8)


def test_psnr_of_a_known_error(digits: Images) -> None:
    grey = np.full_like(digits, 100)
    assert psnr(grey, grey + 10).tolist() == pytest.approx([10 * np.log10(255**2 / 100)] * 300)
    assert psnr(grey, grey)[0] == pytest.approx(58.92, abs=0.01)


def test_ssim_is_one_for_equal_images_and_falls_with_the_difference(digits: Images) -> None:
    assert ssim(digits, digits, CPU).tolist() == pytest.approx([1.0] * 300)
    near, far = ssim(digits, blurred(digits), CPU), ssim(digits, np.roll(digits, 1, axis=0), CPU)
    assert near.shape == (300,)
    assert (near < 1).all()
    assert near.mean() > far.mean() + 0.2
    assert ssim(digits[:1], blurred(digits[:1]), CPU).tolist() == pytest.approx(near[:1].tolist())


def test_sharpness_is_the_variance_of_the_laplacian(digits: Images) -> None:
    image = digits[0, :, :, 0].astype(float)
    neighbors = image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]
    laplacian = neighbors - 4 * image[1:-1, 1:-1]
    assert sharpness(digits[:1], CPU) == pytest.approx(laplacian.var())
    assert sharpness(blurred(digits), CPU) < 0.3 * sharpness(digits, CPU)
