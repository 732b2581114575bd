"""The size that images get: checked, chosen automatically, cropped to, described in notes."""

from __future__ import annotations

from collections.abc import Collection

from gan_plugin.errors import UserError
from gan_plugin.spec import MAX_SIDE, MIN_SIDE, Size, is_possible_size, size_text

DEFAULT_SIZE = (64, 64)  # where the images' own sizes do not settle it


def as_size(image_size: int | Size | None) -> Size | None:
    """Return ``image_size`` as (height, width), an integer being the side of a square; None stays None.

    Raises:
        UserError: a side is not from 16 to 1,024 pixels.
    """
    if image_size is None:
        return None
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    size = height, width
    if not is_possible_size(size):
        raise UserError(
            f"image_size={size_text(size)} is not possible: give a height and a width from {MIN_SIDE} to "
            f"{MAX_SIDE:,} pixels."
        )
    return size


def automatic_size(sizes: Collection[Size]) -> Size:
    """Return the images' own size where all share one with sides of 16 to 1,024 pixels, else 64×64.

    Args:
        sizes: (height, width) of each image.
    """
    distinct = set(sizes)
    if len(distinct) == 1 and is_possible_size(size := distinct.pop()):
        return size
    return DEFAULT_SIZE


def crop_size(size: Size, target: Size) -> Size:
    """Return (height, width) of the largest part of an image that has the target's aspect ratio.

    Args:
        size: (height, width) of the image.
        target: (height, width) that the part will be resized to.

    >>> crop_size((100, 300), (64, 64)), crop_size((100, 300), (256, 128)), crop_size((100, 300), (50, 150))
    ((100, 100), (100, 50), (100, 300))
    """
    height, width = size
    target_height, target_width = target
    # rounded to the nearest pixel in integers, so that every machine crops alike; a sliver keeps one pixel
    fitting_width = max(1, (2 * height * target_width + target_height) // (2 * target_height))
    fitting_height = max(1, (2 * width * target_height + target_width) // (2 * target_width))
    return min(height, fitting_height), min(width, fitting_width)


def size_notes(sizes: Collection[Size], size: Size, *, requested: bool) -> list[str]:
    """Describe in sentences how images became ``size``.

    Args:
        sizes: (height, width) of each image as it was.
        size: (height, width) that the images have now.
        requested: whether the user gave that size, in place of an automatic one.
    """
    distinct = set(sizes)
    if distinct == {size}:
        return [f"The images are {in_pixels(size)} and keep that size."]
    if len(distinct) == 1:
        (own_size,) = distinct
        original = in_pixels(own_size)
    else:
        lengths = [side for pair in distinct for side in pair]
        original = f"of different sizes, with sides of {min(lengths)} to {max(lengths):,} pixels,"
    reason = (
        f"since image_size={size_text(size)}"
        if requested
        else f"the size taken where the images do not share one with sides of {MIN_SIDE} to {MAX_SIDE:,} pixels"
    )
    height, width = size
    notes = [f"The images were {original} and are resized to {height}x{width} (Lanczos), {reason}."]
    if cropped := sum(crop_size(own_size, size) != own_size for own_size in sizes):
        notes.append(
            f"{cropped:,} of {len(sizes):,} images had another aspect ratio and were cropped around their center."
        )
    return notes


def in_pixels(size: Size) -> str:
    """Format a size for people, with the order of the sides where they differ.

    >>> in_pixels((28, 28)), in_pixels((256, 128))
    ('28x28 pixels', '256x128 pixels (height x width)')
    """
    height, width = size
    return f"{height}x{width} pixels" + ("" if height == width else " (height x width)")
