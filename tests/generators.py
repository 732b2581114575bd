"""Generators whose quality is known because nothing about them is learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from gan_plugin.data import Dataset
from gan_plugin.export import export_generator
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import image_spec

LATENT = 16
EXPORTED: dict[tuple[str, float], bytes] = {}  # ONNX files by digest and noise


class Bank(nn.Module):
    """Shows images that it was given, each seed one of them, blurred with ``noise`` of the seed's own (0…1)."""

    def __init__(self, images: Tensor, noise: float = 0.0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        count, *shape = images.shape
        self.shape, self.noise = shape, noise
        self.register_buffer("images", images.float() / 127.5 - 1)  # [K, C, H, W]
        directions = torch.randn(LATENT, count, generator=random)
        self.register_buffer("choice", directions / directions.norm(dim=0))  # of one length, or a few would win always
        self.register_buffer("blur", torch.randn(LATENT, images[0].numel(), generator=random) / LATENT**0.5)

    def forward(self, z: Tensor) -> Tensor:
        images = self.images[(z @ self.choice).argmax(1)]  # [B, C, H, W]
        if self.noise == 0:
            return images
        return (1 - self.noise) * images + self.noise * torch.tanh(2 * z @ self.blur).view(-1, *self.shape)


def export_bank(dataset: Dataset, path: Path, *, images: Tensor | None = None, noise: float = 0.0) -> Path:
    """A bank of ``images``, by default all of ``dataset``, as the ONNX file of a generator for such images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = (dataset.digest, noise)
    if images is None and key in EXPORTED:  # an export takes seconds, and many tests want the same
        path.write_bytes(EXPORTED[key])
        return path
    description = Description(LATENT, dataset.spec.unlabeled(), data=dataset.name, data_digest=dataset.digest)
    export_generator(Bank(dataset.samples if images is None else images, noise).eval(), description, path)
    if images is None:
        EXPORTED[key] = path.read_bytes()
    return path


def open_bank(dataset: Dataset, path: Path, *, images: Tensor | None = None, noise: float = 0.0) -> OnnxGenerator:
    return OnnxGenerator(export_bank(dataset, path, images=images, noise=noise), device="cpu")


CORNERS = {(0, 0): (255, 0, 0), (0, -1): (0, 255, 0), (-1, 0): (0, 0, 255), (-1, -1): (255, 255, 255)}
TALL = image_spec(48, 32, 3)


class Corners(nn.Module):
    """Makes images of the spec ``TALL`` in a gray that depends on z, with a color of its own in each corner pixel."""

    def __init__(self) -> None:
        super().__init__()
        mask, colors = torch.zeros(1, 1, *TALL.shape[:2]), torch.zeros(1, 3, *TALL.shape[:2])
        for (y, x), color in CORNERS.items():
            mask[0, 0, y, x] = 1
            colors[0, :, y, x] = torch.tensor(color) / 127.5 - 1
        self.register_buffer("mask", mask)
        self.register_buffer("colors", colors)

    def forward(self, z: Tensor) -> Tensor:
        gray = torch.tanh(z[:, :1, None, None])  # [B, 1, 1, 1]
        return gray * (1 - self.mask) + self.colors * self.mask  # [B, 3, H, W]


def export_corners(path: Path) -> Path:
    """The ONNX file of a generator of images that are higher than wide, and show where each corner belongs."""
    description = Description(4, TALL, recipe="none", data="corners")
    export_generator(Corners().eval(), description, path)
    return path


def assert_corners(image: npt.NDArray[np.uint8]) -> None:
    """Check that an image of ``Corners`` is neither turned nor mirrored nor cut."""
    assert image.shape == TALL.shape
    assert {place: tuple(image[place].tolist()) for place in CORNERS} == CORNERS


def with_metadata(onnx_file: Path, out: Path, **changes: str | None) -> Path:
    """A copy of a generator's file with other values of its metadata's keys ``gan.…``; None leaves a key out."""
    model = onnx.load(onnx_file)
    values = {entry.key: entry.value for entry in model.metadata_props}
    values |= {f"gan.{name}": value for name, value in changes.items()}  # type: ignore[misc]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: value for key, value in values.items() if value is not None})
    onnx.save_model(model, out)
    return out


def as_contract_1(onnx_file: Path, out: Path) -> Path:
    """A copy of a generator's file as contract 1 was: without the keys that contract 2 added."""
    return with_metadata(onnx_file, out, contract="1", kind=None, layout=None, range=None)
