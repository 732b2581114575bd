"""A generator read from its ONNX file alone, and images of it on ONNX Runtime."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from gan_plugin.cores import cores
from gan_plugin.media.image import SMALL, Image, Images
from gan_plugin.seeds import default_labels, latents
from gan_plugin.serving.batcher import Labels, Latents, MicroBatcher, Run
from gan_plugin.serving.description import KIND, Description
from gan_plugin.serving.editing import read_edit
from gan_plugin.serving.encoder import OnnxEncoder
from gan_plugin.serving.session import CUDA, open_session, run_once

BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # rows of a run on a GPU; benchmarks/serving.py times larger ones there
CPU_ROWS = 8  # the most rows of a run on a CPU; beyond it a run gains no speed, and takes memory
SLOW_IMAGE_S = 0.02  # from here on one image is worth all cores; below, they lose time waiting for each other

Encoded = TypeVar("Encoded")
Result = TypeVar("Result")


class OnnxGenerator:
    """A generator on ONNX Runtime: seeds or latents in, uint8 images [N, height, width, channels] out.

    Thread-safe, but like ONNX Runtime's sessions it does not survive a fork of the process. On a CPU the images of a
    request are divided among the cores: that is faster than several cores at one image, unless that takes long.
    On a GPU runs have the sizes ``BUCKETS``.

    Args:
        onnx_file: what :func:`gan_plugin.export.export_generator` wrote.
        device: ``auto``, ``cuda`` or ``cpu`` (see :func:`gan_plugin.serving.session.open_session`).
        batching: whether requests of several threads run together: ``on``, ``off``, or ``auto`` for on with CUDA.
        threads: CPU threads that work at one image; None for one, or for all where an image takes long.
        gpu_memory_mb: the most GPU memory for tensors, in MiB, for an encoder once more; None for no limit.
        encoder_file: the encoder of this generator, which runs on the same device; None for no encoder.

    Raises:
        UserError: the file is no generator of images, or the device cannot be used.
    """

    def __init__(
        self,
        onnx_file: str | Path,
        *,
        device: str = "auto",
        batching: str = "auto",
        threads: int | None = None,
        gpu_memory_mb: int | None = None,
        encoder_file: str | Path | None = None,
    ) -> None:
        self.onnx_file, self.threads = Path(onnx_file), threads or 1
        self._loaded = open_session(
            onnx_file, device, threads=self.threads, gpu_memory_mb=gpu_memory_mb, probe=run_once
        )
        self.description = Description.from_metadata(self.session.get_modelmeta().custom_metadata_map)
        on_gpu = self.provider == CUDA
        own_device = "cuda" if on_gpu else "cpu"
        self.encoder = (
            None
            if encoder_file is None
            else OnnxEncoder(encoder_file, device=own_device, threads=self.threads, gpu_memory_mb=gpu_memory_mb)
        )
        self._sizes = BUCKETS if on_gpu else ()  # to which the rows of a run are padded
        if not on_gpu and threads is None and cores() > 1 and self._seconds_per_image() > SLOW_IMAGE_S:
            self.threads = cores()
            self._loaded = replace(open_session(onnx_file, "cpu", threads=self.threads), fallback=self.fallback)
        self.batched = batching == "on" or (batching == "auto" and on_gpu)
        self._max_rows = BUCKETS[-1] if on_gpu or self.batched else CPU_ROWS
        self._run: Run = self.run
        if self.batched:
            self._run = MicroBatcher(self.run, self._max_rows, is_broken=self.is_broken)
        cpu_workers = max(1, cores() // self.threads)
        self._run_workers = 1 if on_gpu or self.batched else cpu_workers  # among which a request's rows are divided
        self._pool = ThreadPoolExecutor(cpu_workers, "gan-images")

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The open session of ONNX Runtime."""
        return self._loaded.session

    @property
    def provider(self) -> str:
        """The execution provider that is active, for example ``CUDAExecutionProvider``."""
        return self._loaded.provider

    @property
    def fallback(self) -> str | None:
        """Why ``device=auto`` runs on the CPU; None where CUDA runs or ``device=cpu`` was requested."""
        return self._loaded.fallback

    def run(self, z: Latents, labels: Labels = None) -> Images:
        """Run the session once; on a GPU with the rows padded to a size that was warmed up."""
        inputs: dict[str, npt.NDArray[Any]] = {"z": z} if labels is None else {"z": z, "label": labels}
        padding = next((size - len(z) for size in self._sizes if size >= len(z)), 0)
        if padding:
            inputs = {name: np.resize(rows, (len(z) + padding, *rows.shape[1:])) for name, rows in inputs.items()}
        images: Images = self.session.run([KIND], inputs)[0]
        return images[: len(z)]

    def is_broken(self) -> bool:
        """Return whether not even zeros run on the GPU; to be asked after a run that failed.

        What broke the CUDA context, an illegal address or a lost GPU, makes all further runs of this process fail, and
        only another process can go on. A CPU does not break.
        """
        if self.provider != CUDA:
            return False
        try:
            run_once(self.session)
        except Exception:  # of any kind: ONNX Runtime's exceptions have no common class
            return True
        return False

    def warm_up(self) -> None:
        """Run every size once, so that no request waits for memory or for the choice of an algorithm."""
        for size in reversed(self._sizes or (1,)):  # the largest first: the others fit into its memory
            self.run(*self._zeros(size))

    def generate(self, z: Latents, labels: Labels = None) -> Images:
        """Return the images of latents float32 [N, latent_size] and, for a conditional generator, labels int64 [N]."""
        runs = self._map_runs(z, labels, lambda images: images)
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    def encode(self, z: Latents, labels: Labels, encoder: Callable[[Image], Encoded]) -> list[Encoded]:
        """Return the encoded image of each latent and label, in order.

        On a CPU each core encodes what it generated, while others compute. The images of a GPU are divided among the
        cores, unless they are small: encoding those is mostly Python's own work, which one core does at a time.
        """

        def sequential(images: Images) -> list[Encoded]:
            return [encoder(image) for image in images]

        def parallel(images: Images) -> list[Encoded]:
            return list(self._pool.map(encoder, images))

        spec = self.description.spec
        is_large = spec.height * spec.width >= SMALL**2
        runs = self._map_runs(z, labels, parallel if self._run_workers == 1 and is_large and len(z) > 1 else sequential)
        return [encoded for run in runs for encoded in run]

    def _map_runs(self, z: Latents, labels: Labels, function: Callable[[Images], Result]) -> list[Result]:
        """Return ``function`` of the images of each run, in order; the rows are divided among the workers."""
        chunk_size = -(-len(z) // self._run_workers)

        def work(start: int) -> list[Result]:
            end = min(start + chunk_size, len(z))
            runs = [slice(i, min(i + self._max_rows, end)) for i in range(start, end, self._max_rows)]
            return [function(self._run(z[rows], None if labels is None else labels[rows])) for rows in runs]

        starts = range(0, len(z), chunk_size)
        # a single share is not handed to another thread
        chunks = [work(0)] if len(starts) == 1 else self._pool.map(work, starts)
        return [result for results in chunks for result in results]

    def sample(
        self,
        seeds: npt.ArrayLike,
        labels: Labels = None,
        truncation: npt.ArrayLike | None = None,
        *,
        edit: Mapping[str, float] | None = None,
    ) -> Images:
        """Return the images of N seeds, equal for equal seeds.

        Without labels the class of each seed is that of :func:`gan_plugin.seeds.default_labels`. ``truncation`` is that
        of :func:`gan_plugin.seeds.latents`. ``edit`` are steps along directions that the file names, such as
        ``{"thickness": 1.5}``.

        Raises:
            UserError: there is no such direction, or a step is too long.
        """
        if labels is None and self.description.spec.class_names:
            labels = default_labels(seeds, self.description.spec.classes)
        z = latents(seeds, self.description.latent_size, truncation)
        return self.generate(z if edit is None else z + read_edit(edit, "There is", self.description), labels)

    def _seconds_per_image(self) -> float:
        """Time two runs and return the faster: the first one also pays for memory."""
        return min(timeit.repeat(self.warm_up, number=1, repeat=2))

    def _zeros(self, rows: int) -> tuple[Latents, Labels]:
        """Return inputs for a run whose images are thrown away."""
        labels = np.zeros(rows, np.int64) if self.description.spec.class_names else None
        return np.zeros((rows, self.description.latent_size), np.float32), labels
