"""What every network family keeps: it refuses what it cannot make, and what it makes can be exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import refusal

from gan_plugin.config.recipe import Recipe, load_recipe, override, recipe_names
from gan_plugin.export import export_generator
from gan_plugin.networks import FAMILIES, new_discriminators, new_generator
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import Size, image_spec

SIZES: dict[str, list[Size]] = {
    "dcgan": [(16, 16), (28, 28), (17, 33), (256, 128), (64, 1024), (1024, 1024)],
    "subpixel": [(16, 16), (28, 28), (17, 33), (256, 128), (64, 1024), (1024, 1024)],
    "r3gan": [(16, 16), (28, 28), (32, 48), (256, 128), (64, 1024), (1024, 1024)],
}


def small(family: str, **values: object) -> Recipe:
    widths = {"width": 16, "blocks": 1} if family != "dcgan" else {}
    return override(load_recipe(family), latent_size=8, **(widths | values))


def check(recipe: Recipe, size: Size) -> None:
    FAMILIES[recipe.family].check(recipe, image_spec(*size, 3))


def test_every_recipe_names_a_family_and_can_make_squares_of_28_to_1024_pixels() -> None:
    assert set(SIZES) == set(FAMILIES)
    for name in recipe_names():
        for side in (28, 32, 64, 256, 1024):
            check(load_recipe(name), (side, side))


@pytest.mark.parametrize(("family", "size"), [(family, size) for family, sizes in SIZES.items() for size in sizes])
def test_sizes_that_pass_the_check_have_networks(family: str, size: Size) -> None:
    recipe, spec = small(family), image_spec(*size, 3)
    FAMILIES[family].check(recipe, spec)
    with torch.device("meta"):
        new_generator(recipe, spec)
        new_discriminators(recipe, spec)


@pytest.mark.parametrize(
    ("size", "nearest"), [((8, 8), "16"), ((15, 64), "16x64"), ((64, 1025), "64x1024"), ((2000, 9), "1024x16")]
)
@pytest.mark.parametrize("family", sorted(SIZES))
def test_sides_below_16_and_above_1024_are_refused(family: str, size: Size, nearest: str) -> None:
    sentence = refusal(lambda: check(small(family), size))
    assert sentence.startswith("image_size=")
    assert sentence.endswith(f": give {nearest}.")


def test_what_has_no_width_is_refused() -> None:
    for values in ({"width": 0}, {"blocks": 0}):
        assert "needs width and blocks" in refusal(lambda values=values: check(small("subpixel", **values), (28, 28)))


def test_what_r3gan_does_not_go_with_is_refused() -> None:
    assert "needs width and blocks" in refusal(lambda: check(small("r3gan", blocks=0), (28, 28)))
    assert "spectral_norm is not possible" in refusal(lambda: check(small("r3gan", spectral_norm=True), (28, 28)))
    assert "width=40 is not possible" in refusal(lambda: check(small("r3gan", width=40), (28, 28)))
    assert "give 32 or 40" in refusal(lambda: check(small("r3gan"), (36, 36)))
    check(small("dcgan", spectral_norm=True), (36, 37))


@pytest.mark.parametrize(
    ("family", "size"),
    [(f, size) for f in ("dcgan", "subpixel") for size in ((19, 40), (64, 16))] + [("r3gan", (16, 40))],
)
@pytest.mark.parametrize("class_names", [(), ("cat", "dog")])
def test_the_file_of_a_generator_of_rectangles_equals_it(
    family: str, size: Size, class_names: tuple[str, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    spec = image_spec(*size, 3, class_names=class_names)
    generator = new_generator(small(family), spec).eval()
    parity = export_generator(generator, Description(8, spec), tmp_path / "generator.onnx")
    assert parity.images > 0
    exported = OnnxGenerator(tmp_path / "generator.onnx", device="cpu")
    assert exported.description.spec.shape == (*size, 3)
    assert exported.sample([1, 2, 3]).shape == (3, *size, 3)
