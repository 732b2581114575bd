"""The feature network "onnx:<path or URI>": any network of the user's own, run by ONNX Runtime.

Requirements:

- One input of four dimensions, NCHW or NHWC, distinguished by the dimension that is 1 (gray) or 3 (RGB); uint8 in
  0…255 or float32 in 0…1. Any further normalization belongs in the graph.
- The batch is symbolic; or fixed, and then images come in batches of that size, the last one padded.
- Height and width are both fixed: images are resized to them (Pillow's bicubic, antialiased); or both symbolic: images
  keep their size.
- The first output is float [N, D], the features. An output named "logits", float [N, K], has class scores.

Gray images are repeated to RGB where the network wants RGB; RGB images do not go into a gray network.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import PIL.Image
import torch

from gan_plugin.cores import cores, threads_of_user
from gan_plugin.errors import UserError, first_line
from gan_plugin.features.network import Outputs, batch_size, batches, check_images, concatenate
from gan_plugin.media.image import CHANNELS_FIRST, WHITE, Image, ImageRows, Images, to_pil
from gan_plugin.serving.session import open_session

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters at least: C:/ is a drive
INPUT_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
SECONDS_PER_IMAGE, MAX_SECONDS = 60.0, 600.0  # for a batch, after which a network is stopped
FLOAT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True)
class Input:
    """The input of a network.

    Attributes:
        name: of the graph's input.
        batch: the fixed number of images, or None.
        size: (height, width) in pixels, or None where any size will do.
        channels: 1 or 3.
        channels_last: NHWC, not NCHW.
        dtype: uint8 (0…255) or float32 (0…1).
    """

    name: str
    _: KW_ONLY
    batch: int | None
    size: tuple[int, int] | None
    channels: int
    channels_last: bool
    dtype: type[np.uint8 | np.float32]


class OnnxNetwork:
    """A ``FeatureNetwork`` in an ONNX file.

    Raises:
        UserError: the file cannot be opened, or does not meet one of the requirements in this module's docstring, which
            the message names.
    """

    def __init__(self, file: Path, device: torch.device) -> None:
        check_external_files(file)
        self.device = device
        self.session = open_file(file, device)
        self.input = describe_input(self.session, file)
        self.outputs = choose_outputs(self.session, file)
        self.file = file.name
        content = hash_of(file)
        self.name = f"onnx-{re.sub(r'[^A-Za-z0-9_.-]', '_', file.stem)}-{content[:8]}"
        self.digest = hashlib.sha256(f"{content} {self.resize}".encode()).hexdigest()[:32]

    @property
    def resize(self) -> str:
        """How images are resized to the network's input, in words."""
        if self.input.size is None:
            return "none"
        height, width = self.input.size
        return f"Pillow bicubic (antialiased) to {height}x{width}"

    def __call__(self, images: ImageRows) -> Outputs:
        """Compute features, and logits where the network has any, of images uint8 [N, H, W, C].

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
        height, width = self.input.size or images.shape[1:3]
        count = self.input.batch or batch_size(height, width, self.device)
        return concatenate([self._run(batch) for batch in batches(images, count)])

    def _run(self, images: Images) -> Outputs:
        """Compute one batch; padding rows are computed and dropped."""
        count = len(images)
        padded = pad_batch(images, self.input.batch or count)
        try:
            arrays = self._run_in_time(prepare(padded, self.input))
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            raise UserError(
                f"{self.file} cannot compute images of {'x'.join(map(str, images.shape[1:]))}: {first_line(error)}."
            ) from None
        for name, array in zip(self.outputs, arrays):
            if array.ndim != 2 or len(array) != len(padded):
                raise UserError(
                    f"Output {name!r} of {self.file} has the shape {list(array.shape)} for a batch of {len(padded)}: "
                    "features are one row an image, [N, D]."
                )
        rows = [torch.from_numpy(array[:count].astype(np.float32)) for array in arrays]
        if not all(bool(row.isfinite().all()) for row in rows):
            raise UserError(
                f"{self.file} gives features that are infinite or not a number: give a network that can compute "
                "every image, or check the range that it expects (float32 inputs get 0 to 1, uint8 ones 0 to 255)."
            )
        return Outputs(rows[0], rows[1] if len(rows) == 2 else None)

    def _run_in_time(self, batch: npt.NDArray[np.uint8 | np.float32]) -> list[npt.NDArray[Any]]:
        """Run the network, and stop it where it takes too long: a graph may hold a loop without an end."""
        seconds = min(SECONDS_PER_IMAGE * len(batch), MAX_SECONDS)
        options = onnxruntime.RunOptions()
        timer = threading.Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            arrays: list[npt.NDArray[Any]] = self.session.run(self.outputs, {self.input.name: batch}, options)
        except Exception:
            if options.terminate:
                raise UserError(
                    f"{self.file} takes more than {seconds:g} seconds for {len(batch)} images and was stopped: give a "
                    "network that is faster."
                ) from None
            raise
        finally:
            timer.cancel()
        return arrays


# --- the file ---------------------------------------------------------------------------------------------------------


def check_onnx_argument(text: str) -> None:
    """Refuse a path at which there is no ONNX file; a URI is checked when it is fetched.

    Raises:
        UserError: there is no such file.
    """
    if not URI.match(text):
        only_onnx_file(Path(text).expanduser())


def load_onnx_network(text: str, device: torch.device) -> OnnxNetwork:
    """Load the network from a path, or from a URI that MLflow can fetch: ``models:/name/1``, ``runs:/…``, ``s3://…``.

    Raises:
        UserError: there is no such file, or it does not meet the requirements in this module's docstring.
    """
    if not URI.match(text):
        return OnnxNetwork(only_onnx_file(Path(text).expanduser()), device)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return OnnxNetwork(only_onnx_file(fetch(text, folder)), device)


def fetch(uri: str, folder: str) -> Path:
    """Download what is at a URI into a folder, and return its path.

    Raises:
        UserError: it cannot be fetched.
    """
    from mlflow.artifacts import download_artifacts

    try:
        return Path(download_artifacts(artifact_uri=uri, dst_path=folder))
    except Exception as error:  # of MLflow, of requests, of a cloud's client
        raise UserError(f"features=onnx:{uri} cannot be fetched: {first_line(error)}.") from None


def only_onnx_file(path: Path) -> Path:
    """Return the path of a file, or of the single ONNX file in a folder.

    Raises:
        UserError: there is no such path, or the folder has no ONNX file, or several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"features=onnx:{path} does not exist: give the path or URI of an ONNX file.")
    files = sorted(file for file in path.rglob("*.onnx") if file.is_file())
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:3]) or "none"
        raise UserError(f"The folder {path} holds {len(files)} ONNX files ({names}): give the path of one.")
    return files[0]


