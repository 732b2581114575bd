"""From a given image to the z whose image is closest to it. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gan_plugin.media.image import Images, normalize, psnr
from gan_plugin.serving.encoder import OnnxEncoder
from gan_plugin.serving.generator import OnnxGenerator


class Projected(NamedTuple):
    """N images as a generator makes them again.

    Attributes:
        z: float32 [N, latent_size].
        labels: int64 [N]; None where the generator takes no labels.
        images: uint8 [N, H, W, C], of z and labels.
        psnr: float64 [N], how close they are to the given ones, in decibels.
    """

    z: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    images: Images
    psnr: npt.NDArray[np.float64]


def reconstruct(generator: OnnxGenerator, encoder: OnnxEncoder, images: Images) -> Projected:
    """Return images uint8 [N, H, W, C] as encoder and generator make them again."""
    encoded = encoder.encode(images)
    reconstructions = generator.generate(encoded.z, encoded.labels)
    return Projected(encoded.z, encoded.labels, reconstructions, psnr(images, reconstructions))


def anomaly_scores(encoder: OnnxEncoder, images: Images, reconstructions: Images) -> npt.NDArray[np.float64]:
    """Return how unlike its reconstruction each image is, in its pixels and in the encoder's features, float64 [N].

    The mean squared difference of the values in −1…1 and that of the features: Schlegl et al. 2019, "f-AnoGAN",
    doi:10.1016/j.media.2019.01.010, eq. 6 with κ = 1.
    """
    of_pixels = normalize(images.astype(np.float64)) - normalize(reconstructions.astype(np.float64))
    of_features = encoder.encode(images).features.astype(np.float64) - encoder.encode(reconstructions).features
    return mean_squares(of_pixels) + mean_squares(of_features)


def mean_squares(differences: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean of the squares in each row, float64 [N]."""
    means: npt.NDArray[np.float64] = np.square(differences).reshape(len(differences), -1).mean(1)
    return means
