"""Decoding of many encoded images into one tensor, by several threads."""

from __future__ import annotations

import functools
import math
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from gan_plugin.data.convert import to_pixels, to_rgb
from gan_plugin.data.dataset import list_first
from gan_plugin.data.limits import MAX_FILE_BYTES, check_memory, decoding_budget, decoding_bytes, in_gigabytes
from gan_plugin.data.sizes import automatic_size, size_notes
from gan_plugin.data.threads import in_threads
from gan_plugin.errors import UserError, first_line
from gan_plugin.spec import Size
from gan_plugin.waiting import announced

# Formats that Pillow can only identify, that are video, or that it hands to another program to run.
NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@dataclass(frozen=True)
class Decoded:
    """Images decoded from files or rows.

    Attributes:
        images: uint8 [M, C, H, W], the readable images in their order.
        rows: [M], the index of each among all images, readable or not.
        notes: sentences on size, channels and images left out.
    """

    images: torch.Tensor
    rows: list[int]
    notes: list[str]


def decode_images(
    open_image: Callable[[int], Image.Image],
    names: Sequence[str],
    *,
    source: str,
    image_size: Size | None,
    channels: int | None,
    skip_unreadable: bool,
) -> Decoded:
    """Decode image 0, 1, … as ``open_image`` gives them, to one size.

    Only headers are read to choose an automatic size; then every image is decoded once, straight to its place in
    the result, so that no more full-size images are in memory than there are threads.

    Args:
        open_image: gives the (lazily opened) image of an index; called from several threads.
        names: what to call each image in messages.
        source: what to call all of them.
        image_size: (height, width) of the result; None chooses as ``automatic_size`` does.
        channels: 1 or 3; None gives 1 where every image is gray, else 3.
        skip_unreadable: leave unreadable images out, and say so in the notes.

    Raises:
        UserError: an image cannot be read and ``skip_unreadable`` is False, none can be read, or all of them together
            do not fit into memory.
    """
    with announced(f"Reading {len(names):,} images of {source}."):
        size = image_size or automatic_size(header_sizes(open_image, len(names)))
        check_memory(len(names) * (channels or 3) * math.prod(size), f"{source} with its {len(names):,} images")
        pixels, results = decode(open_image, range(len(names)), size=size, channels=channels or 3)
    sizes = [result for result in results if isinstance(result, tuple)]
    rows = [index for index, result in enumerate(results) if isinstance(result, tuple)]
    unreadable = [f"{names[i]} ({result})" for i, result in enumerate(results) if isinstance(result, str)]
    if unreadable and not skip_unreadable:
        raise UserError(
            f"{len(unreadable):,} of {len(names):,} images in {source} cannot be read: {list_first(unreadable)}; "
            "repair or remove them, or set skip_unreadable to leave them out."
        )
    if not rows:
        raise UserError(f"None of the {len(names):,} images in {source} can be read: {list_first(unreadable)}.")
    final_size = image_size or automatic_size(sizes)
    if final_size != size:
        # The headers misled: one of an unreadable image counted, or EXIF turns images that are not square.
        del pixels  # before as many are allocated again
        check_memory(len(rows) * (channels or 3) * math.prod(final_size), f"{source} with its {len(rows):,} images")
        with announced(f"Reading {len(rows):,} images of {source} again, in their common size."):
            pixels, _ = decode(open_image, rows, size=final_size, channels=channels or 3)
    elif unreadable:
        pixels = pixels[rows]
    images = torch.from_numpy(pixels)
    notes = size_notes(sizes, final_size, requested=image_size is not None)
    if channels is None:
        if is_gray(images):
            images = images[:, :1].contiguous()
            notes.append("Every image is gray, so there is 1 channel.")
        else:
            notes.append("There are images in color, so there are 3 channels.")
    if unreadable:
        notes.append(f"{len(unreadable):,} unreadable images were left out: {list_first(unreadable)}.")
    return Decoded(images, rows, notes)


def header_sizes(open_image: Callable[[int], Image.Image], count: int) -> list[Size]:
    """Read (height, width) from the files' headers, without decoding; images with a damaged header are passed over.

    Sides are as stored: EXIF may turn an image. In a PNG that is known only after its pixels have been decoded.
    """

    def header_size(index: int) -> Size | None:
        try:
            with open_image(index) as image:
                return image.height, image.width
        except MemoryError:
            raise
        except Exception:
            return None  # decode meets it again and says why

    return [size for size in in_threads(header_size, range(count)) if size is not None]


def decode(
    open_image: Callable[[int], Image.Image], indices: Sequence[int], *, size: Size, channels: int
) -> tuple[npt.NDArray[np.uint8], list[Size | str]]:
    """Decode the images of these indices.

    Returns:
        uint8 [len(indices), C, H, W], undefined where an image is unreadable, and for each image its own upright
        (height, width), or the reason why it is unreadable.
    """
    pixels = np.empty((len(indices), channels, *size), np.uint8)
    budget = decoding_budget()

    def decode_one(place: int) -> Size | str:
        try:
            with open_image(indices[place]) as image, budget.reserved(decoding_bytes(image)):
                rgb = to_rgb(image)
                pixels[place] = to_pixels(rgb, size, channels)
                return rgb.height, rgb.width
        except MemoryError:
            raise
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            return reason(error)

    return pixels, in_threads(decode_one, range(len(indices)))


def reason(error: Exception) -> str:
    """Return in a few words why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def is_gray(images: torch.Tensor) -> bool:
    """Return whether red, green and blue are equal in every pixel of uint8 [N, 3, H, W]."""
    red, green, blue = images.unbind(1)
    return torch.equal(red, green) and torch.equal(green, blue)


def check_file_size(count: int) -> None:
    """Refuse an encoded image of more bytes than any is worth.

    Raises:
        ValueError: it has more than ``MAX_FILE_BYTES``.
    """
    if count > MAX_FILE_BYTES:
        raise ValueError(f"its file has {in_gigabytes(count)}, more than {in_gigabytes(MAX_FILE_BYTES)}")


@functools.cache
def image_formats() -> tuple[str, ...]:
    """List the formats that are opened, by Pillow's names."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - NOT_IMAGES))


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the file name suffixes of those formats, in lower case with the dot."""
    Image.init()
    formats = {*image_formats(), "MPO"}  # several JPEGs in one file, opened as JPEG
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def lazy_open(file: str | IO[bytes]) -> Image.Image:
    """Open the image in a file; only its header is read.

    Raises:
        OSError: the file cannot be opened or is not an image.
        ValueError: it is a pipe, a socket or a device, which could be waited for, or too large.
    """
    if isinstance(file, str):
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        check_file_size(status.st_size)
    return Image.open(file, formats=image_formats())
