"""The quick Fréchet distance of a generator in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_helpers import CPU, Brightness
from helpers import FakeTime
from torch import Tensor

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.evaluation import quick
from gan_plugin.evaluation.quick import make_quick_fid
from gan_plugin.evaluation.reference import Reference, gaussian_of
from gan_plugin.features import Outputs
from gan_plugin.media.image import Images
from gan_plugin.metrics.frechet import Gaussian, fit_gaussian, frechet_distance
from gan_plugin.networks.dcgan import Generator
from gan_plugin.networks.wrappers import Quantized
from gan_plugin.seeds import latents
from gan_plugin.spec import image_spec
from gan_plugin.training.ema import update_batch_norm


def test_quick_fid_is_the_distance_from_the_fixed_seeds(digits: Dataset, reference: Reference) -> None:
    """Here an untrained generator."""
    quick_fid = make_quick_fid(digits, None, latent_size=100, classes=0, device=CPU)
    assert quick_fid.metric == "fid_2k/classifier"
    assert quick_fid.seconds > 0
    torch.manual_seed(0)
    network = Generator(100, image_spec(16, 16, 1)).eval()
    update_batch_norm(network, 100)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    value = quick_fid(network)
    assert quick_fid(network) == value  # the same seeds each time
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        images = Quantized(network)(torch.from_numpy(latents(np.arange(2048) + 2**51, 100))).numpy()
    features = reference.network(images).features
    expected = frechet_distance(fit_gaussian(features), gaussian_of(reference.network, digits, CPU))
    assert value == pytest.approx(expected, rel=1e-6)


def test_a_part_of_an_evaluation_tells_how_long_it_takes(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime()
    quick_fid = make_quick_fid(digits, None, latent_size=100, classes=0, device=CPU)
    counts: list[int] = []

    def generate(z: Tensor) -> Tensor:
        counts.append(len(z))
        time.now += (1.0 if len(counts) > 1 else 60.0) * len(z) / 128
        return torch.zeros(len(z), 1, 16, 16)

    generator = Generator(100, image_spec(16, 16, 1)).eval()
    monkeypatch.setattr(generator, "forward", generate)
    monkeypatch.setattr(quick, "time", time)

    def distance(*_gaussians: Gaussian) -> float:
        time.now += 5
        return 0.0

    monkeypatch.setattr(quick, "frechet_distance", distance)
    assert quick_fid.time_evaluation(generator) == pytest.approx(16 + 5)  # of 2,048 images
    assert counts == [128, 128]


def test_features_that_are_too_slow_must_be_requested_by_name(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is for all images, the data's and the generated ones."""
    counts: list[int] = []
    time = FakeTime()
    monkeypatch.setattr(quick, "time", time)

    class Slow(Brightness):
        name = "slow"

        def __call__(self, images: Images) -> Outputs:
            counts.append(len(images))
            time.now += 0.01 * len(images)
            return super().__call__(images)

    monkeypatch.setattr(quick, "load_network", lambda *arguments, **options: Slow())
    monkeypatch.setattr(quick, "PATIENCE", 30.0)
    with pytest.raises(UserError, match=r"^slow would take 1 minutes for 3,486 images on this cpu: give feat"):
        make_quick_fid(digits, None, latent_size=100, classes=0, device=CPU)
    assert sum(counts) < 40
    assert make_quick_fid(digits, "classifier", latent_size=100, classes=0, device=CPU).metric == "fid_2k/slow"


def test_quick_fid_uses_a_subset_of_many_images(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "MAX_REFERENCE", 100)
    subset = quick.reference_subset(digits)
    assert (len(subset), subset.labels is not None and len(subset.labels.unique())) == (100, 10)
    assert torch.equal(subset.samples[[0, -1]], digits.samples[[0, -1]])
    assert subset.digest != digits.digest
