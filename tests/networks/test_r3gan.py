"""The networks of R3GAN against the paper: parameters, initial values, resampling, sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import refusal
from torch import Tensor, nn

from gan_plugin.config.recipe import load_recipe
from gan_plugin.networks import new_discriminators, new_generator
from gan_plugin.networks.r3gan import Block, Discriminator, Generator, base, downsampled, stage_widths, upsampled
from gan_plugin.spec import SampleSpec, image_spec


def millions(module: nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


@pytest.mark.parametrize(
    ("name", "spec", "published"),
    [
        ("r3gan-cifar10", image_spec(32, 32, 3, "abcdefghij"), (20.78, 21.28)),
        ("r3gan-ffhq64", image_spec(64, 64, 3), (22.43, 22.38)),
    ],
)
def test_the_presets_have_the_published_number_of_parameters(
    name: str, spec: SampleSpec, published: tuple[float, float]
) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        players = new_generator(recipe, spec), new_discriminators(recipe, spec)
    assert tuple(millions(player) for player in players) == published


def test_sizes_double_from_a_base() -> None:
    assert [base(size) for size in (16, 28, 32, 40, 96, 256)] == [4, 7, 4, 5, 6, 4]
    assert stage_widths(256, 768, 4) == [768, 768, 768, 768, 384, 192, 96]
    assert refusal(lambda: base(36)) == (
        "image_size=36 is not possible with family=r3gan, which doubles a side of 4 to 7 pixels: give 32 or 40, or "
        "family=dcgan."
    )
    assert stage_widths(256, 128, 1) == [128, 64, 32, 16, 16, 16, 16]
    assert stage_widths(28, 48, 4) == [48, 48, 48]
    assert refusal(lambda: stage_widths(28, 48, 1)) == (
        "width=48 is not possible: it is halved from stage to stage, down to 16, and stays a multiple of 16. Give a "
        "power of two, from 16 on."
    )
    assert refusal(lambda: stage_widths(28, 8, 1)).startswith("width=8 is not possible")


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 1), (40, 3), (64, 3)])
@pytest.mark.parametrize("classes", [0, 4])
def test_every_weight_learns(size: int, channels: int, classes: int) -> None:
    torch.manual_seed(0)
    generator = Generator(8, image_spec(size, size, channels, "abcdefghij"[:classes]), width=32, blocks=1)
    discriminator = Discriminator(image_spec(size, size, channels), classes, width=32, blocks=1, pack=2)
    for module in (generator, discriminator):
        for block in module.modules():
            if isinstance(block, Block):  # or nothing would reach the layers before the last
                nn.init.normal_(block.layers[4].weight, std=0.1)
    labels = torch.arange(4) % classes if classes else None
    images = generator(torch.randn(4, 8), labels)
    assert images.shape == (4, channels, size, size)
    logits = discriminator(images.reshape(2, -1, size, size), None if labels is None else labels.view(2, 2))
    assert logits.shape == (2,)
    logits.sum().backward()
    for module in (generator, discriminator):
        assert not [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_block_begins_as_the_identity_and_a_network_with_the_papers_deviations() -> None:
    torch.manual_seed(0)
    generator = Generator(64, image_spec(32, 32, 3), width=128, blocks=2)  # 8 residual blocks
    x = torch.randn(2, 128, 8, 8)
    assert torch.equal(generator.stages[1](x), x)
    weights = {name: p.std().item() for name, p in generator.named_parameters() if p.dim() > 1}
    gain = (2 / 1.04) ** 0.5 * 8**-0.25
    assert weights["stages.1.0.layers.0.weight"] == pytest.approx(gain / 128**0.5, rel=0.05)
    assert weights["stages.1.0.layers.2.weight"] == pytest.approx(gain / (16 * 9) ** 0.5, rel=0.05)
    assert weights["linear.weight"] == pytest.approx(1 / 64**0.5, rel=0.05)
    assert weights["basis"] == pytest.approx(1, rel=0.1)


def filtered(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Both axes of an image [H, W] convolved, in numpy."""
    rows = np.stack([np.convolve(row, kernel) for row in x])
    return np.stack([np.convolve(column, kernel) for column in rows.T]).T


def test_resampling_is_the_separable_filter_1_3_3_1() -> None:
    x = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    kernel = np.array([1, 3, 3, 1]) / 8
    down = filtered(x[0, 0].numpy(), kernel)[2:-1:2, 2:-1:2]
    torch.testing.assert_close(downsampled(x)[0, 0], torch.from_numpy(down))
    spread = np.zeros((12, 12))
    spread[::2, ::2] = x[0, 0].numpy()
    up = 4 * filtered(spread, kernel)[1:-2, 1:-2]
    torch.testing.assert_close(upsampled(x)[0, 0], torch.from_numpy(up))


def test_gradients_of_gradients_and_a_coarsest_stage_in_float32() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(image_spec(16, 16, 1), width=32, blocks=1)
    seen: list[torch.dtype] = []
    for i in (0, -1):
        discriminator.stages[i].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    x = torch.randn(2, 1, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = discriminator(x)
    assert seen == [torch.bfloat16, torch.float32]
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert discriminator.from_image.weight.grad.isfinite().all()
    assert discriminator.from_image.weight.grad.any()
