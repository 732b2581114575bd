"""What is recorded and replayed, with stand-ins for CUDA's streams and graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gan_plugin.training.capture import WARM_UP_CALLS, Function, make_capture

CUDA = torch.device("cuda")
REPLAYED = 3


class Stream:
    """Stands for a stream, on which everything happens at once."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None:
        """Nothing is late."""


class Graph:
    """Stands for a recording: a replay calls what was recorded with the tensors that it was recorded with."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def replay(self) -> None:
        for call in self.calls:
            call()


class Recorded:
    """A function that, called within a recording, computes nothing yet, as kernels are only recorded."""

    recording: Graph | None = None

    def __init__(self, function: Function) -> None:
        self.function, self.calls = function, 0

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        if Recorded.recording is None:
            return self.function(inputs)
        outputs = pytree.tree_map(torch.empty_like, self.function(inputs))
        Recorded.recording.calls.append(lambda: self.compute(inputs, outputs))
        return outputs

    def compute(self, inputs: Any, outputs: Any) -> None:
        pytree.tree_map_(Tensor.copy_, outputs, self.function(inputs))


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def graph(recording: Graph, *_: object, **__: object) -> Iterator[None]:
        monkeypatch.setattr(Recorded, "recording", recording)
        try:
            yield
        except RuntimeError:
            raise torch.AcceleratorError("failed due to a previous error during capture")  # noqa: B904  # as CUDA does
        finally:
            monkeypatch.setattr(Recorded, "recording", None)

    names: dict[str, object] = {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": graph,
        "graph_pool_handle": object,
        "current_stream": Stream,
        "stream": lambda _: contextlib.nullcontext(),
    }
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, value)


def inputs_of(call: int) -> tuple[Tensor, None]:
    return torch.full((2,), float(call)), None  # as a batch has it that is without labels


def warmed_up(function: Function) -> Function:
    """Return what captures the function, so that the next call is recorded."""
    captured = make_capture(CUDA)(Recorded(function))
    for call in range(WARM_UP_CALLS):
        captured(inputs_of(call))
    return captured


def test_replays_compute_what_calls_would() -> None:
    recorded = Recorded(lambda inputs: {"doubled": 2 * inputs[0]})
    captured = make_capture(CUDA)(recorded)
    for call in range(WARM_UP_CALLS + REPLAYED):
        assert captured(inputs_of(call))["doubled"].tolist() == [2.0 * call] * 2
    assert recorded.calls == WARM_UP_CALLS + 1  # the last of them to record


def test_a_recording_keeps_tensors_of_its_own() -> None:
    captured = warmed_up(lambda inputs: inputs[0] + 1)
    first = inputs_of(0)
    outputs = captured(first)
    captured(inputs_of(7))
    assert first[0].tolist() == [0.0, 0.0]
    assert outputs.tolist() == [8.0, 8.0]  # where the one before returned it


def test_inputs_of_another_shape_are_refused() -> None:
    captured = warmed_up(lambda inputs: inputs[0] + 1)
    captured(inputs_of(0))
    with pytest.raises(AssertionError):
        captured((torch.zeros(1), None))


def test_what_cannot_be_recorded_is_said_and_how_to_do_without() -> None:
    def step(inputs: Any) -> Any:
        if Recorded.recording is not None:
            raise torch.AcceleratorError("operation not permitted when stream is capturing\nwith a trace")
        return inputs[0]

    captured = warmed_up(step)
    with pytest.raises(
        RuntimeError, match=r"\(operation not permitted .*capturing\): cuda_graphs=false trains without"
    ):
        captured(inputs_of(0))


def test_memory_that_is_full_while_recording_is_called_so() -> None:
    def step(inputs: Any) -> Any:
        if Recorded.recording is not None:
            raise torch.OutOfMemoryError
        return inputs[0]

    captured = warmed_up(step)
    with pytest.raises(torch.OutOfMemoryError):
        captured(inputs_of(0))


def test_a_cpu_captures_nothing() -> None:
    recorded = Recorded(lambda inputs: inputs[0])
    assert make_capture(torch.device("cpu"))(recorded) is recorded
