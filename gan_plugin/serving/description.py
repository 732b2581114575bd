"""What the ONNX files of a generator and of its encoder say about themselves. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from gan_plugin.errors import UserError
from gan_plugin.spec import SampleSpec, image_spec

CONTRACT_VERSION = "4"
METADATA_PREFIX = "gan."
KIND, LAYOUT, RANGE = "image", "HWC", "0..255"
ENCODER_KIND = "encoder"


@dataclass(frozen=True)
class Direction:
    """A direction of z, along which images can be edited.

    Attributes:
        name: of the attribute that changes along it, or a number.
        normal: of unit length, latent_size values.
        low: the largest step against it that is sensible, a negative number.
        high: the largest step along it.
        accuracy: how well the attribute can be told by it, of images that it was not fitted to: the mean share of right
            answers with and without it, or for a number the coefficient of determination; None for a number's.
        share: of all change of images, of a direction that is called by a number; None for an attribute's.
    """

    name: str
    normal: tuple[float, ...]
    _: KW_ONLY
    low: float
    high: float
    accuracy: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class Description:
    """What a generator's ONNX file says about itself, in its ``metadata_props``:

    - ``gan.contract``: the version of this list, 4 today. A new version only adds keys, so readers look at the kind and
      at the keys that they need, never at the version.
    - ``gan.kind`` (since 2): what one sample is, ``image``, which is also the name of the output. Files of contract 1
      hold images.
    - ``gan.layout`` (since 2): ``HWC``, the dimensions of the output behind the batch.
    - ``gan.range`` (since 2): ``0..255``, from black to white in every channel.
    - ``gan.latent_size``: the length of z.
    - ``gan.height``, ``gan.width``, ``gan.channels``: of an image; one channel is gray, three are RGB.
    - ``gan.class_names``: a JSON list, empty for a generator that takes no label.
    - ``gan.recipe``, ``gan.run_id``, ``gan.data``, ``gan.data_digest``: where it comes from; may be missing.
    - ``gan.seen_features`` (since 3): a JSON list, the digests of the feature networks by which training chose this
      generator, so that an evaluation in one of them can say so; may be missing.
    - ``gan.directions`` (since 4): a JSON list of objects with ``name``, ``normal``, ``low``, ``high`` and ``accuracy``
      or ``share``, as in :class:`Direction`; may be missing.
    """

    latent_size: int
    spec: SampleSpec  # without class names for a generator that takes no label
    _: KW_ONLY
    recipe: str = ""
    run_id: str = ""
    data: str = ""
    data_digest: str = ""
    seen_features: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """Return the keys and values for ``metadata_props``."""
        height, width, channels = self.spec.shape
        values: dict[str, Any] = {"contract": CONTRACT_VERSION, "layout": LAYOUT, "range": RANGE, **vars(self)}
        del values["spec"]
        values |= {"kind": self.spec.kind, "height": height, "width": width, "channels": channels}
        values["class_names"] = json.dumps(list(self.spec.class_names), ensure_ascii=False)
        values["seen_features"] = json.dumps(list(self.seen_features))
        values["directions"] = json.dumps([_content_of(direction) for direction in self.directions], ensure_ascii=False)
        return {METADATA_PREFIX + name: str(value) for name, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Description:
        """Read the description of a generator of images, whatever the version of its contract.

        Raises:
            UserError: the metadata are not those of a generator, lack a key that is needed, or are of another kind.
        """
        values = {k.removeprefix(METADATA_PREFIX): v for k, v in metadata.items() if k.startswith(METADATA_PREFIX)}
        if "contract" not in values:
            raise UserError("This ONNX file is not a generator of gan_plugin: its metadata have no gan.contract.")
        kind = values.get("kind", KIND)  # contract 1 had no other
        if kind != KIND:
            raise UserError(
                f"This ONNX file makes samples of the kind {kind!r}, and this version of gan_plugin knows only "
                f"{KIND!r}: install a newer one."
            )
        height, width, channels = (_size(values, name) for name in ("height", "width", "channels"))
        spec = image_spec(height, width, channels, class_names=_texts(values, "class_names", ""))
        origin = {name: values.get(name, "") for name in ("recipe", "run_id", "data", "data_digest")}
        seen = tuple(_texts(values, "seen_features", "[]"))
        latent_size = _size(values, "latent_size")
        directions = _directions(values.get("directions", "[]"), latent_size)
        return cls(latent_size, spec, seen_features=seen, directions=directions, **origin)


def _content_of(direction: Direction) -> dict[str, Any]:
    """Return a direction as JSON takes it, with six digits."""
    numbers = {name: float(f"{value:.6g}") for name, value in vars(direction).items() if isinstance(value, float)}
    return {"name": direction.name, **numbers, "normal": [float(f"{value:.6g}") for value in direction.normal]}


def _directions(text: str, latent_size: int) -> tuple[Direction, ...]:
    """Return the directions of a JSON list."""
    try:
        directions = tuple(
            Direction(
                str(entry["name"]),
                tuple(float(value) for value in entry["normal"]),
                low=float(entry["low"]),
                high=float(entry["high"]),
                accuracy=entry.get("accuracy"),
                share=entry.get("share"),
            )
            for entry in json.loads(text)
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        directions = (Direction("", (), low=0.0, high=0.0),)
    if any(len(direction.normal) != latent_size for direction in directions):
        raise UserError("This ONNX file's metadata have no possible gan.directions: it is damaged, or no generator.")
    return directions


def _size(values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "")
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UserError(f"This ONNX file's metadata have no possible gan.{name}: it is damaged, or no generator.")
    return int(text)


def _texts(values: Mapping[str, str], name: str, missing: str) -> list[str]:
    """Return a JSON list of texts; ``missing`` stands for a key that is not there."""
    try:
        texts = json.loads(values.get(name, missing))
    except ValueError:
        texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"This ONNX file's metadata have no possible gan.{name}: it is damaged, or no generator.")
    return texts


@dataclass(frozen=True)
class EncoderDescription:
    """What an encoder's ONNX file says about itself, in its ``metadata_props``:

    - ``gan.contract``: the version of this list; as that of a generator's.
    - ``gan.kind``: ``encoder``.
    - ``gan.generator``: the SHA-256 digest of the generator's file, in hexadecimal.
    - ``gan.active_units``: how many values of an autoencoder's code are in use; of a variational one only.
    - ``gan.low_psnr``: decibels that 95 % of held-out images exceed when they are reconstructed; may be missing.
    - ``gan.high_anomaly``: the score that 95 % of held-out images stay below; may be missing.
    """

    generator: str
    _: KW_ONLY
    active_units: int | None = None
    low_psnr: float | None = None
    high_anomaly: float | None = None

    def to_metadata(self) -> dict[str, str]:
        """Return the keys and values for ``metadata_props``."""
        values: dict[str, Any] = {"contract": CONTRACT_VERSION, "kind": ENCODER_KIND, **vars(self)}
        return {METADATA_PREFIX + name: str(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> EncoderDescription:
        """Read the description of an encoder, whatever the version of its contract.

        Raises:
            UserError: the metadata are not those of an encoder.
        """
        values = {k.removeprefix(METADATA_PREFIX): v for k, v in metadata.items() if k.startswith(METADATA_PREFIX)}
        if values.get("kind") != ENCODER_KIND or not values.get("generator"):
            raise UserError("This ONNX file is not an encoder of gan_plugin: its metadata have no gan.generator.")
        units, psnr, anomaly = (_number(values, name) for name in ("active_units", "low_psnr", "high_anomaly"))
        return cls(
            values["generator"],
            active_units=None if units is None else int(units),
            low_psnr=psnr,
            high_anomaly=anomaly,
        )


def _number(values: Mapping[str, str], name: str) -> float | None:
    """Return a number; None where there is none."""
    if name not in values:
        return None
    try:
        number = json.loads(values[name])
    except ValueError:
        number = None
    if not isinstance(number, (int, float)) or not math.isfinite(number):
        raise UserError(f"This ONNX file's metadata have no possible gan.{name}: it is damaged, or no encoder.")
    return float(number)
