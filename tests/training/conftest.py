"""What makes trainings of a few steps as short as they look."""

from __future__ import annotations

import pytest

from gan_plugin.training import ema


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The averaged generator's batch norm is measured over two batches of few images: 1,024 take longer than an epoch.

    ``monkeypatch.undo()`` brings back all of them.
    """
    monkeypatch.setattr(ema, "CALIBRATION_BATCH", 16)
    monkeypatch.setattr(ema, "CALIBRATION_SEEDS", ema.CALIBRATION_SEEDS[:32])
