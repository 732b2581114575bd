"""The DCGAN family: the tutorial's exact networks, and every size. What stands around the networks of any family."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe, load_recipe, override
from gan_plugin.networks import new_discriminators, new_generator
from gan_plugin.networks.dcgan import Discriminator, Dropout, Generator, StrideOneConvTranspose2d
from gan_plugin.networks.wrappers import CodedGenerator, one_power_iteration
from gan_plugin.spec import image_spec


def values(module: nn.Module) -> int:
    """Weights and running statistics, without batch norm's counters of batches."""
    return sum(v.numel() for name, v in module.state_dict().items() if not name.endswith("num_batches_tracked"))


def test_the_tutorials_networks_hold_the_tutorials_values() -> None:
    generator, discriminator = Generator(100, image_spec(28, 28, 1)), Discriminator(image_spec(28, 28, 1))
    assert values(generator) == 2_330_944
    assert values(generator) - sum(p.numel() for p in generator.parameters()) == 25_472
    assert values(discriminator) == 212_865


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
    kept = (y > 0).float()
    assert kept.mean().item() == pytest.approx(0.7, abs=0.002)  # 4 standard deviations
    for lag in (1, 2, 3, 4):  # neighbors come from one random number
        together = (kept.flatten()[:-lag] * kept.flatten()[lag:]).mean().item()
        assert together == pytest.approx(0.49, abs=0.002)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach())  # x is 1: the same mask, the same scale
    assert torch.equal(dropout.eval()(x), x)
    half = Dropout(0.3)(torch.ones(64, 64, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 3), (36, 1), (44, 3), (64, 3), (100, 1), (256, 3)])
def test_every_size_makes_and_judges_its_own_images(size: int, channels: int) -> None:
    generator, discriminator = (
        Generator(32, image_spec(size, size, channels)),
        Discriminator(image_spec(size, size, channels)),
    )
    images = generator(torch.randn(2, 32))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (2,)
    logits.sum().backward()
    assert not silent(generator)


def silent(module: nn.Module) -> list[str]:
    """Weights that no gradient reaches."""
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def tiny(**values: object) -> Recipe:
    return override(load_recipe("dcgan"), latent_size=16, **values)


@pytest.mark.parametrize("recipe", ["dcgan", "r3gan"])
def test_labels_reach_both_players(recipe: str) -> None:
    torch.manual_seed(0)
    spec = image_spec(16, 16, 1, "abc")
    generator = new_generator(load_recipe(recipe), spec).eval()
    discriminators = new_discriminators(load_recipe(recipe), spec).eval()
    for weight in generator.parameters():
        weight.data += 0.05 * torch.randn_like(weight)  # where all classes begin alike
    z = torch.randn(1, load_recipe(recipe).latent_size).expand(3, -1)
    labels = torch.tensor([0, 1, 1])
    images = generator(z, labels)
    assert not torch.allclose(images[0], images[1], atol=1e-3)
    torch.testing.assert_close(images[1], images[2])
    real = torch.rand(1, 1, 16, 16).expand(3, -1, -1, -1)
    logits = discriminators(real, labels)[0]
    assert abs(logits[0] - logits[1]) > 1e-4
    torch.testing.assert_close(logits[1], logits[2])


def test_every_batch_norm_of_the_generator_knows_the_class() -> None:
    """All classes begin as the generator without any; each gain and each bias of a class is for its images alone."""
    torch.manual_seed(0)
    plain, generator = (
        Generator(8, image_spec(28, 28, 1)).eval(),
        Generator(8, image_spec(28, 28, 1, "abc")).eval(),
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


def test_a_pack_is_consecutive_images_on_the_channels() -> None:
    torch.manual_seed(0)
    discriminators = new_discriminators(tiny(pack=2), image_spec(16, 16, 3, "abcde")).eval()
    x, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])
    logits = discriminators(x, labels)
    assert logits.shape == (1, 3)
    member = discriminators.members[0]
    alone = member(torch.cat([x[2], x[3]])[None], torch.tensor([[2, 3]]))
    torch.testing.assert_close(logits[0, 1:2], alone)
    turned = member(torch.cat([x[2], x[3]])[None], torch.tensor([[3, 2]]))  # each place has its own labels
    assert abs(turned - alone) > 1e-4


def test_several_discriminators_are_several() -> None:
    discriminators = new_discriminators(tiny(discriminators=3), image_spec(16, 16, 1)).eval()
    first, second, third = discriminators(torch.rand(4, 1, 16, 16))
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


def test_codes_are_a_choice_of_the_first_latents() -> None:
    torch.manual_seed(0)
    inner = Generator(16, image_spec(16, 16, 1)).eval()
    coded = CodedGenerator(inner, classes=4)
    z = torch.randn(8, 16)
    chosen = torch.cat([F.one_hot(z[:, :4].argmax(1), 4).float(), z[:, 4:]], 1)
    torch.testing.assert_close(coded(z), inner(chosen))
    choices = torch.randn(4000, 16)[:, :4].argmax(1).bincount(minlength=4) / 4000
    torch.testing.assert_close(choices, torch.full((4,), 0.25), atol=0.03, rtol=0)


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    discriminators = new_discriminators(tiny(spectral_norm=True, dropout=0.0), image_spec(16, 16, 1, "abc"))
    x, labels = torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    for _ in range(50):  # of a power iteration each
        discriminators(x, labels)
    layers = [m for m in discriminators.modules() if hasattr(m, "parametrizations")]
    assert len(layers) == 4  # two convolutions, the logit and the labels
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.02)


def test_within_one_power_iteration_every_image_meets_the_same_discriminator() -> None:
    torch.manual_seed(0)
    discriminators = new_discriminators(tiny(spectral_norm=True, dropout=0.0), image_spec(16, 16, 1))
    x = torch.rand(4, 1, 16, 16)
    with one_power_iteration():
        first, second = discriminators(x), discriminators(x)
    assert torch.equal(first, second)
    assert not torch.equal(second, discriminators(x)), "the next turn's iteration does not come"
