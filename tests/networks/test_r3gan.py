"""The networks of R3GAN against the paper: number of parameters, initial values, resampling; every possible size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import refusal
from torch import Tensor, nn

from gan_plugin.config.recipe import load_recipe
from gan_plugin.networks import new_discriminators, new_generator
from gan_plugin.networks.r3gan import (
    Block,
    Discriminator,
    Generator,
    downsample,
    nearest_sizes,
    stage_widths,
    stages,
    upsample,
)
from gan_plugin.spec import SampleSpec, Size, image_spec


def millions(module: nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


@pytest.mark.parametrize(
    ("name", "spec", "published"),
    [
        ("r3gan-cifar10", image_spec(32, 32, 3, class_names="abcdefghij"), (20.78, 21.28)),
        ("r3gan-ffhq64", image_spec(64, 64, 3), (22.43, 22.38)),
    ],
)
def test_the_presets_have_the_published_number_of_parameters(
    name: str, spec: SampleSpec, published: tuple[float, float]
) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        networks = new_generator(recipe, spec), new_discriminators(recipe, spec)
    assert tuple(millions(network) for network in networks) == published


def test_both_sides_double_from_a_shorter_side_of_4_to_7_pixels() -> None:
    assert [stages((side, side))[0] for side in (16, 28, 32, 40, 96, 256, 1024)] == [
        (4, 4), (7, 7), (4, 4), (5, 5), (6, 6), (4, 4), (4, 4),
    ]  # fmt: skip
    assert stages((256, 128)) == [(8, 4), (16, 8), (32, 16), (64, 32), (128, 64), (256, 128)]
    assert stages((64, 1024))[0] == (4, 64)
    assert stages((96, 80))[0] == (6, 5)


@pytest.mark.parametrize(
    ("size", "nearest", "text"),
    [
        ((36, 36), [(32, 32), (40, 40)], "give 32 or 40, or family=dcgan."),
        ((100, 60), [(96, 56), (112, 64)], "give 96x56 or 112x64, or family=dcgan."),
        ((60, 100), [(56, 96), (64, 112)], "give 56x96 or 64x112, or family=dcgan."),
        ((1001, 1001), [(896, 896), (1024, 1024)], "give 896 or 1024, or family=dcgan."),
        ((8, 8), [(16, 16)], "give 16."),
        ((2000, 64), [(1024, 64)], "give 1024x64."),
    ],
)
def test_other_sizes_are_refused_with_the_nearest_possible_ones(size: Size, nearest: list[Size], text: str) -> None:
    assert nearest_sizes(size) == nearest
    for possible in nearest:
        assert stages(possible)[-1] == possible
    height, width = size
    name = f"{height}" if height == width else f"{height}x{width}"
    assert refusal(lambda: stages(size)) == (
        f"image_size={name} is not possible with family=r3gan, which doubles both sides of an image whose shorter side "
        f"is 4 to 7 pixels, up to 1,024: {text}"
    )


def test_widths_halve_in_multiples_of_a_group() -> None:
    assert stage_widths(stages((256, 256)), 768, 4) == [768, 768, 768, 768, 384, 192, 96]
    assert stage_widths(stages((1024, 1024)), 768, 4) == [768, 768, 768, 768, 384, 192, 96, 48, 32]
    assert stage_widths(stages((256, 256)), 128, 1) == [128, 64, 32, 16, 16, 16, 16]
    assert stage_widths(stages((28, 28)), 48, 4) == [48, 48, 48]
    assert stage_widths(stages((28, 28)), 48, 1) == [48, 32, 16]


@pytest.mark.parametrize("width", [0, 8, 40])
def test_a_width_that_is_no_multiple_of_a_group_is_refused(width: int) -> None:
    assert refusal(lambda: stage_widths(stages((28, 28)), width, 1)) == (
        f"width={width} is not possible with family=r3gan, whose convolutions work on groups of 16 channels: give a "
        "multiple of 16."
    )


@pytest.mark.parametrize(
    ("size", "channels"), [((16, 16), 1), ((28, 28), 1), ((40, 40), 3), ((64, 64), 3), ((64, 32), 3), ((16, 100), 1)]
)
@pytest.mark.parametrize("classes", [0, 4])
def test_every_weight_learns(size: Size, channels: int, classes: int) -> None:
    torch.manual_seed(0)
    spec = image_spec(*size, channels, class_names="abcd"[:classes])
    generator = Generator(8, spec, width=32, full_stages=4, blocks=1)
    discriminator = Discriminator(spec, width=32, full_stages=4, blocks=1, pack=2)
    for module in (generator, discriminator):
        for block in module.modules():
            if isinstance(block, Block):  # or nothing would reach the layers before the last
                nn.init.normal_(block.layers[4].weight, std=0.1)
    labels = torch.arange(4) % classes if classes else None
    images = generator(torch.randn(4, 8), labels)
    assert images.shape == (4, channels, *size)
    logits = discriminator(images.reshape(2, -1, *size), None if labels is None else labels.view(2, 2))
    assert logits.shape == (2,)
    logits.sum().backward()
    for module in (generator, discriminator):
        assert not [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]


@torch.no_grad()
@pytest.mark.parametrize("size", [(1024, 1024), (256, 128), (64, 1024)])
def test_large_images_are_generated_and_classified(size: Size) -> None:
    spec = image_spec(*size, 3)
    images = Generator(8, spec, width=16, full_stages=1, blocks=1)(torch.randn(1, 8))
    assert images.shape == (1, 3, *size)
    assert Discriminator(spec, width=16, full_stages=1, blocks=1)(images).shape == (1,)


def test_blocks_are_initially_the_identity_and_weights_have_the_papers_deviations() -> None:
    torch.manual_seed(0)
    generator = Generator(64, image_spec(32, 32, 3), width=128, full_stages=4, blocks=2)  # 8 residual blocks
    x = torch.randn(2, 128, 8, 8)
    assert torch.equal(generator.stages[1](x), x)
    weights = {name: p.std().item() for name, p in generator.named_parameters() if p.dim() > 1}
    gain = (2 / 1.04) ** 0.5 * 8**-0.25
    assert weights["stages.1.0.layers.0.weight"] == pytest.approx(gain / 128**0.5, rel=0.05)
    assert weights["stages.1.0.layers.2.weight"] == pytest.approx(gain / (16 * 9) ** 0.5, rel=0.05)
    assert weights["linear.weight"] == pytest.approx(1 / 64**0.5, rel=0.05)
    assert weights["basis"] == pytest.approx(1, rel=0.1)


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve both axes of an image [H, W] in numpy."""
    rows = np.stack([np.convolve(row, kernel) for row in x])
    return np.stack([np.convolve(column, kernel) for column in rows.T]).T


