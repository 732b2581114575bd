"""Decoding many encoded pictures into one tensor, with threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from gan_plugin.data.convert import Array, to_pixels
from gan_plugin.data.pictures import automatic_size, list_some, size_notes
from gan_plugin.data.threads import in_threads
from gan_plugin.errors import UserError, first_line

Size = tuple[int, int]  # width, height

# Formats that Pillow can only identify, that are video, or that it hands to another program to run.
NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@dataclass(frozen=True)
class Decoded:
    """Pictures decoded from files or rows.

    Attributes:
        images: uint8 [K, C, S, S], the readable pictures in the order they were given.
        kept: [K], the index of each among those given.
        notes: sentences on size, channels and pictures left out.
    """

    images: torch.Tensor
    kept: list[int]
    notes: list[str]


def decode_pictures(
    open_picture: Callable[[int], Image.Image],
    names: Sequence[str],
    *,
    source: str,
    image_size: int | None,
    channels: int | None,
    skip_unreadable: bool,
) -> Decoded:
    """Decode picture 0, 1, … as ``open_picture`` gives them, to one size.

    Only headers are read to choose an automatic size; then every picture is decoded once, straight to its place in
    the result, so that no more full-size pictures are in memory than there are threads.

    Args:
        open_picture: gives the (lazily opened) picture of an index; called from several threads.
        names: what to call each picture in messages.
        source: what to call all of them.
        image_size: height and width of the result; None chooses as ``automatic_size`` does.
        channels: 1 or 3; None gives 1 where every picture is grey, else 3.
        skip_unreadable: leave unreadable pictures out, and say so in the notes.

    Raises:
        UserError: a picture cannot be read and ``skip_unreadable`` is False, or none can be read.
    """
    everything = range(len(names))
    size = image_size or automatic_size(header_sizes(open_picture, len(names)))
    pixels, outcomes = decode(open_picture, everything, size, channels or 3)
    sizes = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    kept = [index for index in everything if isinstance(outcomes[index], tuple)]
    unreadable = [f"{names[i]} ({outcome})" for i, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    if unreadable and not skip_unreadable:
        raise UserError(
            f"{len(unreadable):,} of {len(names):,} pictures in {source} cannot be read: {list_some(unreadable)}; "
            "repair or remove them, or set skip_unreadable to leave them out."
        )
    if not kept:
        raise UserError(f"None of the {len(names):,} pictures in {source} can be read: {list_some(unreadable)}.")
    if unreadable:
        readable_size = image_size or automatic_size(sizes)
        if readable_size == size:
            pixels = pixels[kept]
        else:  # the size was settled by the header of a picture that turned out to be unreadable
            size = readable_size
            pixels, _ = decode(open_picture, kept, size, channels or 3)
    images = torch.from_numpy(pixels)
    notes = size_notes(sizes, size, image_size)
    if channels is None:
        if is_grey(images):
            images = images[:, :1].contiguous()
            notes.append("Every picture is grey, so there is 1 channel.")
        else:
            notes.append("There are pictures in colour, so there are 3 channels.")
    if unreadable:
        notes.append(f"{len(unreadable):,} unreadable pictures were left out: {list_some(unreadable)}.")
    return Decoded(images, kept, notes)


def header_sizes(open_picture: Callable[[int], Image.Image], count: int) -> list[Size]:
    """(width, height) as the files' headers say, without decoding; pictures whose header is damaged are passed over.

    Sides may be swapped where EXIF turns a picture, which does not change whether it is square.
    """

    def header_size(index: int) -> Size | None:
        try:
            with open_picture(index) as picture:
                return picture.size
        except MemoryError:
            raise
        except Exception:
            return None  # the decoding that follows finds it again and says why

    return [size for size in in_threads(header_size, range(count)) if size is not None]


def decode(
    open_picture: Callable[[int], Image.Image], indices: Sequence[int], size: int, channels: int
) -> tuple[Array, list[Size | str]]:
    """Decode the pictures of these indices.

    Returns:
        uint8 [len(indices), C, size, size], undefined where a picture is unreadable, and for each picture its own
        (width, height), or the reason why it is unreadable.
    """
    pixels = np.empty((len(indices), channels, size, size), np.uint8)

    def decode_one(place: int) -> Size | str:
        try:
            with open_picture(indices[place]) as picture:
                pixels[place] = to_pixels(picture, size, channels)
                return picture.size
        except MemoryError:
            raise
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            return reason(error)

    return pixels, in_threads(decode_one, range(len(indices)))


def reason(error: Exception) -> str:
    """A few words on why a picture cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def is_grey(images: torch.Tensor) -> bool:
    """Whether red, green and blue are equal in every pixel of uint8 [N, 3, H, W]."""
    red, green, blue = images.unbind(1)
    return torch.equal(red, green) and torch.equal(green, blue)


@functools.cache
def picture_formats() -> tuple[str, ...]:
    """Names of the formats that are opened, as Pillow knows them."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - NOT_PICTURES))


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """File name suffixes of those formats, in lower case with the dot."""
    Image.init()
    formats = {*picture_formats(), "MPO"}  # several JPEGs in one file, opened as JPEG
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def open_lazily(file: str | IO[bytes]) -> Image.Image:
    """The picture in a file, of which only the header has been read.

    Raises:
        OSError: the file cannot be opened or is not a picture.
    """
    return Image.open(file, formats=picture_formats())
