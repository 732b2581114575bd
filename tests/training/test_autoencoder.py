"""The training of autoencoders: their losses, their mixtures, and that they learn to reconstruct."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import CPU, Memory, plan

from gan_plugin.config.recipe import Recipe, load_recipe, override
from gan_plugin.data import Dataset, load_dataset
from gan_plugin.data.loader import Batch
from gan_plugin.media.image import normalize
from gan_plugin.networks.autoencoder import Autoencoder, GaussianMixture
from gan_plugin.objectives import gaussian_nll, kl_divergence
from gan_plugin.spec import image_spec
from gan_plugin.training.loop import train
from gan_plugin.training.mixture import active_units, codes_of, fit_mixture
from gan_plugin.training.samples import exported_generator
from gan_plugin.training.state import TrainingState, new_state
from gan_plugin.training.steps import metric_names, new_step

METHODS = ["autoencoder", "vae", "rae"]
SMALL = {"batch_size": 16, "width": 16, "latent_size": 9, "mixture_components": 2}


def small(method: str, **values: object) -> Recipe:
    return override(load_recipe(method), **{**SMALL, **values})


@pytest.fixture(scope="module")
def digits() -> Dataset:
    dataset = load_dataset("digits", image_size=16)
    return dataset.take(torch.arange(200))


def labeled(dataset: Dataset) -> Batch:
    assert dataset.labels is not None
    return Batch(dataset.samples[:16], dataset.labels[:16])


def state_of(recipe: Recipe, dataset: Dataset) -> TrainingState:
    torch.manual_seed(0)
    return new_state(recipe, dataset.spec, CPU)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_reports_what_it_is_said_to_report(method: str, digits: Dataset) -> None:
    recipe = small(method)
    metrics = new_step(state_of(recipe, digits), recipe, torch.float32)(labeled(digits), labeled(digits))
    assert set(metrics) == set(metric_names(recipe))
    assert all(value.shape == () and value.isfinite() and not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_step_descends_the_loss_of_its_method(method: str, digits: Dataset) -> None:
    """By SGD, whose step is the gradient: of the loss as the papers have it, written once more."""
    values = {"optimizer": "sgd", "beta1": 0.0, "generator_lr": 1e-6, "code_penalty": 0.5, "decoder_penalty": 0.25}
    recipe = small(method, **values)
    state = state_of(recipe, digits)
    before, batch = copy.deepcopy(state.generator), labeled(digits)
    assert isinstance(before, Autoencoder)
    torch.manual_seed(1)
    new_step(state, recipe, torch.float32)(batch, batch)

    x = normalize(batch.samples.float())
    encoding = before.encoder(x)
    code = encoding.code
    torch.manual_seed(1)
    if encoding.log_variance is not None:
        code = code + encoding.log_variance.exp().sqrt() * torch.randn_like(code)
    reconstruction = before.decode(code, batch.labels)
    squares = ((x - reconstruction) ** 2).sum((1, 2, 3)).mean()
    if encoding.log_variance is not None:
        variance = encoding.log_variance.exp()
        divergence = 0.5 * (encoding.code**2 + variance - 1 - variance.log()).sum(1).mean()
        loss = 16 * 16 / 2 * torch.log(squares / (16 * 16)) + divergence
    elif method == "rae":
        decoder = sum((w**2).sum() for w in before.decoder.parameters())
        loss = squares + 0.5 * 0.5 * (code**2).sum(1).mean() + 0.25 * decoder
    else:
        loss = squares
    assert encoding.class_logits is not None
    assert batch.labels is not None
    loss = loss + torch.nn.functional.cross_entropy(encoding.class_logits, batch.labels)
    gradients = torch.autograd.grad(loss, list(before.parameters()))
    for (name, old), new, gradient in zip(before.named_parameters(), state.generator.parameters(), gradients):
        torch.testing.assert_close(new, old - 1e-6 * gradient, atol=1e-7, rtol=1e-5, msg=name)


def test_the_learned_noise_is_the_best_one() -> None:
    """−log N(x; x̂, σ²) of all σ is least at that of the loss."""
    torch.manual_seed(0)
    x, reconstruction = torch.randn(2, 4, 1, 8, 8)
    errors = (x - reconstruction).square()
    error = errors.sum((1, 2, 3)).mean().item()
    losses = [64 / 2 * math.log(variance) + error / (2 * variance) - 32 for variance in np.linspace(1, 4, 301)]
    assert gaussian_nll(x, reconstruction).item() == pytest.approx(min(losses), abs=1e-3)


def test_a_code_like_the_prior_has_no_divergence() -> None:
    assert kl_divergence(torch.zeros(3, 4), torch.zeros(3, 4)).item() == 0
    assert kl_divergence(torch.ones(3, 4), torch.zeros(3, 4)).item() == pytest.approx(2)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_to_reconstruct_and_its_mixture_makes_what_it_was_shown(
    method: str, digits: Dataset, tmp_path: Path
) -> None:
    """Of images that are black or white, according to their class, in a few epochs."""
    samples = torch.zeros_like(digits.samples)
    labels = torch.arange(len(samples)) % 2
    samples[labels == 1] = 255
    spec = image_spec(16, 16, 1)
    data = Dataset(samples, None, spec, name="two", source="two", split="train", digest="2", notes=())
    recipe = small(method, conditional=False, code_penalty=0, decoder_penalty=0)
    settings = {**vars(plan(8)), "recipe": recipe, "guard": False}
    tracker = Memory()
    state = train(data, type(plan())(**settings), tracker, folder=tmp_path)
    losses = [values["loss/reconstruction"] for values in tracker.values.values() if "loss/reconstruction" in values]
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        images = state.ema(torch.randn(64, 9)).mean((1, 2, 3))
    assert (images.abs() > 0.7).float().mean() > 0.8
    assert 0.25 < (images > 0).float().mean() < 0.75


def test_the_mixture_of_a_class_is_that_of_its_codes() -> None:
    torch.manual_seed(0)
    codes = torch.cat([torch.randn(300, 2) + 20, torch.randn(300, 2) - 20, torch.randn(4, 2), torch.full((1, 2), 7.0)])
    labels = torch.tensor([0] * 600 + [1] * 4 + [2])
    weights, means, factors = fit_mixture(codes, labels, GaussianMixture(2, 2, 3))
    torch.testing.assert_close(weights[0].sort().values, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert means[0].sort(0).values.round(decimals=0).abs().tolist() == [[20, 20], [20, 20]]
    assert weights[1].tolist() == [1, 0]  # four codes in two dimensions are too few for two components
    assert weights[2].tolist() == [1, 0]
    assert means[2, 0].tolist() == [7, 7]
    assert factors.diagonal(dim1=-2, dim2=-1).min() > 0


def test_what_is_trained_is_not_changed_by_what_is_exported(digits: Dataset) -> None:
    recipe = small("vae")
    state = state_of(recipe, digits)
    before = copy.deepcopy(state.ema.state_dict())
    exported = exported_generator(state, recipe, digits)
    assert isinstance(exported, Autoencoder)
    assert exported.prior is not None
    assert exported.prior.means.abs().max() > 0
    for name, value in state.ema.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_unused_units_are_not_counted(digits: Dataset) -> None:
    state = state_of(small("autoencoder"), digits)
    assert isinstance(state.ema, Autoencoder)
    with torch.no_grad():
        state.ema.encoder.code.weight[:3] = 0
    codes, labels = codes_of(state.ema, digits)
    assert codes.shape == (200, 8)
    assert labels is not None
    assert active_units(100 * codes) == 5
