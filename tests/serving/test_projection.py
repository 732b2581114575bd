"""From an image to its z: on the generator that ships, and on others made for a question."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import export_autoencoder, images_of
from helpers import ROOT, refusal

from gan_plugin.data import load_dataset, load_divided, load_held_out
from gan_plugin.export import export_generator
from gan_plugin.media.image import Images, psnr
from gan_plugin.networks import dcgan
from gan_plugin.seeds import default_labels
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.projection import MIN_EVALUATIONS, compared_values, project
from gan_plugin.spec import image_spec

SEEDS = np.arange(8)


@pytest.fixture(scope="module")
def digits() -> OnnxGenerator:
    """The generator that ships."""
    return OnnxGenerator(ROOT / "examples" / "digits.onnx", device="cpu")


@pytest.fixture(scope="module")
def held_out() -> tuple[Images, list[int]]:
    """Digits that it has never seen, two of each class."""
    dataset = load_held_out("digits", load_divided("digits"))
    assert dataset is not None
    assert dataset.labels is not None
    rows = torch.cat([(dataset.labels == label).nonzero()[:2, 0] for label in range(10)])
    return dataset.samples[rows].permute(0, 2, 3, 1).numpy(), dataset.labels[rows].tolist()


@pytest.fixture
def images_made(digits: OnnxGenerator, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the generator has made in each run."""
    generate, counts = digits.generate, list[int]()

    def counted(z: np.ndarray, labels: np.ndarray | None = None) -> Images:
        counts.append(len(z))
        return generate(z, labels)

    monkeypatch.setattr(digits, "generate", counted)
    return counts


def test_a_generated_image_is_found_again(digits: OnnxGenerator) -> None:
    """At least 30 dB, and of its own class, which nobody names."""
    images = digits.sample(SEEDS)
    projected = project(digits, images)
    assert projected.psnr.min() >= 30
    assert projected.labels is not None
    assert projected.labels.tolist() == default_labels(SEEDS, 10).tolist()
    np.testing.assert_array_equal(projected.images, digits.generate(projected.z, projected.labels))


def test_held_out_digits_are_near(digits: OnnxGenerator, held_out: tuple[Images, list[int]]) -> None:
    """24 dB, by a z that is not far from those of seeds."""
    images, labels = held_out
    projected = project(digits, images, labels=labels)
    assert projected.psnr.mean() >= 24
    assert projected.labels is not None
    assert projected.labels.tolist() == labels
    assert np.square(projected.z).mean() < 4


def test_an_image_has_the_same_z_alone_and_among_others(
    digits: OnnxGenerator, held_out: tuple[Images, list[int]]
) -> None:
    images, _ = held_out
    among = project(digits, images[:3], evaluations=256)
    alone = project(digits, images[2:3], evaluations=256)
    np.testing.assert_array_equal(alone.z, among.z[2:])


@pytest.mark.parametrize("evaluations", [MIN_EVALUATIONS, 300, 1024])
def test_work_is_bounded(
    digits: OnnxGenerator, held_out: tuple[Images, list[int]], evaluations: int, images_made: list[int]
) -> None:
    project(digits, held_out[0][:1], evaluations=evaluations)
    assert evaluations / 2 < sum(images_made) <= evaluations + 1  # and the image of the answer


def test_equal_images_are_searched_once_and_no_search_goes_beyond_its_time(
    digits: OnnxGenerator, held_out: tuple[Images, list[int]], images_made: list[int]
) -> None:
    image = held_out[0][:1]
    project(digits, image.repeat(3, 0), evaluations=300)
    assert sum(images_made) <= 300 + 3
    images_made.clear()
    late = project(digits, image, evaluations=1024, seconds=0)
    assert sum(images_made) <= 1024 // 4 + 1  # the z to start from, and the image of the answer
    assert late.psnr[0] > 8


def test_more_evaluations_come_nearer(digits: OnnxGenerator, held_out: tuple[Images, list[int]]) -> None:
    images = held_out[0][::4]
    means = [project(digits, images, evaluations=n).psnr.mean() for n in (64, 256, 1024)]
    assert means[0] + 1 < means[1] < means[2]


def test_a_long_z_is_searched_in_random_directions(tmp_path: Path) -> None:
    """Of 600 values no round could try each; an image of the generator is found all the same, if not as near."""
    torch.manual_seed(0)
    spec = image_spec(16, 16, 1)
    generator = dcgan.Generator(600, spec).eval()
    for layer in generator.upsample:
        if isinstance(layer, torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(layer.weight, std=0.1)
    path = tmp_path / "long.onnx"
    export_generator(generator, Description(600, spec), path)
    long = OnnxGenerator(path, device="cpu")
    images = long.sample([5])
    start = psnr(images, long.generate(np.zeros((1, 600), np.float32)))
    assert project(long, images).psnr[0] > start[0] + 3


def test_an_encoder_says_where_to_start_and_of_which_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset("digits", image_size=16).take(torch.arange(200))
    generator = export_autoencoder(dataset, tmp_path).open()
    assert generator.encoder is not None
    image = images_of(dataset, 1)
    encoded = generator.encoder.encode(image)
    assert encoded.logits is not None
    generate, runs = generator.generate, list[tuple[np.ndarray, int]]()

    def recorded(z: np.ndarray, labels: np.ndarray) -> Images:
        runs.append((z, int(labels[0])))
        return generate(z, labels)

    monkeypatch.setattr(generator, "generate", recorded)
    project(generator, image, evaluations=256)
    for z, label in runs[:2]:
        assert any(np.allclose(row, encoded.z[0]) for row in z)
        assert label in np.argsort(encoded.logits[0])[-2:]
    assert len({label for _, label in runs}) == 2


def test_too_many_classes_for_a_search_need_a_label(tmp_path: Path) -> None:
    class Black(torch.nn.Module):
        def forward(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return (0 * (z[:, :1] + label[:, None]) - 1)[:, :, None, None].expand(-1, 1, 16, 16)

    spec = image_spec(16, 16, 1, class_names=[str(i) for i in range(300)])
    path = tmp_path / "many.onnx"
    export_generator(Black(), Description(8, spec), path)
    many, image = OnnxGenerator(path, device="cpu"), np.zeros((1, 16, 16, 1), np.uint8)
    assert refusal(lambda: project(many, image)) == (
        "An image's class cannot be searched among 300 by 1,024 evaluations: give its label."
    )
    assert project(many, image, labels=[299]).labels is not None


def test_long_sides_are_compared_at_a_part_of_their_length() -> None:
    image = np.zeros((1, 130, 96, 3), np.uint8)
    image[0, :3, :3] = 255
    values = compared_values(image).reshape(43, 32, 3)
    assert values[0, 0].tolist() == [1, 1, 1]
    assert values[0, 1].tolist() == [0, 0, 0]
