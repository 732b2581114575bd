"""Batches of images, and arithmetic that does not depend on the caller's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from features_helpers import CPU, noise

from gan_plugin.features.network import batch_factor, batch_size, batches, exact_float32


def test_batches_hold_every_image_once() -> None:
    images = noise(7, 16, 16, 1)
    parts = list(batches(images, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert np.array_equal(np.concatenate(parts), images)


def test_a_batch_of_large_images_is_small() -> None:
    assert batch_size(16, 16, CPU) * 16 * 16 == batch_size(256, 256, CPU) * 256 * 256
    assert batch_size(10_000, 10_000, CPU) == 1


def test_a_gpu_computes_more_at_once_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def factor(gib: float) -> int:
        properties = SimpleNamespace(total_memory=int(gib * 2**30))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        return batch_factor(torch.device("cuda"))

    assert [factor(gib) for gib in (4, 8, 23.6, 79.1, 139.8)] == [1, 1, 2, 8, 8]
    assert batch_size(64, 64, torch.device("cuda")) == 8 * batch_size(64, 64, CPU)
    assert batch_factor(CPU) == 1


def settings() -> dict[str, object]:
    """Every setting of float32's precision, older and newer, that torch lets be read."""
    backends = torch.backends
    readers: dict[str, Callable[[], object]] = {
        "allow_tf32 of cuDNN": lambda: backends.cudnn.allow_tf32,
        "allow_tf32 of products": lambda: backends.cuda.matmul.allow_tf32,
        "precision of products": torch.get_float32_matmul_precision,
        "convolution": lambda: backends.cudnn.conv.fp32_precision,
        "recurrent": lambda: backends.cudnn.rnn.fp32_precision,
        "product": lambda: backends.cuda.matmul.fp32_precision,
        "product on a CPU": lambda: backends.mkldnn.matmul.fp32_precision,
        "all": lambda: backends.fp32_precision,
    }
    values = {}
    for name, reader in readers.items():
        with suppress(RuntimeError):  # torch refuses to read an older setting that a newer one contradicts
            values[name] = reader()
    return values


CALLERS = {
    "torch's own": "pass",
    "no TF32": "torch.backends.cudnn.allow_tf32 = False",
    "products": "torch.set_float32_matmul_precision('high')",
    "products on a CPU": "torch.set_float32_matmul_precision('medium')",
    "newer": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "newer products": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "newer for all": "torch.backends.fp32_precision = 'tf32'",
}


@pytest.mark.parametrize("caller", CALLERS)
def test_tf32_is_off_inside_what_can_be_read_can_be_read_inside_and_all_is_restored(caller: str) -> None:
    """In a process of its own: what a caller mixes cannot be unmixed."""
    code = f"import torch; from test_network import check; {CALLERS[caller]}; check()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def check() -> None:
    """Check the settings outside, inside and after a block of ``exact_float32``."""
    before = settings()
    inside = []
    with suppress(KeyError), exact_float32(CPU):
        inside.append(settings())
        with torch.backends.cudnn.flags(enabled=True) if "allow_tf32 of cuDNN" in before else nullcontext():
            pass  # which reads allow_tf32
        raise KeyError
    exact = inside[0]
    assert exact.keys() >= before.keys(), (before, exact)
    assert {exact[name] for name in ("convolution", "recurrent", "product")} == {"ieee"}, exact
    assert exact.get("allow_tf32 of cuDNN", False) is False, exact
    assert exact.get("precision of products", "highest") == "highest", exact
    assert settings() == before, (before, settings())
