"""A generator read from its ONNX file alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from gan_plugin.errors import UserError
from gan_plugin.serving.latents import latents
from gan_plugin.serving.pictures import Picture
from gan_plugin.serving.session import open_session

CONTRACT_VERSION = "1"
METADATA_PREFIX = "gan."
LARGEST_BATCH = 64  # bounds the memory of one run; beyond it a batch gains no speed


@dataclass(frozen=True)
class Description:
    """What a generator's ONNX file says about itself, in its ``metadata_props`` under ``gan.…``."""

    latent_size: int
    height: int
    width: int
    channels: int
    class_names: tuple[str, ...] = ()  # empty for a generator that takes no label
    recipe: str = ""
    run_id: str = ""
    data: str = ""
    data_digest: str = ""

    def to_metadata(self) -> dict[str, str]:
        values: dict[str, Any] = {"contract": CONTRACT_VERSION, **self.__dict__}
        values["class_names"] = json.dumps(list(self.class_names), ensure_ascii=False)
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
        whole = {name: int(found[name]) for name in ("latent_size", "height", "width", "channels")}
        words = {name: found.get(name, "") for name in ("recipe", "run_id", "data", "data_digest")}
        return cls(**whole, **words, class_names=tuple(json.loads(found["class_names"])))  # type: ignore[arg-type]


class OnnxGenerator:
    """A generator on ONNX Runtime: seeds or latents in, uint8 pictures [N, height, width, channels] out.

    Thread-safe. ``device`` is ``auto``, ``cuda`` or ``cpu`` (see :func:`gan_plugin.serving.session.open_session`).
    """

    def __init__(self, onnx_file: str | Path, device: str = "auto") -> None:
        self.session: onnxruntime.InferenceSession = open_session(onnx_file, device)
        self.description = Description.from_metadata(self.session.get_modelmeta().custom_metadata_map)

    @property
    def provider(self) -> str:
        """The execution provider that is active, for example ``CUDAExecutionProvider``."""
        return str(self.session.get_providers()[0])

    def generate(self, z: npt.NDArray[np.float32], labels: npt.NDArray[np.int64] | None = None) -> Picture:
        """Pictures of latents float32 [N, latent_size] and, for a conditional generator, labels int64 [N]."""
        feeds: dict[str, npt.NDArray[Any]] = {"z": z} if labels is None else {"z": z, "label": labels}
        batches = [
            self.session.run(["image"], {k: v[i : i + LARGEST_BATCH] for k, v in feeds.items()})[0]
            for i in range(0, len(z), LARGEST_BATCH)
        ]
        return np.concatenate(batches)

    def sample(
        self,
        seeds: npt.ArrayLike,
        labels: npt.NDArray[np.int64] | None = None,
        truncation: npt.ArrayLike | None = None,
    ) -> Picture:
        """Pictures of N seeds, equal for equal seeds; without labels a conditional generator shows all its classes."""
        if labels is None and self.description.class_names:
            labels = default_labels(seeds, len(self.description.class_names))
        return self.generate(latents(seeds, self.description.latent_size, truncation), labels)


def default_labels(seeds: npt.ArrayLike, classes: int) -> npt.NDArray[np.int64]:
    """The class of a seed that comes without one: ``seed mod classes``, so that consecutive seeds show them all."""
    return np.asarray(seeds, np.int64) % classes
