"""The DCGAN family: the tutorial's exact networks, and every size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.networks import FAMILIES
from gan_plugin.networks.dcgan import Discriminator, Dropout, Generator, StrideOneConvTranspose2d


def values(module: nn.Module) -> int:
    """Weights and running statistics, without batch norm's counters of batches."""
    return sum(v.numel() for name, v in module.state_dict().items() if not name.endswith("num_batches_tracked"))


def test_the_tutorials_networks_hold_the_tutorials_values() -> None:
    generator, discriminator = Generator(100, 28, 1), Discriminator(28, 1)
    assert values(generator) == 2_330_944
    assert values(generator) - sum(p.numel() for p in generator.parameters()) == 25_472
    assert values(discriminator) == 212_865


def test_the_tutorials_layers_in_the_tutorials_order() -> None:
    """The generator computed from its own weights by the tutorial's description, layer by layer."""
    torch.manual_seed(0)
    g = Generator(100, 28, 1).eval()
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
    dense = Generator(100, 28, 1).dense.weight
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
    kept = (y > 0).float()
    assert kept.mean().item() == pytest.approx(0.7, abs=0.002)  # 4 standard deviations
    for lag in (1, 2, 3, 4):  # neighbours come from one random number
        together = (kept.flatten()[:-lag] * kept.flatten()[lag:]).mean().item()
        assert together == pytest.approx(0.49, abs=0.002)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach())  # x is 1: the same mask, the same scale
    assert torch.equal(dropout.eval()(x), x)
    half = Dropout(0.3)(torch.ones(64, 64, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 3), (36, 1), (44, 3), (64, 3), (100, 1), (256, 3)])
def test_every_size_makes_and_judges_its_own_pictures(family: str, size: int, channels: int) -> None:
    generator = FAMILIES[family].generator(32, size, channels)
    discriminator = FAMILIES[family].discriminator(size, channels)
    pictures = generator(torch.randn(2, 32))
    assert pictures.shape == (2, channels, size, size)
    assert pictures.abs().max() <= 1
    logits = discriminator(pictures)
    assert logits.shape == (2,)
    logits.sum().backward()
    silent = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
