"""Feature networks: the classifier of the data's own labels, Inception, ONNX files, and the cache they share."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors
import torch
import torch.nn.functional as F
from helpers import refusal
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.data.dataset import make_dataset
from gan_plugin.features import choose_spec, classifier, inception, load_network
from gan_plugin.features.cache import cache_folder, write_atomically
from gan_plugin.features.classifier import (
    Classifier,
    accuracy,
    classifier_of,
    load_classifier,
    orders,
    predict_labels,
    save_classifier,
    shifted,
    train_classifier,
    training_loss,
)
from gan_plugin.features.inception import fetch_inception, load_inception
from gan_plugin.features.network import batch_size, batches, exact_float32
from gan_plugin.features.onnx_network import OnnxNetwork, load_onnx_network
from gan_plugin.media.image import Images
from gan_plugin.metrics.frechet import fit_gaussian, frechet_distance

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


def noise(*shape: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def noisy_dataset(labeled: bool = True, seed: int = 0) -> Dataset:
    """Twelve gray images of 16x16 pixels in three classes."""
    images = torch.from_numpy(noise(12, 1, 16, 16, seed=seed))
    labels, names = (torch.arange(12) % 3, ("a", "b", "c")) if labeled else (None, ())
    return make_dataset(images, labels, names, name="noise", source="here", split="train", notes=())


def pixels(dataset: Dataset) -> Images:
    return dataset.samples.permute(0, 2, 3, 1).numpy()


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_folder_is_the_first_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = [cache_folder()]
    for name in ("GAN_PLUGIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
        found.append(cache_folder())
    assert found == [tmp_path / "own", tmp_path / "shared/gan_plugin", tmp_path / "home/.cache/gan_plugin"]
    assert all(folder.is_dir() for folder in found)


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path / "file/cache"))
    message = refusal(cache_folder)
    assert str(tmp_path / "file/cache") in message
    assert "GAN_PLUGIN_CACHE" in message


def test_a_cache_folder_without_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write everywhere
    assert "no permission" in refusal(cache_folder)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder/file"
    write_atomically(path, lambda partial: partial.write_text("old") and None)

    def fail(partial: Path) -> None:
        partial.write_text("ne")
        assert path.read_text() == "old"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_two_writers_at_once_both_succeed(tmp_path: Path) -> None:
    path, both, failures = tmp_path / "file", threading.Barrier(2, timeout=20), []

    def write(text: str) -> None:
        def fill(partial: Path) -> None:
            partial.write_text(text)
            both.wait()  # each has its own half-written file now
            assert partial.read_text() == text

        try:
            write_atomically(path, fill)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert path.read_text() in ("one", "other")
    assert list(tmp_path.iterdir()) == [path]


def test_a_cached_file_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", lambda partial: partial.write_text("shared") and None)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


# --- which network ----------------------------------------------------------------------------------------------------


def without_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)


FAKE_EXTRACTOR = """
import torch

class FeatureExtractorInceptionV3(torch.nn.Module):
    \"\"\"The real one's manners: it unpickles what it is given, and wants uint8 [B, 3, H, W].\"\"\"

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.scale = torch.nn.Parameter(torch.zeros(3))
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))
        self.seen = []

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        self.seen.append(len(x))
        features = x.float().mean((2, 3)) @ torch.diag(self.scale)
        return features, 2 * features
"""


@pytest.fixture
def fake_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of torch-fidelity's shape, so that all but the network itself is tested without it."""
    package = tmp_path / "fake/torch_fidelity"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "feature_extractor_inceptionv3.py").write_text(FAKE_EXTRACTOR)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        del sys.modules[name]


def test_labels_decide_what_auto_means(fake_torch_fidelity: Path) -> None:
    assert choose_spec(None, labeled=True) == "classifier"
    assert choose_spec(None, labeled=False) == "inception"
    assert choose_spec("inception", labeled=True) == "inception"


def test_a_classifier_needs_labels() -> None:
    assert "features=inception or features=onnx:PATH" in refusal(lambda: choose_spec("classifier", labeled=False))
    dataset = noisy_dataset(labeled=False)
    assert "noise has none" in refusal(lambda: load_network("classifier", dataset, CPU))


@pytest.mark.parametrize("spec", ["", "dino", "onnx", "Classifier", "onnx.onnx"])
def test_an_unknown_network_is_refused(spec: str) -> None:
    assert repr(spec) in refusal(lambda: choose_spec(spec, labeled=True))
    assert repr(spec) in refusal(lambda: load_network(spec, noisy_dataset(), CPU))


def test_inception_without_its_extra_is_refused_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    without_torch_fidelity(monkeypatch)
    for call in (
        lambda: choose_spec("inception", labeled=True),
        lambda: load_network("inception", noisy_dataset(), CPU),
    ):
        message = refusal(call)
        assert "pip install 'gan_plugin[inception]'" in message
        assert "features=classifier" in message
    assert "The data has no classes, so features=auto" in refusal(lambda: choose_spec(None, labeled=False))
    assert choose_spec(None, labeled=True) == "classifier"


