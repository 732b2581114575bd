"""The DCGAN family: the tutorial's exact networks, and every height and width."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.networks.dcgan import Discriminator, Dropout, Generator, StrideOneConvTranspose2d, feature_map_sizes
from gan_plugin.spec import Size, image_spec, size_text


def count_values(module: nn.Module) -> int:
    """Count weights and running statistics, without batch norm's counters of batches."""
    return sum(v.numel() for name, v in module.state_dict().items() if not name.endswith("num_batches_tracked"))


def test_the_tutorials_networks_have_the_tutorials_number_of_weights() -> None:
    generator, discriminator = Generator(100, image_spec(28, 28, 1)), Discriminator(image_spec(28, 28, 1), dropout=0.3)
    assert count_values(generator) == 2_330_944
    assert count_values(generator) - sum(p.numel() for p in generator.parameters()) == 25_472
    assert count_values(discriminator) == 212_865


def test_the_tutorials_layers_in_the_tutorials_order() -> None:
    """The generator computed from its own weights by the tutorial's description, layer by layer."""
    torch.manual_seed(0)
    g = Generator(100, image_spec(28, 28, 1)).eval()
    w = g.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        statistics = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, *statistics, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-3)

    def lrelu(x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.3)

    z = torch.randn(3, 100)
    x = lrelu(norm(z @ w["dense.weight"].T, "dense_norm")).reshape(3, 256, 7, 7)
    x = lrelu(norm(F.conv_transpose2d(x, w["upsample.0.weight"], padding=2), "upsample.1"))
    x = lrelu(norm(F.conv_transpose2d(x, w["upsample.3.weight"], None, 2, 2, 1), "upsample.4"))
    x = torch.tanh(F.conv_transpose2d(x, w["upsample.6.weight"], None, 2, 2, 1))
    torch.testing.assert_close(g(z), x, rtol=1e-4, atol=1e-5)


def test_glorot_uniform_weights() -> None:
    dense = Generator(100, image_spec(28, 28, 1)).dense.weight
    limit = (6 / (100 + 12544)) ** 0.5
    assert dense.abs().max() <= limit
    assert dense.std().item() == pytest.approx(limit / 3**0.5, rel=0.01)


def test_the_stride_one_transposed_convolution_is_torchs() -> None:
    torch.manual_seed(0)
    ours = StrideOneConvTranspose2d(6, 4, 5, bias=False)
    theirs = nn.ConvTranspose2d(6, 4, 5, padding=2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 7, 7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(m(x).square().sum(), m.weight)[0] for m in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_dropout_keeps_seven_tenths_of_independent_values_and_the_mean() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.3)
    x = torch.ones(1000, 1001, requires_grad=True)
    y = dropout(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    mask = (y > 0).float()
    assert mask.mean().item() == pytest.approx(0.7, abs=0.002)  # 4 standard deviations
    for lag in (1, 2, 3, 4):  # neighbors come from one random number
        both = (mask.flatten()[:-lag] * mask.flatten()[lag:]).mean().item()
        assert both == pytest.approx(0.49, abs=0.002)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach())  # x is 1: the same mask, the same scale
    assert torch.equal(dropout.eval()(x), x)
    half = Dropout(0.3)(torch.ones(64, 64, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16


SQUARES = [(16, 16), (28, 28), (36, 36), (44, 44), (64, 64), (100, 100), (256, 256)]
RECTANGLES = [(256, 128), (64, 1024), (1024, 16), (17, 33), (57, 28)]


@pytest.mark.parametrize("size", SQUARES + RECTANGLES, ids=size_text)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_is_generated_and_classified(size: Size, channels: int) -> None:
    generator, discriminator = (
        Generator(8, image_spec(*size, channels)),
        Discriminator(image_spec(*size, channels), dropout=0.3),
    )
    images = generator(torch.randn(2, 8))
    assert images.shape == (2, channels, *size)
    assert images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (2,)
    logits.sum().backward()
    for network in (generator, discriminator):
        assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_squares_halve_at_least_twice_and_until_a_side_is_at_most_8_pixels() -> None:
    for side in range(16, 1025, 4):
        sizes = feature_map_sizes((side, side))
        assert sizes[:3] == [(side, side), (side // 2, side // 2), (side // 4, side // 4)]
        assert all(height == width for height, width in sizes)
        assert sizes[-1][0] <= 8
        assert len(sizes) == 3 or sizes[-2][0] > 8


def test_the_coarsest_feature_map_is_bounded_however_long_a_side_is() -> None:
    """Each side is halved on its own, and the longer one alone once the shorter has come to its end."""
    assert feature_map_sizes((64, 1024))[3:] == [(8, 128), (8, 64), (8, 32), (8, 16), (8, 8)]
    with torch.device("meta"):
        generator, discriminator = (
            Generator(100, image_spec(64, 1024, 3)),
            Discriminator(image_spec(64, 1024, 3), dropout=0.3),
        )
    assert generator.dense.out_features == discriminator.feature_size == 512 * 8 * 8


def test_every_batch_norm_of_the_generator_has_a_gain_and_a_bias_of_each_class() -> None:
    """All classes begin as the generator without any; each gain and each bias of a class is for its images alone."""
    torch.manual_seed(0)
    plain, generator = (
        Generator(8, image_spec(28, 28, 1)).eval(),
        Generator(8, image_spec(28, 28, 1, class_names="abc")).eval(),
    )
    generator.load_state_dict(plain.state_dict(), strict=False)
    z, labels = torch.randn(3, 8), torch.tensor([0, 1, 2])
    expected = plain(z)
    torch.testing.assert_close(generator(z, labels), expected)
    assert len(generator.class_affines) == 3
    for affine in generator.class_affines:
        for table in (affine.gain, affine.bias):
            changed = copy.deepcopy(table.weight.data)
            table.weight.data[1] += torch.randn_like(changed[1])
            same = torch.isclose(generator(z, labels), expected, atol=1e-5).flatten(1).all(1)
            assert same.tolist() == [True, False, True]
            table.weight.data = changed
