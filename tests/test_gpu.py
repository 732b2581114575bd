"""Serving and training on a GPU, where there is one.

Serving: the vectors, one image alone and in a batch, half precision, and what ``doctor`` says. Training: the checks of
``gpu_checks.py``, which a CPU rehearses.

Among the other tests no GPU is visible. These run in a process of their own, by tests/test_gpu_apart.py or by hand,
also where neither MLflow nor pytest-xdist is installed: ``pytest --noconftest -o addopts= tests/test_gpu.py``.
"""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gpu_checks
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from gan_plugin.config.recipe import recipe_names
from gan_plugin.data import load_dataset
from gan_plugin.data.ahead import AheadBatches
from gan_plugin.data.loader import BatchLoader, gather, move_samples
from gan_plugin.data.stored import SampleFile, StoredSamples
from gan_plugin.doctor import check_serving
from gan_plugin.serving.cuda import find_driver
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.requests import read_request

DRIVER = find_driver()
pytestmark = pytest.mark.skipif(DRIVER is None or not DRIVER.gpus, reason="no GPU is visible")
ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits.onnx"
CUDA = torch.device("cuda")
LONG = ("dcgan", "r1", "subpixel", "r3gan", "wgan-gp")  # what is checked in many steps: each kind of step among them

serving = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="this ONNX Runtime has no CUDA in it"
)
training = pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch has no CUDA in it")


# ---- serving ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_gpu() -> OnnxGenerator:
    generator = OnnxGenerator(DIGITS, device="cuda")  # refused, with the cause, where CUDA cannot be used
    generator.warm_up()
    assert generator.provider == "CUDAExecutionProvider"
    assert generator.batched
    return generator


@serving
def test_doctor_finds_it() -> None:
    assert "cuda" in check_serving().devices


@serving
def test_the_vectors_that_every_program_must_make(on_gpu: OnnxGenerator) -> None:
    for vector in json.loads((ROOT / "examples" / "vectors.json").read_text())["images"]:
        row = {name: value for name, value in vector.items() if name != "image" and value is not None}
        request = read_request(pd.DataFrame([row]), on_gpu.description, max_rows=1)
        (image,) = on_gpu.generate(request.answered_z(), request.label_array())
        expected = np.frombuffer(base64.b64decode(vector["image"]), np.uint8).reshape(image.shape)
        assert np.abs(image.astype(int) - expected).max() <= 1


@serving
def test_a_seeds_image_alone_and_among_others(on_gpu: OnnxGenerator) -> None:
    expected = OnnxGenerator(DIGITS, device="cpu").sample(range(200)).astype(int)
    with ThreadPoolExecutor(32) as pool:
        alone = np.concatenate(list(pool.map(lambda seed: on_gpu.sample([seed]), range(200))))
    for images in (alone, on_gpu.sample(range(200))):
        assert np.abs(images - expected).max() <= 1


@serving
@pytest.mark.parametrize("name", ["dcgan", "r1", "subpixel", "r3gan"])
def test_half_precision_is_within_two_gray_levels_of_float32_on_a_cpu(name: str) -> None:
    gpu_checks.check_float16(name, "cuda")


# ---- training --------------------------------------------------------------------------------------------------------


@training
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("name", recipe_names())
def test_a_step_never_waits_for_the_gpu(name: str, captured: bool) -> None:
    gpu_checks.check_no_waiting(name, CUDA, captured=captured)


@training
@pytest.mark.parametrize("name", recipe_names())
def test_losses_in_float32_are_those_of_a_cpu(name: str) -> None:
    gpu_checks.check_against_cpu(name, CUDA)


@training
@pytest.mark.parametrize("name", recipe_names())
def test_captured_steps_are_eager_ones_metrics_weights_and_random_numbers(name: str) -> None:
    gpu_checks.check_captured(name, CUDA)


@training
@pytest.mark.parametrize("name", LONG)
def test_stop_and_resume_is_not_stopping_but_for_rounding(name: str) -> None:
    gpu_checks.check_resume(name, CUDA)


@training
@pytest.mark.parametrize("name", LONG)
def test_memory_does_not_grow_with_the_steps(name: str) -> None:
    gpu_checks.check_memory(name, CUDA)


@training
@pytest.mark.parametrize("name", ["dcgan", "r1", "subpixel", "r3gan"])
def test_what_has_learned_on_a_gpu_is_exported_as_it_is(name: str) -> None:
    gpu_checks.check_export(name, CUDA)


@training
def test_batches_of_data_that_stays_on_the_host() -> None:
    gpu_checks.check_batches_from_the_host(CUDA)


@training
def test_the_augmentation_follows_its_controller_on_the_gpu() -> None:
    gpu_checks.check_ada(CUDA)


@training
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("resident", [0, 1, 700, 1437])
def test_batches_of_samples_of_which_a_part_is_on_the_gpu(resident: int, world_size: int) -> None:
    """Are those of samples that all are, while more of them are asked for than the GPU has copied."""
    digits, device = load_dataset("digits"), torch.device("cuda")
    complete, split = (
        BatchLoader(digits, 64, device, seed=0, labeled=True, paired=True, world_size=world_size) for _ in range(2)
    )
    split.source = AheadBatches(digits.samples, resident, device, rows_of=split.rows, steps=split.steps_per_epoch)
    for epoch in range(3):
        orders = [loader.orders(epoch) for loader in (complete, split)]
        batches = [
            [loader.batches(of_epoch, index) for index in range(loader.steps_per_epoch)]
            for loader, of_epoch in zip((complete, split), orders)
        ]
        for expected, actual in zip(*batches, strict=True):
            for a, b in zip(expected, actual):
                assert b.samples.device.type == "cuda"
                assert torch.equal(a.samples, b.samples)
                assert torch.equal(a.labels, b.labels)


@training
@pytest.mark.parametrize("free", [0, 2**40])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_rows_of_samples_for_a_gpu_that_has_room_for_them_and_for_one_that_has_not(
    kind: str, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the GPU meanwhile."""
    expected, device = load_dataset("digits").samples[:], torch.device("cuda")
    (tmp_path / "samples").write_bytes(expected.numpy().tobytes())
    in_file = StoredSamples(SampleFile(tmp_path / "samples", tuple(expected.shape)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    samples = move_samples(in_file if kind == "file" else expected, device)
    assert samples.device.type == ("cuda" if free else "cpu")
    rows = torch.tensor([5, 5, 1400, 0, 1])
    of_home = rows.to(samples.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = gather(samples, of_home, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(batch.cpu(), expected[rows])
