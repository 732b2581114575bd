"""Write vectors.json: images that every program of this folder must reproduce, up to one gray level.

python examples/write_vectors.py

digits.onnx, beside it, is what `gan-plugin train --recipe r3gan --width 64 --epochs 100` made of the built-in digits.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pandas as pd

from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.requests import read_request

HERE = Path(__file__).parent
ROWS: list[dict[str, object]] = [
    {"seed": 0},
    {"seed": 7},
    {"seed": 123_456_789},
    {"seed": 2**32},
    {"seed": 2**53 - 1},
    {"seed": 7, "label": 3},
    {"seed": 8, "label": 0},
    {"seed": 7, "truncation": 1.0},
    {"seed": 3, "label": 5, "truncation": 0.4},
    {"seed": 11, "to_seed": 12, "position": 0.0},
    {"seed": 11, "to_seed": 12, "position": 0.25},
    {"seed": 11, "to_seed": 12, "position": 1.0},
    {"seed": 5, "to_seed": 2**40, "position": 0.5, "label": 9, "truncation": 0.8},
]
FIELDS = ("seed", "label", "truncation", "to_seed", "position")


def main() -> None:
    generator = OnnxGenerator(HERE / "digits.onnx", "cpu")
    images = []
    for row in ROWS:
        request = read_request(pd.DataFrame([row]), generator.description, max_rows=1)
        (image,) = generator.generate(request.z, request.labels)
        values = {name: row.get(name) for name in FIELDS}
        images.append({**values, "image": base64.b64encode(image.tobytes()).decode("ascii")})
    lines = ",\n".join(json.dumps(image) for image in images)
    (HERE / "vectors.json").write_text(f'{{"images": [\n{lines}\n]}}\n', "utf-8")


if __name__ == "__main__":
    main()
