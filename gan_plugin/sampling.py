"""Pictures from a logged model or an exported file, for the terminal. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from mlflow.exceptions import MlflowException

from gan_plugin import flavor
from gan_plugin.errors import UserError, first_line
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.latents import SMALLEST_TRUNCATION
from gan_plugin.serving.pictures import contact_sheet, png


def write_samples(
    model: str | None,
    onnx_file: Path | None,
    seeds: list[int],
    truncation: float | None,
    columns: int,
    device: str,
    out: Path,
) -> None:
    """Write the pictures of ``seeds`` as one PNG sheet to ``out``.

    Raises:
        UserError: neither or both of ``model`` and ``onnx_file`` are given, or one of them cannot be loaded.
    """
    if (model is None) == (onnx_file is None):
        raise UserError("Give either --model with a URI such as models:/gan/1, or --onnx with a file.")
    if truncation is not None and not truncation >= SMALLEST_TRUNCATION:
        raise UserError(f"truncation={truncation} is not possible: give a number of at least {SMALLEST_TRUNCATION}.")
    if not out.parent.is_dir():
        raise UserError(f"out={str(out)!r} cannot be written: the folder {out.parent} does not exist.")
    generator = load_generator(model, device) if onnx_file is None else load_file(onnx_file, device)
    out.write_bytes(png(contact_sheet(generator.sample(seeds, truncation=truncation), columns)))


def load_generator(model_uri: str | None, device: str) -> OnnxGenerator:
    """A logged model's generator; UserError in one sentence where there is none."""
    try:
        return flavor.load_model(str(model_uri), device=device)
    except (MlflowException, OSError) as error:
        raise UserError(f"model={model_uri!r} cannot be loaded: {first_line(error)}.") from None


def load_file(onnx_file: Path, device: str) -> OnnxGenerator:
    if not onnx_file.is_file():
        raise UserError(f"onnx={str(onnx_file)!r} does not exist.")
    try:
        return OnnxGenerator(onnx_file, device)
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions have no common class
        raise UserError(f"onnx={str(onnx_file)!r} cannot be opened: {first_line(error)}.") from None
