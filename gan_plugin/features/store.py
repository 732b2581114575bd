"""The file of a network that was trained on the data, and the cache that holds those of each dataset."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from gan_plugin.data import Dataset
from gan_plugin.errors import UserError, first_line
from gan_plugin.features.cache import Content, cached
from gan_plugin.features.trained import TrainedNetwork
from gan_plugin.spec import image_spec
from gan_plugin.storage import DamagedFileError, load_tensors, save_tensors

Trained = TypeVar("Trained", bound=TrainedNetwork[Any])

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


def save_network(trained: TrainedNetwork[Any], path: Path) -> None:
    """Write one safetensors file, atomically: the weights, and everything else as JSON in its header.

    Raises:
        OSError: the file cannot be written.
    """
    save_tensors(path, *content_of(trained))


@contextmanager
def network_file(trained: TrainedNetwork[Any]) -> Iterator[Path]:
    """Write a network to a file that is there for the length of a block, to be logged under the name of the cache's.

    The cache's own file may be another by then, or there may be none.

    Raises:
        UserError: there is no space for temporary files.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            path = Path(folder) / f"{name_in_cache(type(trained), trained.data_digest)}.safetensors"
            save_network(trained, path)
        except OSError as error:
            raise UserError(
                f"No temporary file can be written ({error.strerror or first_line(error)}): make space for them, or "
                "set TMPDIR to a folder that has some."
            ) from None
        yield path


def load_trained(cls: type[Trained], path: Path, device: torch.device) -> Trained:
    """Load the network of this class that ``save_network`` wrote.

    Raises:
        UserError: the file is no such network of this version, or damaged.
    """
    try:
        return network_in(cls, load_tensors(path), device)
    except (OSError, DamagedFileError) as error:
        raise UserError(f"{path} is not a {cls.name} that gan_plugin saved, or damaged: {first_line(error)}.") from None


def content_of(trained: TrainedNetwork[Any]) -> Content:
    """Return the weights and the header of a network's file."""
    spec = trained.spec
    header = {
        "version": trained.version,
        "height": spec.height,
        "width": spec.width,
        "channels": spec.channels,
        "class_names": spec.class_names,
        "data_digest": trained.data_digest,
        "digest": trained.digest,
        **trained.facts,
    }
    return {key: value.cpu() for key, value in trained.network.state_dict().items()}, header


def network_in(cls: type[Trained], content: Content, device: torch.device) -> Trained:
    """Make the network of this class of what is in its file.

    Raises:
        DamagedFileError: the content is that of another version, or of something else.
    """
    weights, header = content
    try:
        if header["version"] != cls.version:
            raise DamagedFileError(f"it has version {header['version']}; this gan_plugin reads version {cls.version}")
        spec = image_spec(header["height"], header["width"], header["channels"], class_names=header["class_names"])
        trained = replace(cls.untrained(spec, header, device), data_digest=header["data_digest"])
        trained.network.load_state_dict(weights)
        digest = header["digest"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise DamagedFileError(f"it holds no {cls.name}: {first_line(error)}") from None
    trained.network.to(device).eval().requires_grad_(False)
    if trained.digest != digest:
        raise DamagedFileError("its weights are not those that were written")
    return trained


def network_of(
    cls: type[Trained], dataset: Dataset, train: Callable[[], Trained], *, device: torch.device
) -> tuple[Trained, Path | None]:
    """Return a dataset's network of this class and its file: from the cache, or trained now and put there.

    The file is None where the cache cannot be written; then the network is kept in memory.

    Args:
        cls: kind of network.
        dataset: the images that it is trained on.
        train: trains it.
        device: where it is to run.
    """

    def compute() -> Content:
        started = time.perf_counter()
        logger.info("Training the %s whose features describe %s; this happens once.", described(cls), dataset.name)
        trained = train()
        logger.info("Trained the %s in %.0f s.", described(cls), time.perf_counter() - started)
        return content_of(replace(trained, spec=dataset.spec, data_digest=dataset.digest))

    def read(content: Content) -> Trained:
        trained = network_in(cls, content, device)
        if trained.data_digest != dataset.digest:
            raise DamagedFileError(f"it was trained on other data, of digest {trained.data_digest}")
        return trained

    return cached(name_in_cache(cls, dataset.digest), compute, read)


def described(cls: type[TrainedNetwork[Any]]) -> str:
    """Return what a kind of network is called in a sentence."""
    return cls.name if cls.name == "classifier" else f"{cls.name} network"


def name_in_cache(cls: type[TrainedNetwork[Any]], data_digest: str) -> str:
    """Return the name of the file of a dataset's network of this class, without its suffix."""
    return f"{cls.name}-{cls.version}-{data_digest}"
