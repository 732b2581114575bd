"""The encoder of a generator, read from its ONNX file: from an image to the z whose image is close to it.

A model may hold ``encoder.onnx`` beside ``generator.onnx``. Input ``image`` uint8 [batch, height, width, channels], as
the generator returns it; outputs ``z`` float32 [batch, latent_size], ``features`` float32 [batch, F] and, for a
generator that takes labels, ``class_logits`` float32 [batch, classes].
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gan_plugin.errors import UserError
from gan_plugin.media.image import Images
from gan_plugin.serving.description import EncoderDescription
from gan_plugin.serving.session import open_session, run_once

BATCH = 64  # images of a run


class Encoded(NamedTuple):
    """What an encoder makes of N images.

    Attributes:
        z: float32 [N, latent_size].
        features: float32 [N, F].
        logits: float32 [N, classes]; None where the generator takes no labels.
    """

    z: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32] | None

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """The likeliest classes, int64 [N]; None where the generator takes no labels."""
        return None if self.logits is None else self.logits.argmax(1)


class OnnxEncoder:
    """An encoder on ONNX Runtime.

    Args:
        onnx_file: what :func:`gan_plugin.export.export_encoder` wrote.
        device: ``auto``, ``cuda`` or ``cpu`` (see :func:`gan_plugin.serving.session.open_session`).
        threads: CPU threads that work at one operator.
        gpu_memory_mb: the most GPU memory for tensors, in MiB; None for no limit.

    Raises:
        UserError: the file is no encoder, or the device cannot be used.
    """

    def __init__(
        self, onnx_file: str | Path, *, device: str = "auto", threads: int = 1, gpu_memory_mb: int | None = None
    ) -> None:
        self.session = open_session(
            onnx_file, device, threads=threads, gpu_memory_mb=gpu_memory_mb, probe=run_once
        ).session
        self.description = EncoderDescription.from_metadata(self.session.get_modelmeta().custom_metadata_map)

    def check_generator(self, digest: str) -> None:
        """Check that this encoder is that of the generator whose file has this digest.

        Raises:
            UserError: it is another generator's.
        """
        if self.description.generator != digest:
            raise UserError("The encoder is that of another generator: give the one that was exported with it.")

    def encode(self, images: Images) -> Encoded:
        """Encode images uint8 [N, H, W, C], N ≥ 1."""
        runs = [self.session.run(None, {"image": images[i : i + BATCH]}) for i in range(0, len(images), BATCH)]
        z, features, *logits = (np.concatenate(parts) for parts in zip(*runs))
        return Encoded(z, features, logits[0] if logits else None)
