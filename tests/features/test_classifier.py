"""The classifier trained as users train it: its accuracy, its features, and the images it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from features_helpers import CPU, noise, pixels
from helpers import refusal

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.features.classifier import VERSION, Classifier, Network, accuracy, predict_labels
from gan_plugin.features.classifier_training import train_classifier
from gan_plugin.media.image import Images
from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance
from gan_plugin.spec import shape_text


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    return load_dataset("digits"), load_dataset("digits", split="test")


@pytest.fixture(scope="module")
def network(digits: tuple[Dataset, Dataset]) -> Classifier:
    """Trained as users train it."""
    training, _ = digits
    assert training.labels is not None
    return train_classifier(training.samples, training.labels, 10, device=CPU)


def test_held_out_digits_are_classified_correctly(network: Classifier, digits: tuple[Dataset, Dataset]) -> None:
    _, held_out = digits
    assert held_out.labels is not None
    assert accuracy(network, pixels(held_out), held_out.labels) >= 0.97
    wrong = (held_out.labels + 1) % 10
    assert accuracy(network, pixels(held_out), wrong) <= 0.03
    predicted = predict_labels(network, pixels(held_out))
    assert predicted.dtype == torch.int64
    assert accuracy(network, pixels(held_out), predicted) == 1


def test_outputs_have_their_shapes_and_types(network: Classifier, digits: tuple[Dataset, Dataset]) -> None:
    features, logits = network(pixels(digits[0]))
    assert features.shape == (1438, 64)
    assert logits is not None
    assert logits.shape == (1438, 10)
    assert torch.allclose(logits, network.network.logits(features.relu()), atol=1e-4)
    assert features.dtype == logits.dtype == torch.float32
    assert not features.requires_grad
    assert (network.name, network.resize) == ("classifier", "none")
    assert len(bytes.fromhex(network.digest)) == 16


def test_features_have_unit_variance_and_either_sign(network: Classifier, digits: tuple[Dataset, Dataset]) -> None:
    """Ahead of the ReLU: half a Gaussian would be no Gaussian."""
    features = network(pixels(digits[0])).features
    assert features.mean(0).abs().max() < 0.3
    assert 0.8 < features.var(0).mean() < 1.25
    assert 0.3 < (features < 0).float().mean() < 0.7


def test_features_of_training_and_held_out_digits_are_alike(
    network: Classifier, digits: tuple[Dataset, Dataset]
) -> None:
    """Held-out digits are as far from training digits as these are from each other: sampling, not overfitting."""
    training, held_out = (pixels(dataset) for dataset in digits)
    assert digits[1].labels is not None
    within_training, to_held_out = [], []
    for seed in range(5):
        order = np.random.RandomState(seed).permutation(len(training))
        one, other = training[order[: len(held_out)]], training[order[len(held_out) : 2 * len(held_out)]]
        within_training.append(distance(network, one, other))
        to_held_out += [distance(network, one, held_out), distance(network, other, held_out)]
    assert np.mean(to_held_out) < 1.15 * np.mean(within_training)
    assert distance(network, one, held_out[digits[1].labels != 0]) > 1.5 * np.mean(
        to_held_out
    )  # a missing class increases it


def distance(network: Classifier, one: Images, other: Images) -> float:
    return frechet_distance(fit_gaussian(network(one).features), fit_gaussian(network(other).features))


def test_an_images_features_do_not_depend_on_its_batch(network: Classifier, digits: tuple[Dataset, Dataset]) -> None:
    images = pixels(digits[0])[:9]
    batch = network(images)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():  # nor on the caller's settings
        alone = network(images[4:5])
    torch.testing.assert_close(alone.features, batch.features[4:5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "kernels", "flat"),
    [
        ((16, 16, 1), [[64, 1, 3, 3], [64, 64, 3, 3]], 64 * 4 * 4),
        ((100, 100, 3), [[32, 3, 7, 7], [32, 32, 3, 3], [64, 32, 3, 3], [64, 64, 3, 3]], 64 * 4 * 4),
        ((48, 32, 3), [[32, 3, 3, 3], [32, 32, 3, 3], [64, 32, 3, 3], [64, 64, 3, 1]], 64 * 3 * 4),
        ((16, 128, 1), [[32, 1, 3, 7], [32, 32, 3, 3], [64, 32, 1, 3], [64, 64, 1, 3]], 64 * 4 * 4),
    ],
)
def test_layers_of_version_1(shape: tuple[int, ...], kernels: list[list[int]], flat: int) -> None:
    """Metrics recorded with other layers are not comparable: changed layers need another VERSION."""
    network = Network(shape, classes=3)
    assert [list(weight.shape) for weight in network.body.parameters() if weight.ndim == 4] == kernels
    assert network.features.in_features == flat
    assert VERSION == 1


def test_images_of_another_shape_are_refused(network: Classifier) -> None:
    for shape in ((2, 16, 16, 1), (2, 28, 28, 3)):
        message = refusal(lambda shape=shape: network(noise(*shape)))
        assert "28×28×1" in message
        assert shape_text(shape[1:]) in message


@pytest.mark.parametrize("shape", [(0, 28, 28, 1), (28, 28, 1), (2, 28, 28, 2)])
def test_arrays_of_other_shapes_than_images_are_refused(network: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        network(noise(*shape))


def test_images_in_floating_point_are_refused(network: Classifier) -> None:
    with pytest.raises(ValueError, match="float32"):
        network(np.zeros((2, 28, 28, 1), np.float32))  # type: ignore[arg-type]  # wrong on purpose
