"""Adversarial losses against the value function, in float64 and with finite differences."""

import pytest
import torch

from gan_plugin.objectives import OBJECTIVES, minimax_loss, non_saturating_loss, value_loss

REAL = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
FAKE = torch.tensor([-0.5, 1.5, -3.0], dtype=torch.float64)


def test_the_discriminator_maximises_the_value_function() -> None:
    value = torch.log(torch.sigmoid(REAL)).mean() + torch.log(1 - torch.sigmoid(FAKE)).mean()
    torch.testing.assert_close(value_loss(REAL, FAKE), -value)


def test_the_minimax_generator_minimises_it() -> None:
    torch.testing.assert_close(minimax_loss(FAKE), torch.log(1 - torch.sigmoid(FAKE)).mean())


def test_the_non_saturating_generator_maximises_log_d() -> None:
    torch.testing.assert_close(non_saturating_loss(FAKE), -torch.log(torch.sigmoid(FAKE)).mean())


def test_an_undecided_discriminator_pays_log_four() -> None:
    zero = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(value_loss(zero, zero), torch.log(torch.tensor(4.0, dtype=torch.float64)))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_losses_stay_finite_and_right_for_logits_that_saturate_a_probability(name: str) -> None:
    sure = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = OBJECTIVES[name].generator(sure) + OBJECTIVES[name].discriminator(sure, sure)
    (gradient,) = torch.autograd.grad(loss, sure)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_where_the_discriminator_is_sure_minimax_saturates_and_its_alternative_does_not() -> None:
    sure = torch.tensor([-20.0], requires_grad=True)
    (saturated,) = torch.autograd.grad(minimax_loss(sure), sure)
    (alive,) = torch.autograd.grad(non_saturating_loss(sure), sure)
    assert saturated.abs().item() < 1e-8
    assert alive.item() == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_gradients_against_finite_differences(name: str) -> None:
    objective = OBJECTIVES[name]
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    assert torch.autograd.gradcheck(objective.discriminator, (real, fake))
    assert torch.autograd.gradcheck(objective.generator, (fake,))
