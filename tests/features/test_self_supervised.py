"""The networks that need no labels: what they see, and that training and held-out images look alike to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from features_helpers import CPU, noise, noisy_dataset, pixels
from helpers import refusal
from PIL import Image, ImageFilter

from gan_plugin.data import load_dataset
from gan_plugin.features import FeatureNetwork, load_network, self_supervised_training
from gan_plugin.features.classifier import RotationNetwork
from gan_plugin.features.classifier_store import classifier_of, rotation_of
from gan_plugin.features.classifier_training import train_rotation
from gan_plugin.features.components import principal_components
from gan_plugin.features.self_supervised import VERSION, Network, SelfSupervised
from gan_plugin.features.self_supervised_training import (
    draw_hidden,
    self_supervised_of,
    train_self_supervised,
)
from gan_plugin.features.store import load_trained
from gan_plugin.media.image import Images
from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    return pixels(load_dataset("digits")), pixels(load_dataset("digits", split="test"))


@pytest.fixture(scope="module")
def network() -> SelfSupervised:
    """Trained as users train it."""
    return train_self_supervised(load_dataset("digits").samples, device=CPU)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """Train every network for three steps."""
    monkeypatch.setattr(self_supervised_training, "STEPS", 3)


def blurred(images: Images) -> Images:
    """With a Gaussian of a standard deviation of one pixel."""
    smooth = [Image.fromarray(image[..., 0]).filter(ImageFilter.GaussianBlur(1)) for image in images]
    return np.stack([np.asarray(image) for image in smooth])[..., None]


def checkered(images: Images) -> Images:
    """Eight gray levels lighter and darker in turn."""
    signs = np.indices(images.shape[1:3]).sum(0) % 2 * 16 - 8
    return (images.astype(int) + signs[..., None]).clip(0, 255).astype(np.uint8)


def shuffled(images: Images) -> Images:
    """In 4×4 tiles, each image's in the same new order."""
    order = np.random.RandomState(0).permutation(16)
    tiles = images.reshape(len(images), 4, 7, 4, 7, 1).transpose(0, 1, 3, 2, 4, 5).reshape(len(images), 16, 7, 7, 1)
    return tiles[:, order].reshape(len(images), 4, 4, 7, 7, 1).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)


def posterized(images: Images) -> Images:
    """With 8 gray levels."""
    return (np.round(images / 255 * 7) / 7 * 255).round().astype(np.uint8)


@pytest.mark.parametrize(("damage", "factor"), [(blurred, 5), (checkered, 5), (shuffled, 20), (posterized, 3)])
def test_damaged_images_are_farther_away_than_held_out_ones(
    damage: Callable[[Images], Images], factor: float, network: SelfSupervised, digits: tuple[Images, Images]
) -> None:
    training, held_out = digits
    real = fit_gaussian(network(training).features)

    def distance(images: Images) -> float:
        return frechet_distance(fit_gaussian(network(images).features), real)

    assert distance(damage(held_out)) > factor * distance(held_out)


def test_features_of_training_and_held_out_digits_are_alike(
    network: SelfSupervised, digits: tuple[Images, Images]
) -> None:
    """Held-out digits are as far from training digits as these are from each other: sampling, not overfitting."""
    training, held_out = (network(images).features for images in digits)
    within_training, to_held_out = [], []
    for seed in range(5):
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
        one, other = training[order[: len(held_out)]], training[order[len(held_out) :]]
        real = fit_gaussian(other)
        within_training.append(frechet_distance(fit_gaussian(one), real))
        to_held_out.append(frechet_distance(fit_gaussian(held_out), real))
    assert np.mean(to_held_out) < 1.2 * np.mean(within_training)


def test_features_have_zero_mean_and_about_unit_variance(
    network: SelfSupervised, digits: tuple[Images, Images]
) -> None:
    features, logits = network(digits[0])
    assert features.shape == (1438, 64)
    assert logits is None
    assert features.mean(0).abs().max() < 0.01
    assert features.var(0).max() < 1.01
    assert 0.8 < features.var(0).mean() < 1.01
    assert (network.name, network.resize) == ("self-supervised", "none")


def test_an_images_features_do_not_depend_on_its_batch(network: SelfSupervised, digits: tuple[Images, Images]) -> None:
    images = digits[0][:9]
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():  # nor on the caller's settings
        alone = network(images[4:5]).features
    torch.testing.assert_close(alone, network(images).features[4:5], rtol=1e-3, atol=1e-3)


SIZES = [
    (1, 1, 16, 16),
    (5, 3, 20, 20),
    (20, 1, 100, 100),
    (2, 3, 256, 256),
    (20, 3, 48, 32),
    (5, 1, 17, 100),
    (3, 1, 1024, 16),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("train", "size"), [(train_self_supervised, 64), (train_rotation, 32)])
@pytest.mark.parametrize(("count", "channels", "height", "width"), SIZES)
def test_any_size_and_any_number_of_images(
    count: int, channels: int, height: int, width: int, train: Callable[..., FeatureNetwork], size: int
) -> None:
    images = torch.from_numpy(noise(count, channels, height, width))
    features, logits = train(images, device=CPU)(images.permute(0, 2, 3, 1).numpy())
    assert features.shape == (count, size)
    assert features.isfinite().all()
    assert logits is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("train", [train_self_supervised, train_rotation])
def test_images_that_are_all_alike_give_finite_features(
    train: Callable[..., SelfSupervised | RotationNetwork],
) -> None:
    trained = train(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), device=CPU)
    assert trained(noise(2, 16, 16, 1)).features.isfinite().all()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("train", [train_self_supervised, train_rotation])