def test_resampling_is_the_separable_filter_1_3_3_1() -> None:
    x = torch.randn(1, 1, 6, 8, generator=torch.Generator().manual_seed(0)).double()
    kernel = np.array([1, 3, 3, 1]) / 8
    down = convolve(x[0, 0].numpy(), kernel)[2:-1:2, 2:-1:2]
    torch.testing.assert_close(downsample(x)[0, 0], torch.from_numpy(down))
    zeros_between = np.zeros((12, 16))
    zeros_between[::2, ::2] = x[0, 0].numpy()
    up = 4 * convolve(zeros_between, kernel)[1:-2, 1:-2]
    torch.testing.assert_close(upsample(x)[0, 0], torch.from_numpy(up))


def test_gradients_of_gradients_and_a_coarsest_stage_in_float32() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(image_spec(16, 16, 1), width=32, full_stages=4, blocks=1)
    dtypes: list[torch.dtype] = []
    for i in (0, -1):
        discriminator.stages[i].register_forward_hook(lambda _m, _i, out: dtypes.append(out.dtype))
    x = torch.randn(2, 1, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = discriminator(x)
    assert dtypes == [torch.bfloat16, torch.float32]
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert discriminator.from_image.weight.grad.isfinite().all()
    assert discriminator.from_image.weight.grad.any()


def test_under_autocast_all_stages_but_the_coarsest_are_in_bfloat16() -> None:
    """Also where no layer between them changes the type, as in the published networks."""
    spec = image_spec(32, 32, 1)
    generator = Generator(8, spec, width=16, full_stages=4, blocks=1)
    discriminator = Discriminator(spec, width=16, full_stages=4, blocks=1)
    seen: dict[str, list[torch.dtype]] = {"generator": [], "discriminator": []}
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        for stage in network.stages:
            stage.register_forward_hook(lambda _stage, _x, y, name=name: seen[name].append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        discriminator(generator(torch.randn(2, 8)))
    fine = [torch.bfloat16] * 3
    assert seen == {"generator": [torch.float32, *fine], "discriminator": [*fine, torch.float32]}
