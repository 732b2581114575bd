"""Fixtures for tests of feature networks: an empty cache, a package in the form of torch-fidelity, short training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_plugin.features import classifier_training


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the classifier for three steps."""
    monkeypatch.setattr(classifier_training, "MIN_STEPS", 3)
    monkeypatch.setattr(classifier_training, "MAX_STEPS", 3)
    monkeypatch.setattr(classifier_training, "BATCH", 16)


FAKE_EXTRACTOR = """
import torch

class FeatureExtractorInceptionV3(torch.nn.Module):
    \"\"\"Like the real one it unpickles its weights file, and takes uint8 [B, 3, H, W].\"\"\"

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.scale = torch.nn.Parameter(torch.zeros(3))
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))
        self.batches = []

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        self.batches.append(len(x))
        features = x.float().mean((2, 3)) @ torch.diag(self.scale)
        return features, 2 * features
"""


@pytest.fixture
def fake_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a package with torch-fidelity's interface on the path, to test all but the network itself without it."""
    package = tmp_path / "fake/torch_fidelity"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "feature_extractor_inceptionv3.py").write_text(FAKE_EXTRACTOR)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        del sys.modules[name]
