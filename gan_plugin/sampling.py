"""Write images of a logged model or an exported file as one sheet. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mlflow.exceptions import MlflowException

from gan_plugin import flavor
from gan_plugin.connection import connected, without_password
from gan_plugin.errors import UserError, first_line, join_names, quoted
from gan_plugin.media.image import image_grid, png
from gan_plugin.seeds import MIN_TRUNCATION
from gan_plugin.serving import pyfunc
from gan_plugin.serving.generator import OnnxGenerator


def write_samples(
    model: str | None,
    onnx_file: Path | None,
    out: Path,
    *,
    seeds: list[int],
    truncation: float | None,
    label: str | None,
    edits: Sequence[str] = (),
    columns: int,
    device: str,
) -> None:
    """Write the images of ``seeds`` to ``out`` as a grid in one PNG, all of one class if ``label`` names one.

    ``edits`` are steps such as "thickness=1.5" along directions that the file names.

    Raises:
        UserError: neither or both of ``model`` and ``onnx_file`` are given, the generator cannot be loaded, a value is
            not possible, or ``out`` cannot be written.
    """
    if truncation is not None and not MIN_TRUNCATION <= truncation < math.inf:
        raise UserError(f"truncation={truncation} is not possible: give a number of at least {MIN_TRUNCATION}.")
    if not out.parent.is_dir():
        raise UserError(f"out={str(out)!r} cannot be written: the folder {out.parent} does not exist.")
    generator = load_generator(model, onnx_file, device)
    labels = None if label is None else labels_of(label, generator.description.spec.class_names, len(seeds))
    edit = parse_edits(edits) if edits else None
    content = png(image_grid(generator.sample(seeds, labels, truncation, edit=edit), columns))
    try:
        out.write_bytes(content)
    except OSError as error:
        raise UserError(f"out={str(out)!r} cannot be written: {error.strerror}.") from None


def parse_edits(texts: Sequence[str]) -> dict[str, Any]:
    """Parse steps such as "thickness=1.5"; one that is no number stays text, and is refused for it.

    >>> parse_edits(["thickness=1.5", "1=-2"])
    {'thickness': 1.5, '1': -2.0}
    """
    steps: dict[str, Any] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        try:
            steps[name] = float(size)
        except ValueError:
            steps[name] = size
    return steps


def labels_of(label: str, class_names: Sequence[str], count: int) -> npt.NDArray[np.int64]:
    """Return the index of a class given by name or number, ``count`` times, int64 [count].

    Raises:
        UserError: there is no such class; the message lists the classes.
    """
    if not class_names:
        raise UserError(f"label={quoted(label)} is not possible: this generator was trained without classes.")
    by_index = {str(i): i for i in range(len(class_names))}
    named = {name: i for i, name in enumerate(class_names)}  # a name that is a number is taken for the name
    index = (by_index | named).get(label)
    if index is None:
        raise UserError(f"label={quoted(label)} is not possible: give {join_names(class_names)}, or a number from 0.")
    return np.full(count, index, np.int64)


def find_onnx(model: str | None, onnx_file: Path | None) -> Path:
    """Return the ONNX file of a logged model, downloading it, or ``onnx_file`` itself.

    Raises:
        UserError: neither or both are given, the model cannot be loaded, or the file does not exist.
    """
    if (model is None) == (onnx_file is None):
        raise UserError("Give either a model's URI such as models:/gan/1, or --onnx with a file.")
    if onnx_file is not None:
        if not onnx_file.is_file():
            raise UserError(f"onnx={str(onnx_file)!r} does not exist.")
        return onnx_file
    stored = str(model).startswith(("models:/", "runs:/", "mlflow-artifacts:/"))
    try:
        with connected() if stored else nullcontext():
            return flavor.download_onnx(str(model))
    except UserError:
        raise
    except (MlflowException, OSError) as error:
        raise UserError(f"model={model!r} cannot be loaded: {without_password(first_line(error))}.") from None


def load_generator(model: str | None, onnx_file: Path | None, device: str) -> OnnxGenerator:
    """Open the generator of a logged model, with its encoder, or the one in an ONNX file.

    Raises:
        UserError: neither or both are given, or what is given cannot be loaded.
    """
    path = find_onnx(model, onnx_file)
    encoder = None if onnx_file is not None else pyfunc.find_encoder(path.parent)
    try:
        return OnnxGenerator(path, device=device, encoder_file=encoder)
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions have no common class
        raise UserError(f"onnx={str(path)!r} cannot be opened: {first_line(error)}.") from None
