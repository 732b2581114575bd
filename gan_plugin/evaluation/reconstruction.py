"""Held-out real images as encoder and generator make them again, and an autoencoder's codes without their mixture."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from gan_plugin.evaluation.reference import Reference, as_pixels, gaussian_of
from gan_plugin.evaluation.results import Measurement, regular_indices
from gan_plugin.features import FeatureNetwork
from gan_plugin.media.image import Images, psnr
from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance
from gan_plugin.metrics.reconstruction import ssim
from gan_plugin.seeds import default_labels, latents
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.projection import reconstruct

MAX_IMAGES = 1000  # that are reconstructed
BLOCK = 1024  # images generated at a time
BELOW = 1.0  # a threshold, by so much of z's first value, where a component is certain


def reconstruction_measurements(
    generator: OnnxGenerator, reference: Reference, device: torch.device
) -> list[Measurement]:
    """Measure how close held-out images are to what encoder and generator make of them; none without an encoder."""
    if generator.encoder is None:
        return []
    units = generator.encoder.description.active_units
    measurements = [] if units is None else [Measurement("active_units", units, network="encoder")]
    if reference.held_out is None:
        return measurements
    images = as_pixels(reference.held_out)[regular_indices(len(reference.held_out), MAX_IMAGES)]
    reconstructions = reconstruct(generator, generator.encoder, images).images
    return [
        *measurements,
        Measurement("reconstruction_psnr", float(psnr(images, reconstructions).mean()), network="pixels"),
        Measurement("reconstruction_ssim", float(ssim(images, reconstructions, device).mean()), network="pixels"),
        *feature_measurements(images, reconstructions, reference, device=device),
    ]


def feature_measurements(
    images: Images, reconstructions: Images, reference: Reference, *, device: torch.device
) -> list[Measurement]:
    """Measure reconstruction_distance and reconstruction_fid of pairs of images [N, H, W, C], in each network."""
    measurements = []
    for network in reference.networks:
        real, generated = (network(pixels).features.to(device) for pixels in (images, reconstructions))
        apart = (real - real.roll(1, 0)).norm(dim=1).mean()  # an image and the one before it, which is another
        gaussian = gaussian_of(network, reference.dataset, device)
        fid = Measurement(
            "reconstruction_fid",
            frechet_distance(fit_gaussian(generated), gaussian),
            real=frechet_distance(fit_gaussian(real), gaussian),
            note=f"Both from {len(images):,} images.",
            network=name_in(network, reference),
        )
        distance = ((real - generated).norm(dim=1).mean() / apart).item()
        measurements += [Measurement("reconstruction_distance", distance, network=fid.network), fid]
    return measurements


def name_in(network: FeatureNetwork, reference: Reference) -> str:
    """Return a network's name as measurements have it: "" for the evaluation's own."""
    return "" if network is reference.network else network.name


# ---- codes from N(0, I) ----------------------------------------------------------------------------------------------


class FileMixture(NamedTuple):
    """The mixture in a generator's file (see :class:`gan_plugin.networks.autoencoder.GaussianMixture`).

    Attributes:
        thresholds: float32 [C, K].
        means: float32 [C·K, D].
        factors: float32 [C·K, D·D].
    """

    thresholds: npt.NDArray[np.float32]
    means: npt.NDArray[np.float32]
    factors: npt.NDArray[np.float32]

    def inverse(self, codes: npt.NDArray[np.float32], labels: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32]:
        """Return the z float32 [N, latent_size] of codes [N, D] by the first component of each label's class."""
        labels = np.zeros(len(codes), np.int64) if labels is None else labels
        classes, components = self.thresholds.shape
        size = self.means.shape[1]
        inverses = np.linalg.inv(self.factors.reshape(classes, components, size, size)[:, 0].astype(np.float64))
        offsets = codes - self.means.reshape(classes, components, size)[labels, 0]
        z = (inverses[labels] @ offsets[..., None])[..., 0]
        if components > 1:
            z = np.concatenate([self.thresholds[labels, :1] - BELOW, z], 1)
        rounded: npt.NDArray[np.float32] = z.astype(np.float32)
        return rounded


def read_mixture(onnx_file: Path) -> FileMixture | None:
    """Read the mixture in a generator's file; None where it has none."""
    tensors = {tensor.name: tensor for tensor in onnx.load(onnx_file).graph.initializer}
    if "prior.means" not in tensors:
        return None
    means, factors = (numpy_helper.to_array(tensors[f"prior.{name}"]) for name in ("means", "factors"))
    thresholds = tensors.get("prior.thresholds")  # which a single component has no need of
    of_class = np.zeros((len(means), 1), np.float32) if thresholds is None else numpy_helper.to_array(thresholds)
    return FileMixture(of_class, means, factors)


def normal_measurements(
    generator: OnnxGenerator, reference: Reference, *, count: int, device: torch.device
) -> list[Measurement]:
    """Measure the fid of ``count`` images whose codes come from N(0, I); none for a generator without a mixture."""
    mixture = read_mixture(generator.onnx_file)
    if mixture is None:
        return []
    classes = generator.description.spec.classes
    features: list[list[torch.Tensor]] = [[] for _ in reference.networks]
    for first in range(0, count, BLOCK):
        seeds = np.arange(first, min(first + BLOCK, count))
        labels = default_labels(seeds, classes) if classes else None
        images = generator.generate(mixture.inverse(latents(seeds, mixture.means.shape[1]), labels), labels)
        for network, of_network in zip(reference.networks, features):
            of_network.append(network(images).features.to(device))
    return [
        Measurement(
            "fid_normal",
            frechet_distance(fit_gaussian(torch.cat(of_network)), gaussian_of(network, reference.dataset, device)),
            network=name_in(network, reference),
        )
        for network, of_network in zip(reference.networks, features)
    ]
