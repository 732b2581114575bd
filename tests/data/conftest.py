"""A folder of images that several files test with."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_helpers import noise, save


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Five images in two classes, one of them nested deeper."""
    root = tmp_path / "pets"
    for seed, name in enumerate(["dog/b.png", "dog/a.png", "cat/x.png", "cat/deeper/still/y.PNG", "cat/z.png"]):
        save(noise(seed), root / name)
    return root
