"""Serving on a GPU, where there is one: the vectors, one image alone and in a batch, and what ``doctor`` says.

Among the other tests no GPU is visible. These run in a process of their own, by tests/test_gpu_apart.py or by hand,
also where neither MLflow nor pytest-xdist is installed: ``pytest --noconftest -o addopts= tests/test_gpu.py``.
"""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gan_plugin.doctor import check_serving
from gan_plugin.serving.cuda import find_driver
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.requests import read_request

DRIVER = find_driver()
pytestmark = pytest.mark.skipif(DRIVER is None or not DRIVER.gpus, reason="no GPU is visible")
ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits.onnx"


@pytest.fixture(scope="module")
def on_gpu() -> OnnxGenerator:
    generator = OnnxGenerator(DIGITS, device="cuda")  # refused, with the cause, where CUDA cannot be used
    generator.warm_up()
    assert generator.provider == "CUDAExecutionProvider"
    assert generator.batched
    return generator


def test_doctor_finds_it() -> None:
    assert "cuda" in check_serving().devices


def test_the_vectors_that_every_program_must_make(on_gpu: OnnxGenerator) -> None:
    for vector in json.loads((ROOT / "examples" / "vectors.json").read_text())["images"]:
        row = {name: value for name, value in vector.items() if name != "image" and value is not None}
        request = read_request(pd.DataFrame([row]), on_gpu.description, max_rows=1)
        (image,) = on_gpu.generate(request.z, request.labels)
        expected = np.frombuffer(base64.b64decode(vector["image"]), np.uint8).reshape(image.shape)
        assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_seeds_image_alone_and_among_others(on_gpu: OnnxGenerator) -> None:
    expected = OnnxGenerator(DIGITS, device="cpu").sample(range(200)).astype(int)
    with ThreadPoolExecutor(32) as pool:
        alone = np.concatenate(list(pool.map(lambda seed: on_gpu.sample([seed]), range(200))))
    for images in (alone, on_gpu.sample(range(200))):
        assert np.abs(images - expected).max() <= 1
