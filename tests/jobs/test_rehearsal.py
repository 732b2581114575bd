"""What is kept for the end of a run in minutes, and what an evaluation takes, on a clock of the test's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FakeTime
from torch import nn
from training_helpers import plan

from gan_plugin.data import load_dataset
from gan_plugin.export import Parity, ParityError, Tolerance
from gan_plugin.jobs import rehearsal
from gan_plugin.jobs.export import Origin
from gan_plugin.jobs.rehearsal import DELIVERY_S, rehearse


class SlowTime(FakeTime):
    """A clock that runs twice as fast as this process computes: another program has the other half."""

    def process_time(self) -> float:
        return self.now / 2


class Evaluator:
    """Tells in no time that an evaluation takes 7 seconds."""

    def time_evaluation(self, generator: nn.Module) -> float:
        return 7.0


def test_the_end_and_an_evaluation_are_timed_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The averaged generator is ready in 2 s, exported in 3 and analyzed in 1; parity does not matter yet."""
    time, file = SlowTime(), tmp_path / "rehearsal.onnx"
    exported_generator = rehearsal.exported_generator

    def ready(*arguments: Any) -> nn.Module:
        time.now += 2
        return exported_generator(*arguments)

    def export(_generator: nn.Module, _description: object, path: Path, *, dtype: torch.dtype) -> None:
        time.now += 3
        path.write_bytes(b"")
        raise ParityError(Parity(9, 1.0, 64), allowed=Tolerance(1, 0.001))

    def directions(*_: object) -> None:
        time.now += 1

    monkeypatch.setattr(rehearsal, "time", time)
    monkeypatch.setattr(rehearsal, "exported_generator", ready)
    monkeypatch.setattr(rehearsal, "export_generator", export)
    monkeypatch.setattr(rehearsal, "directions_of", directions)
    digits = load_dataset("digits", image_size=16)
    digits = dataclasses.replace(digits, samples=digits.samples[:64], labels=None, spec=digits.spec.unlabeled())
    before = torch.get_rng_state()

    evaluator: Any = Evaluator()
    reserve, evaluation = rehearse(Origin(plan(), digits, None), evaluator, file=file, dtype=torch.float32)
    assert reserve == pytest.approx(7 + 2 + 3 + 1 + 2 * DELIVERY_S)
    assert evaluation == 2 + 7
    assert rehearse(Origin(plan(), digits, None), None, file=file, dtype=torch.float32) == (
        pytest.approx(2 + 3 + 1 + 2 * DELIVERY_S),
        2,
    )
    assert not file.exists()
    assert torch.equal(torch.get_rng_state(), before)
