"""The feature network "inception": the InceptionV3 of 2015 with which published FID, KID and Inception scores are made.

The network is torch-fidelity's, whose resize, padding and pooling are those of TensorFlow 1. It needs
``pip install 'gan_plugin[inception]'`` and a weights file of 91 MB, which is looked for in this order: the path in
``inception_weights``, this package's cache, torch hub's cache, the internet. The official file's name contains the
start of its SHA-256, which is checked for every file of that name.

torch-fidelity unpickles its weights file. Here the file is first read as plain tensors, and torch-fidelity gets only
those, so that no code in a file is ever run.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import logging
import os
import pickle
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gan_plugin.device import tuned
from gan_plugin.errors import UserError, first_line
from gan_plugin.features.network import (
    Outputs,
    as_tensor,
    batch_factor,
    batches,
    check_images,
    concatenate,
    exact_float32,
)
from gan_plugin.media.image import ImageRows, Images
from gan_plugin.storage import cache_folder, write_atomically

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
FILE_NAME = URL.rpartition("/")[2]
SHA256_START = "6726825d"
TIMEOUT_S = 30  # for the connection and for each part that is read
BATCH = 32  # images, resized to 299×299: about 500 MB; on a GPU up to 8 times as many
ALTERNATIVES = (
    "give inception_weights=PATH of a copy, run `gan-plugin fetch inception` on a machine with network, "
    "or choose features=self-supervised, features=onnx:PATH or, for labeled data, features=classifier"
)

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


class Inception:
    """A ``FeatureNetwork``: features [N, 2048] of the last pooling, logits [N, 1008] without their bias."""

    name = "inception"
    resize = "bilinear as in TensorFlow 1 (no antialiasing) to 299x299, gray repeated to RGB"

    def __init__(self, network: nn.Module, digest: str, device: torch.device) -> None:
        self.network = network.to(device)
        self.digest = digest
        self.device = device

    def __call__(self, images: ImageRows) -> Outputs:
        """Compute features [N, 2048] and logits [N, 1008] of images uint8 [N, H, W, C] of any size."""
        check_images(images)
        with torch.inference_mode(), exact_float32(self.device):
            count = BATCH * batch_factor(self.device)
            parts = tuned(batches(images, count), f"features of {min(count, len(images))} images")
            return concatenate([Outputs(*self.network(self._input(batch))) for batch in parts])

    def _input(self, batch: Images) -> torch.Tensor:
        return as_tensor(batch, self.device).expand(-1, 3, -1, -1)


def load_inception(weights: Path | None, device: torch.device) -> Inception:
    """Load the network.

    Args:
        weights: path of the weights file; None for the one fetched before, or else a download.
        device: where the network runs.

    Raises:
        UserError: the extra is not installed, there are no weights, or they belong to another network; the message
            names the alternatives.
    """
    extractor = import_extractor()
    path = find_weights(weights)
    content = read_checked(path)
    tensors = io.BytesIO()
    torch.save(read_tensors(content, path), tensors)
    tensors.seek(0)
    try:
        network = extractor("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=tensors)
    except RuntimeError:  # other names or shapes
        raise UserError(f"{path} has the weights of another network than this InceptionV3: {ALTERNATIVES}.") from None
    digest = hashlib.sha256(content + Inception.resize.encode()).hexdigest()[:32]
    return Inception(network, digest, device)


def import_extractor() -> Any:
    """Import torch-fidelity's class.

    Raises:
        UserError: the extra is not installed, or cannot be imported.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise UserError(
            f"features=inception needs {error.name}, which is not installed: pip install 'gan_plugin[inception]', "
            "or choose features=self-supervised, features=onnx:PATH or, for labeled data, features=classifier."
        ) from None
    except Exception as error:  # a torchvision built for another torch fails with almost anything
        raise UserError(
            f"features=inception needs torch-fidelity, which cannot be imported ({first_line(error)}): "
            f"install the torchvision that belongs to torch {torch.__version__}, "
            "or choose features=self-supervised, features=onnx:PATH or, for labeled data, features=classifier."
        ) from None
    return FeatureExtractorInceptionV3


def find_weights(weights: Path | None) -> Path:
    """Return the path of the weights file: ``weights``, else the one fetched before, else torch hub's, else a download.

    Raises:
        UserError: ``weights`` is no file, or there is no file anywhere and it cannot be downloaded.
    """
    if weights is not None:
        path = weights.expanduser()
        if not os.path.isfile(path):
            raise UserError(f"inception_weights={str(weights)!r} is not a file: {ALTERNATIVES}.")
        return path
    for folder in (cache_folder(), Path(torch.hub.get_dir()) / "checkpoints"):
        if os.path.isfile(path := folder / FILE_NAME):
            return path
    return fetch_inception()


def fetch_inception(to: Path | None = None) -> Path:
    """Download the weights, unless the file exists and has the right checksum, and return its path.

    Args:
        to: a file or a folder; None for this package's cache, where they are found from then on.

    Raises:
        UserError: the file cannot be downloaded or written, or has another checksum.
    """
    path = cache_folder() / FILE_NAME if to is None else to.expanduser()
    if os.path.isdir(path):
        path /= FILE_NAME
    try:
        if not (path.is_file() and has_checksum(path.read_bytes())):
            write_atomically(path, download)
    except (OSError, http.client.HTTPException) as error:  # most errors of a network are OSErrors
        reason = getattr(error, "reason", None) or first_line(error)
        raise UserError(
            f"Inception's weights cannot be downloaded from {URL} to {path} ({reason}): {ALTERNATIVES}."
        ) from None
    return path


def download(path: Path) -> None:
    """Download the weights to ``path``.

    Raises:
        UserError: the server sent something else.
    """
    logger.info("Downloading Inception's weights, 91 MB, from %s.", URL)
    with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as response:
        content = response.read()
    if not has_checksum(content):
        raise UserError(
            f"The {len(content):,} bytes from {URL} are not Inception's weights, "
            f"whose SHA-256 begins with {SHA256_START}: {ALTERNATIVES}."
        )
    path.write_bytes(content)


def has_checksum(content: bytes) -> bool:
    """Return whether these are the bytes of the official weights file."""
    return hashlib.sha256(content).hexdigest().startswith(SHA256_START)


def read_checked(path: Path) -> bytes:
    """Read a weights file, and check the checksum of one with the official name.

    Raises:
        UserError: it cannot be read, or has the official name and another checksum.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): {ALTERNATIVES}.") from None
    if path.name == FILE_NAME and not has_checksum(content):
        raise UserError(
            f"{path} is damaged, its SHA-256 does not begin with {SHA256_START}: "
            "delete it and run `gan-plugin fetch inception`, or give a good copy's path as inception_weights."
        )
    return content


def read_tensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Read names and tensors of a weights file without running code in it.

    Raises:
        UserError: the content is anything else.
    """
    try:
        tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError):
        raise UserError(
            f"{path} is no PyTorch weights file, or one that runs code when it is read, which is refused: "
            f"{ALTERNATIVES}."
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise UserError(f"{path} contains something other than named tensors: {ALTERNATIVES}.")
    return tensors
