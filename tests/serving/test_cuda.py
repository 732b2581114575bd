"""Why CUDA cannot be used, for each cause that a machine without a GPU can be given, and the screen of ``doctor``.

Real packages and real failing libraries; the driver alone is a stand-in, compiled from tests/fake_driver.c.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from helpers import BIN, ROOT

from gan_plugin.cores import cores
from gan_plugin.errors import UserError
from gan_plugin.serving import cuda
from gan_plugin.serving import session as session_module
from gan_plugin.serving.session import cuda_options, open_session

DIGITS = ROOT / "examples" / "digits.onnx"
WITH_CUDA = onnxruntime.__version__
pytestmark = pytest.mark.skipif(cuda.find_driver() is not None, reason="there is an NVIDIA driver")
ON_LINUX_WITH_GPU_BUILD = sys.platform == "linux" and "onnxruntime-gpu" in cuda.installed_runtimes()


def doctor(*options: str, **variables: str) -> tuple[dict[str, str], int]:
    """The screen, by its first column, and the exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "gan_plugin", "doctor", *options],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    rows = [re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines()]
    return dict(rows), done.returncode


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-in for libcuda."""
    if shutil.which("cc") is None or not ON_LINUX_WITH_GPU_BUILD:
        pytest.skip("needs Linux, a C compiler and onnxruntime-gpu")
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", ROOT / "tests" / "fake_driver.c"], check=True
    )
    return folder


def with_driver(driver: Path, newest: int, gpus: int = 1) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(driver), "FAKE_CUDA": str(newest), "FAKE_GPUS": str(gpus)}


@pytest.mark.skipif(not ON_LINUX_WITH_GPU_BUILD, reason="onnxruntime has no CUDA here")
def test_doctor_on_a_machine_without_a_gpu() -> None:
    screen, status = doctor()
    assert status == 0
    assert len(screen) <= 24  # one screen
    assert screen["ONNX Runtime"].startswith(f"onnxruntime-gpu {WITH_CUDA}; {WITH_CUDA} is imported, for CUDA ")
    assert screen["NVIDIA driver"] == "none"
    assert screen["serving on the CPU"] == "yes"
    assert screen["serving on a GPU"] == "no: this machine has no NVIDIA driver (libcuda cannot be loaded)"
    assert screen["to fix that"] == "install it, or start the container with --gpus all"


def test_doctor_names_cores_and_threads_and_why() -> None:
    screen, _ = doctor(OMP_NUM_THREADS="3")
    assert screen["threads of training"] == "OMP_NUM_THREADS=3 is kept"
    assert screen["CPU cores"].startswith(f"{cores()}: ")
    assert screen["CPU cores"].endswith(" are free of other programs now")
    screen, _ = doctor(OMP_NUM_THREADS="", MKL_NUM_THREADS="")
    assert re.match(rf"\d+ to begin with, at most {cores()}, ", screen["threads of training"])


def test_doctor_ends_with_status_1_where_a_demanded_device_cannot_serve() -> None:
    assert doctor("--demand", "cpu")[1] == 0
    assert doctor("--demand", "cuda")[1] == 1


def test_no_visible_gpu(driver: Path) -> None:
    screen, _ = doctor(**with_driver(driver, 13000, gpus=0))
    assert (screen["NVIDIA driver"], screen["GPU"]) == ("for CUDA up to 13.0", "none is visible")
    assert screen["serving on a GPU"] == "no: the NVIDIA driver shows no GPU to this process"
    assert "CUDA_VISIBLE_DEVICES" in screen["to fix that"]


def test_a_driver_too_old_for_the_onnxruntime(driver: Path) -> None:
    screen, _ = doctor(**with_driver(driver, 11040))
    assert screen["GPU"] == "Card (80 GiB)"
    needed = cuda.runtime_cuda()
    assert screen["serving on a GPU"] == (
        f"no: the NVIDIA driver runs CUDA up to 11.4, and onnxruntime-gpu {WITH_CUDA} was built for {needed}"
    )
    assert screen["to fix that"] == "update the driver, or pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'"


def test_libraries_that_are_missing_are_named_with_the_line_that_brings_them(driver: Path) -> None:
    screen, _ = doctor(**with_driver(driver, 99000))
    assert re.match(r"no: libcu\w+\.so\.\d+: cannot open shared object file", screen["serving on a GPU"])
    assert screen["to fix that"] == f"pip install 'onnxruntime-gpu[cuda,cudnn]=={WITH_CUDA}'"


def test_a_missing_cudnn_is_found_before_the_first_image_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not linked to the provider, so that nothing else would notice before the first convolution."""
    complaint = "libcudnn.so.9: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(cuda, "_wrong_driver", lambda: None)
    monkeypatch.setattr(cuda, "_loads", lambda library: complaint if "cudnn" in library else None)
    obstacle = cuda.why_cuda_cannot_load()
    assert obstacle is not None
    assert obstacle.reason.startswith(complaint)
    assert obstacle.fix == f"pip install 'onnxruntime-gpu[cuda,cudnn]=={WITH_CUDA}'"


