"""The little that training knows of the place where its results go. Imports no MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gan_plugin.media.image import Image


class Tracker(Protocol):
    """Takes in a run's metrics, images and files. No call may raise, or block for long: the loop waits for it."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of one step."""

    def image(self, key: str, image: Image, step: int) -> None:
        """Log an image, one of a series under ``key``."""

    def file(self, path: Path, folder: str) -> None:
        """Keep a copy of a file in a folder of the run."""

    def note(self, key: str, text: str) -> None:
        """Keep a sentence about the run."""


class Silent:
    """A tracker that keeps nothing: that of processes beside the one that logs."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log nothing."""

    def image(self, key: str, image: Image, step: int) -> None:
        """Log nothing."""

    def file(self, path: Path, folder: str) -> None:
        """Keep nothing."""

    def note(self, key: str, text: str) -> None:
        """Keep nothing."""
