"""Conversion of any image that Pillow can open to 8-bit pixels of one size."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import ExifTags

from gan_plugin.data.sizes import crop_size
from gan_plugin.data.threads import in_threads
from gan_plugin.media.image import WHITE
from gan_plugin.spec import Size

# EXIF orientation → the transposition that turns the image upright
EXIF_TRANSPOSE = {
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
    """Return the image as a person sees it, 8-bit RGB and upright.

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
        rgb = image if image.mode == "RGB" else image.convert("RGB")  # which would copy one that is RGB, too
    method = EXIF_TRANSPOSE.get(orientation(image))
    return rgb if method is None else rgb.transpose(method)


def deep_gray_to_8_bits(image: PIL.Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels of a gray image of mode I, I;16 or F, as uint8 [H, W].

    Pillow's own conversion clips at 255, which makes a 16-bit image all white.

    Raises:
        ValueError: a pixel lies outside the range: 0 to 1 for floats, 0 to 65535 for integers.
    """
    values = np.asarray(image).astype(np.float64)
    # 12-bit TIFFs come in mode I;16, and Pillow leaves deep white-is-zero TIFFs inverted.
    tags = getattr(image, "tag_v2", {})
    int_white = 4095.0 if tags.get(TIFF_BITS_PER_SAMPLE) == (12,) else 65535.0
    white = 1.0 if image.mode == "F" else int_white
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):  # written so that NaN is refused
        raise ValueError(f"gray values from {low:g} to {high:g}, outside 0 to {white:g}")
    alpha_level = image.info.get("transparency")  # the one gray value that a 16-bit PNG may declare transparent
    if isinstance(alpha_level, int):
        values[values == alpha_level] = white
    if image.mode.startswith("I;16") and tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        values = white - values
    return np.rint(values * (WHITE / white)).astype(np.uint8)


def orientation(image: PIL.Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error):
        return 1  # damaged EXIF beside good pixels: viewers show those images as they are stored
    return value if isinstance(value, int) else 1


def center_crop(image: PIL.Image.Image, size: Size) -> PIL.Image.Image:
    """Cut the largest part with the aspect ratio of ``size`` (height, width) out of the image's middle."""
    height, width = crop_size((image.height, image.width), size)
    if (width, height) == image.size:
        return image  # without the copy that a crop is
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def to_pixels(rgb: PIL.Image.Image, size: Size, channels: int) -> npt.NDArray[np.uint8]:
    """Crop an image to the aspect ratio of ``size`` and resize it (Lanczos).

    Args:
        rgb: of any size, as ``to_rgb`` gives it.
        size: (height, width) of the result, pixels.
        channels: 1 for gray (ITU-R 601 luma), 3 for RGB.

    Returns:
        uint8 [C, H, W].
    """
    height, width = size
    image = center_crop(rgb, size)
    if channels == 1:
        image = image.convert("L")
    if image.size != (width, height):
        image = image.resize((width, height), PIL.Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def resize_gray(images: npt.NDArray[np.uint8], size: Size, resample: PIL.Image.Resampling) -> npt.NDArray[np.uint8]:
    """Crop gray images to the aspect ratio of ``size`` and resize them.

    Args:
        images: uint8 [N, H, W].
        size: (height, width) of the result, pixels.
        resample: Pillow's filter.

    Returns:
        uint8 [N, height, width]; ``images`` itself where it has that size.
    """
    if images.shape[1:] == size:
        return images
    height, width = size
    resized = np.empty((len(images), height, width), np.uint8)

    def resize_one(index: int) -> None:
        cropped = center_crop(PIL.Image.fromarray(images[index]), size)
        resized[index] = np.asarray(cropped.resize((width, height), resample))

    in_threads(resize_one, range(len(images)))
    return resized


def gray_to_channels(gray: npt.NDArray[np.uint8], channels: int | None) -> npt.NDArray[np.uint8]:
    """Return gray images [N, H, W] as [N, C, H, W]: C = 1, or 3 equal channels where ``channels`` is 3."""
    return np.repeat(gray[:, None], channels or 1, axis=1)
