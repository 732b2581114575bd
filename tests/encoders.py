"""An autoencoder of small images, with the files of its generator and its encoder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from gan_plugin.config.recipe import load_recipe, override
from gan_plugin.data import Dataset
from gan_plugin.export import export_encoder, export_generator
from gan_plugin.media.image import Images
from gan_plugin.networks import new_autoencoder
from gan_plugin.networks.autoencoder import Autoencoder
from gan_plugin.networks.wrappers import QuantizedEncoder
from gan_plugin.serving.description import Description, EncoderDescription
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.pyfunc import digest_of
from gan_plugin.training.mixture import fit_prior


class Files(NamedTuple):
    """An autoencoder, and its two files."""

    network: Autoencoder
    generator: Path
    encoder: Path

    def open(self) -> OnnxGenerator:
        return OnnxGenerator(self.generator, device="cpu", encoder_file=self.encoder)


def images_of(dataset: Dataset, count: int) -> Images:
    images: Images = dataset.samples[torch.arange(count)].permute(0, 2, 3, 1).contiguous().numpy()
    return images


def export_autoencoder(dataset: Dataset, folder: Path, *, components: int = 2, seed: int = 0) -> Files:
    """Export an autoencoder that has learned nothing, but for its mixture, which is that of its codes."""
    torch.manual_seed(seed)
    recipe = override(load_recipe("autoencoder"), width=16, latent_size=9, mixture_components=components)
    network = new_autoencoder(recipe, dataset.spec).eval()
    fit_prior(network, dataset)
    generator, encoder = folder / "generator.onnx", folder / "encoder.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    export_generator(network, Description(9, dataset.spec, data_digest=dataset.digest), generator)
    export_encoder(
        QuantizedEncoder(network.encoder, network.prior),
        EncoderDescription(digest_of(generator), low_psnr=12.5, high_anomaly=0.25),
        encoder,
        generator=OnnxGenerator(generator, device="cpu"),
        images=images_of(dataset, 8),
    )
    return Files(network, generator, encoder)
