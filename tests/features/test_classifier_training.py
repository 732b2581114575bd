"""The classifier's training: sizes, seeds, number of steps, shifts and loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from features_helpers import CPU, noise, noisy_dataset
from torch import Tensor, nn

from gan_plugin.features import classifier_training
from gan_plugin.features.classifier import Network
from gan_plugin.features.classifier_training import draw_rows, shift, train_classifier, training_loss


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("count", "classes", "channels", "height", "width"),
    [
        (2, 1, 1, 16, 16),
        (5, 5, 3, 20, 20),
        (40, 2, 1, 36, 36),
        (3, 1000, 3, 64, 64),
        (20, 20, 1, 100, 100),
        (2, 2, 3, 256, 256),
        (20, 3, 3, 48, 32),
        (5, 5, 1, 17, 100),
        (3, 2, 1, 1024, 16),
    ],
)
def test_any_size_and_any_number_of_classes(count: int, classes: int, channels: int, height: int, width: int) -> None:
    """One image a class, and classes of which there is none, included."""
    images = torch.from_numpy(noise(count, channels, height, width))
    trained = train_classifier(images, torch.arange(count) % classes, classes, device=CPU)
    features, logits = trained(images.permute(0, 2, 3, 1).numpy())
    assert features.shape == (count, 64)
    assert logits is not None
    assert logits.shape == (count, classes)
    assert features.isfinite().all()
    assert logits.isfinite().all()


@pytest.mark.usefixtures("quick")
def test_images_that_are_all_alike_give_finite_features() -> None:
    trained = train_classifier(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), torch.arange(4) % 2, 2, device=CPU)
    assert trained(noise(2, 16, 16, 1)).features.isfinite().all()


@pytest.mark.usefixtures("quick")
def test_the_seed_decides_the_weights_and_torchs_random_state_stays() -> None:
    dataset = noisy_dataset()
    assert dataset.labels is not None
    digests = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        digests.append(train_classifier(dataset.samples, dataset.labels, 3, device=CPU, seed=seed).digest)
        assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1] != digests[2]


def test_the_number_of_steps_is_bounded_for_large_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fashion-MNIST's 60,000 images take 1,500 steps of 128."""
    taken: list[tuple[int, int]] = []

    def count(network: object, decoder: nn.Linear, images: Tensor, *, labels: Tensor) -> Tensor:
        taken.append(tuple(images.shape[::3]))
        return decoder.weight.sum()

    monkeypatch.setattr(classifier_training, "training_loss", count)
    for number, size, steps, batch in ((10, 16, 300, 128), (10_000, 16, 781, 128), (60_000, 16, 1500, 128)):
        taken.clear()
        images = torch.zeros(1, 1, size, size, dtype=torch.uint8).expand(number, -1, -1, -1)
        train_classifier(images, torch.zeros(number, dtype=torch.int64), 2, device=CPU)
        assert taken == [(batch, size)] * steps


def test_an_epoch_holds_every_image_once() -> None:
    rows = torch.cat(list(draw_rows(10, 4, 5)))
    assert [sorted(part.tolist()) for part in rows.split(10)] == [list(range(10))] * 2
    assert rows[:10].tolist() != rows[10:].tolist()
    assert [len(part) for part in draw_rows(3, 16, 2)] == [16, 16]


def test_a_shift_moves_images_and_repeats_their_edges() -> None:
    image = torch.arange(2 * 5 * 6, dtype=torch.uint8).view(1, 2, 5, 6)
    moved = {copy.numpy().tobytes() for copy in shift(image.expand(200, -1, -1, -1), 1)}
    padded = F.pad(image.float(), (1, 1, 1, 1), mode="replicate").byte()
    expected = {
        padded[0, :, down : down + 5, right : right + 6].contiguous().numpy().tobytes()
        for down in range(3)
        for right in range(3)
    }
    assert moved == expected


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("height", "width", "limit"), [(16, 16, 1), (64, 64, 2), (256, 256, 8), (64, 512, 2)])
def test_every_step_shifts_its_images(height: int, width: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []

    def black(images: Tensor, limit: int) -> Tensor:
        limits.append(limit)
        return torch.zeros_like(images)

    def loss(network: object, decoder: nn.Linear, images: Tensor, *, labels: Tensor) -> Tensor:
        assert not images.any()
        return decoder.weight.sum()

    monkeypatch.setattr(classifier_training, "shift", black)
    monkeypatch.setattr(classifier_training, "training_loss", loss)
    train_classifier(torch.from_numpy(noise(2, 1, height, width)), torch.arange(2), 2, device=CPU)
    assert limits == [limit] * 3


def test_the_loss_is_cross_entropy_and_the_unexplained_variance() -> None:
    images = torch.from_numpy(noise(8, 1, 16, 16))
    labels = torch.ones(8, dtype=torch.int64)
    network = Network((16, 16, 1), 2)
    decoder = nn.Linear(64, 64)
    with torch.no_grad():
        for weight in (decoder.weight, decoder.bias, network.logits.weight):
            weight.zero_()
        network.logits.bias.copy_(torch.tensor([0.0, np.log(3)]))  # probabilities of 1/4 and 3/4
        thumbnails = (images.float() / 127.5 - 1).view(8, 8, 2, 8, 2).mean((2, 4)).flatten(1)
        missed = thumbnails.square().mean() / thumbnails.var(0).mean()
        smoothed = 0.05 * np.log(4) + 0.95 * np.log(4 / 3)  # a tenth of each label is shared by both classes
        expected = smoothed + missed.item()
        assert training_loss(network, decoder, images, labels=labels).item() == pytest.approx(expected, rel=1e-4)


def test_features_of_a_single_class_describe_how_images_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels carry no information here; the reconstruction does."""
    monkeypatch.setattr(classifier_training, "MIN_STEPS", 60)
    thumbnails = torch.from_numpy(noise(200, 1, 4, 4, seed=1))
    images = thumbnails.repeat_interleave(4, 2).repeat_interleave(4, 3)
    trained = train_classifier(images, torch.zeros(200, dtype=torch.int64), 1, device=CPU)
    features = trained(images.permute(0, 2, 3, 1).numpy()).features
    regressors = torch.cat([features, torch.ones(200, 1)], 1)
    targets = thumbnails.flatten(1).float()
    residual = targets - regressors @ torch.linalg.lstsq(regressors, targets).solution
    assert residual.var() < 0.1 * targets.var()
