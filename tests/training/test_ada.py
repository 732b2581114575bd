"""The controller of adaptive augmentation: when p rises and falls, how fast, and that its state survives."""

from __future__ import annotations

import pytest
import torch

from gan_plugin.training.ada import ADJUST_EVERY, MAX_P, RAMP_IMAGES, RAMP_SHARE, AdaController, overfitting

CPU = torch.device("cpu")
SURE, UNSURE = torch.tensor(1.0), torch.tensor(-1.0)


def test_the_controller_reads_no_tensors_values_on_the_host() -> None:
    """On the meta device, where reading a value fails: on a GPU it would make the host wait."""
    controller = AdaController(torch.device("meta"))
    for _ in range(ADJUST_EVERY):
        controller.update(overfitting(torch.empty(1, 4, device="meta")), images=4, progress=0.0)
    assert controller.p.device.type == "meta"


def test_p_rises_while_the_discriminator_is_sure_of_real_images() -> None:
    controller = AdaController(CPU)
    for _ in range(2 * ADJUST_EVERY):
        controller.update(SURE, images=64, progress=0.0)
    assert controller.p.item() == pytest.approx(2 * ADJUST_EVERY * 64 / RAMP_IMAGES)
    for _ in range(ADJUST_EVERY):
        controller.update(UNSURE, images=64, progress=0.0)
    assert controller.p.item() == pytest.approx(ADJUST_EVERY * 64 / RAMP_IMAGES)
    for _ in range(5 * ADJUST_EVERY):
        controller.update(torch.tensor(0.5625), images=64, progress=0.0)
    assert controller.p.item() == 0
    for _ in range(4 * ADJUST_EVERY):
        controller.update(SURE, images=200_000, progress=0.0)
    assert controller.p.item() == pytest.approx(MAX_P)


def test_p_moves_where_it_is() -> None:
    """A captured step reads the same memory at every replay."""
    controller = AdaController(CPU)
    p = controller.p
    for _ in range(ADJUST_EVERY):
        controller.update(SURE, images=64, progress=0.0)
    controller.load({**controller.state(), "p": controller.p + 0.25})
    assert p.item() == pytest.approx(ADJUST_EVERY * 64 / RAMP_IMAGES + 0.25)


@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (1, 32)])  # of one discriminator, of three, of packs of two
def test_overfitting_is_the_mean_sign_of_any_number_of_margins(shape: tuple[int, int]) -> None:
    margins = torch.full(shape, 0.2)
    margins[:, ::4] = -0.1
    assert overfitting(margins).item() == 0.5
    assert overfitting(margins.bfloat16()).dtype == torch.float32


def test_in_a_short_training_p_follows_its_progress() -> None:
    controller = AdaController(CPU)
    for step in range(1, 2 * ADJUST_EVERY + 1):
        controller.update(SURE, images=64, progress=0.01 * step)
    assert controller.p.item() == pytest.approx(0.01 * 2 * ADJUST_EVERY / RAMP_SHARE)


def test_signs_of_bfloat16_margins_are_averaged_exactly() -> None:
    assert overfitting(torch.ones(1, 307, dtype=torch.bfloat16)).item() == 1


def test_the_controllers_state_survives() -> None:
    first, second = AdaController(CPU), AdaController(CPU)
    for _ in range(ADJUST_EVERY + 1):
        first.update(SURE, images=64, progress=0.05)
    second.load(first.state())
    for controller in (first, second):
        for _ in range(ADJUST_EVERY - 1):
            controller.update(SURE, images=64, progress=0.06)
    assert second.p.item() == first.p.item() == pytest.approx(0.06 / RAMP_SHARE)
