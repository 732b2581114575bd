"""A generator read from its ONNX file alone."""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from gan_plugin.errors import UserError
from gan_plugin.media.image import SMALL, Image
from gan_plugin.seeds import default_labels, latents
from gan_plugin.serving.batcher import Labels, Latents, MicroBatcher, Run
from gan_plugin.serving.session import CUDA, cores, open_session, run_once
from gan_plugin.spec import SampleSpec, image_spec

CONTRACT_VERSION = "1"
METADATA_PREFIX = "gan."
BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # rows of a run on a GPU; beyond 64 a run gains no speed
CPU_ROWS = 8  # the most rows of a run on a CPU; beyond it a run gains no speed, and takes memory
SLOW_IMAGE_S = 0.02  # from here on a lone image is worth all cores; below, they lose time waiting for each other

Encoded = TypeVar("Encoded")
Used = TypeVar("Used")


@dataclass(frozen=True)
class Description:
    """What a generator's ONNX file says about itself, in its ``metadata_props`` under ``gan.…``."""

    latent_size: int
    spec: SampleSpec  # without class names for a generator that takes no label
    recipe: str = ""
    run_id: str = ""
    data: str = ""
    data_digest: str = ""

    def to_metadata(self) -> dict[str, str]:
        height, width, channels = self.spec.shape
        values: dict[str, Any] = {"contract": CONTRACT_VERSION, **vars(self)}
        del values["spec"]
        values |= {"height": height, "width": width, "channels": channels}
        values["class_names"] = json.dumps(list(self.spec.class_names), ensure_ascii=False)
        return {METADATA_PREFIX + name: str(value) for name, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Description:
        """
        Raises:
            UserError: the file is not a generator, or follows a newer contract than this version knows.
        """
        found = {k.removeprefix(METADATA_PREFIX): v for k, v in metadata.items() if k.startswith(METADATA_PREFIX)}
        contract = found.pop("contract", None)
        if contract != CONTRACT_VERSION:
            raise UserError(
                f"This ONNX file says contract {contract!r}, not {CONTRACT_VERSION!r}: it was not exported by "
                "gan_plugin, or by another version of it."
            )
        height, width, channels = (int(found[name]) for name in ("height", "width", "channels"))
        spec = image_spec(height, width, channels, json.loads(found["class_names"]))
        words = {name: found.get(name, "") for name in ("recipe", "run_id", "data", "data_digest")}
        return cls(int(found["latent_size"]), spec, **words)


class OnnxGenerator:
    """A generator on ONNX Runtime: seeds or latents in, uint8 images [N, height, width, channels] out.

    Thread-safe, but like ONNX Runtime's sessions it does not survive a fork of the process. On a CPU the images of a
    request are shared out among the cores: that is faster than several cores at one image, unless that takes long.
    On a GPU runs have the sizes ``BUCKETS``.

    Args:
        onnx_file: what :func:`gan_plugin.export.export_generator` wrote.
        device: ``auto``, ``cuda`` or ``cpu`` (see :func:`gan_plugin.serving.session.open_session`).
        batching: whether requests of several threads run together: ``on``, ``off``, or ``auto`` for on with CUDA.
        threads: CPU threads that work at one image; None for one, or for all where an image takes long.
        gpu_memory_mb: the most GPU memory for tensors, in MiB; None for no limit.

    Raises:
        UserError: the file is no generator, or the device cannot be had.
    """

    def __init__(
        self,
        onnx_file: str | Path,
        device: str = "auto",
        batching: str = "auto",
        threads: int | None = None,
        gpu_memory_mb: int | None = None,
    ) -> None:
        self.threads = threads or 1
        self._opened = open_session(onnx_file, device, self.threads, gpu_memory_mb, run_once)
        self.description = Description.from_metadata(self.session.get_modelmeta().custom_metadata_map)
        on_gpu = self.provider == CUDA
        self._sizes = BUCKETS if on_gpu else ()  # to which a run's rows are filled up
        if not on_gpu and threads is None and cores() > 1 and self._seconds_a_image() > SLOW_IMAGE_S:
            self.threads = cores()
            self._opened = replace(open_session(onnx_file, "cpu", self.threads), fallback=self.fallback)
        self.batched = batching == "on" or (batching == "auto" and on_gpu)
        self._largest = BUCKETS[-1] if on_gpu or self.batched else CPU_ROWS
        self._run: Run = MicroBatcher(self.run, self._largest) if self.batched else self.run
        workers = max(1, cores() // self.threads)
        self._makers = 1 if on_gpu or self.batched else workers  # among whom a request's images are shared out
        self._pool = ThreadPoolExecutor(workers, "gan-images")

    @property
    def session(self) -> onnxruntime.InferenceSession:
        return self._opened.session

    @property
    def provider(self) -> str:
        """The execution provider that is active, for example ``CUDAExecutionProvider``."""
        return self._opened.provider

    @property
    def fallback(self) -> str | None:
        """Why ``device=auto`` runs on the CPU; None where CUDA runs or the CPU was asked for."""
        return self._opened.fallback

    def run(self, z: Latents, labels: Labels = None) -> Image:
        """One run of the session; on a GPU filled up to a size that was warmed up, and what fills it thrown away."""
        feeds: dict[str, npt.NDArray[Any]] = {"z": z} if labels is None else {"z": z, "label": labels}
        missing = next((size - len(z) for size in self._sizes if size >= len(z)), 0)
        if missing:
            feeds = {name: np.resize(rows, (len(z) + missing, *rows.shape[1:])) for name, rows in feeds.items()}
        images: Image = self.session.run(["image"], feeds)[0]
        return images[: len(z)]

    def warm_up(self) -> None:
        """One run of every size, so that no request waits for memory or for the choice of an algorithm."""
        for size in reversed(self._sizes or (1,)):  # the largest first: the others fit into its memory
            self.run(*self._nothing(size))

    def generate(self, z: Latents, labels: Labels = None) -> Image:
        """Dataset of latents float32 [N, latent_size] and, for a conditional generator, labels int64 [N]."""
        runs = self._runs(z, labels, lambda images: images)
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    def encode(self, z: Latents, labels: Labels, encoder: Callable[[Image], Encoded]) -> list[Encoded]:
        """The encoded image of each latent and label, in order.

        On a CPU each core encodes what it made, while others compute; the images of a GPU are shared out among cores,
        unless they are small: encoding those is mostly Python's own work, which one core does at a time.
        """

        def one_by_one(images: Image) -> list[Encoded]:
            return [encoder(image) for image in images]

        def side_by_side(images: Image) -> list[Encoded]:
            return list(self._pool.map(encoder, images))

        spread = self._makers == 1 and self.description.spec.height >= SMALL and len(z) > 1
        runs = self._runs(z, labels, side_by_side if spread else one_by_one)
        return [encoded for run in runs for encoded in run]

    def _runs(self, z: Latents, labels: Labels, use: Callable[[Image], Used]) -> list[Used]:
        """What ``use`` makes of the images of each run, in order; several makers share out the rows."""
        share = -(-len(z) // self._makers)

        def make(start: int) -> list[Used]:
            end = min(start + share, len(z))
            rows = [slice(i, min(i + self._largest, end)) for i in range(start, end, self._largest)]
            return [use(self._run(z[some], None if labels is None else labels[some])) for some in rows]

        starts = range(0, len(z), share)
        # a lone share is not handed to another thread
        shares = [make(0)] if len(starts) == 1 else self._pool.map(make, starts)
        return [used for share in shares for used in share]

    def sample(self, seeds: npt.ArrayLike, labels: Labels = None, truncation: npt.ArrayLike | None = None) -> Image:
        """Dataset of N seeds, equal for equal seeds; without labels a conditional generator shows all its classes."""
        if labels is None and self.description.spec.class_names:
            labels = default_labels(seeds, len(self.description.spec.class_names))
        return self.generate(latents(seeds, self.description.latent_size, truncation), labels)

    def _seconds_a_image(self) -> float:
        """The faster of two: the first one also pays for memory."""
        return min(timeit.repeat(self.warm_up, number=1, repeat=2))

    def _nothing(self, rows: int) -> tuple[Latents, Labels]:
        """Inputs of a run whose images nobody looks at."""
        labels = np.zeros(rows, np.int64) if self.description.spec.class_names else None
        return np.zeros((rows, self.description.latent_size), np.float32), labels
