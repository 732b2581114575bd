"""The tests that take a GPU, in a process that sees it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers import PATIENCE_S, ROOT

from gan_plugin.serving.cuda import find_driver


@pytest.mark.skipif(find_driver() is None, reason="there is no NVIDIA driver")
def test_what_takes_a_gpu() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if (visible := environment.pop("GPUS_BEFORE_TESTS")) != "all":
        environment["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--noconftest", "-o", "addopts=", ROOT / "tests" / "test_gpu.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if " passed" not in done.stdout:
        pytest.skip("the NVIDIA driver shows no GPU")
