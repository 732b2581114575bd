"""What an evaluation says of an autoencoder: its reconstructions, and its codes without the mixture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import export_autoencoder
from generators import open_bank

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.evaluation.reconstruction import normal_measurements, read_mixture, reconstruction_measurements
from gan_plugin.evaluation.reference import Reference, as_pixels
from gan_plugin.features.network import Outputs
from gan_plugin.media.image import ImageRows, psnr
from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance
from gan_plugin.networks.wrappers import Quantized
from gan_plugin.seeds import default_labels, latents
from gan_plugin.serving.projection import reconstruct

CPU = torch.device("cpu")


class Means:
    """A feature network: the mean gray level of each row of pixels."""

    name, digest, resize = "means", "means-1", "none"

    def __call__(self, images: ImageRows) -> Outputs:
        return Outputs(torch.from_numpy(images[:].mean((2, 3))).float(), None)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", image_size=16)


@pytest.fixture
def reference(digits: Dataset) -> Reference:
    training, held_out = digits.take(torch.arange(200)), digits.take(torch.arange(200, 300))
    return Reference(training, held_out=held_out, network=Means(), classifier=None)


@pytest.mark.parametrize("components", [1, 3])
def test_codes_without_the_mixture_are_codes_from_the_normal_distribution(
    components: int, reference: Reference, tmp_path: Path
) -> None:
    files = export_autoencoder(reference.dataset, tmp_path, components=components)
    mixture, size = read_mixture(files.generator), 9 if components == 1 else 8
    assert mixture is not None
    seeds = np.arange(40)
    codes, labels = latents(seeds, size), default_labels(seeds, 10)
    images = files.open().generate(mixture.inverse(codes, labels), labels)
    with torch.no_grad():
        expected = Quantized(files.network.decoder)(torch.from_numpy(codes), torch.from_numpy(labels)).numpy()
    assert np.abs(images.astype(int) - expected).max() <= 1

    (measurement,) = normal_measurements(files.open(), reference, count=40, device=CPU)
    real = fit_gaussian(Means()(as_pixels(reference.dataset)).features)
    assert measurement.name == "fid_normal"
    assert measurement.value == pytest.approx(
        frechet_distance(fit_gaussian(Means()(expected).features), real), rel=0.02
    )


def test_reconstructions_are_those_of_held_out_images(reference: Reference, tmp_path: Path) -> None:
    generator = export_autoencoder(reference.dataset, tmp_path).open()
    values = {m.name: m.value for m in reconstruction_measurements(generator, reference, CPU)}
    assert reference.held_out is not None
    assert generator.encoder is not None
    images = as_pixels(reference.held_out)[:]
    again = reconstruct(generator, generator.encoder, images).images
    assert values["reconstruction_psnr"] == pytest.approx(psnr(images, again).mean())
    features = [Means()(pixels).features for pixels in (images, again)]
    real = fit_gaussian(Means()(as_pixels(reference.dataset)).features)
    assert values["reconstruction_fid"] == pytest.approx(frechet_distance(fit_gaussian(features[1]), real))
    assert values["reconstruction_distance"] > 0
    assert values["reconstruction_ssim"] < 1


def test_other_generators_have_neither(reference: Reference, tmp_path: Path) -> None:
    bank = open_bank(reference.dataset, tmp_path / "bank.onnx")
    assert reconstruction_measurements(bank, reference, CPU) == []
    assert normal_measurements(bank, reference, count=10, device=CPU) == []
