"""An evaluation and its report of images that are higher than wide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_helpers import CPU, Brightness, values_of
from generators import open_bank
from report_helpers import Page, pixels

from gan_plugin.data import Dataset
from gan_plugin.data.dataset import make_dataset
from gan_plugin.errors import UserError
from gan_plugin.evaluation.evaluate import evaluate_generator
from gan_plugin.evaluation.reference import Reference, prepare_reference
from gan_plugin.evaluator import check_fit
from gan_plugin.report import sheets, write_report
from gan_plugin.serving.description import Description
from gan_plugin.spec import image_spec

pytestmark = pytest.mark.usefixtures("short_metrics")
HEIGHT, WIDTH = 24, 16


def gradients(count: int, split: str, *, seed: int, classes: int = 0) -> Dataset:
    """Return RGB images, HEIGHT × WIDTH, each brighter towards its bottom by an amount and in a color of its own.

    With two classes, every other image is upside down.
    """
    random = torch.Generator().manual_seed(seed)
    height = torch.linspace(0, 1, HEIGHT)[None, None, :, None]
    levels = 255 * torch.rand(count, 3, 1, 1, generator=random) * height.expand(count, 3, HEIGHT, WIDTH)
    names = ["bright below", "bright above"][:classes]
    labels = torch.arange(count) % classes if classes else None
    if labels is not None:
        levels[labels == 1] = levels[labels == 1].flip(2)
    return make_dataset(levels.to(torch.uint8), labels, names, name="gradients", source="test", split=split, notes=[])


@pytest.fixture(scope="module")
def oblong() -> Dataset:
    return gradients(64, "train", seed=0)


def test_images_higher_than_wide_are_evaluated_and_reported(oblong: Dataset, tmp_path: Path) -> None:
    bank = open_bank(oblong, tmp_path / "g.onnx")
    check_fit(bank.description, oblong)
    reference = Reference(oblong, held_out=gradients(40, "test", seed=1), network=Brightness(), classifier=None)
    evaluation = evaluate_generator(bank, reference, count=100, first_seed=0, device=CPU)
    assert evaluation.samples.shape == (64, HEIGHT, WIDTH, 3)
    assert evaluation.neighbors.generated.shape == evaluation.neighbors.nearest.shape == (16, HEIGHT, WIDTH, 3)
    assert np.array_equal(evaluation.neighbors.generated, evaluation.neighbors.nearest)  # the bank returns copies
    assert (values_of(evaluation)["precision"], values_of(evaluation)["authenticity"]) == (1.0, 0.0)
    files = write_report(evaluation, "title", tmp_path / "report")
    page = Page(files[0])
    assert f"{WIDTH} × {HEIGHT} pixels" in page.text
    in_page = [pixels(content) for content in page.images("generated image ")]
    assert np.array_equal(in_page, evaluation.samples)
    sheet = pixels(next(file for file in files if file.name == "samples.png"))
    times = -(-sheets.MIN_CELL // HEIGHT)
    top, left = sheets.HEADING + 2, sheets.MARGIN + 2
    expected = evaluation.samples[0].repeat(times, 0).repeat(times, 1)
    assert np.array_equal(sheet[top : top + HEIGHT * times, left : left + WIDTH * times], expected)


def test_labeled_images_higher_than_wide_are_evaluated_by_their_own_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path))
    train, test = gradients(100, "train", seed=0, classes=2), gradients(100, "test", seed=1, classes=2)
    reference = prepare_reference(train, test, None, device=CPU)
    bank = open_bank(train, tmp_path / "g.onnx")
    evaluation = evaluate_generator(bank, reference, count=200, first_seed=0, device=CPU)
    values = values_of(evaluation)
    assert (values["modes"], values["precision"]) == (2, 1.0)
    assert values["cas"] > 0.9
    assert [row.name for row in evaluation.classes] == ["bright below", "bright above"]


def test_the_other_way_round_does_not_fit(oblong: Dataset) -> None:
    turned = Description(16, image_spec(WIDTH, HEIGHT, 3))
    with pytest.raises(UserError, match=r"images of 16×24×3 and the data has 24×16×3: .* image_size=16x24 and"):
        check_fit(turned, oblong)
