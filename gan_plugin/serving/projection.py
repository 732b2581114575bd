"""From a given image to the z whose image is closest to it, by the generator's ONNX file alone. Imports no torch.

The search is a Levenberg–Marquardt method: from a first z, each round takes the derivatives of the pixels by z as
differences between images, solves for the step to the image, and keeps the best of several lengths. Levenberg 1944,
doi:10.1090/qam/10666; Marquardt 1963, doi:10.1137/0111030. It needs no gradients, and so no file but the generator's.

What it minimizes over z, with x the image and G(z) its reconstruction, levels in 0…1, P values each, is

    ‖x − G(z)‖² / P + NOISE²·‖z‖² / P

the most likely z of an image with so much noise: without the second term z would leave the region that the generator
knows. Sides of more than MAX_SIDE pixels are compared at a half, a third, … of their length.

An anomaly score: Schlegl et al. 2019, "f-AnoGAN", doi:10.1016/j.media.2019.01.010.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gan_plugin.errors import UserError
from gan_plugin.media.image import WHITE, Image, Images, normalize, psnr
from gan_plugin.seeds import latents
from gan_plugin.serving.encoder import OnnxEncoder
from gan_plugin.serving.generator import OnnxGenerator

EVALUATIONS = 1024  # images that the generator makes for one projection
MIN_EVALUATIONS = 64
NOISE = 0.1  # standard deviation of the noise that an image is taken to have, levels in 0…1
STEP = 0.3  # in z, of the differences: gray levels are whole numbers, and a shorter one would see none of them change
DAMPINGS = np.array([0.01, 0.1, 0.3, 1, 3, 10, 100, 1000])  # that a round tries, as multiples of the last best one
FIRST_DAMPING, MIN_DAMPING, MAX_DAMPING = 1e-2, 1e-6, 1e3
ROUNDS = 8  # of a search, at least: where z is longer than that allows, each moves in some random directions only
STARTS = 16  # z that a search may start from, for each class
MAX_SIDE = 64  # pixels, of what is compared
CANDIDATES = 2  # classes that the search tries, where none is given

Vector = npt.NDArray[np.float64]


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


def project(
    generator: OnnxGenerator,
    images: Images,
    *,
    labels: Sequence[int | None] | None = None,
    evaluations: int = EVALUATIONS,
    seconds: float = math.inf,
) -> Projected:
    """Search the z of images uint8 [N, H, W, C], one after the other; equal images have equal z.

    Args:
        generator: whose encoder, where it has one, says where to start, and of which class an image may be.
        labels: of the images; None for one whose class is to be found.
        evaluations: images that the generator may make for each of them, at least MIN_EVALUATIONS.
        seconds: after which no search goes on, however far it has come; each has an equal part.

    Raises:
        UserError: there are more classes than evaluations could try.
    """
    labels = [None] * len(images) if labels is None else labels
    keys = [(image.tobytes(), label) for image, label in zip(images, labels, strict=True)]
    searched = {key: (image, key[1]) for key, image in zip(keys, images)}  # each of equal ones once
    part = seconds / len(searched)
    by_key = {
        key: project_one(generator, image, label, evaluations=evaluations, seconds=part)
        for key, (image, label) in searched.items()
    }
    points = [by_key[key] for key in keys]
    z = np.stack([point.z for point in points]).astype(np.float32)
    has_labels = generator.description.spec.classes > 0
    classes = np.array([point.label for point in points], np.int64) if has_labels else None
    reconstructions = generator.generate(z, classes)
    return Projected(z, classes, reconstructions, psnr(images, reconstructions))


def anomaly_scores(encoder: OnnxEncoder, images: Images, reconstructions: Images) -> npt.NDArray[np.float64]:
    """Return how unlike its reconstruction each image is, in its pixels and in the encoder's features, float64 [N].

    The mean squared difference of the values in −1…1 and that of the features: Schlegl et al. 2019, eq. 6 with κ = 1,
    and the encoder's features in place of the discriminator's.
    """
    of_pixels = normalize(images.astype(np.float64)) - normalize(reconstructions.astype(np.float64))
    of_features = encoder.encode(images).features.astype(np.float64) - encoder.encode(reconstructions).features
    return mean_squares(of_pixels) + mean_squares(of_features)


def mean_squares(differences: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean of the squares in each row, float64 [N]."""
    means: npt.NDArray[np.float64] = np.square(differences).reshape(len(differences), -1).mean(1)
    return means


# ---- the search ------------------------------------------------------------------------------------------------------


@dataclass
class Point:
    """Where a search is.

    Attributes:
        z: [latent_size].
        label: the class; 0 where there are none.
        values: of its image, as they are compared, [P].
        loss: which the search minimizes.
        damping: of the last step that helped.
    """

    z: Vector
    label: int
    values: Vector
    loss: float
    damping: float = FIRST_DAMPING


