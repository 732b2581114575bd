"""Write what a generator makes of image files: beside each other on a sheet, with the z of each. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from gan_plugin.errors import UserError
from gan_plugin.media.image import WHITE, Image, Images, image_grid, png
from gan_plugin.sampling import labels_of, load_generator
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.image_rows import Likeness, likeness_of
from gan_plugin.serving.images import check_size, open_file, to_pixels, upright
from gan_plugin.serving.projection import MIN_EVALUATIONS, Projected, project
from gan_plugin.spec import SampleSpec


def write_projection(
    model: str | None,
    onnx_file: Path | None,
    files: Sequence[Path],
    *,
    out: Path,
    label: str | None,
    evaluations: int,
    crop: bool,
    device: str,
) -> list[str]:
    """Write each image beside the nearest one that a generator makes, and return a line of JSON for each.

    Args:
        model: URI of a model.
        onnx_file: in place of it.
        files: images.
        out: a PNG file.
        label: the class of all, by name or index; None where it is to be found.
        evaluations: images that the generator makes in search of each.
        crop: whether images of another size are cropped to the generator's shape, and resized.
        device: ``auto``, ``cuda`` or ``cpu``.

    Raises:
        UserError: a file or a value is wrong, the generator cannot be loaded, or ``out`` cannot be written.
    """
    if not out.parent.is_dir():
        raise UserError(f"out={str(out)!r} cannot be written: the folder {out.parent} does not exist.")
    if evaluations < MIN_EVALUATIONS:
        raise UserError(f"evaluations={evaluations} is not possible: give at least {MIN_EVALUATIONS}.")
    generator = load_generator(model, onnx_file, device)
    spec = generator.description.spec
    images = np.stack([read_file(file, spec, crop=crop) for file in files])
    labels = None if label is None else labels_of(label, spec.class_names, len(files)).tolist()
    projected = project(generator, images, labels=labels, evaluations=evaluations)
    pairs = np.stack([images, projected.images], 1).reshape(-1, *spec.shape)
    try:
        out.write_bytes(png(image_grid(pairs, columns=2)))
    except OSError as error:
        raise UserError(f"out={str(out)!r} cannot be written: {error.strerror}.") from None
    return lines_of(files, images, projected, generator=generator)


def read_file(file: Path, spec: SampleSpec, *, crop: bool) -> Image:
    """Return the pixels of an image file, uint8 [H, W, C] of the generator's.

    Raises:
        UserError: it cannot be read, or its size or colors are others.
    """
    subject = f"The file {file}"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{subject} cannot be read: {error.strerror}.") from None
    image = open_file(content, subject)
    if crop:
        image = cropped(image, spec, subject)
    check_size(image, subject, spec)
    return to_pixels(image, subject, spec)


def cropped(image: PIL.Image.Image, spec: SampleSpec, subject: str) -> PIL.Image.Image:
    """Return the middle of an image in the generator's shape, size and colors.

    Raises:
        UserError: it is damaged.
    """
    try:
        rgba = upright(image).convert("RGBA")
        if (np.asarray(rgba)[:, :, 3] != WHITE).any():
            return rgba.resize((spec.width, spec.height))  # to be refused for it, like one that needs no cropping
        fitted = PIL.ImageOps.fit(rgba.convert("RGB"), (spec.width, spec.height), PIL.Image.Resampling.LANCZOS)
    except Exception:  # a damaged file can make Pillow raise anything
        raise UserError(f"{subject} is damaged.") from None
    return fitted.convert("L") if spec.channels == 1 else fitted


def lines_of(files: Sequence[Path], images: Images, projected: Projected, *, generator: OnnxGenerator) -> list[str]:
    """Return a line of JSON for each file: what its image was found to be."""
    names = generator.description.spec.class_names
    lines = []
    for row, (file, likeness) in enumerate(zip(files, likeness_of(generator, images, projected))):
        label = None if projected.labels is None else names[projected.labels[row]]
        values: dict[str, Any] = {
            "file": str(file),
            "label": label,
            **rounded(likeness),
            "z": projected.z[row].tolist(),
        }
        lines.append(json.dumps(values, ensure_ascii=False))
    return lines


def rounded(likeness: Likeness) -> dict[str, Any]:
    """Return what is said of a z, with as many digits as mean something."""
    anomaly = None if likeness.anomaly is None else float(f"{likeness.anomaly:.4g}")
    return {"psnr": round(likeness.psnr, 2), "anomaly": anomaly, "note": likeness.note}
