"""Adversarial losses against their formulas, in float64 and with finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan_plugin.objectives import OBJECTIVES, minimax_loss, mutual_information_loss, non_saturating_loss, softmax_mean

REAL = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
FAKE = torch.tensor([-0.5, 1.5, -3.0], dtype=torch.float64)


def mean(values: Callable[[float, float], float]) -> float:
    return sum(values(r, f) for r, f in zip(REAL.tolist(), FAKE.tolist())) / len(REAL)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FORMULAS: dict[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    "minimax": (
        lambda r, f: -math.log(sigmoid(r)) - math.log(1 - sigmoid(f)),
        lambda r, f: math.log(1 - sigmoid(f)),
    ),
    "non-saturating": (
        lambda r, f: -math.log(sigmoid(r)) - math.log(1 - sigmoid(f)),
        lambda r, f: -math.log(sigmoid(f)),
    ),
    "least-squares": (lambda r, f: ((r - 1) ** 2 + f**2) / 2, lambda r, f: (f - 1) ** 2 / 2),
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda r, f: -f),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "relativistic": (lambda r, f: -math.log(sigmoid(r - f)), lambda r, f: -math.log(sigmoid(f - r))),
}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_both_losses_are_their_formulas(name: str) -> None:
    discriminator, generator = FORMULAS[name]
    assert OBJECTIVES[name].discriminator(REAL, FAKE).item() == pytest.approx(mean(discriminator))
    assert OBJECTIVES[name].generator(REAL, FAKE).item() == pytest.approx(mean(generator))


def test_the_loss_of_a_discriminator_at_chance_is_log_four() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    loss = OBJECTIVES["non-saturating"].discriminator(zero, zero)
    torch.testing.assert_close(loss, torch.log(torch.tensor(4.0, dtype=torch.float64)))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_losses_stay_finite_for_logits_that_saturate_a_probability(name: str) -> None:
    sure = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = OBJECTIVES[name].generator(sure, -sure) + OBJECTIVES[name].discriminator(sure, -sure)
    (gradient,) = torch.autograd.grad(loss, sure)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_against_a_sure_discriminator_minimax_saturates_and_its_alternative_does_not() -> None:
    sure = torch.tensor([-20.0], requires_grad=True)
    (saturated,) = torch.autograd.grad(minimax_loss(sure, sure), sure)
    (unsaturated,) = torch.autograd.grad(non_saturating_loss(sure, sure), sure)
    assert saturated.abs().item() < 1e-8
    assert unsaturated.item() == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_gradients_against_finite_differences(name: str) -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    assert torch.autograd.gradcheck(OBJECTIVES[name].discriminator, (real, fake))
    assert torch.autograd.gradcheck(OBJECTIVES[name].generator, (real, fake))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_boundary_and_relative_are_those_of_the_losses(name: str) -> None:
    """A boundary where the absolute value counts; none where a constant added to all logits changes nothing."""
    objective = OBJECTIVES[name]
    shifted = objective.discriminator(REAL + 5, FAKE + 5)
    invariant = bool(torch.isclose(shifted, objective.discriminator(REAL, FAKE)))
    assert (objective.boundary is None) == invariant
    depends_on_real = objective.generator(REAL, FAKE) != objective.generator(REAL + 1, FAKE)
    assert objective.relative == bool(depends_on_real)
    if objective.boundary is not None:  # where real and fake pull equally on the logit
        logit = torch.tensor([objective.boundary], requires_grad=True)
        (pull,) = torch.autograd.grad(objective.discriminator(logit, logit), logit)
        assert pull.item() == pytest.approx(0, abs=1e-6)


def test_losses_of_several_discriminators_are_weighted_by_their_softmax() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    assert softmax_mean(losses, 0).item() == pytest.approx(7 / 3)
    weights = [math.exp(0.5 * x) for x in (1, 2, 4)]
    expected = sum(w * x for w, x in zip(weights, (1, 2, 4))) / sum(weights)
    assert softmax_mean(losses, 0.5).item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(softmax_mean(losses, 0.5), losses)  # the weights are constants
    torch.testing.assert_close(gradient, torch.tensor(weights) / sum(weights))
    assert softmax_mean(losses, 100).item() == pytest.approx(4)


def test_the_loss_of_codes_is_a_cross_entropy_and_a_square() -> None:
    z = torch.tensor([[0.1, 2.0, 0.5, -1.0, 9.0]])  # the categorical code is 1 of 3, the continuous one -1
    predicted_codes = torch.tensor([[1.0, 0.0, -1.0, 0.5]])
    cross_entropy = -math.log(1 / (math.e + 1 + 1 / math.e))
    assert mutual_information_loss(predicted_codes, z, categorical_codes=3, continuous_codes=1).item() == pytest.approx(
        cross_entropy + 0.1 * 0.5 * 1.5**2
    )
    assert mutual_information_loss(
        predicted_codes[:, :3], z, categorical_codes=3, continuous_codes=0
    ).item() == pytest.approx(cross_entropy)

    def loss(x: Tensor) -> Tensor:
        return mutual_information_loss(x, z.double(), categorical_codes=3, continuous_codes=1)

    assert torch.autograd.gradcheck(loss, predicted_codes.double().requires_grad_())


@pytest.mark.parametrize("name", [name for name, objective in OBJECTIVES.items() if objective.slope_ratio])
def test_the_ratio_of_slopes_makes_one_losss_slope_the_others(name: str) -> None:
    """And where the discriminator is so sure that its own slope vanishes in float32, nothing becomes NaN."""
    objective = OBJECTIVES[name]
    assert objective.slope_ratio is not None
    real, fake = torch.tensor([3.0, -2.0, 0.5, 100.0]), torch.tensor([-60.0, 0.0, 7.0, -200.0], requires_grad=True)
    slopes = [torch.autograd.grad(loss(real, fake), fake)[0] for loss in (objective.discriminator, objective.generator)]
    scaled = slopes[0] * objective.slope_ratio(real, fake.detach())
    torch.testing.assert_close(scaled[:3], slopes[1][:3])
    assert scaled.isfinite().all()
