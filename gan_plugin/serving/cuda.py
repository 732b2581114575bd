"""Find out why ONNX Runtime cannot use CUDA in this process, and the command that fixes it.

ONNX Runtime lists CUDA as available wherever it was compiled in, whether or not it loads, and reports only "failed to
create" where it does not. The causes that users meet are checked one by one: another package without CUDA, no driver,
no visible GPU, a driver or a torch of another CUDA, missing libraries.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

LAST_FOR_CUDA_12 = "onnxruntime-gpu[cuda,cudnn]<1.27"  # later builds on the package index are for CUDA 13
_WINDOWS = os.name == "nt"
_CUDNN = "cudnn64_9.dll" if _WINDOWS else "libcudnn.so.9"


@dataclass(frozen=True)
class CudaProblem:
    """The reason why CUDA cannot be used, and the fix, each as a part of a sentence."""

    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.fix}"


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver of this machine."""

    cuda: tuple[int, int]  # the newest CUDA that it runs, for example (13, 0)
    gpus: tuple[str, ...]  # name and memory of each that this process sees


def why_cuda_cannot_load() -> CudaProblem | None:
    """Return the reason why ONNX Runtime cannot use CUDA in this process, or None where it can.

    Loads the CUDA and cuDNN libraries that pip installed, for the session to come.
    """
    checks: tuple[Callable[[], CudaProblem | None], ...] = (_wrong_package, _wrong_driver, _missing_libraries)
    for check in checks:
        if (problem := check()) is not None:
            return problem
    return None


def installed_runtimes() -> dict[str, str]:
    """Return the versions of the packages with a module ``onnxruntime``; of two, the one installed last is imported."""
    names = ("onnxruntime-gpu", "onnxruntime")
    versions = {name: version_of(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


def runtime_cuda() -> str | None:
    """Return the CUDA version of the imported ONNX Runtime, for example ``13.0``; None for one without CUDA."""
    from onnxruntime.capi import build_and_package_info

    return getattr(build_and_package_info, "cuda_version", None) or None


def torch_cuda() -> str | None:
    """Return the CUDA version of the installed torch without importing it; None for a CPU build, or no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    match = re.search(
        r"^cuda\b.*= '([\d.]+)'", Path(spec.origin).with_name("version.py").read_text("utf-8"), re.MULTILINE
    )
    return match[1] if match else None


def version_of(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_driver() -> Driver | None:
    """Return the NVIDIA driver of this machine, or None."""
    try:
        library = _open("nvcuda.dll" if _WINDOWS else "libcuda.so.1")
    except OSError:
        return None
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(version))  # 13000 for CUDA 13.0
    if library.cuInit(0) == 0:  # not 0 where no GPU is visible
        library.cuDeviceGetCount(ctypes.byref(count))
    names = tuple(_gpu_name(library, index) for index in range(count.value))
    return Driver((version.value // 1000, version.value % 1000 // 10), names)


def has_cudnn() -> bool:
    """Return whether cuDNN 9 loads, after preloading what pip installed."""
    _preload()
    return _loads(_CUDNN) is None


def _gpu_name(library: ctypes.CDLL, index: int) -> str:
    device, name, memory = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return f"{name.value.decode()} ({memory.value / 2**30:.0f} GiB)"


# ---- the checks ------------------------------------------------------------------------------------------------------


def _wrong_package() -> CudaProblem | None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    if (sys.platform, platform.machine()) not in (("linux", "x86_64"), ("win32", "AMD64")):
        return CudaProblem(
            f"there is no onnxruntime with CUDA for {platform.system()} on {platform.machine()}",
            "serve on Linux or Windows with an x86-64 processor",
        )
    runtimes = installed_runtimes()
    if "onnxruntime-gpu" in runtimes:
        command = f"pip install --force-reinstall --no-deps onnxruntime-gpu=={runtimes['onnxruntime-gpu']}"
        return CudaProblem(
            "the package onnxruntime, which has no CUDA in it, lies over onnxruntime-gpu",
            f"pip uninstall -y onnxruntime && {command}",
        )
    return CudaProblem(
        f"the installed onnxruntime {onnxruntime.__version__} has no CUDA in it",
        "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
    )


def _wrong_driver() -> CudaProblem | None:
    driver = find_driver()
    if driver is None:
        return CudaProblem(
            "this machine has no NVIDIA driver (libcuda cannot be loaded)",
            "install it, or start the container with --gpus all",
        )
    if not driver.gpus:
        return CudaProblem(
            "the NVIDIA driver shows no GPU to this process",
            "see nvidia-smi and CUDA_VISIBLE_DEVICES, or start the container with --gpus all",
        )
    needed = runtime_cuda()
    if needed is not None and driver.cuda[0] < int(needed.split(".")[0]):
        have = ".".join(map(str, driver.cuda))
        return CudaProblem(
            f"the NVIDIA driver runs CUDA up to {have}, and onnxruntime-gpu {onnxruntime.__version__} was built for "
            f"{needed}",
            f"update the driver, or pip install '{LAST_FOR_CUDA_12}'",
        )
    return None


def _missing_libraries() -> CudaProblem | None:
    """Load CUDA's libraries, without which the provider does not load, and cuDNN, which it opens at its first use."""
    _preload()
    capi = Path(onnxruntime.__file__).parent / "capi"
    prefix, suffix = ("", ".dll") if _WINDOWS else ("lib", ".so")
    names = ("onnxruntime_providers_shared", "onnxruntime_providers_cuda")
    errors = [_loads(str(capi / f"{prefix}{name}{suffix}")) for name in names] + [_loads(_CUDNN)]
    missing = next((error for error in errors if error is not None), None)
    if missing is None:
        return None
    return CudaProblem(
        f"{missing}{_other_torch()}",
        f"pip install 'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}'",
    )


def _other_torch() -> str:
    """Return a note for a torch that has installed libraries of another CUDA."""
    installed, needed = torch_cuda(), runtime_cuda()
    if installed is None or needed is None or installed.split(".")[0] == needed.split(".")[0]:
        return ""
    return f" (torch's are for CUDA {installed}, onnxruntime-gpu needs CUDA {needed})"


def _preload() -> None:
    """Load the CUDA and cuDNN libraries that pip installed, without ONNX Runtime's printed messages about it."""
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def _loads(library: str) -> str | None:
    """Return the linker's error about a library, or None if it loads."""
    try:
        _open(library)
    except OSError as error:
        return str(error)
    return None


def _open(library: str) -> ctypes.CDLL:
    return ctypes.CDLL(library, winmode=0)  # on Windows: look for it along PATH, too, where CUDA's installer puts it
