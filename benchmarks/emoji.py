"""The folder of the speedrun's emoji: 1,601 pictures in color, by group, without flags and skin tones, on white.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf lobehub-fluent-emoji-3d-*.tgz
    apt-get install unicode-data
    python benchmarks/emoji.py package/assets emoji

The package is under the MIT license.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from PIL import Image

ORDER = "/usr/share/unicode/emoji/emoji-test.txt"  # names the group of each emoji
SKIN_TONES = {f"1F3F{digit}" for digit in "BCDEF"}
LEFT_OUT = ("flags", "component")
SIDE = 72  # pixels


def grouped(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield group and code points of each emoji of the Unicode Consortium's list."""
    group = ""
    for line in text.splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip().lower().replace(" & ", "-").replace(" ", "-")
        elif ";" in line and not line.startswith("#"):
            yield group, line.partition(";")[0].split()


@click.command()
@click.argument("assets", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--order", default=ORDER, show_default=True, type=click.Path(exists=True, path_type=Path))
def main(assets: Path, out: Path, order: Path) -> None:
    """Write the emoji in ASSETS to OUT, a folder for each group."""
    files, written = {path.stem.lower(): path for path in assets.iterdir()}, set()
    for group, points in grouped(order.read_text("utf-8")):
        if group in LEFT_OUT or SKIN_TONES & set(points):
            continue
        names = ("-".join(points).lower(), "-".join(point for point in points if point != "FE0F").lower())
        name = next((name for name in names if name in files and name not in written), None)
        if name is None:
            continue
        written.add(name)
        emoji = Image.open(files[name]).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        page = Image.new("RGBA", emoji.size, "white")
        page.alpha_composite(emoji)
        (out / group).mkdir(parents=True, exist_ok=True)
        page.convert("RGB").save(out / group / f"{name}.png")
    print(f"{len(written):,} emoji in {out}")


if __name__ == "__main__":
    main()
