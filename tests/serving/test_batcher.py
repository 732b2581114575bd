"""The micro-batcher, with a device whose pace the test decides, and with a real generator."""

from __future__ import annotations

import base64
import gc
import io
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from helpers import PATIENCE_S, ROOT, wait_for

from gan_plugin.export import export_generator
from gan_plugin.media.image import Image, png_base64
from gan_plugin.networks import dcgan
from gan_plugin.seeds import latents
from gan_plugin.serving import generator as generator_module
from gan_plugin.serving.batcher import Labels, Latents, MicroBatcher
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import BUCKETS, OnnxGenerator
from gan_plugin.serving.session import LoadedSession
from gan_plugin.spec import image_spec

DIGITS = ROOT / "examples" / "digits.onnx"


class Device:
    """Makes of each z one image of one pixel, its first value; holds its first run until ``go`` is set."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.started, self.go = threading.Event(), threading.Event()
        self.broken = False

    def __call__(self, z: Latents, labels: Labels) -> Image:
        self.runs.append(z[:, 0].astype(int).tolist())
        self.started.set()
        assert self.go.wait(PATIENCE_S)
        self.broken |= bool((z[:, 0] == 666).any())
        if self.broken:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        if (z[:, 0] == 13).any():
            raise ValueError("thirteen")
        return z[:, :1, None, None].astype(np.uint8)

    def is_broken(self) -> bool:
        return self.broken


def rows(*values: int) -> Latents:
    return np.array(values, np.float32)[:, None]


def pixels(images: Image) -> list[int]:
    return images.ravel().tolist()


def while_busy(device: Device, batcher: MicroBatcher, requests: list[Latents]) -> list[Future[Image]]:
    """Send a first request, and while the device is busy with it the others, in order; then let it go on."""
    pool = ThreadPoolExecutor(len(requests) + 1)
    first = pool.submit(batcher, rows(99), None)
    assert device.started.wait(PATIENCE_S)
    futures = []
    for request in requests:
        before = batcher._waiting.qsize()
        futures.append(pool.submit(batcher, request, None))
        wait_for(lambda before=before: batcher._waiting.qsize() > before)
    device.go.set()
    wait([first, *futures], PATIENCE_S)
    assert pixels(first.result()) == [99]
    return futures


def watch(generator: OnnxGenerator) -> list[int]:
    """The rows of each run of the generator's session from now on."""
    sizes: list[int] = []
    original = generator.session

    class Watched:
        def run(self, names: list[str], feeds: dict[str, npt.NDArray[Any]]) -> list[Image]:
            sizes.append(len(feeds["z"]))
            result: list[Image] = original.run(names, feeds)
            return result

    generator._loaded = LoadedSession(Watched(), generator.provider)
    return sizes


def test_a_lone_request_runs_at_once_and_alone() -> None:
    device = Device()
    device.go.set()
    batcher = MicroBatcher(device, max_rows=64, is_broken=device.is_broken)
    for value in range(3):
        assert pixels(batcher(rows(value), None)) == [value]
    assert device.runs == [[0], [1], [2]]


def test_waiting_requests_run_together_in_order_whole_and_never_above_the_limit() -> None:
    device = Device()
    batcher = MicroBatcher(device, max_rows=4, is_broken=device.is_broken)
    requests = [[1], [2, 3], [4, 5], [6], [7, 8, 9, 10], [11]]
    answers = while_busy(device, batcher, [rows(*values) for values in requests])
    assert [pixels(answer.result()) for answer in answers] == requests
    assert device.runs == [[99], [1, 2, 3], [4, 5, 6], [7, 8, 9, 10], [11]]


def test_one_request_fails_alone() -> None:
    device = Device()
    batcher = MicroBatcher(device, max_rows=64, is_broken=device.is_broken)
    first, bad, last = while_busy(device, batcher, [rows(1, 2), rows(13), rows(3)])
    assert (pixels(first.result()), pixels(last.result())) == ([1, 2], [3])
    with pytest.raises(ValueError, match="thirteen"):
        bad.result()
    assert device.runs == [[99], [1, 2, 13, 3], [1, 2], [13], [3]]
    assert pixels(batcher(rows(7), None)) == [7]  # and the batcher lives on


def test_on_a_broken_device_no_request_is_tried_again() -> None:
    device = Device()
    batcher = MicroBatcher(device, max_rows=64, is_broken=device.is_broken)
    for answer in while_busy(device, batcher, [rows(1, 2), rows(666), rows(3)]):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            answer.result()
    assert device.runs == [[99], [1, 2, 666, 3]]