def test_a_torchvision_that_does_not_fit_is_said(fake_torch_fidelity: Path) -> None:
    (fake_torch_fidelity / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    message = refusal(lambda: choose_spec("inception", labeled=True))
    assert "torchvision::nms does not exist" in message
    assert torch.__version__ in message


def test_an_onnx_file_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    assert f"{tmp_path}/no.onnx does not exist" in refusal(lambda: choose_spec(f"onnx:{tmp_path}/no.onnx", True))
    assert "holds 0 ONNX files" in refusal(lambda: choose_spec(f"onnx:{tmp_path}", True))
    assert choose_spec("onnx:models:/name/1", labeled=False) == "onnx:models:/name/1"


def test_the_room_imports_neither_mlflow_nor_click() -> None:
    modules = ["", ".cache", ".classifier", ".inception", ".onnx_network"]
    code = "import sys; " + "; ".join(f"import gan_plugin.features{name}" for name in modules)
    code += "; print([name for name in ('mlflow', 'click', 'onnx', 'torch_fidelity') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_hold_every_image_once() -> None:
    images = noise(7, 16, 16, 1)
    parts = list(batches(images, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert np.array_equal(np.concatenate(parts), images)


def test_a_batch_of_large_images_is_small() -> None:
    assert batch_size(16, 16) * 16 * 16 == batch_size(256, 256) * 256 * 256
    assert batch_size(10_000, 10_000) == 1


def test_a_gpus_shortcuts_are_off_inside_and_as_they_were_afterwards() -> None:
    def precisions() -> tuple[str, str]:
        return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision

    before = precisions()
    assert before != ("ieee", "ieee")
    inside = []
    with suppress(KeyError), exact_float32(CPU):
        inside.append(precisions())
        raise KeyError
    assert inside == [("ieee", "ieee")]
    assert precisions() == before


# --- the classifier's training ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    return load_dataset("digits"), load_dataset("digits", split="test")


@pytest.fixture(scope="module")
def network(digits: tuple[Dataset, Dataset]) -> Classifier:
    """Trained as users train it."""
    images, _ = digits
    assert images.labels is not None
    return train_classifier(images.images, images.labels, 10, CPU)


def test_it_knows_held_out_digits(network: Classifier, digits: tuple[Dataset, Dataset]) -> None:
    _, held_out = digits
    assert held_out.labels is not None
    assert accuracy(network, pixels(held_out), held_out.labels) >= 0.97
    wrong = (held_out.labels + 1) % 10
    assert accuracy(network, pixels(held_out), wrong) <= 0.03
    predicted = predict_labels(network, pixels(held_out))
    assert predicted.dtype == torch.int64
    assert accuracy(network, pixels(held_out), predicted) == 1


def test_outputs_are_as_promised(network: Classifier, digits: tuple[Dataset, Dataset]) -> None:
    features, logits = network(pixels(digits[0]))
    assert features.shape == (1438, 64)
    assert logits is not None
    assert logits.shape == (1438, 10)
    assert torch.allclose(logits, network.network.logits(features.relu()), atol=1e-4)
    assert features.dtype == logits.dtype == torch.float32
    assert not features.requires_grad
    assert (network.name, network.resize) == ("classifier", "none")
    assert len(bytes.fromhex(network.digest)) == 16


def test_features_have_unit_spread_and_take_either_sign(network: Classifier, digits: tuple[Dataset, Dataset]) -> None:
    """Ahead of the ReLU: half a Gaussian would be no Gaussian."""
    features = network(pixels(digits[0])).features
    assert features.mean(0).abs().max() < 0.3
    assert 0.8 < features.var(0).mean() < 1.25
    assert 0.3 < (features < 0).float().mean() < 0.7


def test_features_of_training_and_held_out_digits_are_alike(
    network: Classifier, digits: tuple[Dataset, Dataset]
) -> None:
    """Held-out digits are as far from training digits as these are from each other: sampling, not overfitting."""
    training, held_out = (pixels(some) for some in digits)
    assert digits[1].labels is not None
    seen, unseen = [], []
    for seed in range(5):
        order = np.random.RandomState(seed).permutation(len(training))
        one, other = training[order[: len(held_out)]], training[order[len(held_out) : 2 * len(held_out)]]
        seen.append(distance(network, one, other))
        unseen += [distance(network, one, held_out), distance(network, other, held_out)]
    assert np.mean(unseen) < 1.15 * np.mean(seen)
    assert distance(network, one, held_out[digits[1].labels != 0]) > 1.5 * np.mean(unseen)  # and a missing class shows


def distance(network: Classifier, one: Images, other: Images) -> float:
    return frechet_distance(fit_gaussian(network(one).features), fit_gaussian(network(other).features))


def test_a_image_has_the_same_features_in_any_company(network: Classifier, digits: tuple[Dataset, Dataset]) -> None:
    some = pixels(digits[0])[:9]
    together = network(some)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():  # and whatever the caller set
        alone = network(some[4:5])
    torch.testing.assert_close(alone.features, together.features[4:5], rtol=1e-4, atol=1e-4)


def test_images_of_another_size_are_refused(network: Classifier) -> None:
    for shape in ((2, 16, 16, 1), (2, 28, 28, 3)):
        message = refusal(lambda shape=shape: network(noise(*shape)))
        assert "28x28x1" in message
        assert "x".join(map(str, shape[1:])) in message


@pytest.mark.parametrize("shape", [(0, 28, 28, 1), (28, 28, 1), (2, 28, 28, 2)])
def test_what_is_no_image_is_refused(network: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        network(noise(*shape))


def test_images_in_floating_point_are_refused(network: Classifier) -> None:
    with pytest.raises(ValueError, match="float32"):
        network(np.zeros((2, 28, 28, 1), np.float32))  # type: ignore[arg-type]  # wrong on purpose


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps: everything happens, nothing takes long."""
    monkeypatch.setattr(classifier, "MIN_STEPS", 3)
    monkeypatch.setattr(classifier, "MAX_STEPS", 3)
    monkeypatch.setattr(classifier, "BATCH", 16)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("count", "classes", "channels", "size"),
    [(2, 1, 1, 16), (5, 5, 3, 20), (40, 2, 1, 36), (3, 1000, 3, 64), (20, 20, 1, 100), (2, 2, 3, 256)],
)
def test_any_size_and_any_number_of_classes(count: int, classes: int, channels: int, size: int) -> None:
    """One image a class, and classes of which there is none, included."""
    images = torch.from_numpy(noise(count, channels, size, size))
    trained = train_classifier(images, torch.arange(count) % classes, classes, CPU)
    features, logits = trained(images.permute(0, 2, 3, 1).numpy())
    assert features.shape == (count, 64)
    assert logits is not None
    assert logits.shape == (count, classes)
    assert features.isfinite().all()
    assert logits.isfinite().all()


@pytest.mark.usefixtures("quick")
def test_images_that_are_all_alike_do_no_harm() -> None:
    trained = train_classifier(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), torch.arange(4) % 2, 2, CPU)
    assert trained(noise(2, 16, 16, 1)).features.isfinite().all()


@pytest.mark.usefixtures("quick")
def test_a_seed_decides_the_weights_and_torchs_random_state_stays() -> None:
    dataset = noisy_dataset()
    assert dataset.labels is not None
    digests = []
    for global_seed, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        digests.append(train_classifier(dataset.samples, dataset.labels, 3, CPU, seed).digest)
        assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1] != digests[2]


def test_the_number_of_steps_is_bounded_for_large_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fashion-MNIST's 60,000 images take 1,500 steps of 128."""
    taken: list[tuple[int, int]] = []

    def count(network: object, redraw: nn.Linear, images: Tensor, labels: Tensor) -> Tensor:
        taken.append(tuple(images.shape[::3]))
        return redraw.weight.sum()

    monkeypatch.setattr(classifier, "training_loss", count)
    for number, size, steps, batch in ((10, 16, 300, 128), (10_000, 16, 781, 128), (60_000, 16, 1500, 128)):
        taken.clear()
        images = torch.zeros(1, 1, size, size, dtype=torch.uint8).expand(number, -1, -1, -1)
        train_classifier(images, torch.zeros(number, dtype=torch.int64), 2, CPU)
        assert taken == [(batch, size)] * steps


def test_an_epoch_holds_every_image_once() -> None:
    rows = torch.cat(list(orders(10, 4, 5)))
    assert [sorted(part.tolist()) for part in rows.split(10)] == [list(range(10))] * 2
    assert rows[:10].tolist() != rows[10:].tolist()
    assert [len(part) for part in orders(3, 16, 2)] == [16, 16]


def test_a_shift_moves_images_and_repeats_their_edges() -> None:
    image = torch.arange(2 * 5 * 6, dtype=torch.uint8).view(1, 2, 5, 6)
    moved = {bytes(one.numpy().tobytes()) for one in shifted(image.expand(200, -1, -1, -1), 1)}
    padded = F.pad(image.float(), (1, 1, 1, 1), mode="replicate").byte()
    expected = {
        bytes(padded[0, :, down : down + 5, right : right + 6].contiguous().numpy().tobytes())
        for down in range(3)
        for right in range(3)
    }
    assert moved == expected


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("size", "most"), [(16, 1), (64, 2), (256, 8)])
def test_every_step_shifts_its_images(size: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def black(images: Tensor, most: int) -> Tensor:
        asked.append(most)
        return torch.zeros_like(images)

    def loss(network: object, redraw: nn.Linear, images: Tensor, labels: Tensor) -> Tensor:
        assert not images.any()
        return redraw.weight.sum()

    monkeypatch.setattr(classifier, "shifted", black)
    monkeypatch.setattr(classifier, "training_loss", loss)
    train_classifier(torch.from_numpy(noise(2, 1, size, size)), torch.arange(2), 2, CPU)
    assert asked == [most] * 3


def test_the_loss_is_cross_entropy_and_what_cannot_be_redrawn() -> None:
    images = torch.from_numpy(noise(8, 1, 16, 16))
    labels = torch.ones(8, dtype=torch.int64)
    network = classifier.Network(16, 1, 2)
    redraw = nn.Linear(64, 64)
    with torch.no_grad():
        for weight in (redraw.weight, redraw.bias, network.logits.weight):
            weight.zero_()
        network.logits.bias.copy_(torch.tensor([0.0, np.log(3)]))  # probabilities of 1/4 and 3/4
        thumbnails = (images.float() / 127.5 - 1).view(8, 8, 2, 8, 2).mean((2, 4)).flatten(1)
        missed = thumbnails.square().mean() / thumbnails.var(0).mean()
        smoothed = 0.05 * np.log(4) + 0.95 * np.log(4 / 3)  # a tenth of each label is spread over both classes
        expected = smoothed + missed.item()
        assert training_loss(network, redraw, images, labels).item() == pytest.approx(expected, rel=1e-4)


def test_one_class_alone_still_teaches_what_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels say nothing here; the image's coarse look does."""
    monkeypatch.setattr(classifier, "MIN_STEPS", 60)
    thumbnails = torch.from_numpy(noise(200, 1, 4, 4, seed=1))
    images = thumbnails.repeat_interleave(4, 2).repeat_interleave(4, 3)
    trained = train_classifier(images, torch.zeros(200, dtype=torch.int64), 1, CPU)
    features = trained(images.permute(0, 2, 3, 1).numpy()).features
    known = torch.cat([features, torch.ones(200, 1)], 1)
    wanted = thumbnails.flatten(1).float()
    left = wanted - known @ torch.linalg.lstsq(known, wanted).solution
    assert left.var() < 0.1 * wanted.var()


# --- the classifier's file --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_saved_classifier_is_the_same_one(tmp_path: Path) -> None:
    dataset = noisy_dataset()
    trained, path = classifier_of(dataset, CPU)
    loaded = load_classifier(path, CPU)
    assert loaded.digest == trained.digest
    assert loaded.class_names == ("a", "b", "c")
    assert loaded.data_digest == dataset.digest
    assert (loaded.size, loaded.channels, loaded.classes) == (16, 1, 3)
    for one, other in zip(loaded(pixels(dataset)), trained(pixels(dataset))):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["gan_plugin"])["data_digest"] == dataset.digest


@pytest.mark.usefixtures("quick")
def test_the_digest_follows_the_weights() -> None:
    trained, path = classifier_of(noisy_dataset(), CPU)
    weights = trained.network.state_dict()
    weights["logits.bias"][0] += 1
    assert Classifier(trained.network, 16, 1, 3, CPU).digest != load_classifier(path, CPU).digest


@pytest.mark.usefixtures("quick")
def test_equal_data_is_trained_on_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, path = classifier_of(noisy_dataset(), CPU)
    other, other_path = classifier_of(noisy_dataset(seed=1), CPU)
    monkeypatch.delattr(classifier, "train_classifier")
    again, same_path = classifier_of(noisy_dataset(), CPU)
    assert path == same_path != other_path
    assert path.parent == cache
    assert first.digest == again.digest != other.digest
    assert load_network("classifier", noisy_dataset(), CPU).digest == first.digest


@pytest.mark.usefixtures("quick")
def test_another_version_of_the_training_trains_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = classifier_of(noisy_dataset(), CPU)
    monkeypatch.setattr(classifier, "VERSION", 2)
    _, other = classifier_of(noisy_dataset(), CPU)
    assert other != path
    assert "has version 1" in refusal(lambda: load_classifier(path, CPU))


def flip(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bit": flip,
    "cut": lambda content: content[:-100],
    "empty": lambda content: b"",
    "not safetensors": lambda content: b"\x80\x04N." * 100,
    "no header": lambda content: content.replace(b"gan_plugin", b"gan_plugon"),
    "no JSON": lambda content: content.replace(rb"{\"version", rb"?\"version"),
    "another shape": lambda content: content.replace(rb"\"size\": 16", rb"\"size\": 28"),
    "other data": lambda content: content.replace(noisy_dataset().digest.encode(), b"0" * 32),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_never_used(
    damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    dataset = noisy_dataset()
    trained, path = classifier_of(dataset, CPU)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with caplog.at_level(logging.WARNING):
        again, _ = classifier_of(dataset, CPU)
    assert "trained anew" in caplog.text
    assert again.digest == trained.digest
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("quick")
def test_what_a_run_uses_is_what_lies_in_its_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Another process, with other bits, was first while this one trained."""
    dataset = noisy_dataset()
    assert dataset.labels is not None
    real = train_classifier

    def overtaken(images: Tensor, labels: Tensor, classes: int, device: torch.device) -> Classifier:
        other = replace(real(images, labels, classes, device, seed=1), data_digest=dataset.digest)
        save_classifier(other, cache / f"classifier-1-{images.digest}.safetensors")
        return real(images, labels, classes, device)

    monkeypatch.setattr(classifier, "train_classifier", overtaken)
    used, path = classifier_of(dataset, CPU)
    assert used.digest == load_classifier(path, CPU).digest


# --- Inception: the weights -------------------------------------------------------------------------------------------


def weights_file(path: Path, content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"scale": torch.tensor([1.0, 2.0, 3.0])} if content is None else content, path)
    return path


class Trap:
    """Unpickling one makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@contextmanager
def answering(answer: bytes, status: int = 200, claimed: int | None = None) -> Iterator[str]:
    """A server on the loopback that sends ``answer``, and says it is ``claimed`` bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer) if claimed is None else claimed))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{inception.FILE_NAME}"
        finally:
            server.shutdown()
            thread.join()


UNREACHABLE = f"http://127.0.0.1:9/{inception.FILE_NAME}"
WAYS_OUT = ("inception_weights=PATH", "`gan-plugin fetch inception`", "features=classifier", "features=onnx:PATH")


def test_the_official_files_name_holds_its_checksum() -> None:
    assert inception.FILE_NAME == "weights-inception-2015-12-05-6726825d.pth"
    assert inception.SHA256_START in inception.FILE_NAME


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_an_unreachable_host_is_one_sentence(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(inception, "URL", UNREACHABLE)
    for call in (fetch_inception, lambda: load_network("inception", noisy_dataset(), CPU)):
        message = refusal(call)
        assert UNREACHABLE in message
        assert "refused" in message
        assert all(way in message for way in WAYS_OUT)
    assert list(cache.iterdir()) == []


def test_a_download_is_checked_kept_and_found(
    fake_torch_fidelity: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    good = weights_file(tmp_path / "good").read_bytes()
    monkeypatch.setattr(inception, "SHA256_START", hashlib.sha256(good).hexdigest()[:8])
    with answering(good) as url:
        monkeypatch.setattr(inception, "URL", url)
        path = fetch_inception()
        assert path == cache / inception.FILE_NAME
        path.write_bytes(b"damaged")
        assert fetch_inception() == path  # fetched anew
        assert path.read_bytes() == good
        assert fetch_inception(tmp_path / "folder/copy.pth").read_bytes() == good
        assert fetch_inception(tmp_path) == tmp_path / inception.FILE_NAME
    monkeypatch.setattr(inception, "URL", UNREACHABLE)
    assert fetch_inception() == path  # nothing to fetch
    assert load_network("inception", noisy_dataset(), CPU).name == "inception"


@pytest.mark.parametrize(
    ("answer", "status", "claimed", "expected"),
    [
        (b"<html>a login page</html>", 200, None, "SHA-256"),
        (b"", 404, None, "Not Found"),
        (b"half of it", 200, 20, "IncompleteRead"),
    ],
)
def test_a_download_that_is_not_the_file_leaves_nothing(
    answer: bytes, status: int, claimed: int | None, expected: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    with answering(answer, status, claimed) as url:
        monkeypatch.setattr(inception, "URL", url)
        message = refusal(fetch_inception)
    assert expected in message
    assert all(way in message for way in WAYS_OUT)
    assert list(cache.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(inception, "URL", UNREACHABLE)
    assert f"{tmp_path}/file/weights.pth" in refusal(lambda: fetch_inception(tmp_path / "file/weights.pth"))


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_weights_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    monkeypatch.setattr(inception, "URL", UNREACHABLE)
    monkeypatch.setattr(inception, "has_checksum", lambda content: True)
    places = [tmp_path / "torch/hub/checkpoints" / inception.FILE_NAME, cache / inception.FILE_NAME, tmp_path / "mine"]
    digests = []
    for number, place in enumerate(places):  # from the last resort to the first
        weights_file(place, {"scale": torch.full((3,), float(number))})
        network = load_inception(places[2] if number == 2 else None, CPU)
        assert network(noise(1, 4, 4, 3)).features.mean().round() / 128 == pytest.approx(number, abs=0.5)
        digests.append(network.digest)
    assert len(set(digests)) == 3


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_a_path_that_is_no_file_is_refused_before_any_other_place(tmp_path: Path, cache: Path) -> None:
    weights_file(cache / inception.FILE_NAME)
    message = refusal(lambda: load_inception(tmp_path / "no.pth", CPU))
    assert "no.pth' is not a file" in message
    assert all(way in message for way in WAYS_OUT)


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_the_official_name_is_held_to_its_checksum(cache: Path, tmp_path: Path) -> None:
    own = weights_file(tmp_path / "own.pth")
    assert load_inception(own, CPU).name == "inception"  # any other name is the user's own affair
    weights_file(cache / inception.FILE_NAME)
    message = refusal(lambda: load_inception(None, CPU))
    assert str(cache / inception.FILE_NAME) in message
    assert "6726825d" in message


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_no_code_in_a_weights_file_is_run(tmp_path: Path) -> None:
    trap = weights_file(tmp_path / "trap.pth", {"scale": torch.ones(3), "trap": Trap(tmp_path / "sprung")})
    message = refusal(lambda: load_inception(trap, CPU))
    assert "runs code" in message
    assert all(way in message for way in WAYS_OUT)
    assert not (tmp_path / "sprung").exists()
    torch.load(trap, weights_only=False)
    assert (tmp_path / "sprung").exists()  # it is a trap


@pytest.mark.usefixtures("fake_torch_fidelity")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no PyTorch weights file"),
        (b"\x89PNG not weights at all", "no PyTorch weights file"),
        ({"other": torch.ones(3)}, "another network"),
        ({"scale": torch.ones(4)}, "another network"),
        ([torch.ones(3)], "named tensors"),
        ({"scale": 3}, "named tensors"),
    ],
)
def test_what_is_no_weights_file_is_refused(content: object, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "given.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    message = refusal(lambda: load_inception(path, CPU))
    assert expected in message
    assert str(path) in message
    assert all(way in message for way in WAYS_OUT)


# --- Inception: the network -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_inception_gets_rgb_in_small_batches(tmp_path: Path) -> None:
    network = load_inception(weights_file(tmp_path / "own.pth"), CPU)
    images = noise(70, 8, 8, 3)
    features, logits = network(images)
    expected = images.mean((1, 2)) * [1, 2, 3]
    assert np.allclose(features, expected, rtol=1e-5)
    assert logits is not None
    assert np.allclose(logits, 2 * expected, rtol=1e-5)
    assert network.network.seen == [32, 32, 6]
    gray = network(images[..., :1]).features
    assert np.allclose(gray, images[..., 0].mean((1, 2))[:, None] * [1, 2, 3], rtol=1e-5)
    assert "299x299" in network.resize


def test_the_real_inception(tmp_path: Path) -> None:
    """Random weights, since the real ones cannot be had everywhere; the arithmetic is torch-fidelity's own."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as module
    except Exception as error:  # a torchvision for another torch fails with almost anything
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    assert module.URL_INCEPTION_V3 == inception.URL

    class Untrained(module.FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object) -> None:
            torch.manual_seed(0)
            for weight in self.parameters():
                if weight.dim() > 1:
                    nn.init.kaiming_normal_(weight)

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    untrained = Untrained("untrained", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)
    network = load_inception(weights_file(tmp_path / "random.pth", untrained.state_dict()), CPU)
    images = noise(2, 32, 32, 3)
    features, logits = network(images)
    expected = untrained(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert features.shape == (2, 2048)
    assert logits is not None
    assert logits.shape == (2, 1008)
    assert torch.equal(features, expected[0])
    assert torch.equal(logits, expected[1])
    assert not torch.equal(features[0], features[1])


# --- ONNX files -------------------------------------------------------------------------------------------------------


def onnx_file(
    path: Path,
    shape: tuple[int | str, ...] = ("n", 3, "h", "w"),
    dtype: int = TensorProto.FLOAT,
    logits: bool = False,
    keep: int = 0,
) -> Path:
    """A network whose features are each channel's mean and mean square, and whose logits are their doubles."""
    axes = [1, 2] if shape[3] in (1, 3) else [2, 3]
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=axes),
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "x"], ["xx"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=keep),
        helper.make_node("ReduceMean", ["xx", "axes"], ["square"], keepdims=keep),
        helper.make_node("Concat", ["mean", "square"], ["features"], axis=1),
        helper.make_node("Mul", ["features", "two"], ["logits"]),
    ]
    dimensions = [shape[0], "d", *[1, 1][: 2 * keep]]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dimensions) for name in ("features", "logits")]
    constants = [numpy_helper.from_array(np.array(2, np.float32), "two")]
    entry = helper.make_tensor_value_info("images", dtype, shape)
    graph = helper.make_graph(nodes, "features", [entry], outputs[: 1 + logits], constants)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def expected_features(images: Images, divisor: int = 255) -> np.ndarray:
    x = images.astype(np.float64) / divisor
    return np.concatenate([x.mean((1, 2)), (x * x).mean((1, 2))], 1)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.UINT8])
