"""Directions of z: of attributes whose plane is known, and those of most change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.networks.autoencoder import Encoding
from gan_plugin.networks.wrappers import QuantizedEncoder
from gan_plugin.training.directions import attribute_directions, fit_directions, principal_directions, probes_of

RNG = np.random.default_rng(0)
PLANE = np.array([0.6, -0.8, 0.0, 0.0])


def test_a_plane_that_divides_z_is_found() -> None:
    z = RNG.normal(size=(2000, 4)) * [1, 2, 5, 0.1]
    has = (z @ PLANE > 0.5).astype(float)
    has[::3] = np.nan  # of which nothing is known
    noise = RNG.integers(0, 2, 2000).astype(float)
    number = 3 * (z @ PLANE) + RNG.normal(size=2000)
    directions = {d.name: d for d in fit_directions(z, {"has": has, "noise": noise, "number": number})}
    for name in ("has", "number"):
        assert np.dot(directions[name].normal, PLANE) > 0.98
        assert np.linalg.norm(directions[name].normal) == pytest.approx(1)
        assert directions[name].accuracy is not None
        assert directions[name].accuracy > 0.85
    reach = 3 * (z[np.isfinite(has)] @ directions["has"].normal).std()
    assert (directions["has"].low, directions["has"].high) == (pytest.approx(-reach), pytest.approx(reach))
    assert directions["noise"].accuracy == pytest.approx(0.5, abs=0.08)


def test_of_too_few_images_or_one_value_there_is_no_direction() -> None:
    z = RNG.normal(size=(100, 4))
    rare = np.full(100, np.nan)
    rare[:40] = np.arange(40) % 2
    assert fit_directions(z, {"rare": rare, "one": np.ones(100)}) == []


class MeanEncoder(nn.Module):
    """Encodes an image as its mean level and three others that mean nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Encoding:
        means = x.mean((1, 2, 3))
        code = torch.stack([means, x[:, 0, 3, 3], x[:, 0, 4, 9], x[:, 0, 12, 5]], 1)
        return Encoding(code, code, None, None)


def test_attributes_of_the_data_have_directions_and_else_classes_that_z_decides_on() -> None:
    digits = load_dataset("digits", image_size=16)
    bright = (digits.samples.float().mean((1, 2, 3)) > 80).float()
    encoder = QuantizedEncoder(MeanEncoder(), None)
    labeled: Dataset = dataclasses.replace(digits, attributes={"bright": bright})
    (direction,) = attribute_directions(encoder, labeled, classes=10, skipped=0)
    assert direction.name == "bright"
    assert direction.normal[0] > 0.9
    assert direction.accuracy is not None
    assert direction.accuracy > 0.95
    assert attribute_directions(encoder, digits, classes=10, skipped=0) == []
    names = [d.name for d in attribute_directions(encoder, digits, classes=0, skipped=0)]
    assert names == [f"class={name}" for name in digits.spec.class_names]


def test_no_direction_of_an_attribute_leads_along_values_that_choose() -> None:
    digits = load_dataset("digits", image_size=16)
    bright = (digits.samples.float().mean((1, 2, 3)) > 80).float()
    labeled = dataclasses.replace(digits, attributes={"bright": bright})
    (direction,) = attribute_directions(QuantizedEncoder(MeanEncoder(), None), labeled, classes=10, skipped=1)
    assert len(direction.normal) == 4
    assert direction.normal[0] == 0  # which alone would tell
    assert np.linalg.norm(direction.normal) == pytest.approx(1)


class Gray(nn.Module):
    """Shows z's third value as a gray level, and less of its first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.1, 0.0, -0.4, 0.0]))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.tanh(z @ self.weight)[:, None, None, None].expand(-1, 1, 16, 16)


def test_the_direction_of_most_change_leads_to_brighter_images() -> None:
    first, *others = principal_directions(Gray(), latent_size=4, classes=0)
    assert first.name == "direction 1"
    assert np.allclose(np.abs(first.normal), np.abs(np.array([0.1, 0, -0.4, 0])) / np.hypot(0.1, 0.4), atol=5e-3)
    assert first.normal[2] < 0
    assert first.share == pytest.approx(1, abs=1e-4)
    assert [d.name for d in others] == ["direction 2", "direction 3", "direction 4"]
    assert all(d.share == pytest.approx(0, abs=1e-4) for d in others)


def test_of_a_long_z_random_directions_are_tried_but_not_those_that_choose() -> None:
    probes = probes_of(500, skipped=3)
    assert probes.shape == (128, 500)
    assert np.allclose(probes @ probes.T, np.eye(128), atol=1e-5)
    assert np.abs(probes[:, :3]).max() < 1e-6
