"""The feature network "classifier": a small convolutional network trained on the data's own labels.

It needs no download and knows what matters in the data at hand. Its 64 features are the layer before the last, ahead of
its ReLU, each scaled to about mean 0 and variance 1 over the training images: a Fréchet distance is in units of the
data's own spread.

Labels alone leave features that heed texture far more than variety. So while the network is trained, a linear layer
must also redraw the image, averaged to 8×8, from the same 64 features: then the Fréchet distance sees images that
are missing within a class as well as images that are blurred.

Random shifts, label smoothing, weight decay and a bounded number of steps keep features of training and of held-out
images alike; ``tests/test_features.py`` holds that.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError, first_line
from gan_plugin.features.cache import cache_folder, write_atomically
from gan_plugin.features.network import (
    Outputs,
    as_tensor,
    batch_size,
    batches,
    check_images,
    exact_float32,
    joined,
)
from gan_plugin.media.image import Images

VERSION = 1  # of network and training together: another version makes other features of the same data

FEATURES = 64
MIN_MAP = 4  # the image is halved until a side is no longer than this
BATCH = 128
LARGE = 64  # pixels; larger images start with a stride of 4 and come in smaller batches
EPOCHS, MIN_STEPS, MAX_STEPS = 10, 300, 1500  # about half a minute for Fashion-MNIST on two CPU cores
PEAK_RATE, WEIGHT_DECAY, SMOOTHING = 6e-3, 0.05, 0.1
THUMBNAIL = 8  # side of what must be redrawn, pixels
MIN_VARIANCE = 1e-3  # of thumbnails in −1…1: images that are all alike are no reason to divide by zero

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs show what is said


class Network(nn.Module):
    """Dataset uint8 [B, C, S, S] → features [B, 64] and logits [B, K]."""

    def __init__(self, size: int, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, before = size, channels
        while side > MIN_MAP:
            stride = 4 if side > LARGE else 2
            side = -(-side // stride)
            after = width(side)
            layers += [
                nn.Conv2d(before, after, 2 * stride - 1, stride, stride - 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            before = after
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.features = nn.Linear(before * side**2, FEATURES, bias=False)
        self.norm = nn.BatchNorm1d(FEATURES, affine=False)
        self.logits = nn.Linear(FEATURES, classes)
        # a fifth faster on a CPU; torch's annotations lack this form of to()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(signed(images))  # [B, 64·4·4]
        features = self.norm(self.features(x))
        return features, self.logits(F.relu(features))


def width(side: int) -> int:
    """Channels of a feature map with this side.

    >>> [width(side) for side in (64, 32, 16, 8, 4)]
    [16, 32, 32, 64, 64]
    """
    return 64 if side <= 8 else 32 if side <= 32 else 16


def signed(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] → float32 in −1…1, laid out like the network's weights."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network; a ``FeatureNetwork`` for images of the size and channels that it was trained on.

    Attributes:
        network: its weights, on ``device``.
        size: height and width in pixels.
        channels: 1 (gray) or 3 (RGB).
        classes: number of logits.
        class_names: one name per class, or () where the training was told none.
        data_digest: the digest of the data that it was trained on, or "".
    """

    network: Network
    size: int
    channels: int
    classes: int
    device: torch.device
    class_names: tuple[str, ...] = ()
    data_digest: str = ""

    name: ClassVar[str] = "classifier"
    resize: ClassVar[str] = "none"

    @cached_property
    def digest(self) -> str:
        """The first 32 hexadecimal characters of a SHA-256 over names and bytes of the weights."""
        hasher = hashlib.sha256(f"classifier {VERSION}".encode())
        for key, value in sorted(self.network.state_dict().items()):
            hasher.update(f"{key} {list(value.shape)}".encode())
            hasher.update(value.cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()[:32]

    def __call__(self, images: Images) -> Outputs:
        """Features [N, 64] and logits [N, K] of images [N, size, size, channels].

        Raises:
            UserError: the images are of another size or have other channels than the ones trained on.
        """
        check_images(images)
        if images.shape[1:] != (self.size, self.size, self.channels):
            height, width, channels = images.shape[1:]
            raise UserError(
                f"features=classifier was trained on images of {self.size}x{self.size}x{self.channels} and cannot "
                f"judge images of {height}x{width}x{channels}: give reference data of that size."
            )
        with torch.inference_mode(), exact_float32(self.device):
            count = batch_size(self.size, self.size)
            return joined([Outputs(*self.network(as_tensor(batch, self.device))) for batch in batches(images, count)])


def predict_labels(network: Classifier, images: Images) -> Tensor:
    """The likeliest class of each image [N, H, W, C], int64 [N].

    Raises:
        UserError: the images are of another size or have other channels than the ones trained on.
    """
    logits = network(images).logits
    assert logits is not None
    return logits.argmax(1)


def accuracy(network: Classifier, images: Images, labels: Tensor) -> float:
    """Share of images [N, H, W, C] whose likeliest class is the one in ``labels`` int64 [N], 0…1.

    Raises:
        UserError: the images are of another size or have other channels than the ones trained on.
    """
    return float((predict_labels(network, images) == labels.cpu()).double().mean())


# --- training ---------------------------------------------------------------------------------------------------------


def train_classifier(images: Tensor, labels: Tensor, classes: int, device: torch.device, seed: int = 0) -> Classifier:
    """Train a classifier; the same on a CPU for equal arguments, and torch's random state stays as it was.

    Args:
        images: uint8 [N, C, S, S], N ≥ 1, C 1 or 3, S from 16 to 256.
        labels: int64 [N], 0 to ``classes`` − 1; a class may have one image, or none.
        classes: number of logits.
        device: where to train; the classifier stays there.
        seed: of the initial weights, the images' order and their shifts.
    """
    count, channels, size = len(images), images.shape[1], images.shape[-1]
    batch = BATCH if size <= LARGE else BATCH * LARGE // size
    steps = min(max(EPOCHS * count // batch, MIN_STEPS), MAX_STEPS)
    # Everything random here is drawn on the CPU, so only that state moves, and is put back.
    with torch.random.fork_rng(devices=[]), exact_float32(device):
        torch.default_generator.manual_seed(seed)
        network = Network(size, channels, classes).to(device)
        redraw = nn.Linear(FEATURES, channels * THUMBNAIL**2).to(device)
        weights = [*network.parameters(), *redraw.parameters()]
        optimizer = torch.optim.AdamW(weights, PEAK_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.2)
        for rows in orders(count, batch, steps):
            batch_images = shifted(images[rows], max(1, size // 32)).to(device)
            loss = training_loss(network, redraw, batch_images, labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Classifier(network.eval().requires_grad_(False), size, channels, classes, device)


def training_loss(network: Network, redraw: nn.Linear, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, plus the share of the thumbnails' variance that the features cannot redraw.

    Args:
        images: uint8 [B, C, S, S].
        labels: int64 [B].
    """
    features, logits = network(images)
    thumbnails = F.adaptive_avg_pool2d(signed(images), THUMBNAIL).flatten(1)  # [B, C·8·8]
    variance = thumbnails.var(0).mean().clamp(min=MIN_VARIANCE)
    missed = F.mse_loss(redraw(features), thumbnails) / variance
    return F.cross_entropy(logits, labels, label_smoothing=SMOOTHING) + missed


def orders(count: int, batch: int, steps: int) -> Iterator[Tensor]:
    """For each step ``batch`` rows, int64 [B], of endlessly reshuffled data; few images recur within a batch."""
    rows = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(rows) < batch:
            rows = torch.cat([rows, torch.randperm(count)])
        yield rows[:batch]
        rows = rows[batch:]


def shifted(images: Tensor, most: int) -> Tensor:
    """Each image of [B, C, H, W] moved by up to ``most`` pixels either way; what comes in repeats the edge."""
    count, channels, height, width = images.shape
    down, right = torch.randint(-most, most + 1, (2, count, 1))
    rows = (torch.arange(height) + down).clamp(0, height - 1)  # [B, H]
    columns = (torch.arange(width) + right).clamp(0, width - 1)  # [B, W]
    every = torch.arange(count).view(-1, 1, 1, 1), torch.arange(channels).view(-1, 1, 1)
    return images[(*every, rows[:, None, :, None], columns[:, None, None, :])]


# --- the file ---------------------------------------------------------------------------------------------------------


def save_classifier(network: Classifier, path: Path) -> None:
    """Write one safetensors file, atomically: the weights, and as JSON in its header all else."""
    header = {
        "version": VERSION,
        "size": network.size,
        "channels": network.channels,
        "classes": network.classes,
        "class_names": network.class_names,
        "data_digest": network.data_digest,
        "digest": network.digest,
    }
    weights = {key: value.cpu().contiguous() for key, value in network.network.state_dict().items()}
    write_atomically(path, lambda partial: save_file(weights, partial, metadata={"gan_plugin": json.dumps(header)}))


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """The classifier that ``save_classifier`` wrote.

    Raises:
        UserError: the file is no classifier of this version, or damaged.
    """
    try:
        header = read_header(path)
        if header["version"] != VERSION:
            raise UserError(f"{path} has version {header['version']}; this gan_plugin reads version {VERSION}.")
        shape = header["size"], header["channels"], header["classes"]
        network = Network(*shape)
        network.load_state_dict(load_file(path))
        network.to(device).eval().requires_grad_(False)
        loaded = Classifier(network, *shape, device, tuple(header["class_names"]), header["data_digest"])
        if loaded.digest != header["digest"]:
            raise UserError(f"{path} is damaged: its weights are not those that were written.")
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not a classifier that gan_plugin saved, or damaged: {first_line(error)}.") from None
    return loaded


def read_header(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        header: dict[str, Any] = json.loads((file.metadata() or {})["gan_plugin"])
    return header


def classifier_of(dataset: Dataset, device: torch.device) -> tuple[Classifier, Path]:
    """The classifier of labeled data and its file, from the cache, else trained now and kept there.

    Raises:
        UserError: the data has no labels, or the cache folder cannot be written.
    """
    if dataset.labels is None:
        raise UserError(
            f"features=classifier is trained on labels and {dataset.name} has none: "
            "give features=inception or features=onnx:PATH."
        )
    path = cache_folder() / f"classifier-{VERSION}-{dataset.digest}.safetensors"
    if kept := from_cache(path, dataset, device):
        return kept, path
    started = time.perf_counter()
    logger.info("Training the classifier in whose features %s is judged; this happens once.", dataset.name)
    trained = train_classifier(dataset.samples, dataset.labels, len(dataset.spec.class_names), device)
    logger.info("Trained the classifier in %.0f s; it is kept as %s.", time.perf_counter() - started, path)
    # Another process may have been first, with other bits (a GPU, more threads): what a run uses must be what it logs.
    if kept := from_cache(path, dataset, device):
        return kept, path
    network = replace(trained, class_names=dataset.spec.class_names, data_digest=dataset.digest)
    save_classifier(network, path)
    return network, path


def from_cache(path: Path, dataset: Dataset, device: torch.device) -> Classifier | None:
    """The classifier in the cache, or None where there is none that can be used, and the log says why."""
    if not path.exists():
        return None
    try:
        kept = load_classifier(path, device)
        if kept.data_digest != dataset.digest:
            raise UserError(f"{path} was trained on other data (digest {kept.data_digest}).")
    except UserError as error:
        logger.warning("%s The classifier is trained anew.", error)
        return None
    return kept
