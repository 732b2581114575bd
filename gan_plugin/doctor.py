"""What this installation can serve on, on one screen, with the line that mends what it cannot. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from gan_plugin import __version__
from gan_plugin.errors import first_line
from gan_plugin.serving.cuda import (
    find_driver,
    has_cudnn,
    installed_runtimes,
    runtime_cuda,
    torch_cuda,
    why_cuda_cannot_load,
)
from gan_plugin.serving.session import open_session

WIDTH = 22  # of the first column


def report() -> list[str]:
    """The lines of the screen: what is installed, what the machine has, and what a session of each device says."""
    findings = {**packages(), **machine(), "serving on the CPU": try_device("cpu"), **gpu()}
    return [f"{name:{WIDTH}}{finding}" for name, finding in findings.items()]


def gpu() -> dict[str, str]:
    obstacle = why_cuda_cannot_load()
    if obstacle is None:
        return {"serving on a GPU": try_device("cuda")}
    return {"serving on a GPU": f"no: {obstacle.cause}", "to mend that": obstacle.remedy}


def packages() -> dict[str, str]:
    runtimes = [f"{name} {version}" for name, version in installed_runtimes().items()]
    cuda = runtime_cuda()
    return {
        "gan_plugin": f"{__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "MLflow": _version("mlflow") or f"{_version('mlflow-skinny')} (skinny)",
        "torch": f"{_version('torch')}, {_for_cuda(torch_cuda())}" if _version("torch") else "not installed",
        "ONNX Runtime": f"{' and '.join(runtimes)}; {onnxruntime.__version__} is imported, {_for_cuda(cuda)}",
    }


def machine() -> dict[str, str]:
    driver = find_driver()
    gpus = () if driver is None else driver.gpus
    return {
        "NVIDIA driver": "none" if driver is None else f"for CUDA up to {driver.cuda[0]}.{driver.cuda[1]}",
        "GPU": ", ".join(gpus) or "none is visible",
        "cuDNN 9": "found" if has_cudnn() else "not found",
    }


def try_device(device: str) -> str:
    """Whether a convolution runs there, in a session like a generator's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "convolution.onnx"
        write_convolution(path)
        try:
            opened = open_session(path, device)
            (result,) = opened.session.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
        except Exception as error:  # of ONNX Runtime, whose exceptions have no common class
            return f"no: {first_line(error)}"
    assert np.array_equal(result, np.full((1, 1, 2, 2), 9, np.float32))
    return f"yes, {opened.provider} is active"


def write_convolution(path: Path) -> None:
    """The smallest file that needs what a generator needs: cuDNN, on a GPU. Sums of 3×3 pixels."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, path)


def works_on(device: str) -> bool:
    return try_device(device).startswith("yes")


def _for_cuda(version: str | None) -> str:
    return "without CUDA" if version is None else f"for CUDA {version}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