@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), ("n", "h", "w", 3), ("n", 1, "h", "w"), ("n", 8, 9, 3)])
def test_layout_and_type_are_told_from_the_file(tmp_path: Path, shape: tuple[int | str, ...], dtype: int) -> None:
    network = OnnxNetwork(onnx_file(tmp_path / "f.onnx", shape, dtype), CPU)
    channels = 1 if 1 in shape else 3
    images = noise(5, 8, 9, channels)
    features, logits = network(images)
    assert features.dtype == torch.float32
    assert logits is None
    assert np.allclose(features, expected_features(images, 255 if dtype == TensorProto.FLOAT else 1), rtol=1e-5)
    if channels == 3:
        gray = network(images[..., :1])
        repeated = network(images[..., :1].repeat(3, 3))
        assert torch.equal(gray.features, repeated.features)
    else:
        assert "takes gray images" in refusal(lambda: network(noise(5, 8, 9, 3)))


def test_images_are_resized_to_a_fixed_size_with_antialiasing(tmp_path: Path) -> None:
    fixed = OnnxNetwork(onnx_file(tmp_path / "fixed.onnx", ("n", 3, 8, 12)), CPU)
    free = OnnxNetwork(onnx_file(tmp_path / "free.onnx"), CPU)
    images = noise(3, 32, 32, 3)
    small = np.stack([np.asarray(Image.fromarray(one).resize((12, 8), Image.Resampling.BICUBIC)) for one in images])
    assert torch.equal(fixed(images).features, free(small).features)
    board = (np.indices((1, 32, 32, 1)).sum(0) % 2 * 255).astype(np.uint8)
    mean, square = fixed(board).features[0, [0, 3]].tolist()
    assert square - mean**2 < 0.01  # a chessboard becomes even gray; without antialiasing some squares would stay
    assert "bicubic" in fixed.resize
    assert "8x12" in fixed.resize
    assert free.resize == "none"
    assert np.allclose(fixed(board[..., :1]).features, fixed(board.repeat(3, 3)).features)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    graph = onnx.load(onnx_file(tmp_path / "f.onnx"))
    for node in graph.graph.node:
        if node.op_type == "Mul" and node.output[0] == "xx":
            node.op_type = "Div"  # 0/0 where an image is black
    onnx.save(graph, tmp_path / "f.onnx")
    network = OnnxNetwork(tmp_path / "f.onnx", CPU)
    assert network(noise(2, 8, 8, 3) | 1).features.isfinite().all()
    said = refusal(lambda: network(np.zeros((2, 8, 8, 3), np.uint8)))
    assert "gives features that are infinite or not a number" in said


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    network = OnnxNetwork(onnx_file(tmp_path / "f.onnx", (4, 3, "h", "w"), logits=True), CPU)
    images = noise(6, 8, 8, 3)
    features, logits = network(images)
    assert np.allclose(features, expected_features(images), rtol=1e-5)
    assert logits is not None
    assert torch.equal(logits, 2 * features)


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_plugin.features.network.PIXELS_AT_ONCE", 2 * 64)
    network = OnnxNetwork(onnx_file(tmp_path / "f.onnx"), CPU)
    sizes, session = [], network.session

    class Counting:
        def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            sizes.append(len(feeds["images"]))
            return list(session.run(names, feeds))

    network.session = Counting()
    assert network(noise(5, 8, 8, 3)).features.shape == (5, 6)
    assert sizes == [2, 2, 1]


