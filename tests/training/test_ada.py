"""The controller of adaptive augmentation: when p rises and falls, how fast, and that its state survives."""

from __future__ import annotations

import pytest
import torch

from gan_plugin.training.ada import ADJUST_EVERY, MAX_P, RAMP_IMAGES, RAMP_SHARE, AdaController


def test_the_controller_reads_no_tensors_values_on_the_host() -> None:
    """On the meta device, where reading a value fails: on a GPU it would make the host wait."""
    controller = AdaController(torch.device("meta"))
    for _ in range(ADJUST_EVERY):
        controller.update(torch.empty(1, 4, device="meta"), images=4, progress=0.0)
    assert controller.p.device.type == "meta"


def test_p_rises_while_the_discriminator_is_sure_of_real_images() -> None:
    controller = AdaController(torch.device("cpu"))
    for _ in range(2 * ADJUST_EVERY):
        controller.update(torch.full((1, 64), 0.2), images=64, progress=0.0)
    assert controller.p.item() == pytest.approx(2 * ADJUST_EVERY * 64 / RAMP_IMAGES)
    for _ in range(ADJUST_EVERY):
        controller.update(torch.full((1, 64), -0.2), images=64, progress=0.0)
    assert controller.p.item() == pytest.approx(ADJUST_EVERY * 64 / RAMP_IMAGES)
    for _ in range(5 * ADJUST_EVERY):
        margins = torch.cat([torch.ones(1, 50), -torch.ones(1, 14)], 1)  # E sign is .5625
        controller.update(margins, images=64, progress=0.0)
    assert controller.p.item() == 0
    for _ in range(4 * ADJUST_EVERY):
        controller.update(torch.ones(1, 8), images=200_000, progress=0.0)
    assert controller.p.item() == pytest.approx(MAX_P)


@pytest.mark.parametrize("margins", [(1, 64), (3, 64), (1, 32)])  # of one discriminator, of three, of packs of two
def test_p_moves_with_the_number_of_images_and_not_of_margins(margins: tuple[int, int]) -> None:
    controller = AdaController(torch.device("cpu"))
    for _ in range(ADJUST_EVERY):
        controller.update(torch.ones(margins), images=64, progress=0.0)
    assert controller.p.item() == pytest.approx(ADJUST_EVERY * 64 / RAMP_IMAGES)


def test_in_a_short_training_p_follows_its_progress() -> None:
    controller = AdaController(torch.device("cpu"))
    for step in range(1, 2 * ADJUST_EVERY + 1):
        controller.update(torch.ones(1, 64), images=64, progress=0.01 * step)
    assert controller.p.item() == pytest.approx(0.01 * 2 * ADJUST_EVERY / RAMP_SHARE)


def test_signs_of_bfloat16_margins_are_summed_exactly() -> None:
    controller = AdaController(torch.device("cpu"))
    controller.update(torch.ones(1, 307, dtype=torch.bfloat16), images=307, progress=0.0)
    assert controller.signs.item() == 307


def test_the_controllers_state_survives() -> None:
    first, second = AdaController(torch.device("cpu")), AdaController(torch.device("cpu"))
    for _ in range(ADJUST_EVERY + 1):
        first.update(torch.ones(1, 64), images=64, progress=0.05)
    second.load(first.state())
    for controller in (first, second):
        for _ in range(ADJUST_EVERY - 1):
            controller.update(torch.ones(1, 64), images=64, progress=0.06)
    assert second.p.item() == first.p.item() == pytest.approx(0.06 / RAMP_SHARE)
