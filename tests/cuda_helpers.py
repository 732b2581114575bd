"""Let ONNX Runtime open sessions on CUDA where there is no GPU: stand-ins for NVIDIA's libraries, compiled here."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from helpers import ROOT, need_program

from gan_plugin.serving.cuda import installed_runtimes

PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
DRIVER, RUNTIME, CUDNN = "libcuda.so.1", "libcudart.so", "libcudnn.so.9"
NEWEST_CUDA = "99000"


def need_cuda_build() -> None:
    """Skip the test where ONNX Runtime was built without CUDA, or where no stand-in can be compiled for it."""
    if sys.platform != "linux" or "onnxruntime-gpu" not in installed_runtimes():
        pytest.skip("onnxruntime has no CUDA here: it takes Linux and onnxruntime-gpu")
    for program in ("cc", "nm", "readelf"):
        need_program(program)


def need_no_cuda_libraries() -> None:
    """Skip the test where pip has installed NVIDIA's libraries: serving loads those first, and not the stand-ins."""
    namespace = importlib.util.find_spec("nvidia")
    folders = [] if namespace is None else namespace.submodule_search_locations or []
    if any(True for folder in folders for _ in Path(folder).rglob(f"{RUNTIME}*")):
        pytest.skip("NVIDIA's own libraries are installed")


def fake_gpu(folder: Path) -> dict[str, str]:
    """Write stand-ins for all of NVIDIA's libraries into a folder; return the variables of a process that loads them.

    Each function that ONNX Runtime asks them for is there, and returns 0, which is success, unless
    tests/fake_cuda.c or tests/fake_driver.c says otherwise. Sessions open, and run where they have no convolutions;
    their images have no meaning.
    """
    for library, functions in wanted_functions().items():
        _compile(folder, library, functions)
    return {"LD_LIBRARY_PATH": str(folder), "FAKE_CUDA": NEWEST_CUDA, "FAKE_GPUS": "1"}


def wanted_functions() -> dict[str, list[str]]:
    """NVIDIA's libraries that ONNX Runtime's CUDA provider loads, and the functions that it takes from each."""
    needed = re.findall(r"\(NEEDED\).*\[(libcu\S+)\]", _output("readelf", "--dynamic", "--wide", PROVIDER))
    functions: dict[str, list[str]] = {library: [] for library in needed}
    for line in _output("nm", "--dynamic", "--undefined-only", PROVIDER).splitlines():
        name, _, version = line.split()[-1].partition("@")  # the versions of NVIDIA's functions are their libraries
        if version in functions:
            functions[version].append(name)
        elif not version and name.startswith("cu"):  # but for the driver's, which have none
            functions[DRIVER].append(name)
    # it is not linked to cuDNN, but opens it, and looks up its functions by their names
    names = set(re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", PROVIDER.read_bytes()))
    return functions | {CUDNN: sorted(name.decode() for name in names)}


def _output(*words: str | Path) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _compile(folder: Path, library: str, functions: list[str]) -> None:
    """Compile a library whose functions return 0, but for those that a file of tests/ has."""
    source, versions = folder / f"{library}.c", folder / f"{library}.map"
    source.write_text("".join(f"__attribute__((weak)) int {name}(void) {{ return 0; }}\n" for name in functions))
    sources = [source]
    if library == DRIVER:
        sources.append(ROOT / "tests" / "fake_driver.c")
    else:
        versions.write_text(f"{library} {{ global: *; }};\n")
    if library.startswith(RUNTIME):
        sources.append(ROOT / "tests" / "fake_cuda.c")
    words = ["cc", "-shared", "-fPIC", "-w", "-o", folder / library, *sources, f"-Wl,-soname,{library}"]
    subprocess.run([*words, *([f"-Wl,--version-script={versions}"] if versions.exists() else [])], check=True)
