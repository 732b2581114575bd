"""From any image Pillow can open to square 8-bit pixels."""

from __future__ import annotations

import struct

import numpy as np
import PIL.Image
from PIL import ExifTags

from gan_plugin.data.threads import in_threads
from gan_plugin.media.image import Image, Images

# EXIF orientation → the transposition that shows the image upright
UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
TIFF_BITS_PER_SAMPLE = 258
TIFF_PHOTOMETRIC = 262
WHITE_IS_ZERO = 0


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image as a person sees it, 8-bit RGB.

    Transparency is composited on white, deep gray is scaled to 8 bits (65535 becomes 255), float gray is taken as
    0 (black) to 1 (white), and the EXIF orientation is applied. Color profiles are not.

    Raises:
        ValueError: 32-bit integer or float pixels lie outside 0 to 65535 or 0 to 1.
    """
    image.load()  # a PNG may hold its EXIF after its pixels
    if image.mode.startswith("I") or image.mode == "F":
        rgb = PIL.Image.fromarray(deep_gray_to_8_bits(image)).convert("RGB")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = PIL.Image.alpha_composite(PIL.Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    turn = UPRIGHT.get(orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def deep_gray_to_8_bits(image: PIL.Image.Image) -> Image:
    """Return the pixels of a gray image of mode I, I;16 or F, as uint8 [H, W].

    Pillow's own conversion clips at 255, which makes a 16-bit image all white.

    Raises:
        ValueError: a pixel lies outside the range: 0 to 1 for floats, 0 to 65535 for integers.
    """
    values = np.asarray(image).astype(np.float64)
    # 12-bit TIFFs come in mode I;16, and Pillow leaves deep white-is-zero TIFFs inverted.
    tags = getattr(image, "tag_v2", {})
    integer_white = 4095.0 if tags.get(TIFF_BITS_PER_SAMPLE) == (12,) else 65535.0
    white = 1.0 if image.mode == "F" else integer_white
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):  # written so that NaN is refused
        raise ValueError(f"gray values from {low:g} to {high:g}, outside 0 to {white:g}")
    clear = image.info.get("transparency")  # the one gray value that a 16-bit PNG may declare transparent
    if isinstance(clear, int):
        values[values == clear] = white
    if image.mode.startswith("I;16") and tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        values = white - values
    return np.rint(values * (255.0 / white)).astype(np.uint8)


def orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error):
        return 1  # damaged EXIF beside good pixels: viewers show those images as they lie
    return value if isinstance(value, int) else 1


def center_square(image: PIL.Image.Image) -> PIL.Image.Image:
    """The largest square in the middle of the image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def to_pixels(image: PIL.Image.Image, size: int, channels: int) -> Image:
    """The image's middle square as uint8 [C, size, size].

    Args:
        image: of any mode and shape.
        size: height and width of the result, pixels.
        channels: 1 for gray (ITU-R 601 luma), 3 for RGB.

    Raises:
        ValueError: as ``to_rgb``.
        OSError: the image's data is damaged.
    """
    square = center_square(to_rgb(image))
    if channels == 1:
        square = square.convert("L")
    if square.width != size:
        square = square.resize((size, size), PIL.Image.Resampling.LANCZOS)
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)


def resize_gray(images: Images, size: int, resample: PIL.Image.Resampling) -> Images:
    """The middle squares of gray images, resized.

    Args:
        images: uint8 [N, H, W].
        size: height and width of the result, pixels.
        resample: Pillow's filter.

    Returns:
        uint8 [N, size, size]; ``images`` itself where it has that size.
    """
    if images.shape[1:] == (size, size):
        return images
    resized = np.empty((len(images), size, size), np.uint8)

    def resize_one(index: int) -> None:
        square = center_square(PIL.Image.fromarray(images[index]))
        resized[index] = np.asarray(square.resize((size, size), resample))

    in_threads(resize_one, range(len(images)))
    return resized
