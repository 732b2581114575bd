"""CUDA graphs: what is the same operations at every call is recorded once, and then launched as one.

A step of small networks is some hundred short kernels, and launching each from Python takes longer than it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from gan_plugin.errors import first_line

# A function of one structure of tensors (a tuple, say), of the same shapes at every call, to another one. It may read
# and change others in place, and draw from torch's global random state on its device.
Function = Callable[[Any], Any]
Capture = Callable[[Function], Function]

WARM_UP_CALLS = 3  # in which cuDNN chooses its algorithms, and autograd and the allocator get ready


def make_capture(device: torch.device) -> Capture:
    """Return what captures functions on CUDA, and on other devices leaves them as they are.

    Those that it captures share memory, and so run one after the other: what one returns is to be used, or copied,
    before another runs.
    """
    if device.type != "cuda":
        return as_it_is
    pool = torch.cuda.graph_pool_handle()
    stream = torch.cuda.Stream(device)  # which has memory of its own
    return lambda function: CapturedFunction(function, device, pool=pool, stream=stream)


def as_it_is(function: Function) -> Function:
    """Return the function, where nothing is captured."""
    return function


class CapturedFunction:
    """A function that is recorded at its fourth call, and replayed from then on.

    The calls before run as they are, on the stream of the recording. What a replay returns lies where the one before
    returned it.
    """

    def __init__(self, function: Function, device: torch.device, *, pool: Any, stream: torch.cuda.Stream) -> None:
        self.function, self.device, self.pool, self.stream = function, device, pool, stream
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: Any = None
        self.outputs: Any = None

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        if self.calls <= WARM_UP_CALLS:
            return self.run_eagerly(inputs)
        if self.graph is None:
            self.graph = self.record(inputs)
        else:
            pytree.tree_map_(copy_into, self.inputs, inputs)
        self.graph.replay()
        return self.outputs

    def run_eagerly(self, inputs: Any) -> Any:
        """Run the function in its turn among what is queued already."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outputs = self.function(inputs)
        current.wait_stream(self.stream)
        return outputs

    def record(self, inputs: Any) -> torch.cuda.CUDAGraph:
        """Record the function's kernels, without running them, on copies of the inputs.

        Raises:
            RuntimeError: CUDA cannot, and why; how to do without.
        """
        self.inputs = pytree.tree_map(clone, inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: other threads may call CUDA meanwhile, to load the next batch
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                self.outputs = self.function(self.inputs)
        except RuntimeError as error:
            # once something went wrong the recording cannot be ended, either, which is the error that comes then
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            reason = first_line(cause)
            raise RuntimeError(f"A step is no CUDA graph ({reason}): cuda_graphs=false trains without.") from cause
        return graph


def copy_into(place: object, value: object) -> None:
    """Copy a tensor to the place of another one of its shape."""
    if isinstance(place, torch.Tensor):
        assert isinstance(value, torch.Tensor)
        assert place.shape == value.shape  # or it would be broadcast
        place.copy_(value, non_blocking=True)


def clone(value: object) -> object:
    """Return a copy of a tensor, and anything else as it is."""
    return value.clone() if isinstance(value, torch.Tensor) else value
