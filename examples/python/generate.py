"""An image from a generator's ONNX file, with nothing but ONNX Runtime, NumPy and Python's standard library.

python generate.py ../digits.onnx --seed 7 --label 3 --out image.png
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

MAX_SEED = 2**53 - 1
NEEDED = ("gan.contract", "gan.latent_size", "gan.class_names")  # keys of the file's metadata
LISTED_CLASSES = 10  # how many a message lists
Latent = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]


def philox(block: int, attempt: int, seed: int) -> list[int]:
    """Return four random 32-bit words: Philox4x32-10 with the seed as its key (Salmon et al. 2011)."""
    low = 2**32 - 1
    c0, c1, c2, c3 = block, attempt, 0, 0
    k0, k1 = seed & low, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & low, p0 >> 32 ^ c3 ^ k1, p0 & low
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
    return [c0, c1, c2, c3]


def normals(seed: int, attempt: int, size: int) -> Latent:
    """Return standard normal values float32 [size] (Box and Muller 1958), four of each block."""
    words = [philox(block, attempt, seed) for block in range(-(-size // 4))]
    u = (np.array(words, np.float64) + 0.5) / 2**32  # [blocks, 4], never 0 or 1
    radius, angle = np.sqrt(-2 * np.log(u[:, 0::2])), 2 * np.pi * u[:, 1::2]  # [blocks, 2] each
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)  # [blocks, 2, 2]
    return pairs.reshape(-1)[:size].astype(np.float32)


def latent(seed: int, size: int, truncation: float | None = None) -> Latent:
    """Return the seed's z float32 [size]; a value beyond ±truncation is replaced by the next attempt's at its place."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed} is not possible: give a whole number from 0 to {MAX_SEED}.")
    if truncation is not None and not 0.1 <= truncation < math.inf:
        raise ValueError(f"truncation {truncation} is not possible: give a number of at least 0.1.")
    z = normals(seed, 0, size)
    bound = np.float32(math.inf if truncation is None else truncation)
    attempt = 0
    while (outside := np.abs(z) > bound).any():
        attempt += 1
        z = np.where(outside, normals(seed, attempt, size), z)
    return z


def between(start: Latent, end: Latent, position: float) -> Latent:
    """Return the z at position 0…1 on the arc between two (spherical interpolation, Shoemake 1985)."""
    if not 0 <= position <= 1:
        raise ValueError(f"position {position} is not possible: give a number from 0 (seed) to 1 (to_seed).")
    z0, z1 = start.astype(np.float64), end.astype(np.float64)
    angle = np.arccos(np.clip(z0 @ z1 / (np.linalg.norm(z0) * np.linalg.norm(z1)), -1, 1))
    a, b = 1 - position, position
    if np.sin(angle) >= 1e-6:  # two z of nearly one direction have no arc between them
        a, b = np.sin(a * angle) / np.sin(angle), np.sin(b * angle) / np.sin(angle)
    return (a * z0 + b * z1).astype(np.float32)


class Generator:
    """A generator, opened from its ONNX file."""

    def __init__(self, onnx_file: str | Path) -> None:
        try:
            self.session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            raise ValueError(f"{onnx_file} cannot be opened: {str(error).splitlines()[0].rstrip('.')}.") from error
        metadata = self.session.get_modelmeta().custom_metadata_map
        # a newer contract only adds keys, so its version does not matter; contract 1, without gan.kind, meant images
        if missing := [name for name in NEEDED if name not in metadata]:
            raise ValueError(f"{onnx_file} is not a generator: its metadata have no {missing[0]}.")
        kind = metadata.get("gan.kind", "image")
        if kind != "image":
            raise ValueError(f"{onnx_file} makes samples of the kind {kind}, and this program can write images only.")
        self.latent_size = int(metadata["gan.latent_size"])
        self.class_names: list[str] = json.loads(metadata["gan.class_names"])  # empty where it takes no label

    def image(
        self,
        seed: int,
        label: str | int | None = None,
        truncation: float | None = None,
        to_seed: int | None = None,
        position: float | None = None,
    ) -> Image:
        """Return the seed's image uint8 [height, width, channels], or one between it and ``to_seed``."""
        z = latent(seed, self.latent_size, truncation)
        if (to_seed is None) != (position is None):
            raise ValueError("to_seed and position go together: an image between two seeds needs both.")
        if to_seed is not None and position is not None:
            z = between(z, latent(to_seed, self.latent_size, truncation), position)
        feeds: dict[str, npt.NDArray[Any]] = {"z": z[np.newaxis]}  # a batch of one
        if self.class_names:
            feeds["label"] = np.array([self.class_index(label, seed)], np.int64)
        elif label is not None:
            raise ValueError("this generator was trained without classes: leave out the label.")
        image: Image = self.session.run(["image"], feeds)[0][0]
        return image

    def class_index(self, label: str | int | None, seed: int) -> int:
        """Return the class of that name or index; without a label the seed's own: consecutive seeds show all."""
        count = len(self.class_names)
        if label is None:
            return seed % count
        if label in self.class_names:
            return self.class_names.index(str(label))
        if str(label) not in map(str, range(count)):
            names = ", ".join(name[:40] for name in self.class_names[:LISTED_CLASSES])
            more = ", …" if count > LISTED_CLASSES else ""
            raise ValueError(
                f"there is no class {str(label)[:40]}: give one of {names}{more}, or its index from 0 to {count - 1}."
            )
        return int(label)


def png(image: Image) -> bytes:
    """Return an image uint8 [height, width, 1 or 3] as a PNG file, gray or RGB."""
    height, width, channels = image.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in image)  # each after the number of its filter, 0 for none
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main() -> int:
    parser = argparse.ArgumentParser(description="An image from a generator's ONNX file.")
    parser.add_argument("onnx_file", type=Path, help="the generator")
    parser.add_argument("--seed", type=int, required=True, help=f"which image: 0 to {MAX_SEED}")
    parser.add_argument("--label", help="class, by name or index; without it the seed's own")
    parser.add_argument("--truncation", type=float, help="bound of |z|, at least 0.1: smaller is safer and less varied")
    parser.add_argument("--to-seed", type=int, help="another seed, for an image between the two")
    parser.add_argument("--position", type=float, help="where between them: 0 (seed) to 1 (to_seed)")
    parser.add_argument("--out", type=Path, required=True, help="the PNG file to write")
    arguments = parser.parse_args()
    try:
        generator = Generator(arguments.onnx_file)
        image = generator.image(
            arguments.seed, arguments.label, arguments.truncation, arguments.to_seed, arguments.position
        )
        arguments.out.write_bytes(png(image))
    except (ValueError, OSError) as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
