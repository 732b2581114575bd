"""Images that a client sends: from base64 to pixels, or one sentence on what is wrong. Imports no torch.

Only the head of a file is looked at before its size is known to be the generator's: a file that unpacks to something
huge is refused by it.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from gan_plugin.errors import UserError
from gan_plugin.media.image import WHITE, Image
from gan_plugin.spec import SampleSpec

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # of 8 bits a channel or fewer
DATA_URI = re.compile(r"data:image/[a-z+.-]+;base64,")
OVERHEAD = 2**16  # bytes of a file beside its pixels: headers, profiles, a thumbnail
CHANNELS = 4  # of a file, at most
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the field of EXIF, and its values for what lies on its side


def max_file_bytes(spec: SampleSpec) -> int:
    """Return how long a file of one image may be: its pixels as they are, and some more."""
    return CHANNELS * spec.height * spec.width + OVERHEAD


def max_text_bytes(spec: SampleSpec) -> int:
    """Return how long such a file may be in base64."""
    return -(-max_file_bytes(spec) * 4 // 3) + 64


def read_image(value: Any, row: int, spec: SampleSpec) -> Image:
    """Decode an image uint8 [H, W, C] of the generator's size and colors.

    Args:
        value: a PNG, JPEG or WebP file in base64, also as a data URI.
        row: of the request, for the sentence.
        spec: of the generator's images.

    Raises:
        UserError: it is no such file, or its size or colors are others.
    """
    subject = f"The image of row {row}"
    image = open_file(decode_base64(value, subject, spec), subject)
    check_size(image, subject, spec)
    return to_pixels(image, subject, spec)


def decode_base64(value: Any, subject: str, spec: SampleSpec) -> bytes:
    """Return the bytes of a file in base64; raises as ``read_image``.

    Args:
        subject: of the sentence, such as "The image of row 0".
    """
    if not isinstance(value, str):
        raise UserError(f"{subject} is no text: give a file in base64.")
    text = "".join(DATA_URI.sub("", value, count=1).split())
    if len(text) > max_text_bytes(spec):
        raise UserError(f"{subject} has more than {max_file_bytes(spec):,} bytes: one of {spec} takes no more.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{subject} is no base64: give a file in base64.") from None


def open_file(content: bytes, subject: str) -> PIL.Image.Image:
    """Open an image file, of which only the head is read.

    Raises:
        UserError: it is none, or is animated, too large, or of unusual colors.
    """
    try:
        image = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
    except PIL.Image.DecompressionBombError:
        raise UserError(f"{subject} has far too many pixels.") from None
    except Exception:  # a damaged file can make Pillow raise anything
        raise UserError(f"{subject} is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file.") from None
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{subject} is animated: give a single image.")
    if image.mode not in MODES:
        raise UserError(f"{subject} has more than 8 bits a channel, or other colors: give one in gray or RGB.")
    return image


def check_size(image: PIL.Image.Image, subject: str, spec: SampleSpec) -> None:
    """Check that an opened file has the generator's size.

    Raises:
        UserError: it has another; the sentence has both.
    """
    size, own = image.size, (spec.width, spec.height)
    # of another size nothing is looked at but the head: a field of EXIF may stand behind the pixels
    if size in (own, own[::-1]):
        try:
            size = size[::-1] if image.getexif().get(ORIENTATION, 1) in SIDEWAYS else size
        except Exception:  # a damaged file can make Pillow raise anything
            raise UserError(f"{subject} is damaged.") from None
    if size != own:
        raise UserError(
            f"{subject} has {size[0]}×{size[1]} pixels, and this generator's images have {spec.width}×"
            f"{spec.height}: crop and resize it."
        )


def upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return an image as its file says that it is to be looked at, as training does."""
    return PIL.ImageOps.exif_transpose(image)


def to_pixels(image: PIL.Image.Image, subject: str, spec: SampleSpec) -> Image:
    """Return the pixels of an opened file in the generator's colors, where nothing is lost by that.

    Raises:
        UserError: it is damaged, transparent, or in color where the generator is gray.
    """
    try:
        rgba = np.asarray(upright(image).convert("RGBA"))  # [H, W, 4]
    except Exception:  # as above
        raise UserError(f"{subject} is damaged.") from None
    if (rgba[:, :, 3] != WHITE).any():
        raise UserError(f"{subject} has transparent pixels: give one without.")
    rgb = rgba[:, :, :3]
    if spec.channels == 3:
        return rgb
    if (rgb != rgb[:, :, :1]).any():
        raise UserError(f"{subject} is in color, and this generator's are gray: make it gray.")
    return rgb[:, :, :1]