def test_name_and_digest_follow_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = onnx_file(tmp_path / "my features (v2).onnx")
    network = OnnxNetwork(file, CPU)
    assert network.name == f"onnx-my_features__v2_-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    assert len(bytes.fromhex(network.digest)) == 16
    other = OnnxNetwork(onnx_file(tmp_path / "other.onnx", logits=True), CPU)
    assert other.digest != network.digest
    moved = OnnxNetwork(onnx_file(tmp_path / "elsewhere/renamed.onnx"), CPU)
    assert moved.digest == network.digest
    monkeypatch.setattr(OnnxNetwork, "resize", "some other way")
    assert OnnxNetwork(file, CPU).digest != network.digest


def test_weights_beside_the_file_belong_to_the_digest(tmp_path: Path) -> None:
    """As torch.onnx.export writes large networks."""
    model = onnx.load(onnx_file(tmp_path / "one.onnx", logits=True))
    file = tmp_path / "beside/f.onnx"
    file.parent.mkdir()
    onnx.save(model, file, save_as_external_data=True, location="f.onnx.data", size_threshold=0)
    before = OnnxNetwork(file, CPU)
    data = file.with_name("f.onnx.data")
    content = data.read_bytes()
    data.unlink()  # ONNX Runtime maps it; another file takes its place
    two = np.array(2, np.float32).tobytes()
    assert content.count(two) == 1
    data.write_bytes(content.replace(two, np.array(3, np.float32).tobytes()))
    after = OnnxNetwork(file, CPU)
    logits = [network(noise(1, 8, 8, 3)).logits for network in (before, after)]
    assert torch.allclose(1.5 * logits[0], logits[1])
    assert before.digest != after.digest
    assert before.name != after.name
    data.unlink()
    assert "f.onnx.data" in refusal(lambda: OnnxNetwork(file, CPU))


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "three dimensions": ({"shape": ("n", "h", "w")}, "['n', 'h', 'w']"),
    "no channels": ({"shape": ("n", 4, "h", "w")}, "['n', 4, 'h', 'w']"),
    "channels unknown": ({"shape": ("n", "c", "h", "w")}, "['n', 'c', 'h', 'w']"),
    "either layout": ({"shape": ("n", 3, 8, 3)}, "[N, C, H, W] or [N, H, W, C]"),
    "half a size": ({"shape": ("n", 3, 8, "w")}, "both height and width, or neither"),
    "integers": ({"dtype": TensorProto.INT64}, "tensor(int64)"),
    "halves": ({"dtype": TensorProto.FLOAT16}, "tensor(float16)"),
    "feature maps": ({"keep": 1}, "['n', 6, 1, 1]"),
}


