"""The network that fills missing pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from gan_plugin.export import write_module
from gan_plugin.masks import NUMBERS, masks
from gan_plugin.networks.fill import Generator, QuantizedFill
from gan_plugin.spec import image_spec


@pytest.mark.parametrize("size", [(28, 28), (16, 40), (33, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_known_pixels_come_out_as_they_are_and_z_decides_on_the_others(size: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    generator = Generator(8, image_spec(*size, channels), width=8).eval()
    images = 2 * torch.rand(6, channels, *size) - 1
    known = masks(torch.rand(6, NUMBERS), *size)
    with torch.no_grad():
        first, second = (generator(torch.randn(6, 8), images, known) for _ in range(2))
        other = generator(torch.zeros(6, 8), images, 1 - known)
    everywhere = known.expand_as(images) == 1
    assert torch.equal(first[everywhere], images[everywhere])
    assert (first - second).abs()[~everywhere].mean() > 1e-3
    assert torch.equal(other[~everywhere], images[~everywhere])


def test_what_lies_in_the_hole_is_not_seen() -> None:
    torch.manual_seed(0)
    generator = Generator(8, image_spec(16, 16, 1), width=8).eval()
    z, known = torch.randn(2, 8), masks(torch.rand(2, NUMBERS), 16, 16)
    images, others = 2 * torch.rand(2, 2, 1, 16, 16) - 1
    others = torch.where(known == 1, images, others)
    with torch.no_grad():
        assert torch.equal(generator(z, images, known), generator(z, others, known))


def test_every_weight_learns() -> None:
    generator = Generator(8, image_spec(28, 28, 3), width=8)
    filled = generator(torch.randn(2, 8), torch.rand(2, 3, 28, 28), masks(torch.rand(2, NUMBERS), 28, 28))
    gradients = torch.autograd.grad(filled.square().sum(), list(generator.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_the_file_fills_like_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantized = QuantizedFill(Generator(8, image_spec(28, 28, 3), width=8)).eval()
    random = np.random.default_rng(0)
    z = random.standard_normal((5, 8), np.float32)
    image = random.integers(0, 256, (5, 28, 28, 3), np.uint8)
    missing = 255 * random.integers(0, 2, (5, 28, 28)).astype(np.uint8)
    inputs = {"z": torch.zeros(2, 8), "image": torch.zeros(2, 28, 28, 3, dtype=torch.uint8)}
    inputs["missing"] = torch.zeros(2, 28, 28, dtype=torch.uint8)
    write_module(quantized, tmp_path / "fill.onnx", inputs=inputs, outputs=["fill"], metadata={"gan.kind": "fill"})
    session = onnxruntime.InferenceSession(tmp_path / "fill.onnx", providers=["CPUExecutionProvider"])
    (filled,) = session.run(None, {"z": z, "image": image, "missing": missing})
    with torch.no_grad():
        expected = quantized(*map(torch.from_numpy, (z, image, missing))).numpy()
    assert np.abs(filled.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(filled[missing == 0], image[missing == 0])