def test_the_seed_decides_the_weights_and_torchs_random_state_stays(
    train: Callable[..., SelfSupervised | RotationNetwork],
) -> None:
    images, digests = noisy_dataset().samples, []
    for global_seed, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        digests.append(train(images, device=CPU, seed=seed).digest)
        assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("cls", "network_of"), [(SelfSupervised, self_supervised_of), (RotationNetwork, rotation_of)])
def test_unlabeled_data_is_trained_on_once(
    cls: type[SelfSupervised | RotationNetwork], network_of: Callable[..., tuple[SelfSupervised, None]]
) -> None:
    dataset = noisy_dataset(labeled=False)
    trained, path = network_of(dataset, CPU)
    again, same_path = network_of(dataset, CPU)
    assert path == same_path
    assert load_trained(cls, path, CPU).digest == again.digest == trained.digest
    assert torch.equal(again(pixels(dataset)).features, trained(pixels(dataset)).features)
    assert load_network(cls.name, dataset, CPU).digest == trained.digest
    other = SelfSupervised if cls is RotationNetwork else RotationNetwork
    assert "saved, or damaged" in refusal(lambda: load_trained(other, path, CPU))


@pytest.mark.usefixtures("quick")
def test_the_networks_of_labeled_data_are_three() -> None:
    dataset = noisy_dataset()
    networks = [classifier_of(dataset, CPU), self_supervised_of(dataset, CPU), rotation_of(dataset, CPU)]
    assert len({trained.digest for trained, _ in networks}) == len({path for _, path in networks}) == 3


@pytest.mark.usefixtures("quick")
def test_images_of_another_shape_are_refused() -> None:
    trained, _ = self_supervised_of(noisy_dataset(), CPU)
    message = refusal(lambda: trained(noise(2, 28, 28, 3)))
    assert message.startswith(
        "features=self-supervised was trained on images of 16×16×1 and cannot take images of 28×28"
    )


def test_rotations_keep_the_shape_and_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient from black on the left to white on the right, whose rotations differ in nothing else."""
    row = torch.linspace(0, 255, 16).to(torch.uint8)
    images = row.expand(64, 1, 16, 16).contiguous()
    trained = train_rotation(images, device=CPU)
    turned = torch.stack([torch.rot90(images[0], quarters, (1, 2)) for quarters in range(4)])
    assert trained.network(turned)[1].argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.usefixtures("quick")
def test_features_of_rotations_do_not_all_follow_one_thing() -> None:
    """Of images that look alike whichever way up they are, and a few that do not, in one network's principal axes."""
    images = torch.zeros(200, 1, 16, 16, dtype=torch.uint8)
    images[:, :, 6:10, 6:10] = torch.randint(256, (200, 1, 1, 1), dtype=torch.uint8)
    images[:10, :, :2] = 255
    features = train_rotation(images, device=CPU)(images.permute(0, 2, 3, 1).numpy()).features.double()
    variances = torch.linalg.eigvalsh(features[:, 16:].T.cov(correction=0))
    assert 0.9 < variances[-1] < 1.1
    assert variances[-1] / variances.sum() < 0.5


def test_features_of_rotations_notice_blur() -> None:
    digits = load_dataset("digits", image_size=16)
    trained, real = train_rotation(digits.samples, device=CPU), pixels(digits)
    reference = fit_gaussian(trained(real[::2]).features)
    distances = [
        frechet_distance(fit_gaussian(trained(images).features), reference)
        for images in (real[1::2], blurred(real[1::2]))
    ]
    assert distances[1] > 10 * distances[0]


def test_about_a_third_of_the_patches_is_hidden() -> None:
    hidden = draw_hidden(500, 20, 33)
    assert hidden.shape == (500, 1, 20, 33)
    assert 0.25 < hidden.float().mean() < 0.35
    corners = F.max_pool2d(hidden[..., :20, :32].float(), 4) - -F.max_pool2d(-hidden[..., :20, :32].float(), 4)
    assert corners.abs().max() == 0  # every patch is hidden as a whole, or not


def test_components_are_uncorrelated_with_variance_1_and_leave_out_what_is_not_there() -> None:
    mixed = torch.randn(500, 20, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(20) + 1.0)
    mean, projection = principal_components(mixed, 16)
    components = (mixed.double() - mean) @ projection
    torch.testing.assert_close(components.T.cov(correction=0), torch.eye(16).double(), rtol=0, atol=0.01)
    mean, projection = principal_components(mixed[:, :1].expand(-1, 20), 16)
    components = (mixed[:, :1].expand(-1, 20).double() - mean) @ projection
    assert components.var(0)[0] > 0.99
    assert components.var(0)[1:].max() < 1e-6


def test_layers_of_version_1() -> None:
    """Metrics recorded with other layers are not comparable: changed layers need another VERSION."""
    for shape, maps in [
        ((28, 28, 1), [(32, 28, 28), (48, 14, 14), (64, 7, 7), (64, 4, 4)]),
        ((64, 64, 3), [(16, 64, 64), (32, 32, 32), (48, 16, 16), (64, 8, 8), (64, 4, 4)]),
        ((16, 1024, 1), [(16, 16, 256), (16, 8, 128), (16, 4, 64), (32, 4, 32), (48, 4, 16), (64, 4, 8), (64, 4, 4)]),
    ]:
        network = Network(shape)
        assert network.sides == maps
        height, width, channels = shape
        found_maps = network.maps(torch.zeros(1, channels, height, width))
        assert [tuple(of_depth.shape[1:]) for of_depth in found_maps] == maps
    assert VERSION == 1
