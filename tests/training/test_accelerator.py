"""What a step does on a GPU, proven without one: no value is read on the host, and every call does the same.

On an accelerator that is not there, see ``accelerator.py``, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import ROOT

from gan_plugin.config.recipe import recipe_names

FAULTS = {  # what is seen of each
    "LatentsOnTheHost": ("error", "FakeTensorDeviceMismatchError"),
    "LossThatIsRead": ("error", "DataDependentOutputException"),
    "LossThatDecides": ("error", "DataDependentOutputException"),
    "MaskedLogits": ("error", "DynamicOutputShapeException"),
    "NumberFromTheHost": ("host", "aten.mul.Tensor"),
    "NumberThatMoves": ("differing", "aten.mul.Tensor"),
    "WorkThatMoves": ("differing", "another number of operations"),
}


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, object]]:
    worker = [sys.executable, ROOT / "tests" / "accelerator_worker.py"]
    output = subprocess.run(worker, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    return {line["name"]: line for line in map(json.loads, output.splitlines())}


@pytest.mark.parametrize("name", [*recipe_names(), "shared-fakes"])
def test_a_step_mixes_no_devices_reads_nothing_back_and_can_be_captured(
    name: str, reports: dict[str, dict[str, object]]
) -> None:
    """Two calls of what CUDA captures are the same operations with the same numbers, while every ramp moves."""
    assert reports[name] == {"name": name, "host": [], "differing": [], "error": None}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, reports: dict[str, dict[str, object]]) -> None:
    where, what = FAULTS[fault]
    seen = reports[fault][where]
    assert isinstance(seen, str | list)
    assert what == seen or what in seen