def test_a_torch_of_another_cuda_is_named(driver: Path, tmp_path: Path) -> None:
    """Its libraries do not serve, and a user who sees them in the environment would not know."""
    torch = tmp_path / "torch"
    torch.mkdir()
    (torch / "__init__.py").touch()
    (torch / "version.py").write_text("__version__ = '2.11.0+cu126'\ncuda: Optional[str] = '12.6'\n")
    screen, _ = doctor(**with_driver(driver, 99000), PYTHONPATH=str(tmp_path))
    assert screen["torch"].endswith("for CUDA 12.6")
    assert (
        f"(torch's are for CUDA 12.6, onnxruntime-gpu needs CUDA {cuda.runtime_cuda()})" in screen["serving on a GPU"]
    )


def test_the_plain_package_over_the_one_with_cuda(driver: Path, tmp_path: Path) -> None:
    """The real package, in front of the other one as the later of two installations is."""
    words = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, f"onnxruntime=={WITH_CUDA}"]
    subprocess.run([str(word) for word in words], env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}, check=True)
    screen, _ = doctor(**with_driver(driver, 99000), PYTHONPATH=str(tmp_path))
    assert screen["ONNX Runtime"].endswith("is imported, without CUDA")
    assert screen["serving on a GPU"] == (
        "no: the package onnxruntime, which has no CUDA in it, lies over onnxruntime-gpu"
    )
    assert screen["to fix that"] == (
        f"pip uninstall -y onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu=={WITH_CUDA}"
    )


def test_cuda_demanded_gets_the_cause_and_the_line_in_one_sentence(driver: Path) -> None:
    code = f"from gan_plugin.serving.session import open_session; open_session({str(DIGITS)!r}, 'cuda')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **with_driver(driver, 99000)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""  # ONNX Runtime's own messages stay out of the way
    assert re.search(
        r"UserError: device=cuda was demanded but CUDA cannot be used: libcu\S+: cannot open shared object file: "
        r"No such file or directory; pip install 'onnxruntime-gpu\[cuda,cudnn\]==\S+'\.$",
        done.stderr.strip(),
    )


def test_auto_says_why_it_is_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    opened = open_session(DIGITS, "auto")
    assert opened.provider == "CPUExecutionProvider"
    assert opened.fallback is not None
    assert f"running on the CPU because CUDA cannot be used: {opened.fallback}." in caplog.text
    assert open_session(DIGITS, "cpu").fallback is None


def test_a_kind_of_machine_for_which_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """No advice uninstalls the only package that works there."""
    monkeypatch.setattr(cuda.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(cuda.sys, "platform", "darwin")
    obstacle = cuda.why_cuda_cannot_load()
    assert obstacle is not None
    assert obstacle.reason.startswith("there is no onnxruntime with CUDA for ")
    assert "pip" not in obstacle.fix


def test_a_gpu_that_cannot_run_the_generator_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that opens and then fails, as where memory is short or the wheel has no code for the card."""

    def fail(session: onnxruntime.InferenceSession) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(session_module, "why_cuda_cannot_load", lambda: None)
    monkeypatch.setattr(session_module, "CUDA", "CPUExecutionProvider")
    assert open_session(DIGITS, "auto", probe=fail).fallback == "CUDA failure 2: out of memory"
    assert "running on the CPU because CUDA cannot be used: CUDA failure 2: out of memory." in caplog.text
    with pytest.raises(UserError, match=r"^device=cuda was demanded but CUDA cannot be used: CUDA failure 2: out of"):
        open_session(DIGITS, "cuda", probe=fail)


def test_what_a_session_on_a_gpu_is_opened_with() -> None:
    """ONNX Runtime ignores none of them: it refuses an option that it does not know."""
    options = cuda_options(1, gpu_memory_mb=2048)
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["device_id"] == "1"
    assert options["gpu_mem_limit"] == str(2 * 2**30)
    assert "gpu_mem_limit" not in cuda_options(0, None)
