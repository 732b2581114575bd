"""Report on one screen which devices and cores this installation can use, and how to fix others. Imports no torch."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from gan_plugin import __version__
from gan_plugin.cores import cores, limit_reason, threads_variable
from gan_plugin.errors import first_line
from gan_plugin.serving.cuda import (
    find_driver,
    has_cudnn,
    installed_runtimes,
    runtime_cuda,
    torch_cuda,
    version_of,
    why_cuda_cannot_load,
)
from gan_plugin.serving.session import open_session, run_once
from gan_plugin.threads import free_at_start, suggest

WIDTH = 22  # of the first column


class ServingReport(NamedTuple):
    """The lines of the report, and the devices on which a session ran."""

    lines: list[str]
    devices: list[str]


def check_serving() -> ServingReport:
    """Examine the packages and the machine, and try a session on each device."""
    errors = {device: device_error(device) for device in ("cpu", "cuda")}
    rows = {**packages(), **machine(), **cpu()}
    rows["serving on the CPU"] = f"no: {errors['cpu']}" if errors["cpu"] else "yes"
    rows["serving on a GPU"] = "yes"
    if errors["cuda"] is not None:
        problem = why_cuda_cannot_load()
        rows["serving on a GPU"] = f"no: {errors['cuda'] if problem is None else problem.reason}"
        if problem is not None:
            rows["to fix that"] = problem.fix
    lines = [f"{name:{WIDTH}}{text}" for name, text in rows.items()]
    return ServingReport(lines, [device for device, reason in errors.items() if reason is None])


def packages() -> dict[str, str]:
    """Return the versions of the packages that serving depends on, as the report prints them."""
    runtimes = [f"{name} {version}" for name, version in installed_runtimes().items()]
    cuda = runtime_cuda()
    return {
        "gan_plugin": f"{__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "MLflow": version_of("mlflow") or f"{version_of('mlflow-skinny')} (skinny)",
        "torch": f"{version_of('torch')}, {_for_cuda(torch_cuda())}" if version_of("torch") else "not installed",
        "ONNX Runtime": f"{' and '.join(runtimes)}; {onnxruntime.__version__} is imported, {_for_cuda(cuda)}",
    }


def machine() -> dict[str, str]:
    """Return the driver, the GPUs and cuDNN of this machine, as the report prints them."""
    driver = find_driver()
    gpus = () if driver is None else driver.gpus
    return {
        "NVIDIA driver": "none" if driver is None else f"for CUDA up to {driver.cuda[0]}.{driver.cuda[1]}",
        "GPU": ", ".join(gpus) or "none is visible",
        "cuDNN 9": "found" if has_cudnn() else "not found",
    }


def cpu() -> dict[str, str]:
    """Return how many cores and threads of the CPU are used, and why, as the report prints them."""
    count, free = cores(), free_at_start()
    rows = {"CPU cores": f"{count}: {limit_reason()}; {min(free, count):.1f} are free of other programs now"}
    if (variable := threads_variable()) is not None:
        return rows | {"threads of training": f"{variable} is kept"}
    threads, most = suggest(free, count), f"at most {count}, which serving has, too"
    return rows | {"threads of training": f"{threads} to begin with, {most}; while it goes on, the fastest number"}


def device_error(device: str) -> str | None:
    """Return why no convolution runs on ``device`` in a session like a generator's, or None if it runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "convolution.onnx"
        write_convolution(path)
        try:
            run_once(open_session(path, device).session)
        except Exception as error:  # of ONNX Runtime, whose exceptions have no common class
            return first_line(error)
    return None


def write_convolution(path: Path) -> None:
    """Write the smallest graph that needs what a generator needs, cuDNN on a GPU: sums of 3×3 pixels."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, path)


def _for_cuda(version: str | None) -> str:
    return "without CUDA" if version is None else f"for CUDA {version}"