def test_one_request_of_another_shape_fails_alone() -> None:
    device = Device()
    batcher = MicroBatcher(device, max_rows=64, is_broken=device.is_broken)
    wide = np.zeros((1, 3), np.float32)
    good, bad = while_busy(device, batcher, [rows(1), wide])
    assert pixels(good.result()) == [1]
    assert pixels(bad.result()) == [0]  # this device does not mind; what must not happen is that nobody is answered
    assert pixels(batcher(rows(7), None)) == [7]


def test_the_thread_of_a_batcher_without_references_ends() -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "gan-batcher"}

    before = threads()
    generator = OnnxGenerator(DIGITS, device="cpu", batching="on")
    generator.sample([1, 2, 3])
    (thread,) = threads() - before
    kept = weakref.ref(generator)
    del generator
    wait_for(lambda: gc.collect() is not None and kept() is None)  # the thread lets go of it a moment after its answer
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_real_generator_gives_the_same_images_through_it() -> None:
    """The digits of the examples, in requests of many sizes at once: sizes, padding, labels, splitting."""
    plain, batched = OnnxGenerator(DIGITS, device="cpu"), OnnxGenerator(DIGITS, device="cpu", batching="on")
    assert (plain.batched, batched.batched) == (False, True)
    sizes = watch(batched)
    requests = [list(range(start, start + count)) for start, count in enumerate([1, 2, 3, 7, 1, 64, 65, 1, 130, 5])]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(batched.sample, requests))
    for seeds, answer in zip(requests, answers, strict=True):
        expected = plain.sample(seeds)
        assert answer.shape == expected.shape
        np.testing.assert_array_equal(answer, expected)
    assert max(sizes) == BUCKETS[-1]


def test_on_a_cpu_an_image_is_the_same_to_the_bit_in_any_batch() -> None:
    generator = OnnxGenerator(DIGITS, device="cpu")
    z = latents(range(40), generator.description.latent_size)
    labels = np.arange(40) % 10
    alone = np.concatenate([generator.generate(z[i : i + 1], labels[i : i + 1]) for i in range(40)])
    np.testing.assert_array_equal(generator.generate(z, labels), alone)
    np.testing.assert_array_equal(generator.generate(z[::-1], labels[::-1]), alone[::-1])


def test_runs_on_a_gpu_have_a_few_sizes_which_are_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, taken for a GPU: what fills a batch up is thrown away."""
    monkeypatch.setattr(generator_module, "CUDA", "CPUExecutionProvider")
    on_gpu = OnnxGenerator(DIGITS, device="cpu", batching="off")
    monkeypatch.undo()
    sizes = watch(on_gpu)
    on_gpu.warm_up()
    assert tuple(sizes) == BUCKETS[::-1]  # the others fit into the memory of the largest
    expected = OnnxGenerator(DIGITS, device="cpu").sample(range(130))
    sizes.clear()
    for rows, runs in ((1, [1]), (3, [4]), (33, [64]), (64, [64]), (65, [64, 1]), (130, [64, 64, 2])):
        np.testing.assert_array_equal(on_gpu.sample(range(rows)), expected[:rows])
        assert sizes == runs
        sizes.clear()


def test_an_image_that_takes_long_gets_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_module, "cores", lambda: 2)
    monkeypatch.setattr(generator_module, "SLOW_IMAGE_S", np.inf)
    assert OnnxGenerator(DIGITS).threads == 1
    assert OnnxGenerator(DIGITS, threads=2).threads == 2
    monkeypatch.setattr(generator_module, "SLOW_IMAGE_S", 0)
    slow = OnnxGenerator(DIGITS)
    assert slow.threads == 2
    assert slow.session.get_session_options().intra_op_num_threads == 2
    assert slow.fallback == OnnxGenerator(DIGITS, threads=1).fallback
    assert OnnxGenerator(DIGITS, threads=1).threads == 1  # as was asked for


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of a generator of large images."""
    path, spec = tmp_path_factory.mktemp("large") / "g.onnx", image_spec(64, 64, 3)
    torch.manual_seed(0)
    export_generator(dcgan.Generator(8, spec), Description(8, spec), path)
    return path


@pytest.mark.parametrize("batching", ["off", "on"])
def test_large_images_are_encoded_side_by_side_and_in_order(batching: str, large: Path) -> None:
    generator = OnnxGenerator(large, device="cpu", batching=batching)
    z = latents(range(21), 8)
    files = generator.encode(z, None, png_base64)
    decoded = np.stack([np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(file)))) for file in files])
    np.testing.assert_array_equal(decoded, generator.generate(z))
    assert len(set(files)) == 21
