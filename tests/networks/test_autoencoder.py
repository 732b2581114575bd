"""The mixture that draws codes, and the encoder beside a decoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gan_plugin.config.recipe import load_recipe, override
from gan_plugin.networks import new_autoencoder
from gan_plugin.networks.autoencoder import GaussianMixture, MixtureParameters
from gan_plugin.spec import image_spec

WEIGHTS = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])  # the second class has a single component


def mixture(classes: int = 2) -> GaussianMixture:
    """Return a mixture in two dimensions, of three components that lie far apart."""
    means = torch.tensor([[[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]], [[500.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    factors = torch.tensor([[2.0, 0.0], [1.0, 0.5]]).expand(2, 3, 2, 2).clone()
    prior = GaussianMixture(2, 3, classes)
    rows = slice(None) if classes else slice(1)
    prior.set_parameters(MixtureParameters(WEIGHTS[rows], means[rows], factors[rows]))
    return prior


def components_of(codes: Tensor) -> Tensor:
    """Return which of the first class's components made each code: 0, 1 or 2."""
    return (codes > 50).long() @ torch.tensor([1, 2])


def test_codes_are_distributed_like_the_mixture() -> None:
    torch.manual_seed(0)
    codes = mixture()(torch.randn(50_000, 3), torch.zeros(50_000, dtype=torch.int64))
    component = components_of(codes)
    shares = component.bincount(minlength=3) / len(codes)
    torch.testing.assert_close(shares, WEIGHTS[0], atol=0.01, rtol=0)
    own = codes[component == 1]
    torch.testing.assert_close(own.mean(0), torch.tensor([100.0, 0.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(own.T.cov(), torch.tensor([[4.0, 2.0], [2.0, 1.25]]), atol=0.1, rtol=0)


def test_a_class_without_some_of_the_components_never_draws_them() -> None:
    torch.manual_seed(0)
    codes = mixture()(5 * torch.randn(10_000, 3), torch.ones(10_000, dtype=torch.int64))
    assert codes[:, 0].min() > 300


@pytest.mark.parametrize("classes", [0, 2])
def test_the_inverse_gives_codes_back(classes: int) -> None:
    torch.manual_seed(0)
    prior = mixture(classes)
    labels = torch.arange(64) % 2 if classes else None
    codes = prior(torch.randn(64, 3), labels)
    z = prior.inverse(codes, labels)
    torch.testing.assert_close(prior(z, labels), codes, atol=1e-3, rtol=1e-5)
    assert z[:, 1:].abs().max() < 5  # by the component that made it


def test_a_single_component_needs_no_choice() -> None:
    prior = GaussianMixture(2, 1, 0)
    factor = torch.tensor([[[[3.0, 0.0], [0.0, 1.0]]]])
    prior.set_parameters(MixtureParameters(torch.ones(1, 1), torch.tensor([[[1.0, 2.0]]]), factor))
    z = torch.tensor([[1.0, -1.0]])
    assert prior(z).tolist() == [[4.0, 1.0]]
    assert prior.inverse(prior(z)).tolist() == z.tolist()


@pytest.mark.parametrize("family", ["dcgan", "subpixel", "r3gan"])
@pytest.mark.parametrize("components", [0, 1, 4])
def test_every_family_is_an_autoencoder_whose_parts_are_all_trained(family: str, components: int) -> None:
    sized = {"width": 16, "blocks": 1} if family != "dcgan" else {}
    recipe = override(load_recipe("vae"), family=family, latent_size=9, mixture_components=components, **sized)
    spec = image_spec(16, 16, 3, class_names="abc")
    torch.manual_seed(0)
    network = new_autoencoder(recipe, spec)
    label = torch.tensor([0, 2])
    image = network(torch.randn(2, 9), label)
    assert image.shape == (2, 3, 16, 16)
    encoding = network.encoder(image)
    assert encoding.code.shape == (2, 8 if components > 1 else 9)
    assert encoding.log_variance is not None
    assert encoding.class_logits is not None
    loss = network.decode(encoding.code, label).square().sum() + encoding.log_variance.sum()
    gradients = torch.autograd.grad(
        loss + encoding.class_logits.sum(), list(network.parameters()), allow_unused=True, materialize_grads=False
    )
    assert [name for (name, _), g in zip(network.named_parameters(), gradients) if g is None] == []


def test_the_classes_do_not_teach_the_features() -> None:
    network = new_autoencoder(override(load_recipe("autoencoder"), width=16), image_spec(16, 16, 1, class_names="ab"))
    logits = network.encoder(torch.randn(2, 1, 16, 16)).class_logits
    assert logits is not None
    (gradient,) = torch.autograd.grad(logits.sum(), [network.encoder.body.from_image.weight], allow_unused=True)
    assert gradient is None
