"""The explorer: one HTML file that shows a generator's images in a browser, without a server or a network.

``explorer.html`` is built from ``examples/web``, which has its sources and a description.
"""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path

from gan_plugin.errors import UserError
from gan_plugin.sampling import load_generator

MODEL_TAG = '<script type="application/octet-stream" id="model">'


def write_page(onnx_file: Path, out: Path) -> None:
    """Write the explorer to ``out``, with the generator of ``onnx_file`` inside, to be opened in a browser.

    Raises:
        UserError: the file is not a generator of images, or ``out`` cannot be written.
    """
    load_generator(None, onnx_file, "cpu")  # refuse here, at the command line, what the page would refuse later
    page = resources.files("gan_plugin.explorer").joinpath("explorer.html").read_text("utf-8")
    before, after = page.split(MODEL_TAG)
    model = base64.b64encode(onnx_file.read_bytes()).decode("ascii")
    try:
        out.write_text(before + MODEL_TAG + model + after, "utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"out={str(out)!r} cannot be written: {error.strerror}.") from error
