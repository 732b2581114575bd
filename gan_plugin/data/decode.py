"""Decoding many encoded images into one tensor, with threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from gan_plugin.data.convert import to_pixels
from gan_plugin.data.dataset import automatic_size, list_some, size_notes
from gan_plugin.data.threads import in_threads
from gan_plugin.errors import UserError, first_line
from gan_plugin.media.image import Images

Size = tuple[int, int]  # width, height

# Formats that Pillow can only identify, that are video, or that it hands to another program to run.
NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@dataclass(frozen=True)
class Decoded:
    """Dataset decoded from files or rows.

    Attributes:
        images: uint8 [K, C, S, S], the readable images in the order they were given.
        kept: [K], the index of each among those given.
        notes: sentences on size, channels and images left out.
    """

    images: torch.Tensor
    kept: list[int]
    notes: list[str]


def decode_images(
    open_image: Callable[[int], Image.Image],
    names: Sequence[str],
    *,
    source: str,
    image_size: int | None,
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
        image_size: height and width of the result; None chooses as ``automatic_size`` does.
        channels: 1 or 3; None gives 1 where every image is gray, else 3.
        skip_unreadable: leave unreadable images out, and say so in the notes.

    Raises:
        UserError: an image cannot be read and ``skip_unreadable`` is False, or none can be read.
    """
    everything = range(len(names))
    size = image_size or automatic_size(header_sizes(open_image, len(names)))
    pixels, outcomes = decode(open_image, everything, size, channels or 3)
    sizes = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    kept = [index for index in everything if isinstance(outcomes[index], tuple)]
    unreadable = [f"{names[i]} ({outcome})" for i, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    if unreadable and not skip_unreadable:
        raise UserError(
            f"{len(unreadable):,} of {len(names):,} images in {source} cannot be read: {list_some(unreadable)}; "
            "repair or remove them, or set skip_unreadable to leave them out."
        )
    if not kept:
        raise UserError(f"None of the {len(names):,} images in {source} can be read: {list_some(unreadable)}.")
    if unreadable:
        readable_size = image_size or automatic_size(sizes)
        if readable_size == size:
            pixels = pixels[kept]
        else:  # the size was settled by the header of an image that turned out to be unreadable
            size = readable_size
            pixels, _ = decode(open_image, kept, size, channels or 3)
    images = torch.from_numpy(pixels)
    notes = size_notes(sizes, size, image_size)
    if channels is None:
        if is_gray(images):
            images = images[:, :1].contiguous()
            notes.append("Every image is gray, so there is 1 channel.")
        else:
            notes.append("There are images in color, so there are 3 channels.")
    if unreadable:
        notes.append(f"{len(unreadable):,} unreadable images were left out: {list_some(unreadable)}.")
    return Decoded(images, kept, notes)


def header_sizes(open_image: Callable[[int], Image.Image], count: int) -> list[Size]:
    """(width, height) as the files' headers say, without decoding; images whose header is damaged are passed over.

    Sides may be swapped where EXIF turns an image, which does not change whether it is square.
    """

    def header_size(index: int) -> Size | None:
        try:
            with open_image(index) as image:
                return image.size
        except MemoryError:
            raise
        except Exception:
            return None  # the decoding that follows finds it again and says why

    return [size for size in in_threads(header_size, range(count)) if size is not None]


def decode(
    open_image: Callable[[int], Image.Image], indices: Sequence[int], size: int, channels: int
) -> tuple[Images, list[Size | str]]:
    """Decode the images of these indices.

    Returns:
        uint8 [len(indices), C, size, size], undefined where an image is unreadable, and for each image its own
        (width, height), or the reason why it is unreadable.
    """
    pixels = np.empty((len(indices), channels, size, size), np.uint8)

    def decode_one(place: int) -> Size | str:
        try:
            with open_image(indices[place]) as image:
                pixels[place] = to_pixels(image, size, channels)
                return image.size
        except MemoryError:
            raise
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            return reason(error)

    return pixels, in_threads(decode_one, range(len(indices)))


def reason(error: Exception) -> str:
    """A few words on why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def is_gray(images: torch.Tensor) -> bool:
    """Whether red, green and blue are equal in every pixel of uint8 [N, 3, H, W]."""
    red, green, blue = images.unbind(1)
    return torch.equal(red, green) and torch.equal(green, blue)


@functools.cache
def image_formats() -> tuple[str, ...]:
    """Names of the formats that are opened, as Pillow knows them."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - NOT_IMAGES))


@functools.cache
def image_suffixes() -> frozenset[str]:
    """File name suffixes of those formats, in lower case with the dot."""
    Image.init()
    formats = {*image_formats(), "MPO"}  # several JPEGs in one file, opened as JPEG
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def open_lazily(file: str | IO[bytes]) -> Image.Image:
    """The image in a file, of which only the header has been read.

    Raises:
        OSError: the file cannot be opened or is not an image.
    """
    return Image.open(file, formats=image_formats())
