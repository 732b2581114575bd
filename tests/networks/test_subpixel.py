"""The sub-pixel networks: where they are wide, how they begin, and that every pixel counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.networks.subpixel import (
    BLURRED_FROM,
    LAST_MAPS,
    SLOPE,
    Blur,
    Discriminator,
    Downsampling,
    Generator,
    NormedActivation,
    straight_through_clamp,
)
from gan_plugin.spec import Size, image_spec

WIDTH = 16


def multiplications(network: nn.Module, *inputs: Tensor) -> dict[Size, int]:
    """Return the multiply-adds of a network's convolutions, by the size of what they make."""
    counts: dict[Size, int] = {}

    def count(layer: Any, _: object, output: Tensor) -> None:
        size = output.shape[2], output.shape[3]
        counts[size] = counts.get(size, 0) + output[0].numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(*inputs)
    return counts


def test_hardly_any_arithmetic_is_at_the_images_own_resolution() -> None:
    spec = image_spec(64, 64, 3)
    generator = Generator(8, spec, width=64, blocks=1)
    work = multiplications(generator, torch.randn(2, 8))
    assert work[64, 64] == 64 * 64 * 3 * LAST_MAPS[3] * 9
    assert work[64, 64] < 0.1 * sum(work.values())
    other = multiplications(Discriminator(spec, width=64, blocks=1), torch.rand(2, 3, 64, 64))
    assert (64, 64) not in other
    assert sum(other.values()) > 0.9 * sum(work.values())


@pytest.mark.parametrize("size", [(28, 28), (25, 37), (16, 64)])
def test_every_pixel_reaches_the_logit(size: Size) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(image_spec(*size, 1), width=WIDTH, blocks=1)
    x = torch.rand(1, 1, *size, requires_grad=True)
    (slope,) = torch.autograd.grad(discriminator(x).sum(), x)
    assert slope.abs().min() > 0


def test_blocks_of_the_discriminator_begin_as_the_identity() -> None:
    discriminator = Discriminator(image_spec(28, 28, 1), width=WIDTH, blocks=2)
    for stage in discriminator.blocks:
        x = torch.randn(2, stage[0].first.in_channels, 7, 7)
        torch.testing.assert_close(stage(x), x)


@pytest.mark.parametrize(
    ("high", "low"), [((14, 14), (7, 7)), ((13, 10), (7, 5)), ((16, 8), (8, 8)), ((9, 8), (5, 8)), ((8, 32), (8, 16))]
)
def test_downsampling_halves_what_is_to_be_halved(high: Size, low: Size) -> None:
    layer = Downsampling(3, 5, high=high, low=low)
    assert layer(torch.randn(2, 3, *high)).shape == (2, 5, *low)


def test_the_blur_leaves_nothing_of_a_checkerboard_and_an_even_color_as_it_is() -> None:
    row = torch.tensor([1.0, -1.0]).repeat(8)
    even, columns = torch.ones(16, 16), row.expand(16, 16)
    blurred = Blur(3, (2, 2))(torch.stack([even, columns, row[:, None] * row])[None])[0, :, 1:-1, 1:-1]
    torch.testing.assert_close(blurred, torch.stack([even, 0 * even, 0 * even])[:, 1:-1, 1:-1])


@pytest.mark.parametrize("classes", [0, 3])
def test_gain_and_bias_of_an_image_are_from_its_z_and_its_class(classes: int) -> None:
    torch.manual_seed(0)
    layer = NormedActivation(2, 5, classes)
    x, z = torch.randn(1, 2, 4, 4).expand(4, -1, -1, -1), torch.randn(4, 5)
    label = torch.tensor([0, 1, 2, 2]) if classes else None
    normed = layer.norm(x)
    torch.testing.assert_close(layer(x, z, label), F.leaky_relu(normed, SLOPE))  # initially from neither
    with torch.no_grad():
        layer.from_z.weight[0, 0] = 1  # gain of the first map
        layer.from_z.weight[3, 1] = 1  # bias of the second
        layer.affine[-1] += torch.tensor([0.0, 0, 2, 0])  # bias of the first, in the last class
    bias = torch.tensor([0.0, 0, 2, 2]) if classes else torch.full((4,), 2.0)
    first = normed[:, 0] * (1 + z[:, 0])[:, None, None] + bias[:, None, None]
    second = normed[:, 1] + z[:, 1, None, None]
    torch.testing.assert_close(layer(x, z, label), F.leaky_relu(torch.stack([first, second], 1), SLOPE))


@pytest.mark.parametrize(("size", "blurred"), [((BLURRED_FROM, 80), True), ((28, 28), False), ((28, 80), False)])
def test_small_images_keep_what_changes_from_pixel_to_pixel(size: Size, blurred: bool) -> None:
    generator = Generator(8, image_spec(*size, 1), width=WIDTH, blocks=1)
    blurs = [*generator.blurs, generator.last_blur]
    assert len(blurs) == len(generator.sizes)
    assert [isinstance(blur, Blur) for blur in blurs] == len(blurs) * [blurred]


@pytest.mark.parametrize("enlargement", [(2, 2), (1, 2), (2, 1)])
def test_an_enlargement_that_is_blurred_is_bilinear_but_at_the_edges(enlargement: Size) -> None:
    x = torch.randn(2, 3, 8, 8)
    size = (8 * enlargement[0], 8 * enlargement[1])
    enlarged = Blur(3, enlargement)(F.interpolate(x, size))
    bilinear = F.interpolate(x, size, mode="bilinear")
    torch.testing.assert_close(enlarged[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])


def test_the_pixels_of_a_subpixel_convolution_are_equal_at_first() -> None:
    subpixel = Generator(64, image_spec(64, 64, 1), width=32, blocks=1).subpixel
    pixels = F.pixel_shuffle(subpixel(torch.randn(2, subpixel.in_channels, 8, 8)), 2)
    torch.testing.assert_close(pixels, F.interpolate(pixels[..., ::2, ::2], scale_factor=2.0))


def test_black_and_white_are_within_reach_and_pixels_that_are_cut_still_learn() -> None:
    generator = Generator(8, image_spec(28, 28, 1), width=WIDTH, blocks=1)
    assert generator.to_image.bias is not None
    torch.nn.init.constant_(generator.to_image.bias, -3)
    z = torch.zeros(2, 8)
    for mode in (True, False):
        generator.train(mode)
        torch.testing.assert_close(generator(z), torch.full((2, 1, 28, 28), -1.0))
    x = torch.tensor([-1.05, -0.5, 0.3, 1.05], requires_grad=True)
    y = straight_through_clamp(x)
    torch.testing.assert_close(y, torch.tensor([-1, -0.5, 0.3, 1]))
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.tolist() == [1, 1, 1, 1]


def test_an_untrained_generators_images_have_no_checkerboard() -> None:
    """Neighboring columns differ alike, whether one sub-pixel convolution made both or not."""
    torch.manual_seed(0)
    generator = Generator(64, image_spec(64, 64, 1), width=32, blocks=1)
    images = generator(torch.randn(64, 64)).detach()
    steps = (images[..., 1:] - images[..., :-1]).abs().mean((0, 1, 2))[4:-4]  # [W − 9], without the edges
    even, odd = steps[::2].mean(), steps[1::2].mean()
    assert 0.8 < even / odd < 1.25