@pytest.mark.parametrize(("options", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_breaks_the_rules_is_refused(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    if len(options.get("shape", ())) == 3:  # the means are over what is not there
        file = three_dimensions(tmp_path / "f.onnx")
    else:
        file = onnx_file(tmp_path / "f.onnx", **options)
    message = refusal(lambda: OnnxNetwork(file, CPU))
    assert "f.onnx" in message
    assert expected in message


def three_dimensions(path: Path) -> Path:
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", "h", "w"))
    node = helper.make_node("Identity", ["images"], ["features"])
    return saved_graph(path, [node], [entry], TensorProto.FLOAT)


def saved_graph(path: Path, nodes: list[Any], inputs: list[Any], dtype: int) -> Path:
    output = helper.make_tensor_value_info("features", dtype, None)
    graph = helper.make_graph(nodes, "features", inputs, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 3, "h", "w")) for name in ("images", "masks")
    ]
    file = saved_graph(
        tmp_path / "f.onnx", [helper.make_node("Add", ["images", "masks"], ["features"])], inputs, TensorProto.FLOAT
    )
    assert "has 2 inputs (images, masks)" in refusal(lambda: OnnxNetwork(file, CPU))


def test_features_that_are_integers_are_refused(tmp_path: Path) -> None:
    entry = helper.make_tensor_value_info("images", TensorProto.UINT8, ("n", 3, "h", "w"))
    node = helper.make_node("Identity", ["images"], ["features"])
    file = saved_graph(tmp_path / "f.onnx", [node], [entry], TensorProto.UINT8)
    assert "tensor(uint8)" in refusal(lambda: OnnxNetwork(file, CPU))


def test_rows_that_are_not_images_are_refused_on_the_first_image(tmp_path: Path) -> None:
    file = reshaping(tmp_path / "f.onnx", [-1, 16])
    message = refusal(lambda: load_network(f"onnx:{file}", noisy_dataset(), CPU))
    assert "[48, 16] for a batch of 1" in message


def reshaping(path: Path, shape: list[int]) -> Path:
    """A network whose features are the pixels, [N, 3, H, W] in another shape."""
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", 3, "h", "w"))
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=shape),
        helper.make_node("Reshape", ["images", "shape"], ["features"]),
    ]
    return saved_graph(path, nodes, [entry], TensorProto.FLOAT)


