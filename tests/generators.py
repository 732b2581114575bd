"""Generators whose quality is known because nothing about them is learned."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gan_plugin.data import Dataset
from gan_plugin.export import export_generator
from gan_plugin.serving.generator import Description, OnnxGenerator

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
        shown = self.images[(z @ self.choice).argmax(1)]  # [B, C, H, W]
        if self.noise == 0:
            return shown
        return (1 - self.noise) * shown + self.noise * torch.tanh(2 * z @ self.blur).view(-1, *self.shape)


def export_bank(dataset: Dataset, path: Path, images: Tensor | None = None, noise: float = 0.0) -> Path:
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


def open_bank(dataset: Dataset, path: Path, images: Tensor | None = None, noise: float = 0.0) -> OnnxGenerator:
    return OnnxGenerator(export_bank(dataset, path, images, noise), "cpu")
