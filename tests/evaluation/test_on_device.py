"""Evaluation and the training of its networks on a device whose values cannot be read, and that mixes with no other.

The meta device stands for an accelerator: on it, a value that is read inside of a loop, which would make the host wait,
and a tensor that was left on the CPU are errors. Only what a function returns at its end has to be read elsewhere.
An index may lie on the CPU, there as on a GPU, which then waits for its copy: ``OneDevice`` refuses that as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_helpers import CPU
from helpers import ROOT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.data.loader import BatchLoader
from gan_plugin.data.stored import SampleFile, Samples, StoredSamples
from gan_plugin.evaluation import generated, measures
from gan_plugin.evaluation.critic import NOISE, noise_generator, noisy, score, train_critic
from gan_plugin.evaluation.generated import images_of, sample_features
from gan_plugin.evaluation.reference import Reference, as_pixels
from gan_plugin.features import FeatureNetwork, classifier_training, components, network, self_supervised_training
from gan_plugin.features.classifier import Classifier, RotationNetwork
from gan_plugin.features.classifier_training import train_classifier, train_rotation
from gan_plugin.features.self_supervised import SelfSupervised
from gan_plugin.features.self_supervised_training import train_self_supervised
from gan_plugin.features.trained import TrainedNetwork
from gan_plugin.metrics import neighbors, pixels
from gan_plugin.metrics.frechet import moments
from gan_plugin.metrics.kernel import subset_distances, subset_rows
from gan_plugin.metrics.neighbors import Manifold, match, nearest_radii
from gan_plugin.metrics.pixels import blocks_on, sums_on
from gan_plugin.metrics.spectrum import total_power
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.session import CUDA

META = torch.device("meta")
SHAPE = (28, 28, 1)


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


class OneDevice(TorchDispatchMode):
    """Fails where an operation other than a copy takes tensors of two devices, but for single numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        devices = {tensor.device for tensor in tensors}
        if len(devices) > 1 and func not in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            raise AssertionError(f"{func} takes tensors of {devices}")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def one_device() -> Iterator[None]:
    with OneDevice():
        yield


