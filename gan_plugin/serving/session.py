"""Open an ONNX file on the requested device, and report which device runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gan_plugin.errors import UserError, first_line
from gan_plugin.serving.cuda import why_cuda_cannot_load

DEVICES = ("auto", "cuda", "cpu")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
CUDA_OPTIONS = {
    "use_tf32": "0",  # the same arithmetic whatever the batch
    "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search takes hundreds of milliseconds for each new batch
    "arena_extend_strategy": "kSameAsRequested",  # doubling instead would keep memory that nothing uses
}

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that its server prints the messages


@dataclass(frozen=True)
class LoadedSession:
    """An open session, and where it runs."""

    session: onnxruntime.InferenceSession
    provider: str  # the execution provider that is active, for example ``CUDAExecutionProvider``
    fallback: str | None = None  # why ``auto`` did not become CUDA


def open_session(
    onnx_file: str | Path,
    device: str,
    *,
    threads: int = 1,
    gpu: int = 0,
    gpu_memory_mb: int | None = None,
    probe: Callable[[onnxruntime.InferenceSession], None] | None = None,
) -> LoadedSession:
    """Open ``onnx_file`` on ``device``: ``cpu``, ``cuda``, or ``auto`` (CUDA where it works; if not, the log says why).

    ``threads`` work at one operator on the CPU. On GPU number ``gpu`` at most ``gpu_memory_mb`` MiB are taken for
    tensors, and ``probe`` is called with the session: if it fails, CUDA cannot be used.

    Raises:
        UserError: ``device`` is none of these, or is ``cuda`` and CUDA cannot be used; the message names the cause.
    """
    if device not in DEVICES:
        raise UserError(f"device={device!r} is unknown: give one of {', '.join(DEVICES)}.")
    if device == "cpu":
        return LoadedSession(_session(onnx_file, [CPU], threads), CPU)
    if (problem := why_cuda_cannot_load()) is not None:
        reason = str(problem)
    else:
        try:
            session = _session(onnx_file, [(CUDA, cuda_options(gpu, gpu_memory_mb)), CPU], threads)
            if probe is not None:
                probe(session)  # a GPU may be there and lack memory or a supported architecture
        except Exception as error:  # a full or unsupported GPU; ONNX Runtime's exceptions have no common class
            reason = first_line(error)
        else:
            if session.get_providers()[0] == CUDA:  # the active provider counts, not the requested one
                return LoadedSession(session, CUDA)
            reason = "ONNX Runtime started the session without CUDA; its own message stands above"
    if device == "cuda":
        raise UserError(f"device=cuda was demanded but CUDA cannot be used: {reason.rstrip('.')}.")
    logger.warning("device=auto: running on the CPU because CUDA cannot be used: %s.", reason)
    return LoadedSession(_session(onnx_file, [CPU], threads), CPU, fallback=reason)


def cuda_options(gpu: int, gpu_memory_mb: int | None) -> dict[str, str]:
    """Return the options of the CUDA provider on a GPU, with a limit for tensors in MiB, or none."""
    limit = {} if gpu_memory_mb is None else {"gpu_mem_limit": str(gpu_memory_mb * 2**20)}
    return CUDA_OPTIONS | {"device_id": str(gpu)} | limit


def run_once(session: onnxruntime.InferenceSession) -> None:
    """Run the session on zeros, one row of each input; raise what ONNX Runtime raises."""
    types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}
    inputs = {
        node.name: np.zeros([size if isinstance(size, int) else 1 for size in node.shape], types[node.type])
        for node in session.get_inputs()
    }
    session.run(None, inputs)


def _session(onnx_file: str | Path, providers: list[Any], threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would take others' cores
    options.log_severity_level = 3  # errors; a warning for every folded constant helps nobody
    return onnxruntime.InferenceSession(str(onnx_file), options, providers=providers, enable_fallback=0)
