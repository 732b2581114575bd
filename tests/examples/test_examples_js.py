"""The examples in JavaScript, each run as its README says, and the explorer's page with a generator in it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from encoders import export_autoencoder, images_of
from generators import TALL, assert_corners, export_corners
from helpers import CHROMIUM, PATIENCE_S, ROOT, need_program, refusal
from PIL import Image

from gan_plugin.data import load_dataset
from gan_plugin.explorer import write_page
from gan_plugin.seeds import default_labels, latents

DIGITS = ROOT / "examples" / "digits.onnx"
PAGE = ROOT / "gan_plugin" / "explorer" / "explorer.html"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples use of this project, as a fresh clone has it."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", root / "examples", ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(ROOT / "tests" / "vectors", root / "tests" / "vectors")
    shutil.copytree(PAGE.parent, root / "gan_plugin" / "explorer")
    return root


def run(folder: Path, *words: object) -> None:
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def installed(checkout: Path, example: str) -> Path:
    """The example's folder with its packages."""
    need_program("npm")
    folder = checkout / "examples" / example
    if not (folder / "node_modules").exists():
        run(folder, "npm", "ci", "--no-audit", "--no-fund")
    return folder


@pytest.mark.parametrize("example", ["node", "web"])
def test_an_example_passes_its_own_tests(example: str, checkout: Path) -> None:
    """Those of the page include that the built page is what its sources make."""
    if example == "web":
        need_program(CHROMIUM)
    run(installed(checkout, example), "npm", "test")


def test_a_sheet_of_images_that_are_higher_than_wide(checkout: Path, tmp_path: Path) -> None:
    onnx_file, sheet = export_corners(tmp_path / "corners.onnx"), tmp_path / "sheet.png"
    seeds = [word for seed in range(3) for word in ("--seed", seed)]
    run(installed(checkout, "node"), "node", "generate.mjs", onnx_file, *seeds, "--out", sheet)
    height, width, _ = TALL.shape
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape == (2 * height, 2 * width, 3)
    for top, left in ((0, 0), (0, width), (height, 0)):
        assert_corners(pixels[top : top + height, left : left + width])


# prints what a file makes of inputs, by name as [type, shape, values], on the runtime of an example
RUN_FILE = """
import { readFileSync } from "node:fs";
const ort = await import(process.argv[2]);
if (ort.env.wasm) ort.env.wasm.numThreads = 1;
const { inputs } = JSON.parse(readFileSync(process.argv[4], "utf8"));
const arrays = { float32: Float32Array, int64: BigInt64Array, uint8: Uint8Array };
const feeds = Object.fromEntries(Object.entries(inputs).map(([name, [type, shape, values]]) =>
  [name, new ort.Tensor(type, arrays[type].from(values, type === "int64" ? BigInt : Number), shape)]));
const session = await ort.InferenceSession.create(readFileSync(process.argv[3]));
const outputs = await session.run(feeds);
console.log(JSON.stringify(Object.fromEntries(Object.entries(outputs).map(([name, tensor]) =>
  [name, Array.from(tensor.data, Number)]))));
"""


@pytest.mark.parametrize(("example", "package"), [("node", "onnxruntime-node"), ("web", "onnxruntime-web")])
def test_an_autoencoders_files_run_elsewhere(example: str, package: str, checkout: Path, tmp_path: Path) -> None:
    """Natively and in WebAssembly: the encoder's z, and the decoder's images with the mixture in the graph."""
    digits = load_dataset("digits", image_size=16).take(torch.arange(200))
    files, images = export_autoencoder(digits, tmp_path), images_of(digits, 5)
    generator = files.open()
    assert generator.encoder is not None
    encoded = generator.encoder.encode(images)
    folder = installed(checkout, example)
    (folder / "run_file.mjs").write_text(RUN_FILE, "utf-8")

    def outputs(file: Path, **inputs: npt.NDArray[Any]) -> dict[str, list[float]]:
        values = {name: [str(x.dtype), list(x.shape), x.flatten().tolist()] for name, x in inputs.items()}
        (tmp_path / "inputs.json").write_text(json.dumps({"inputs": values}))
        words = ["node", "run_file.mjs", package, str(file), str(tmp_path / "inputs.json")]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        content: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
        return content

    of_encoder = outputs(files.encoder, image=images)
    assert encoded.logits is not None
    assert encoded.labels is not None
    np.testing.assert_allclose(of_encoder["z"], encoded.z.flatten(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(of_encoder["class_logits"], encoded.logits.flatten(), rtol=1e-3, atol=1e-4)
    for z, labels in ((encoded.z, encoded.labels), (latents(range(20), 9), default_labels(range(20), 10))):
        expected = generator.generate(z, labels).flatten().astype(int)
        assert np.abs(np.array(outputs(files.generator, z=z, label=labels)["image"]) - expected).max() <= 1


def test_the_page_with_a_generator_in_it(tmp_path: Path) -> None:
    """It differs from the page without one by the file's bytes, in the element from which the page reads them."""
    write_page(DIGITS, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    before, after = page.split('id="model">')
    model, after = after.split("<", 1)
    assert base64.b64decode(model) == DIGITS.read_bytes()
    assert f'{before}id="model"><{after}' == PAGE.read_text("utf-8")


def test_no_page_is_written_for_a_file_that_is_no_generator(tmp_path: Path) -> None:
    text, foreign, out = tmp_path / "text.onnx", tmp_path / "foreign.onnx", tmp_path / "page.html"
    text.write_text("no model", "utf-8")
    model = onnx.load(DIGITS)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    assert refusal(lambda: write_page(text, out)).startswith(f"onnx='{text}' cannot be opened: ")
    assert refusal(lambda: write_page(foreign, out)).startswith("This ONNX file is not a generator of gan_plugin: ")
    assert not out.exists()
    within = tmp_path / "nowhere" / "page.html"
    assert (
        refusal(lambda: write_page(DIGITS, within)) == f"out='{within}' cannot be written: No such file or directory."
    )


def test_no_file_of_the_examples_names_a_registry() -> None:
    """A lock file that names the registry of whoever wrote it would send everybody there."""
    for example in ("node", "web"):
        assert '"resolved"' not in (ROOT / "examples" / example / "package-lock.json").read_text("utf-8")