def hash_of(file: Path) -> str:
    """Return the SHA-256 of an ONNX file, followed by the files beside it that hold its weights."""
    hasher = hashlib.sha256()
    for part in (file, *(file.parent / location for location in external_files(file))):
        with part.open("rb") as stream:
            while block := stream.read(2**20):
                hasher.update(block)
    return hasher.hexdigest()


def check_external_files(file: Path) -> None:
    """Refuse a file whose weights are in a pipe or a device, which could be read for ever.

    Raises:
        UserError: names the pipe or device.
    """
    try:
        locations = external_files(file)
    except Exception:  # no ONNX file at all, which ONNX Runtime says better
        return
    for path in (file.parent / location for location in locations):
        if path.exists() and not path.is_file():
            raise UserError(f"{file} has weights in {path}, which is not a regular file.")


def external_files(file: Path) -> list[str]:
    """Return the names of the files, beside an ONNX file, to which its weights refer."""
    import onnx

    weights = onnx.load(file, load_external_data=False).graph.initializer
    entries = [entry for weight in weights for entry in weight.external_data if entry.key == "location"]
    return sorted({entry.value for entry in entries})


# --- its inputs and outputs -------------------------------------------------------------------------------------------


def open_file(file: Path, device: torch.device) -> onnxruntime.InferenceSession:
    """Open an ONNX file on a CPU or on CUDA's current GPU.

    Raises:
        UserError: ONNX Runtime cannot open it.
    """
    try:
        gpu = torch.cuda.current_device() if device.type == "cuda" else 0
        return open_session(file, device.type, threads=threads_of_user() or cores(), gpu=gpu).session
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        raise UserError(f"{file} is not an ONNX file that ONNX Runtime can open: {first_line(error)}.") from None


