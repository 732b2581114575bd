"""The feature network "onnx:<path or URI>": any network of the user's own, run by ONNX Runtime.

What such a file must be:

- One input of four dimensions, NCHW or NHWC, told apart by the dimension that is 1 (gray) or 3 (RGB); uint8 in 0…255 or
  float32 in 0…1. Any normalization beyond that belongs into the graph.
- A symbolic batch; or a fixed one, which is then fed in such batches, the last one filled up.
- Height and width both fixed: images are resized to them (Pillow's bicubic, antialiased). Both symbolic: images
  come as they are.
- The first output is float [N, D], the features. An output named "logits", float [N, K], holds class scores.

Gray images are repeated to RGB where the network wants RGB; RGB images do not go into a gray network.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image

from gan_plugin.errors import UserError, first_line
from gan_plugin.features.network import Outputs, batch_size, batches, check_images, joined
from gan_plugin.media.image import Images
from gan_plugin.serving.session import open_session

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters at least: C:/ is a drive
INPUT_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
FLOAT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True)
class Input:
    """How a network takes images.

    Attributes:
        name: the graph's input.
        batch: the fixed number of images, or None.
        size: (height, width) in pixels, or None where any will do.
        channels: 1 or 3.
        channels_last: NHWC, not NCHW.
        dtype: uint8 (0…255) or float32 (0…1).
    """

    name: str
    batch: int | None
    size: tuple[int, int] | None
    channels: int
    channels_last: bool
    dtype: type[np.uint8 | np.float32]


class OnnxNetwork:
    """A ``FeatureNetwork`` in an ONNX file.

    Raises:
        UserError: the file cannot be opened, or breaks the rules in this module's docstring; the message says which.
    """

    def __init__(self, file: Path, device: torch.device) -> None:
        self.session = open_file(file, "cuda" if device.type == "cuda" else "cpu")
        self.input = describe_input(self.session, file)
        self.outputs = choose_outputs(self.session, file)
        self.file = file.name
        content = hash_of(file)
        self.name = f"onnx-{re.sub(r'[^A-Za-z0-9_.-]', '_', file.stem)}-{content[:8]}"
        self.digest = hashlib.sha256(f"{content} {self.resize}".encode()).hexdigest()[:32]

    @property
    def resize(self) -> str:
        if self.input.size is None:
            return "none"
        height, width = self.input.size
        return f"Pillow bicubic (antialiased) to {height}x{width}"

    def __call__(self, images: Images) -> Outputs:
        """Features of images [N, H, W, C].

        Raises:
            UserError: the images are RGB and the network gray, or the network cannot compute them, or its outputs
                are not one row an image or not finite.
        """
        check_images(images)
        if images.shape[3] > self.input.channels:
            raise UserError(
                f"{self.file} takes gray images and these are RGB: give a network for RGB, or load the data with "
                "channels=1."
            )
        count = self.input.batch or batch_size(*(self.input.size or images.shape[1:3]))
        return joined([self._run(batch) for batch in batches(images, count)])

    def _run(self, images: Images) -> Outputs:
        count = len(images)
        fed = filled(images, self.input.batch or count)
        try:
            arrays = self.session.run(self.outputs, {self.input.name: prepared(fed, self.input)})
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            raise UserError(
                f"{self.file} cannot compute images of {'x'.join(map(str, images.shape[1:]))}: {first_line(error)}."
            ) from None
        for name, array in zip(self.outputs, arrays):
            if array.ndim != 2 or len(array) != len(fed):
                raise UserError(
                    f"Output {name!r} of {self.file} has the shape {list(array.shape)} for a batch of {len(fed)}: "
                    "features are one row an image, [N, D]."
                )
        rows = [torch.from_numpy(array[:count].astype(np.float32)) for array in arrays]
        if not all(bool(row.isfinite().all()) for row in rows):
            raise UserError(
                f"{self.file} gives features that are infinite or not a number: give a network that can compute "
                "every image, or check the range that it expects (float32 inputs get 0 to 1, uint8 ones 0 to 255)."
            )
        return Outputs(rows[0], rows[1] if len(rows) == 2 else None)


# --- finding the file -------------------------------------------------------------------------------------------------


def check_onnx_argument(text: str) -> None:
    """Refuse a path at which there is no ONNX file; a URI is looked at when it is fetched.

    Raises:
        UserError: there is no such file.
    """
    if not URI.match(text):
        only_onnx_file(Path(text).expanduser())


def load_onnx_network(text: str, device: torch.device) -> OnnxNetwork:
    """The network at a path, or at a URI that MLflow can fetch, such as ``models:/name/1``, ``runs:/…`` or ``s3://…``.

    Raises:
        UserError: there is no such file, or it breaks the rules in this module's docstring.
    """
    if not URI.match(text):
        return OnnxNetwork(only_onnx_file(Path(text).expanduser()), device)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return OnnxNetwork(only_onnx_file(fetched(text, folder)), device)


def fetched(uri: str, folder: str) -> Path:
    from mlflow.artifacts import download_artifacts

    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=folder))
    except Exception as error:  # of MLflow, of requests, of a cloud's client
        raise UserError(f"features=onnx:{uri} cannot be fetched: {first_line(error)}.") from None


def only_onnx_file(path: Path) -> Path:
    """The file itself, or the single ONNX file in a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"features=onnx:{path} does not exist: give the path or URI of an ONNX file.")
    found = sorted(path.rglob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:3]) or "none"
        raise UserError(f"The folder {path} holds {len(found)} ONNX files ({names}): give the path of one.")
    return found[0]


