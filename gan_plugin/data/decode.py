"""Decoding of encoded images, by several threads."""

from __future__ import annotations

import functools
import io
import os
import stat
from collections.abc import Callable, Sequence
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from gan_plugin.data.convert import to_pixels, to_rgb
from gan_plugin.data.limits import MAX_FILE_BYTES, decoding_budget, decoding_bytes, in_gigabytes
from gan_plugin.data.threads import in_threads
from gan_plugin.errors import first_line
from gan_plugin.spec import Size

# Formats that Pillow can only identify, that are video, or that it hands to another program to run.
NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


class EncodedImages(Protocol):
    """Images that can be decoded, of which none has been."""

    @property
    def names(self) -> Sequence[str]:
        """What to call each image in messages."""

    def encoded(self, index: int) -> str | bytes:
        """Return the path of an image's file, or the content of one; called from one thread at a time.

        Raises:
            ValueError: there is neither.
        """

    def open(self, index: int) -> Image.Image:
        """Open an image lazily; called from several threads at once."""

    def identity(self) -> str:
        """Return what differs for other images, and as far as can be told without reading them, for changed ones."""


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


def open_encoded(image: str | bytes) -> Image.Image:
    """Open an image by the path of its file, or the content of one; raises as ``lazy_open``."""
    return lazy_open(image if isinstance(image, str) else io.BytesIO(image))


def identity_of_file(path: str) -> str:
    """Return what differs for another file, and for one that was changed."""
    try:
        status = os.stat(path)
    except OSError:
        return path  # who opens it says what is wrong
    return f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


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
