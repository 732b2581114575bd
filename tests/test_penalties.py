"""Penalties against numerical gradients of a small discriminator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gan_plugin.config import settings
from gan_plugin.penalties import PENALTIES, PenaltyInputs

PACK = 2


class Critic(nn.Module):
    """Two discriminators of packs of two images [B, 1, 2, 2]: smooth, and small enough for finite differences."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(2, 4 * PACK, 3, generator=random, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        packs = x.reshape(-1, 4 * PACK)
        return torch.stack([torch.tanh(packs @ weights).square().sum(1) for weights in self.first])  # [2, B / 2]


def images(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 2, 2, generator=random, dtype=torch.float64).requires_grad_()


def penalty_inputs(critic: Callable[[Tensor], Tensor]) -> PenaltyInputs:
    real, fake = images(1), images(2)
    return PenaltyInputs(critic, real, fake, critic(real), critic(fake))


def numerical_squared_norms(critic: Critic, x: Tensor) -> Tensor:
    """Compute the squared length of each pack's gradient, [K, packs], by central differences."""
    flat, step = x.detach().flatten(), 1e-5
    columns = []
    with torch.no_grad():
        for i in range(len(flat)):
            up, down = flat.clone(), flat.clone()
            up[i] += step
            down[i] -= step
            columns.append((critic(up.view_as(x)) - critic(down.view_as(x))) / (2 * step))
    jacobian = torch.stack(columns, -1)  # [K, packs, values]
    return jacobian.square().sum(-1)


def test_r1_and_r2_are_half_the_mean_squared_norm() -> None:
    critic = Critic()
    inputs = penalty_inputs(critic)
    real, fake = (numerical_squared_norms(critic, x).mean() / 2 for x in (inputs.real, inputs.fake))
    torch.testing.assert_close(PENALTIES["r1"](inputs).double(), real, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(PENALTIES["r1+r2"](inputs).double(), real + fake, rtol=1e-5, atol=1e-6)


def test_wgan_gp_holds_the_norm_at_one_between_real_and_fake() -> None:
    critic = Critic()
    arguments: list[Tensor] = []

    def recorded(x: Tensor) -> Tensor:
        arguments.append(x)
        return critic(x)

    penalty = PENALTIES["wgan-gp"](penalty_inputs(recorded)).double()
    between, real, fake = arguments[-1].detach(), images(1).detach(), images(2).detach()
    u = (between - fake) / (real - fake)
    assert ((u > 0) & (u < 1)).all()
    assert u.flatten(1).std(1).max() < 1e-6  # one an image
    assert u.flatten(1).mean(1).std() > 0.01  # not the same for all
    expected = (numerical_squared_norms(critic, between).sqrt() - 1).square().mean()
    torch.testing.assert_close(penalty, expected, rtol=1e-5, atol=1e-6)


def test_dragan_holds_the_norm_at_one_around_the_real_images() -> None:
    critic = Critic()
    arguments: list[Tensor] = []

    def recorded(x: Tensor) -> Tensor:
        arguments.append(x)
        return critic(x)

    inputs = penalty_inputs(recorded)
    penalty = PENALTIES["dragan"](inputs).double()
    noise = (arguments[-1] - inputs.real).detach() / (0.5 * inputs.real.std().detach())
    assert ((noise >= 0) & (noise < 1)).all()
    assert noise.flatten().std() > 0.1  # not the same for all values
    expected = (numerical_squared_norms(critic, arguments[-1]).sqrt() - 1).square().mean()
    torch.testing.assert_close(penalty, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_the_penaltys_gradient_reaches_the_discriminators_weights(name: str) -> None:
    """Compared with finite differences of the penalty."""
    critic = Critic()

    def penalty() -> Tensor:
        torch.manual_seed(3)
        return PENALTIES[name](penalty_inputs(critic)).double()

    (gradient,) = torch.autograd.grad(penalty(), critic.first)
    step = 1e-3
    for index in [(0, 0, 0), (1, 5, 2)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                critic.first[index] += sign * step
            values.append(penalty().item())
            with torch.no_grad():
                critic.first[index] -= sign * step
        assert gradient[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_where_the_gradient_is_zero_the_penaltys_own_is_finite(name: str) -> None:
    weight = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def flat(x: Tensor) -> Tensor:
        return (x.flatten(1) @ weight)[None]

    (gradient,) = torch.autograd.grad(PENALTIES[name](penalty_inputs(flat)), weight)
    assert torch.isfinite(gradient).all()


def test_the_settings_offer_every_penalty() -> None:
    assert set(settings.PENALTIES) == set(PENALTIES)
