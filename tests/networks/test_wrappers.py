"""Modules around the networks of any family: several discriminators, packs, codes, spectral norm, quantized output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.config.recipe import Recipe, load_recipe, override
from gan_plugin.networks import new_discriminators, new_generator
from gan_plugin.networks.dcgan import Generator
from gan_plugin.networks.wrappers import OneHotGenerator, Quantized, generator_inputs, one_power_iteration
from gan_plugin.seeds import latents
from gan_plugin.spec import image_spec


def tiny(**values: object) -> Recipe:
    return override(load_recipe("dcgan"), latent_size=16, **values)


@pytest.mark.parametrize("recipe", ["dcgan", "subpixel", "r3gan"])
def test_labels_reach_generator_and_discriminators(recipe: str) -> None:
    torch.manual_seed(0)
    spec = image_spec(16, 16, 1, class_names="abc")
    generator = new_generator(load_recipe(recipe), spec).eval()
    discriminators = new_discriminators(load_recipe(recipe), spec).eval()
    for weight in generator.parameters():
        weight.data += 0.05 * torch.randn_like(weight)  # in which all classes are initially alike
    z = torch.randn(1, load_recipe(recipe).latent_size).expand(3, -1)
    labels = torch.tensor([0, 1, 1])
    images = generator(z, labels)
    assert not torch.allclose(images[0], images[1], atol=1e-3)
    torch.testing.assert_close(images[1], images[2])
    real = torch.rand(1, 1, 16, 16).expand(3, -1, -1, -1)
    logits = discriminators(real, labels)[0]
    assert abs(logits[0] - logits[1]) > 1e-4
    torch.testing.assert_close(logits[1], logits[2])


def test_a_pack_is_consecutive_images_on_the_channels() -> None:
    torch.manual_seed(0)
    discriminators = new_discriminators(tiny(pack=2), image_spec(16, 16, 3, class_names="abcde")).eval()
    x, labels = torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])
    logits = discriminators(x, labels)
    assert logits.shape == (1, 3)
    member = discriminators.members[0]
    alone = member(torch.cat([x[2], x[3]])[None], torch.tensor([[2, 3]]))
    torch.testing.assert_close(logits[0, 1:2], alone)
    swapped = member(torch.cat([x[2], x[3]])[None], torch.tensor([[3, 2]]))  # each place has its own labels
    assert abs(swapped - alone) > 1e-4


def test_several_discriminators_have_weights_of_their_own() -> None:
    discriminators = new_discriminators(tiny(discriminators=3), image_spec(16, 16, 1)).eval()
    first, second, third = discriminators(torch.rand(4, 1, 16, 16))
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)


def test_the_categorical_code_is_the_largest_of_the_first_latents() -> None:
    torch.manual_seed(0)
    inner = Generator(16, image_spec(16, 16, 1)).eval()
    coded = OneHotGenerator(inner, categorical_codes=4)
    z = torch.randn(8, 16)
    one_hot = torch.cat([F.one_hot(z[:, :4].argmax(1), 4).float(), z[:, 4:]], 1)
    torch.testing.assert_close(coded(z), inner(one_hot))


def test_the_first_discriminator_predicts_the_codes() -> None:
    torch.manual_seed(0)
    recipe = tiny(categorical_codes=3, continuous_codes=2, discriminators=2)
    discriminators = new_discriminators(recipe, image_spec(16, 16, 1)).eval()
    x = torch.rand(4, 1, 16, 16)
    logits, codes = discriminators.forward_with_codes(x)
    assert discriminators.code_head is not None
    assert codes is not None
    assert (logits.shape, codes.shape) == ((2, 4), (4, 5))
    torch.testing.assert_close(codes, discriminators.code_head(discriminators.members[0].embed(x)))
    assert new_discriminators(tiny(), image_spec(16, 16, 1)).forward_with_codes(x)[1] is None


def test_logits_and_codes_are_float32_under_autocast() -> None:
    discriminators = new_discriminators(tiny(categorical_codes=3), image_spec(16, 16, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert [x.dtype for x in discriminators.forward_with_codes(torch.rand(4, 1, 16, 16))] == [torch.float32] * 2


class Ramp(nn.Module):
    """Generator of images [B, 1, 2, 3] whose values are z."""

    def forward(self, z: Tensor) -> Tensor:
        return z.view(-1, 1, 2, 3)


def test_quantized_output_is_gray_levels_with_the_channels_last() -> None:
    z = torch.tensor([[-1, 1, 0.5 / 127.5, -3, 3, -0.5]])
    levels = Quantized(Ramp())(z)
    assert levels.dtype == torch.uint8
    assert levels.shape == (1, 2, 3, 1)
    assert levels.flatten().tolist() == [0, 255, 128, 0, 255, 64]  # rounded, and clamped to what a byte holds
    assert Quantized(Ramp(), torch.float16)(z).flatten().tolist() == [0, 255, 128, 0, 255, 64]


def test_inputs_of_seeds_are_their_latents_and_their_own_classes() -> None:
    z, labels = generator_inputs([5, 11], latent_size=16, classes=4, device=torch.device("cpu"))
    assert np.array_equal(z.numpy(), latents([5, 11], 16))
    assert labels.tolist() == [1, 3]
    assert len(generator_inputs([5, 11], latent_size=16, classes=0, device=torch.device("cpu"))) == 1


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    discriminators = new_discriminators(tiny(spectral_norm=True, dropout=0.0), image_spec(16, 16, 1, class_names="abc"))
    x, labels = torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    for _ in range(50):  # of a power iteration each
        discriminators(x, labels)
    layers = [m for m in discriminators.modules() if hasattr(m, "parametrizations")]
    assert len(layers) == 4  # two convolutions, the logit and the labels
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.02)


def test_within_one_power_iteration_a_discriminator_is_one_function() -> None:
    torch.manual_seed(0)
    discriminators = new_discriminators(tiny(spectral_norm=True, dropout=0.0), image_spec(16, 16, 1))
    x = torch.rand(4, 1, 16, 16)
    with one_power_iteration():
        first, second = discriminators(x), discriminators(x)
    assert torch.equal(first, second)
    assert not torch.equal(second, discriminators(x)), "the next step makes no power iteration"
