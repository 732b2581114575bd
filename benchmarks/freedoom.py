"""Folders of textures and figures from Freedoom, a free game: data that no recipe was tuned on.

    apt-get install freedoom
    pip install omgifol
    python benchmarks/freedoom.py /usr/share/games/doom/freedoom2.wad freedoom

``flats`` are floors and ceilings, ``walls`` pieces of wall, both 64×64; ``panels`` are whole pieces of wall of 128×128,
and ``sprites`` figures of many sizes on gray. Freedoom is under the BSD license.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from omg import WAD
from PIL import Image

SIDE = 64  # pixels: of flats, and of pieces of wall
PANEL = (128, 128)
TRANSPARENT = (255, 0, 255)  # the color that omgifol gives to what is not painted
GRAY = (128, 128, 128)
MIN_SPRITE = 24  # pixels: smaller ones are sparks and bullets


@click.command()
@click.argument("wad", type=click.Path(exists=True, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
def main(wad: str, out: Path) -> None:
    """Write the pictures in the file WAD to OUT, a folder for each kind."""
    lumps = WAD(wad)
    flats = [(name, flat.to_Image().convert("RGB")) for name, flat in lumps.flats.items()]
    patches = [(name, patch.to_Image().convert("RGB")) for name, patch in lumps.patches.items()]
    walls = [(name, patch) for name, patch in patches if is_opaque(patch)]
    sprites = [(name, sprite.to_Image().convert("RGB")) for name, sprite in lumps.sprites.items()]
    kinds = {
        "flats": [(name, flat) for name, flat in flats if flat.size == (SIDE, SIDE)],
        "walls": [piece for name, wall in walls for piece in pieces(name, wall)],
        "panels": [(name, wall) for name, wall in walls if wall.size == PANEL],
        "sprites": [(name, on_gray(sprite)) for name, sprite in sprites if min(sprite.size) >= MIN_SPRITE],
    }
    for kind, images in kinds.items():
        (out / kind).mkdir(parents=True, exist_ok=True)
        for name, image in images:
            stem = name.replace("\\", "_")  # a backslash is the name of a frame
            image.save(out / kind / f"{stem}.png")
        print(f"{len(images):,} {kind} in {out / kind}")


def is_opaque(image: Image.Image) -> bool:
    """Return whether every pixel is painted."""
    colors = image.getcolors(image.width * image.height)
    assert colors is not None
    return TRANSPARENT not in [color for _, color in colors]


def pieces(name: str, image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """Yield the squares of SIDE that an image holds side by side, and a name for each."""
    for top in range(0, image.height - SIDE + 1, SIDE):
        for left in range(0, image.width - SIDE + 1, SIDE):
            yield f"{name}-{left}-{top}", image.crop((left, top, left + SIDE, top + SIDE))


def on_gray(image: Image.Image) -> Image.Image:
    """Return a figure in the middle of a gray square."""
    side = max(image.size)
    page = Image.new("RGB", (side, side), TRANSPARENT)
    page.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    pixels = np.array(page)  # [side, side, 3]
    pixels[(pixels == TRANSPARENT).all(2)] = GRAY
    return Image.fromarray(pixels)


if __name__ == "__main__":
    main()
