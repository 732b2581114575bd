"""The feature network "inception": the InceptionV3 of 2015 by which published FID, KID and Inception scores are made.

The network is torch-fidelity's, which follows TensorFlow 1 to the bit: its resize, its padding and its pooling. It
takes ``pip install 'gan_plugin[inception]'`` and a weights file of 91 MB, which is looked for in this order: the path
that was given, this package's cache, torch hub's cache, the internet. The official file's name holds the start of its
SHA-256, and a file of that name is held to it.

torch-fidelity unpickles whatever file it is given. Here a file is read as plain tensors first, and torch-fidelity sees
only what was read, so that no code in a file is ever run.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import pickle
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gan_plugin.errors import UserError, first_line
from gan_plugin.features.cache import cache_folder, write_atomically
from gan_plugin.features.network import Outputs, as_tensor, batches, check_images, exact_float32, joined
from gan_plugin.media.image import Images

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
FILE_NAME = URL.rpartition("/")[2]
SHA256_START = "6726825d"
TIMEOUT_S = 30  # for the connection and for each part that is read
BATCH = 32  # 299×299 images; some 500 MB
WAYS_OUT = (
    "give inception_weights=PATH of a copy, run `gan-plugin fetch inception` on a machine with network, "
    "or choose features=onnx:PATH or, for labeled data, features=classifier"
)


class Inception:
    """A ``FeatureNetwork``: features [N, 2048] of the last pooling, logits [N, 1008] without their bias."""

    name = "inception"
    resize = "bilinear as in TensorFlow 1 (no antialiasing) to 299x299, gray repeated to RGB"

    def __init__(self, network: nn.Module, digest: str, device: torch.device) -> None:
        self.network = network.to(device)
        self.digest = digest
        self.device = device

    def __call__(self, images: Images) -> Outputs:
        check_images(images)
        with torch.inference_mode(), exact_float32(self.device):
            return joined([Outputs(*self.network(self._input(batch))) for batch in batches(images, BATCH)])

    def _input(self, batch: Images) -> torch.Tensor:
        return as_tensor(batch, self.device).expand(-1, 3, -1, -1)


def load_inception(weights: Path | None, device: torch.device) -> Inception:
    """The network with the weights in ``weights``, or None: with those fetched before, else downloaded now.

    Raises:
        UserError: the extra is not installed, or there are no weights, or not these; the message names the ways out.
    """
    extractor = import_extractor()
    path = find_weights(weights)
    content = read_checked(path)
    plain = io.BytesIO()
    torch.save(read_tensors(content, path), plain)
    plain.seek(0)
    try:
        network = extractor("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=plain)
    except RuntimeError:  # other names or shapes
        raise UserError(f"{path} holds the weights of another network than this InceptionV3: {WAYS_OUT}.") from None
    digest = hashlib.sha256(content + Inception.resize.encode()).hexdigest()[:32]
    return Inception(network, digest, device)


def import_extractor() -> Any:
    """torch-fidelity's class.

    Raises:
        UserError: the extra is not installed, or cannot be imported.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise UserError(
            f"features=inception needs {error.name}, which is not installed: pip install 'gan_plugin[inception]', "
            "or choose features=onnx:PATH or, for labeled data, features=classifier."
        ) from None
    except Exception as error:  # a torchvision built for another torch fails with almost anything
        raise UserError(
            f"features=inception needs torch-fidelity, which cannot be imported ({first_line(error)}): "
            f"install the torchvision that belongs to torch {torch.__version__}, "
            "or choose features=onnx:PATH or, for labeled data, features=classifier."
        ) from None
    return FeatureExtractorInceptionV3


def find_weights(given: Path | None) -> Path:
    """The weights file: ``given``, else the one fetched before, else torch hub's, else a download.

    Raises:
        UserError: ``given`` is no file, or there is none and no download either.
    """
    if given is not None:
        path = given.expanduser()
        if not path.is_file():
            raise UserError(f"inception_weights={str(given)!r} is not a file: {WAYS_OUT}.")
        return path
    for folder in (cache_folder(), Path(torch.hub.get_dir()) / "checkpoints"):
        if (path := folder / FILE_NAME).is_file():
            return path
    return fetch_inception()


def fetch_inception(to: Path | None = None) -> Path:
    """Download the weights to ``to``, or None: to this package's cache, where they are found from then on.

    A file that is there already and has the right checksum is kept. The answer is the file's path.

    Raises:
        UserError: the file cannot be downloaded or written, or is not the one expected.
    """
    path = cache_folder() / FILE_NAME if to is None else to.expanduser()
    if path.is_dir():
        path /= FILE_NAME
    try:
        if not (path.is_file() and has_checksum(path.read_bytes())):
            write_atomically(path, download)
    except (OSError, http.client.HTTPException) as error:  # most errors of a network are OSErrors
        reason = getattr(error, "reason", None) or first_line(error)
        raise UserError(
            f"Inception's weights cannot be downloaded from {URL} to {path} ({reason}): {WAYS_OUT}."
        ) from None
    return path


def download(path: Path) -> None:
    with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as response:
        content = response.read()
    if not has_checksum(content):
        raise UserError(
            f"What {URL} sent ({len(content):,} bytes) is not Inception's weights, "
            f"whose SHA-256 begins with {SHA256_START}: {WAYS_OUT}."
        )
    path.write_bytes(content)


def has_checksum(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest().startswith(SHA256_START)


def read_checked(path: Path) -> bytes:
    """The content of a weights file; one with the official name is held to the checksum in it.

    Raises:
        UserError: it cannot be read, or has another checksum.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): {WAYS_OUT}.") from None
    if path.name == FILE_NAME and not has_checksum(content):
        raise UserError(
            f"{path} is damaged, its SHA-256 does not begin with {SHA256_START}: "
            "delete it and run `gan-plugin fetch inception`, or give a good copy's path as inception_weights."
        )
    return content


def read_tensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Names and tensors in a weights file, read without running code in it.

    Raises:
        UserError: it holds anything else.
    """
    try:
        tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError):
        raise UserError(
            f"{path} is no PyTorch weights file, or one that runs code when it is read, which is refused: {WAYS_OUT}."
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise UserError(f"{path} holds something else than named tensors: {WAYS_OUT}.")
    return tensors