@pytest.fixture(params=["device", "memory", "file"])
def images(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Samples:
    """Images that fit on the device, which CUDA alone could say, or that come from the host; trainings are short."""
    if request.param == "device":
        for module in (classifier_training, self_supervised_training):
            monkeypatch.setattr(module, "move_samples", lambda samples, device: samples.to(device))
    for name in ("MIN_STEPS", "MAX_STEPS"):
        monkeypatch.setattr(classifier_training, name, 3)
    monkeypatch.setattr(self_supervised_training, "STEPS", 3)
    shape = (5, 1, 28, 28)
    if request.param == "file":
        (tmp_path / "samples").write_bytes(bytes(5 * 28 * 28))
        return StoredSamples(SampleFile(tmp_path / "samples", shape))
    return torch.zeros(shape, dtype=torch.uint8)


def learned(statistics: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What components are fitted with, without the decomposition, which is on the CPU."""
    size = statistics.shape[1]
    return statistics.new_zeros(size), statistics.new_zeros(size, count)


TRAININGS: dict[str, Callable[[Samples], TrainedNetwork[nn.Module]]] = {
    "classifier": lambda images: train_classifier(images, torch.arange(len(images)) % 3, 3, device=META),
    "rotation": lambda images: train_rotation(images, device=META),
    "self-supervised": lambda images: train_self_supervised(images, device=META),
}


@pytest.mark.parametrize("training", TRAININGS)
def test_training_of_a_feature_network(training: str, images: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "principal_components", learned)
    monkeypatch.setattr(components, "MAX_FITTED", 3)
    monkeypatch.setattr(components, "FITTED_AT_ONCE", 28 * 28)
    trained = TRAININGS[training](images)
    assert {value.device for value in trained.network.state_dict().values()} == {META}


def test_batches_for_a_device_other_than_a_gpu(digits: Dataset) -> None:
    loader = BatchLoader(digits, 5, META, seed=0, labeled=True, paired=True)
    batches = loader.batches(loader.orders(0), 0)
    assert {x.device for batch in batches for x in batch if x is not None} == {META}


def test_training_and_scores_of_a_critic() -> None:
    images = on_meta(40, 1, 16, 16, dtype=torch.uint8)
    critic = train_critic(images, images, None)
    assert score(critic, on_meta(600, 1, 16, 16, dtype=torch.uint8), None).device == META


def test_the_noise_of_a_critic_is_drawn_from_its_generator() -> None:
    torch.manual_seed(3)
    grays = torch.zeros(500, 1, 8, 8, dtype=torch.uint8)
    noise = noisy(grays, noise_generator(CPU, seed=0))
    assert noise.std().item() == pytest.approx(NOISE * 2**0.5, rel=0.05)
    assert noise.mean((1, 2, 3)).std().item() == pytest.approx(NOISE * (1 + 1 / 64) ** 0.5, rel=0.1)
    torch.manual_seed(3)  # on a CPU it is torch's own, which the seed of everything else has set
    assert torch.equal(noisy(grays, noise_generator(CPU, seed=1)), noise)
    own = [noisy(grays, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(own[0], own[1])
    assert not torch.equal(own[0], own[2])


def untrained(cls: type[TrainedNetwork[nn.Module]], dataset: Dataset, device: torch.device) -> FeatureNetwork:
    trained = cls.untrained(dataset.spec, {"classes": 10}, device)
    trained.network.to(device).eval()
    return trained


@pytest.mark.parametrize("cls", [Classifier, RotationNetwork, SelfSupervised])
def test_features_in_batches(
    cls: type[TrainedNetwork[nn.Module]], digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "PIXELS_AT_ONCE", 3 * 16 * 16)
    outputs = untrained(cls, digits, META)(as_pixels(digits)[:10])
    assert outputs.features.device == META
    assert len(outputs.features) == 10
    assert (outputs.logits is None) == (cls is not Classifier)


def reference_on(device: torch.device, digits: Dataset) -> Reference:
    torch.manual_seed(0)
    classifier = untrained(Classifier, digits, device)
    assert isinstance(classifier, Classifier)
    second = untrained(SelfSupervised, digits, device)
    return Reference(digits, held_out=None, network=classifier, classifier=classifier, second=second)


@pytest.fixture(scope="module")
def generator() -> OnnxGenerator:
    return OnnxGenerator(ROOT / "examples" / "digits.onnx", device="cpu")


@pytest.fixture(scope="module")
def large_digits() -> Dataset:
    """The digits in the size of the generator's images."""
    return load_dataset("digits")


def test_generating_and_features_of_seeds(
    generator: OnnxGenerator, large_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "BLOCK", 4)
    sample = sample_features(generator, reference_on(META, large_digits), np.arange(10), kept=6)
    assert sample.predicted is not None
    assert sample.second is not None
    tensors = (sample.outputs.features, sample.outputs.logits, sample.second.features, sample.predicted)
    assert [(len(x), x.device) for x in tensors if x is not None] == [(10, META)] * 4
    assert np.array_equal(sample.pixels, generator.sample(np.arange(6)))


def test_the_parts_of_a_list_of_seeds_give_what_the_list_gives(
    generator: OnnxGenerator, large_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "BLOCK", 4)
    reference, seeds = reference_on(CPU, large_digits), np.arange(100, 117)
    of_all = sample_features(generator, reference, seeds, kept=9)
    rows = (slice(5), 5), (slice(5, None), 4)
    parts = [sample_features(generator, reference, seeds[part], kept=kept) for part, kept in rows]
    features = torch.cat([part.outputs.features for part in parts])
    assert torch.allclose(features, of_all.outputs.features, atol=1e-5)
    assert np.array_equal(np.concatenate([part.pixels for part in parts]), of_all.pixels)
    assert len(sample_features(generator, reference, seeds[:5], kept=0).pixels) == 0


def test_images_in_the_runs_of_a_gpu_are_those_of_requests(
    generator: OnnxGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = np.arange(2**40, 2**40 + 150)
    expected = generator.sample(seeds)
    rows: list[int] = []
    run = OnnxGenerator.run

    def counted(self: OnnxGenerator, z: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        rows.append(len(z))
        return run(self, z, labels)

    monkeypatch.setattr(OnnxGenerator, "provider", CUDA)
    monkeypatch.setattr(OnnxGenerator, "run", counted)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=8 * 2**30))
    images = images_of(generator, seeds)
    assert rows == [75, 75]
    assert np.abs(images.astype(int) - expected).max() <= 1


def test_moments_for_a_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_plugin.metrics.frechet.BLOCK", 40)
    mean, covariance = moments(on_meta(30, 4))
    assert (mean.shape, covariance.shape, covariance.device) == ((4,), (4, 4), META)


def test_kernel_distances_of_subsets() -> None:
    rows = subset_rows((30, 20), 5, size=10, seed=0)
    assert subset_distances(on_meta(30, 4), on_meta(20, 4), rows).device == META


def test_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 64)
    radii = nearest_radii(on_meta(30, 4, dtype=torch.float64))
    manifolds = [Manifold(on_meta(count, 4), radii[:count]) for count in (30, 20)]
    matches = match(manifolds[0], manifolds[1])
    assert {x.device for x in matches} == {META}


def test_sums_of_pixels_and_power_spectra(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((10, 8, 6, 3), np.uint8)
    monkeypatch.setattr(pixels, "VALUES_AT_ONCE", 3 * images[0].size)
    of_images, of_pixels = sums_on(images, META)
    assert (of_images.shape, of_pixels.shape, of_images.device) == ((2, 10), (2, 144), META)
    assert total_power(blocks_on(images, META, 3 * images[0].size), on_meta(8, 6)).device == META


def test_an_equal_number_of_features_for_the_ratio() -> None:
    assert measures.random_subset(on_meta(30, 4), 20).device == META
