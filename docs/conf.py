"""The site. ``sphinx-build -W -j auto -b html docs docs/_build/html`` builds it and runs its notebooks, offline."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import gan_plugin

project = "gan_plugin"
release = gan_plugin.__version__
extensions = ["myst_nb"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"gan_plugin {release}"
html_copy_source = False
myst_heading_anchors = 3

nb_execution_mode = "force"  # a cache knows the notebooks, not the package that they run
nb_execution_in_temp = True
nb_execution_timeout = 1200  # seconds a cell
nb_execution_show_tb = True  # of a cell that fails, which is a warning, and so an error with -W
nb_merge_streams = True
nb_output_stderr = "remove"  # MLflow's log; an exception ends the build anyway

# Notebooks log to a new SQLite file in a temporary folder, never to the server of whoever builds the site.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # -j runs a notebook on each core

LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
IMPORTED = re.compile(r"(?:@import\s+|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)")


def refuse_remote_resources(app: Sphinx, error: Exception | None) -> None:
    """Fail where a built page would load a script, style, font or image from another host."""
    if error is not None or app.builder.format != "html":
        return
    for pattern, suffix in ((LOADED, ".html"), (IMPORTED, ".css")):
        for path in Path(app.outdir).rglob(f"*{suffix}"):
            if match := pattern.search(path.read_text("utf-8")):
                raise ExtensionError(f"{path.name} would load {match[1]}: readers may have no network.")


def setup(app: Sphinx) -> None:
    app.connect("build-finished", refuse_remote_resources)
