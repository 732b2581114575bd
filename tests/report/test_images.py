"""The report's images: in the page, and on sheets as files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_helpers import WARNINGS_ARE_ERRORS, Page, evaluation, pixels, ten_classes

from gan_plugin.evaluation.results import MAX_PAIRS, MAX_SAMPLES
from gan_plugin.report import sheets, write_report

pytestmark = WARNINGS_ARE_ERRORS


def test_small_images_are_in_the_page_as_they_are_and_enlarged_sharply(page: Page) -> None:
    expected = evaluation(classes=ten_classes())
    by_alt = {
        "generated image ": expected.samples,
        "real image ": expected.reference_samples,
        "nearest training image": expected.neighbors.nearest,
    }
    for alt, images in by_alt.items():
        assert np.array_equal([pixels(content) for content in page.images(alt)], images)
    assert len(page.images("generated image")) == 64 + 12
    assert ".enlarged img { image-rendering: pixelated; }" in page.styles
    assert [tag["class"] for _, tag in page.tags if "enlarged" in tag.get("class", "")] == [
        "samples enlarged",
        "pairs enlarged",
    ]
    assert "28 × 28 pixels" in page.text


def test_distances_stand_below_their_pairs(page: Page) -> None:
    assert re.search(r"1\.50 1\.73 1\.95 .* 4\.00 ", page.text)


def test_files_are_pngs_of_readable_sizes(folder: Path) -> None:
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert image.format == "PNG"
            image.verify()
            assert all(300 <= side <= 2500 for side in image.size)
        assert 2_000 < path.stat().st_size < 1_000_000


def test_sheet_has_generated_left_and_real_right_under_their_words(folder: Path) -> None:
    sheet, expected = pixels(folder / "samples.png"), evaluation()
    real = sheet.shape[1] // 2 + sheets.MARGIN // 2
    for left, image in ((sheets.MARGIN, expected.samples[0]), (real, expected.reference_samples[0])):
        top, inside = sheets.HEADING + 2, left + 2  # beside the gaps
        block = sheet[top : top + 56, inside : inside + 56]
        assert np.array_equal(block, np.broadcast_to(image.repeat(2, 0).repeat(2, 1), (56, 56, 3)))
        assert sheet[: sheets.HEADING, left : left + 60].min() < 100  # letters


def test_sheet_of_neighbors_has_pairs_and_distances(folder: Path) -> None:
    sheet, pairs = pixels(folder / "neighbors.png"), evaluation().neighbors
    top, left = sheets.HEADING + 2, sheets.MARGIN + 2
    for image, x in ((pairs.generated[0], left), (pairs.nearest[0], left + 58)):
        assert np.array_equal(sheet[top : top + 56, x : x + 56, 0], image.repeat(2, 0).repeat(2, 1)[:, :, 0])
    assert sheet[top + 60 : top + 80, left : left + 56].min() < 100


def test_large_images_are_shrunk_and_the_page_stays_small(tmp_path: Path) -> None:
    """Noise is the hardest to make small; photographs take half of it."""
    files = write_report(evaluation(side=256, channels=3, pairs=16, classes=ten_classes()), "title", tmp_path)
    page = Page(files[0])
    assert files[0].stat().st_size < 3_000_000
    assert len(page.images("generated image")) == 64 + 16
    assert pixels(page.images("real image")[0]).shape == (128, 128, 3)
    assert "256 × 256 pixels and is shown smaller" in page.text
    assert not [tag for _, tag in page.tags if "enlarged" in tag.get("class", "")]  # large ones are drawn smoothly
    assert pixels(files[1]).shape[1] < 2500


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(("height", "width"), [(48, 32), (32, 48), (16, 1024)])
def test_images_need_not_be_square(tmp_path: Path, height: int, width: int) -> None:
    oblong = evaluation(count=3, side=height, width=width, channels=3, pairs=2)
    files = write_report(oblong, "title", tmp_path)
    page = Page(files[0])
    scale = min(1, sheets.MAX_CELL / max(height, width))
    shape = (round(height * scale), round(width * scale), 3)
    for alt in ("generated image 3", "real image 1", "nearest training image"):
        assert pixels(page.images(alt)[0]).shape == shape
    if scale == 1:
        assert np.array_equal(pixels(page.images("nearest")[0]), oblong.neighbors.nearest[0])
    assert f"{width} × {height} pixels" in page.text
    times = -(-sheets.MIN_CELL // max(shape[:2]))
    row = np.concatenate(list(oblong.samples[:2]), axis=1)  # beside one another on the sheet, with a gap
    sheet = pixels(files[1])[sheets.HEADING + 2 :, sheets.MARGIN + 2 :]
    if scale == 1:
        enlarged = row.repeat(times, 0).repeat(times, 1)
        left, right = sheet[: height * times, : width * times], sheet[: height * times, width * times + 2 :]
        assert np.array_equal(left, enlarged[:, : width * times])
        assert np.array_equal(right[:, : width * times], enlarged[:, width * times :])


def test_shrinking_keeps_proportions() -> None:
    assert sheets.downscale(np.zeros((300, 150, 1), np.uint8)).shape == (128, 64, 1)
    assert sheets.downscale(np.zeros((16, 1024, 3), np.uint8)).shape == (2, 128, 3)
    assert sheets.fit_for_grid(np.zeros((2, 20, 10, 1), np.uint8)).shape == (2, 60, 30, 3)


@pytest.mark.parametrize(("count", "pairs", "points"), [(1, 0, 1), (2, 1, 2), (100, 40, 5)])
def test_any_number_of_images(tmp_path: Path, count: int, pairs: int, points: int) -> None:
    files = write_report(
        evaluation(count, 16, 1, pairs=pairs, points=points, classes=ten_classes()[:2]), "title", tmp_path
    )
    page = Page(files[0])
    assert ("neighbors.png" in [file.name for file in files]) == (pairs > 0)
    assert ("Nearest training images" in page.headings) == (pairs > 0)
    assert len(page.images("real image")) == min(count, MAX_SAMPLES)
    assert len(page.images("nearest")) == min(pairs, MAX_PAIRS)
