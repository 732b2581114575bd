"""From any picture Pillow can open to square 8-bit pixels."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from gan_plugin.data.threads import in_threads

Array = npt.NDArray[np.uint8]

# EXIF orientation → the transposition that shows the picture upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TIFF_BITS_PER_SAMPLE = 258
TIFF_PHOTOMETRIC = 262
WHITE_IS_ZERO = 0


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture as a person sees it, 8-bit RGB.

    Transparency is composited on white, deep grey is scaled to 8 bits (65535 becomes 255), float grey is taken as
    0 (black) to 1 (white), and the EXIF orientation is applied. Colour profiles are not.

    Raises:
        ValueError: 32-bit integer or float pixels lie outside 0 to 65535 or 0 to 1.
    """
    picture.load()  # a PNG may hold its EXIF after its pixels
    if picture.mode.startswith("I") or picture.mode == "F":
        rgb = Image.fromarray(deep_grey_to_8_bits(picture)).convert("RGB")
    elif picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        rgb = picture.convert("RGB")
    turn = UPRIGHT.get(orientation(picture))
    return rgb if turn is None else rgb.transpose(turn)


def deep_grey_to_8_bits(picture: Image.Image) -> Array:
    """Pixels of a grey picture of mode I, I;16 or F, as uint8 [H, W].

    Pillow's own conversion clips at 255, which makes a 16-bit picture all white.

    Raises:
        ValueError: a pixel lies outside the range: 0 to 1 for floats, 0 to 65535 for integers.
    """
    values = np.asarray(picture).astype(np.float64)
    # 12-bit TIFFs come in mode I;16, and Pillow leaves deep white-is-zero TIFFs inverted.
    tags = getattr(picture, "tag_v2", {})
    integer_white = 4095.0 if tags.get(TIFF_BITS_PER_SAMPLE) == (12,) else 65535.0
    white = 1.0 if picture.mode == "F" else integer_white
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):  # written so that NaN is refused
        raise ValueError(f"grey values from {low:g} to {high:g}, outside 0 to {white:g}")
    clear = picture.info.get("transparency")  # the one grey value that a 16-bit PNG may declare transparent
    if isinstance(clear, int):
        values[values == clear] = white
    if picture.mode.startswith("I;16") and tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        values = white - values
    return np.rint(values * (255.0 / white)).astype(np.uint8)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none or it cannot be read."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error):
        return 1  # damaged EXIF beside good pixels: viewers show those pictures as they lie
    return value if isinstance(value, int) else 1


def centre_square(picture: Image.Image) -> Image.Image:
    """The largest square in the middle of the picture."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def to_pixels(picture: Image.Image, size: int, channels: int) -> Array:
    """The picture's middle square as uint8 [C, size, size].

    Args:
        picture: of any mode and shape.
        size: height and width of the result, pixels.
        channels: 1 for grey (ITU-R 601 luma), 3 for RGB.

    Raises:
        ValueError: as ``to_rgb``.
        OSError: the picture's data is damaged.
    """
    square = centre_square(to_rgb(picture))
    if channels == 1:
        square = square.convert("L")
    if square.width != size:
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)


def resize_grey(pictures: Array, size: int, resample: Image.Resampling) -> Array:
    """The middle squares of grey pictures, resized.

    Args:
        pictures: uint8 [N, H, W].
        size: height and width of the result, pixels.
        resample: Pillow's filter.

    Returns:
        uint8 [N, size, size]; ``pictures`` itself where it has that size.
    """
    if pictures.shape[1:] == (size, size):
        return pictures
    resized = np.empty((len(pictures), size, size), np.uint8)

    def resize_one(index: int) -> None:
        square = centre_square(Image.fromarray(pictures[index]))
        resized[index] = np.asarray(square.resize((size, size), resample))

    in_threads(resize_one, range(len(pictures)))
    return resized