def hash_of(file: Path) -> str:
    """SHA-256 of an ONNX file, followed by those files beside it that hold its weights."""
    hasher = hashlib.sha256()
    for part in (file, *(file.parent / location for location in external_files(file))):
        with part.open("rb") as opened:
            while block := opened.read(2**20):
                hasher.update(block)
    return hasher.hexdigest()


def external_files(file: Path) -> list[str]:
    """Names of the files, beside an ONNX file, to which its weights refer."""
    import onnx

    weights = onnx.load(file, load_external_data=False).graph.initializer
    entries = [entry for weight in weights for entry in weight.external_data if entry.key == "location"]
    return sorted({entry.value for entry in entries})


# --- what the file says -----------------------------------------------------------------------------------------------


def open_file(file: Path, device: str) -> onnxruntime.InferenceSession:
    try:
        return open_session(file, device).session
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        raise UserError(f"{file} is not an ONNX file that ONNX Runtime can open: {first_line(error)}.") from None


def describe_input(session: onnxruntime.InferenceSession, file: Path) -> Input:
    """
    Raises:
        UserError: there is more than one input, or it is not a batch of images.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise UserError(f"{file.name} has {len(inputs)} inputs ({names}): a feature network has one, the images.")
    (given,) = inputs
    shape: list[Any] = list(given.shape)
    if given.type not in INPUT_TYPES:
        raise UserError(f"{file.name} takes {given.type}: a feature network takes uint8 (0…255) or float32 (0…1).")
    places = [place for place in (1, 3) if len(shape) == 4 and shape[place] in (1, 3)]
    if len(places) != 1:
        raise UserError(
            f"{file.name} takes input of the shape {shape}: a feature network takes [N, C, H, W] or [N, H, W, C] "
            "with C fixed to 1 or 3."
        )
    channels_last = places == [3]
    sides = shape[1:3] if channels_last else shape[2:4]
    fixed = [side for side in sides if isinstance(side, int)]
    if len(fixed) == 1:
        raise UserError(f"{file.name} takes input of the shape {shape}: fix both height and width, or neither.")
    return Input(
        name=given.name,
        batch=shape[0] if isinstance(shape[0], int) else None,
        size=(fixed[0], fixed[1]) if fixed else None,
        channels=shape[places[0]],
        channels_last=channels_last,
        dtype=INPUT_TYPES[given.type],  # type: ignore[arg-type]  # mypy widens the table's two types to one
    )


def choose_outputs(session: onnxruntime.InferenceSession, file: Path) -> list[str]:
    """Names of the features and, where there are any, of the logits.

    Raises:
        UserError: one of them is not float, or known to be of other than two dimensions.
    """
    first, *others = session.get_outputs()
    chosen = [first, *(other for other in others if other.name == "logits")]
    for output in chosen:
        if output.type not in FLOAT_TYPES:
            raise UserError(f"Output {output.name!r} of {file.name} is {output.type}: features are float.")
        if output.shape and len(output.shape) != 2:  # an empty shape is one that the file does not tell
            raise UserError(
                f"Output {output.name!r} of {file.name} has the shape {output.shape}: "
                "features are one row an image, [N, D]."
            )
    return [output.name for output in chosen]


# --- feeding it -------------------------------------------------------------------------------------------------------


def filled(images: Images, count: int) -> Images:
    """Dataset [B, H, W, C] with the last one repeated until there are ``count``."""
    return np.pad(images, ((0, count - len(images)), (0, 0), (0, 0), (0, 0)), mode="edge")


def prepared(images: Images, wanted: Input) -> npt.NDArray[np.uint8 | np.float32]:
    """Dataset [B, H, W, C] in the size, channels, layout, type and range that the network takes."""
    if wanted.size is not None and images.shape[1:3] != wanted.size:
        images = np.stack([resized(image, *wanted.size) for image in images])
    if wanted.channels != images.shape[3]:
        images = images.repeat(wanted.channels, axis=3)
    if not wanted.channels_last:
        images = images.transpose(0, 3, 1, 2)
    if wanted.dtype is np.float32:
        return np.ascontiguousarray(images, np.float32) / np.float32(255)
    return np.ascontiguousarray(images)


def resized(image: Images, height: int, width: int) -> Images:
    """An image [H, W, C] as [height, width, C], by Pillow's bicubic filter, which antialiases."""
    opened = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return np.asarray(opened.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
