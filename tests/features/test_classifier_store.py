"""The classifier's file and its cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors
import torch
from features_helpers import CPU, noise, noisy_dataset, pixels
from helpers import refusal
from torch import Tensor

from gan_plugin.data.dataset import make_dataset
from gan_plugin.features import classifier_store, load_network
from gan_plugin.features.classifier import Classifier
from gan_plugin.features.classifier_store import classifier_of
from gan_plugin.features.classifier_training import train_classifier
from gan_plugin.features.store import load_trained, save_network
from gan_plugin.spec import image_spec


@pytest.mark.usefixtures("quick")
def test_a_saved_classifier_is_equal_after_loading(tmp_path: Path) -> None:
    dataset = noisy_dataset()
    trained, path = classifier_of(dataset, CPU)
    loaded = load_trained(Classifier, path, CPU)
    assert loaded.digest == trained.digest
    assert loaded.data_digest == dataset.digest
    assert loaded.spec == dataset.spec == image_spec(16, 16, 1, class_names=("a", "b", "c"))
    assert loaded.classes == 3
    for after, before in zip(loaded(pixels(dataset)), trained(pixels(dataset))):
        assert after is not None
        assert before is not None
        assert torch.equal(after, before)
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["gan_plugin"])["data_digest"] == dataset.digest


@pytest.mark.usefixtures("quick")
def test_images_need_not_be_square() -> None:
    images = torch.from_numpy(noise(12, 3, 48, 32))
    dataset = make_dataset(images, torch.arange(12) % 2, ("a", "b"), name="n", source="s", split="train", notes=())
    trained, path = classifier_of(dataset, CPU)
    loaded = load_trained(Classifier, path, CPU)
    assert (loaded.spec.height, loaded.spec.width) == (48, 32)
    assert loaded.digest == trained.digest
    assert torch.equal(loaded(pixels(dataset)).features, trained(pixels(dataset)).features)
    for shape in ((32, 48), (48, 48), (32, 32)):
        message = refusal(lambda shape=shape: loaded(noise(2, *shape, 3)))
        assert f"trained on images of 48×32×3 and cannot take images of {shape[0]}×{shape[1]}×3" in message


@pytest.mark.usefixtures("quick")
def test_the_digest_follows_the_weights() -> None:
    trained, path = classifier_of(noisy_dataset(), CPU)
    weights = trained.network.state_dict()
    weights["logits.bias"][0] += 1
    assert replace(trained).digest != load_trained(Classifier, path, CPU).digest


@pytest.mark.usefixtures("quick")
def test_equal_data_is_trained_on_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, path = classifier_of(noisy_dataset(), CPU)
    other, other_path = classifier_of(noisy_dataset(seed=1), CPU)
    monkeypatch.delattr(classifier_store, "train_classifier")
    again, same_path = classifier_of(noisy_dataset(), CPU)
    assert path == same_path != other_path
    assert path.parent == cache
    assert first.digest == again.digest != other.digest
    assert load_network("classifier", noisy_dataset(), CPU).digest == first.digest


@pytest.mark.usefixtures("quick")
def test_another_version_trains_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = classifier_of(noisy_dataset(), CPU)
    monkeypatch.setattr(Classifier, "version", 2)
    _, other = classifier_of(noisy_dataset(), CPU)
    assert other != path
    assert "has version 1" in refusal(lambda: load_trained(Classifier, path, CPU))


def flip(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bit": flip,
    "cut": lambda content: content[:-100],
    "empty": lambda content: b"",
    "not safetensors": lambda content: b"\x80\x04N." * 100,
    "no header": lambda content: content.replace(b"gan_plugin", b"gan_plugon"),
    "no JSON": lambda content: content.replace(rb"{\"version", rb"?\"version"),
    "another shape": lambda content: content.replace(rb"\"width\": 16", rb"\"width\": 28"),
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
    intact = path.read_bytes()
    path.write_bytes(damage(intact))
    assert path.read_bytes() != intact
    with caplog.at_level(logging.WARNING):
        again, _ = classifier_of(dataset, CPU)
    assert "has been computed again" in caplog.text
    assert again.digest == load_trained(Classifier, path, CPU).digest == trained.digest


@pytest.mark.usefixtures("quick")
def test_a_run_uses_the_classifier_in_the_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Another process with other bits wrote the file while this one trained."""
    dataset = noisy_dataset()
    assert dataset.labels is not None
    real = train_classifier

    def overtaken(images: Tensor, labels: Tensor, classes: int, *, device: torch.device) -> Classifier:
        other = replace(real(images, labels, classes, device=device, seed=1), data_digest=dataset.digest)
        save_network(other, cache / f"classifier-1-{dataset.digest}.safetensors")
        return real(images, labels, classes, device=device)

    monkeypatch.setattr(classifier_store, "train_classifier", overtaken)
    used, path = classifier_of(dataset, CPU)
    assert used.digest == load_trained(Classifier, path, CPU).digest