class Search:
    """The search for the z of one image.

    Args:
        generator: that makes images of z.
        image: uint8 [H, W, C].
        evaluations: images that may be made.
        seconds: that it may take.
    """

    def __init__(self, generator: OnnxGenerator, image: Image, *, evaluations: int, seconds: float) -> None:
        self.generator, self.left = generator, evaluations
        self.end = time.monotonic() + seconds
        self.size = generator.description.latent_size
        self.target = compared_values(image[None])[0]  # [P]
        self.directions = min(self.size, max(1, evaluations // ROUNDS - len(DAMPINGS)))
        self.round = 0

    def goes_on(self, *, until: int = 0) -> bool:
        """Return whether there is a round's work left beyond ``until``, and time."""
        return self.left - until >= self.directions + len(DAMPINGS) and time.monotonic() < self.end

    def evaluate(self, z: Vector, label: int) -> tuple[Vector, Vector]:
        """Return the values [M, P] of the images of z [M, latent_size], and their losses [M]."""
        self.left -= len(z)
        labels = np.full(len(z), label) if self.generator.description.spec.classes else None
        values = compared_values(self.generator.generate(z.astype(np.float32), labels))
        return values, mean_squares(values - self.target) + NOISE**2 * np.square(z).sum(1) / len(self.target)

    def best_start(self, z: Vector, label: int) -> Point:
        """Return the best of several z [M, latent_size]."""
        values, losses = self.evaluate(z, label)
        best = int(losses.argmin())
        return Point(z[best], label, values[best], float(losses[best]))

    def advance(self, point: Point) -> Point:
        """Return where a round leads: to a lower loss, or to the same z with more damping."""
        step = STEP if self.round % 2 else -STEP
        basis = self.basis()  # [M, latent_size]
        self.round += 1
        moved, _ = self.evaluate(point.z + step * basis, point.label)
        jacobian = (moved - point.values) / step  # [M, P]
        curvature = jacobian @ jacobian.T + NOISE**2 * np.eye(len(basis))  # [M, M]
        slope = jacobian @ (self.target - point.values) - NOISE**2 * basis @ point.z  # [M]
        dampings = point.damping * DAMPINGS
        scale = np.trace(curvature) / len(basis) * np.eye(len(basis))
        damped = curvature + dampings[:, None, None] * scale  # [8, M, M]
        steps = np.linalg.solve(damped, np.tile(slope[:, None], (len(dampings), 1, 1)))[:, :, 0]
        z = point.z + steps @ basis
        values, losses = self.evaluate(z, point.label)
        best = int(losses.argmin())
        if losses[best] >= point.loss:
            return Point(point.z, point.label, point.values, point.loss, min(10 * point.damping, MAX_DAMPING))
        return Point(z[best], point.label, values[best], float(losses[best]), max(float(dampings[best]), MIN_DAMPING))

    def basis(self) -> Vector:
        """Return the directions of a round, orthonormal [M, latent_size]: all of z, or random ones."""
        if self.directions == self.size:
            return np.eye(self.size)
        random = latents(self.round * self.directions + np.arange(self.directions), self.size).astype(np.float64)
        orthonormal: Vector = np.linalg.qr(random.T)[0].T
        return orthonormal


def project_one(
    generator: OnnxGenerator, image: Image, label: int | None, *, evaluations: int, seconds: float
) -> Point:
    """Search the z, and where no label is given the class, of an image uint8 [H, W, C]; raises as ``project``."""
    search = Search(generator, image, evaluations=max(evaluations, MIN_EVALUATIONS), seconds=seconds)
    points = starts(search, image, label)
    points = sorted(points, key=lambda point: point.loss)[:CANDIDATES]
    while len(points) > 1 and search.goes_on(until=evaluations // 2):
        points = [search.advance(point) for point in points]
    point = min(points, key=lambda point: point.loss)
    while search.goes_on():
        point = search.advance(point)
    return point


def starts(search: Search, image: Image, label: int | None) -> list[Point]:
    """Return a point to start from for each class that the image may have.

    Raises:
        UserError: there are more classes than evaluations could try.
    """
    encoder, classes = search.generator.encoder, search.generator.description.spec.classes
    own = np.empty((0, search.size))
    labels = [0] if not classes else [label] if label is not None else list(range(classes))
    if encoder is not None:
        encoded = encoder.encode(image[None])
        own = encoded.z.astype(np.float64)
        if label is None and encoded.logits is not None:
            labels = np.argsort(-encoded.logits[0])[:CANDIDATES].tolist()
    count = min(STARTS, search.left // (4 * len(labels)))
    if count == 0:
        raise UserError(
            f"An image's class cannot be searched among {classes:,} by {search.left:,} evaluations: give its label."
        )
    z = np.concatenate([own, np.zeros((1, search.size)), latents(np.arange(count), search.size)[1:]])
    return [search.best_start(z, candidate) for candidate in labels]


def compared_values(images: Images) -> Vector:
    """Return levels in 0…1, float64 [N, P], of images [N, H, W, C], averaged over squares where sides are long."""
    count, height, width, channels = images.shape
    factor = -(-max(height, width) // MAX_SIDE)
    values = images[:, : height // factor * factor, : width // factor * factor].astype(np.float64) / WHITE
    blocks = values.reshape(count, height // factor, factor, width // factor, factor, channels)
    means: Vector = blocks.mean((2, 4)).reshape(count, -1)
    return means