def describe_input(session: onnxruntime.InferenceSession, file: Path) -> Input:
    """Read how the network takes images.

    Raises:
        UserError: there is more than one input, or it is not a batch of images.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs)
        raise UserError(f"{file.name} has {len(inputs)} inputs ({names}): a feature network has one, the images.")
    (entry,) = inputs
    shape: list[Any] = list(entry.shape)
    if entry.type not in INPUT_TYPES:
        raise UserError(f"{file.name} takes {entry.type}: a feature network takes uint8 (0…255) or float32 (0…1).")
    axes = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] in (1, 3)]
    if len(axes) != 1:
        raise UserError(
            f"{file.name} takes input of the shape {shape}: a feature network takes [N, C, H, W] or [N, H, W, C] "
            "with C fixed to 1 or 3."
        )
    channels_last = axes == [3]
    lengths = shape[1:3] if channels_last else shape[2:4]
    fixed = [side for side in lengths if isinstance(side, int)]
    if len(fixed) == 1:
        raise UserError(f"{file.name} takes input of the shape {shape}: fix both height and width, or neither.")
    return Input(
        name=entry.name,
        batch=shape[0] if isinstance(shape[0], int) else None,
        size=(fixed[0], fixed[1]) if fixed else None,
        channels=shape[axes[0]],
        channels_last=channels_last,
        dtype=INPUT_TYPES[entry.type],  # type: ignore[arg-type]  # mypy widens the table's two types to one
    )


def choose_outputs(session: onnxruntime.InferenceSession, file: Path) -> list[str]:
    """Return the names of the outputs with the features and, where there are any, the logits.

    Raises:
        UserError: one of them is not float, or declares other than two dimensions.
    """
    first, *others = session.get_outputs()
    chosen = [first, *(other for other in others if other.name == "logits")]
    for output in chosen:
        if output.type not in FLOAT_TYPES:
            raise UserError(f"Output {output.name!r} of {file.name} is {output.type}: features are float.")
        if output.shape and len(output.shape) != 2:  # the shape is empty where the file declares none
            raise UserError(
                f"Output {output.name!r} of {file.name} has the shape {output.shape}: "
                "features are one row an image, [N, D]."
            )
    return [output.name for output in chosen]


# --- its images -------------------------------------------------------------------------------------------------------


def pad_batch(images: Images, count: int) -> Images:
    """Repeat the last of the images [B, H, W, C] until there are ``count``."""
    return np.pad(images, ((0, count - len(images)), (0, 0), (0, 0), (0, 0)), mode="edge")


def prepare(images: Images, entry: Input) -> npt.NDArray[np.uint8 | np.float32]:
    """Convert images uint8 [B, H, W, C] to the size, channels, layout, type and range that the network takes."""
    if entry.size is not None and images.shape[1:3] != entry.size:
        images = np.stack([resize(image, *entry.size) for image in images])
    if entry.channels != images.shape[3]:
        images = images.repeat(entry.channels, axis=3)
    if not entry.channels_last:
        images = images.transpose(CHANNELS_FIRST)
    if entry.dtype is np.float32:
        return np.ascontiguousarray(images, np.float32) / np.float32(WHITE)
    return np.ascontiguousarray(images)


def resize(image: Image, height: int, width: int) -> Image:
    """Resize an image [H, W, C] to [height, width, C] by Pillow's bicubic filter, which antialiases."""
    resized = to_pil(image).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(height, width, -1)