def test_what_the_network_cannot_compute_is_said_at_once(tmp_path: Path) -> None:
    rgb = replace(noisy_dataset(), images=torch.from_numpy(noise(12, 3, 16, 16)))
    gray = onnx_file(tmp_path / "gray.onnx", ("n", 1, "h", "w"))
    assert "takes gray images" in refusal(lambda: load_network(f"onnx:{gray}", rgb, CPU))
    file = reshaping(tmp_path / "f.onnx", [-1, 7])
    assert "f.onnx cannot compute images of 16x16x1" in refusal(
        lambda: load_network(f"onnx:{file}", noisy_dataset(), CPU)
    )


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.onnx").write_text("not a network")
    assert "not an ONNX file" in refusal(lambda: load_onnx_network(str(tmp_path / "f.onnx"), CPU))


def test_a_path_a_folder_and_a_uri_are_the_same_network(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "model/f.onnx")
    (file.parent / "MLmodel").write_text("flavors: {}")
    names = {
        load_onnx_network(text, CPU).name for text in (str(file), str(file.parent), file.as_uri(), file.parent.as_uri())
    }
    assert len(names) == 1
    network = load_network(f"onnx:{file.as_uri()}", noisy_dataset(), CPU)
    assert network(pixels(noisy_dataset())).features.shape == (12, 6)
    onnx_file(tmp_path / "model/g.onnx")
    assert "2 ONNX files (f.onnx, g.onnx)" in refusal(lambda: load_onnx_network(file.parent.as_uri(), CPU))


def test_a_uri_that_cannot_be_fetched_is_one_sentence(tmp_path: Path) -> None:
    uri = (tmp_path / "nothing.onnx").as_uri()
    assert f"onnx:{uri} cannot be fetched" in refusal(lambda: load_onnx_network(uri, CPU))
