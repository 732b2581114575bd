"""Opening an ONNX file on the device that was asked for, and saying which one it became."""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path
from typing import Any

import onnxruntime

from gan_plugin.errors import UserError, first_line

DEVICES = ("auto", "cuda", "cpu")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# The same arithmetic whatever the batch, and no search of hundreds of milliseconds for each new batch size.
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that its server shows what is said


def open_session(onnx_file: str | Path, device: str) -> onnxruntime.InferenceSession:
    """Open ``onnx_file`` on ``device``: ``cpu``, ``cuda``, or ``auto`` (CUDA where it works, and the log says why not).

    Raises:
        UserError: ``device`` is none of these, or is ``cuda`` and CUDA cannot be used; the message names the cause.
    """
    if device not in DEVICES:
        raise UserError(f"device={device!r} is unknown: give one of {', '.join(DEVICES)}.")
    if device == "cpu":
        return _session(onnx_file, [CPU])
    if (cause := why_cuda_cannot_load()) is None:
        try:
            session = _session(onnx_file, [(CUDA, CUDA_OPTIONS), CPU])
        except Exception as error:  # a full or unsupported GPU; ONNX Runtime's exceptions have no common class
            cause = first_line(error)
        else:
            if session.get_providers()[0] == CUDA:  # what is active counts, not what was asked for
                return session
            cause = "ONNX Runtime started the session without CUDA; its own message stands above"
    if device == "cuda":
        raise UserError(f"device=cuda was demanded but CUDA cannot be used: {cause}.")
    logger.warning("device=auto: running on the CPU because CUDA cannot be used: %s.", cause)
    return _session(onnx_file, [CPU])


def why_cuda_cannot_load() -> str | None:
    """The reason why ONNX Runtime cannot use CUDA in this process, or None when nothing stands in the way.

    ONNX Runtime itself lists CUDA as available wherever it was compiled in, whether or not it loads.
    """
    if CUDA not in onnxruntime.get_available_providers():
        return (
            f"the installed onnxruntime {onnxruntime.__version__} has no CUDA in it "
            "(pip uninstall onnxruntime, then pip install onnxruntime-gpu)"
        )
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return "this machine has no NVIDIA driver (libcuda cannot be loaded)"
    onnxruntime.preload_dlls()  # finds the CUDA and cuDNN libraries that pip installed
    capi = Path(onnxruntime.__file__).parent / "capi"
    names = ("onnxruntime_providers_shared", "onnxruntime_providers_cuda")
    try:
        for name in names:
            ctypes.CDLL(str(capi / (f"{name}.dll" if os.name == "nt" else f"lib{name}.so")))
    except OSError as error:
        return (
            f"{error} (the CUDA and cuDNN that onnxruntime-gpu {onnxruntime.__version__} was built for come with "
            f"pip install 'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}')"
        )
    return None


def _session(onnx_file: str | Path, providers: list[Any]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a warning for every folded constant helps nobody
    return onnxruntime.InferenceSession(str(onnx_file), options, providers=providers, enable_fallback=0)
