"""The explorer: a page in one HTML file in which a person looks around in a generator, without a server or a network.

``explorer.html`` is built from ``examples/web``, where its sources and its description are.
"""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path

from gan_plugin.errors import UserError
from gan_plugin.sampling import load_file

PLACE_OF_MODEL = '<script type="application/octet-stream" id="model">'


def write_page(onnx_file: Path, out: Path) -> None:
    """Write the explorer with the generator of ``onnx_file`` in it to ``out``: open the file in a browser.

    Raises:
        UserError: the file holds no generator, or ``out`` cannot be written.
    """
    load_file(onnx_file, "cpu")  # the page would refuse what this refuses, when nobody is at the command line any more
    page = resources.files("gan_plugin.explorer").joinpath("explorer.html").read_text("utf-8")
    before, after = page.split(PLACE_OF_MODEL)
    model = base64.b64encode(onnx_file.read_bytes()).decode("ascii")
    try:
        out.write_text(before + PLACE_OF_MODEL + model + after, "utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"out={str(out)!r} cannot be written: {error.strerror}.") from error
