"""Statistics of real images and their cache."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from evaluation_helpers import CPU, Brightness

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.evaluation import measures
from gan_plugin.evaluation import reference as reference_module
from gan_plugin.evaluation.measures import kernel_baseline
from gan_plugin.evaluation.reference import (
    Reference,
    as_pixels,
    gaussian_of,
    manifold_of,
    outputs_of,
    prepare_reference,
)
from gan_plugin.metrics.kernel import kernel_distance


def test_statistics_are_computed_once_for_equal_images_and_network(
    digits: Dataset, held_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path))
    network = Brightness()
    first = gaussian_of(network, digits, CPU)
    radii = manifold_of(network, digits, CPU).radii
    monkeypatch.setattr(reference_module, "fit_manifold", None)  # it must not be needed again
    monkeypatch.setattr(reference_module, "fit_gaussian", None)
    again = Brightness()
    assert torch.equal(gaussian_of(again, digits, CPU).covariance, first.covariance)
    assert torch.equal(manifold_of(again, digits, CPU).radii, radii)
    assert (network.calls, again.calls) == (1, 0)
    outputs_of(again, held_out)  # other images
    other = Brightness("1" * 32)  # another network, or another resize
    outputs_of(other, digits)
    assert (again.calls, other.calls) == (1, 1)


def test_the_kid_of_held_out_images_is_computed_once_for_equal_images_and_network(
    digits: Dataset, held_out: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path))
    monkeypatch.setattr(measures, "SUBSETS", 3)
    reference = Reference(digits, held_out=held_out, network=Brightness(), classifier=None)
    expected = kernel_distance(
        *(Brightness()(as_pixels(images)).features for images in (digits, held_out)), subsets=3, subset_size=1000
    )
    assert kernel_baseline(reference, CPU) == expected.mean

    def computed_again(*_: object, **__: object) -> None:
        raise LookupError

    monkeypatch.setattr(measures, "kernel_distance", computed_again)
    assert kernel_baseline(reference, CPU) == expected.mean
    for other in (
        dataclasses.replace(reference, held_out=digits),
        dataclasses.replace(reference, dataset=held_out),
        dataclasses.replace(reference, network=Brightness("1" * 32)),
    ):
        with pytest.raises(LookupError):
            kernel_baseline(other, CPU)
    monkeypatch.setattr(measures, "SUBSETS", 4)
    with pytest.raises(LookupError):
        kernel_baseline(reference, CPU)


def test_a_damaged_file_in_the_cache_is_computed_again(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path))
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    expected = outputs_of(Brightness(), digits).features
    (file,) = tmp_path.rglob("outputs-*")
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    network = Brightness()
    assert torch.equal(outputs_of(network, digits).features, expected)
    assert network.calls == 1
    assert "and has been computed again" in caplog.text
    outputs_of(network, digits)
    assert network.calls == 1


def test_too_few_images_are_refused(digits: Dataset, held_out: Dataset) -> None:
    assert digits.labels is not None
    five = dataclasses.replace(digits, samples=digits.samples[:5], labels=digits.labels[:5])
    with pytest.raises(UserError, match=r"^digits, split 'train', has 5 images: an evaluation needs at least 6\.$"):
        prepare_reference(five, None, None, device=CPU)
    one = dataclasses.replace(held_out, samples=held_out.samples[:1])
    with pytest.raises(UserError, match="split 'test', has 1 images"):
        prepare_reference(digits, one, None, device=CPU)
