"""A server whose CUDA context breaks under it ends, so that what supervises it starts another one.

A real server and ONNX Runtime's own CUDA provider, on stand-ins for NVIDIA's libraries (tests/cuda_helpers.py).
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import psutil
import pytest
from cuda_helpers import fake_gpu, need_cuda_build, need_no_cuda_libraries
from generators import export_corners
from helpers import Answer, Project, Server, serving, wait_for

from gan_plugin import flavor
from gan_plugin.serving.options import ServingOptions

BROKEN = "The generator failed: Fail."  # the name of ONNX Runtime's exception, which its log explains


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    need_cuda_build()
    need_no_cuda_libraries()
    return fake_gpu(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A folder with the model of a generator without convolutions, for which nothing stands in."""
    folder = tmp_path_factory.mktemp("served")
    export_corners(folder / "corners.onnx")
    flavor.save_model(folder / "corners.onnx", folder / "model", options=ServingOptions("cuda"))
    return Project(folder)


def workers(server: Server) -> set[int]:
    """The processes that have loaded the model: each of them holds the provider's library."""
    holders = set()
    for process in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may have just ended
            if any("providers_cuda" in file.path for file in process.memory_maps()):
                holders.add(process.pid)
    return holders


def ended(pid: int) -> bool:
    """Whether a child of this process has ended; its status is not asked for yet."""
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def break_gpu(server: Server, file: Path) -> Answer:
    """Break the CUDA context of the process that answers the next request, and no other one's."""
    file.touch()
    answer = server.records({"seed": 1})
    file.unlink()
    return answer


def test_the_server_ends_with_an_error_after_its_last_answer(
    gpu: dict[str, str], project: Project, tmp_path: Path
) -> None:
    file = tmp_path / "breaks"
    with serving(project, "model", FAKE_CUDA_BREAKS=str(file), **gpu) as server:
        before = server.records({"seed": 1})
        assert (before.status, before.headers["x-gan-device"]) == (200, "cuda")
        (worker,) = workers(server)
        answer = break_gpu(server, file)
        assert (answer.status, answer.body["message"]) == (500, BROKEN)
        wait_for(lambda: ended(server.pid))
        assert not psutil.pid_exists(worker) or ended(worker)
        log = server.log.read_text()
    assert "CUDA failure 700: an illegal memory access was encountered" in log
    assert "CUDA is broken in this process, which ends" in log
    assert "Finished server process" in log  # uvicorn's own end
    assert f"Return code = {-signal.SIGTERM}" in log.splitlines()[-1]  # what MLflow's command says as it fails


def test_of_several_workers_only_the_broken_one_is_replaced(
    gpu: dict[str, str], project: Project, tmp_path: Path
) -> None:
    file = tmp_path / "breaks"
    with serving(project, "model", workers=2, FAKE_CUDA_BREAKS=str(file), **gpu) as server:
        wait_for(lambda: len(workers(server)) == 2)
        before, images = workers(server), server.records({"seed": 1}).body["predictions"]
        answer = break_gpu(server, file)
        assert (answer.status, answer.body["message"]) == (500, BROKEN)
        wait_for(lambda: len(workers(server)) == 2 and workers(server) != before)
        assert len(workers(server) & before) == 1
        for _ in range(10):
            later = server.records({"seed": 1})
            assert (later.status, later.headers["x-gan-device"]) == (200, "cuda")
            assert later.body["predictions"] == images
