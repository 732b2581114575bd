"""The choice of a feature network, and what is refused before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from features_helpers import CPU, noise, noisy_dataset
from helpers import refusal

from gan_plugin.errors import UserError
from gan_plugin.features import LOADERS, Loader, Outputs, choose_features, choose_quick_features, load_network
from gan_plugin.media.image import Images


def without_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)


def test_labels_decide_what_auto_means(fake_torch_fidelity: Path) -> None:
    assert choose_features(None, labeled=True) == "classifier"
    assert choose_features(None, labeled=False) == "self-supervised"
    assert choose_quick_features(None, labeled=True) == "classifier"
    assert choose_quick_features(None, labeled=False) == "rotation"
    for choose in (choose_features, choose_quick_features):
        assert choose("inception", labeled=True) == "inception"


def test_a_classifier_needs_labels() -> None:
    assert "features=inception or features=onnx:PATH" in refusal(lambda: choose_features("classifier", labeled=False))
    dataset = noisy_dataset(labeled=False)
    assert "noise has none" in refusal(lambda: load_network("classifier", dataset, CPU))


@pytest.mark.parametrize("name", ["", "dino", "onnx", "Classifier", "onnx.onnx", "classifier:x", ":"])
def test_an_unknown_network_is_refused(name: str) -> None:
    for message in (
        refusal(lambda: choose_features(name, labeled=True)),
        refusal(lambda: load_network(name, noisy_dataset(), CPU)),
    ):
        assert (
            f"features={name!r} is unknown: give one of classifier, self-supervised, rotation, inception, onnx:PATH."
            in message
        )


def test_a_line_in_the_table_adds_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here "mean:N" with N features, each the mean of the image; it refuses 0 before any work."""

    class Mean:
        name, digest, resize = "mean", "0" * 32, "none"

        def __init__(self, count: int) -> None:
            self.count = count

        def __call__(self, images: Images) -> Outputs:
            return Outputs(torch.from_numpy(images.mean((1, 2, 3))).float()[:, None].expand(-1, self.count), None)

    def check(argument: str, labeled: bool) -> None:
        if argument == "0":
            raise UserError("features=mean:0 has no features.")

    monkeypatch.setitem(LOADERS, "mean:", Loader(check, lambda argument, *_: Mean(int(argument))))
    assert choose_features("mean:3", labeled=False) == "mean:3"
    assert "no features" in refusal(lambda: choose_features("mean:0", labeled=False))
    assert load_network("mean:3", noisy_dataset(), CPU)(noise(4, 16, 16, 1)).features.shape == (4, 3)
    assert "mean:PATH" in refusal(lambda: choose_features("dino", labeled=True))


def test_inception_without_its_extra_is_refused_with_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    without_torch_fidelity(monkeypatch)
    for call in (
        lambda: choose_features("inception", labeled=True),
        lambda: load_network("inception", noisy_dataset(), CPU),
    ):
        message = refusal(call)
        assert "pip install 'gan_plugin[inception]'" in message
        assert "features=classifier" in message


def test_a_torchvision_that_does_not_fit_is_named(fake_torch_fidelity: Path) -> None:
    (fake_torch_fidelity / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    message = refusal(lambda: choose_features("inception", labeled=True))
    assert "torchvision::nms does not exist" in message
    assert torch.__version__ in message


def test_a_missing_onnx_file_is_refused_before_any_work(tmp_path: Path) -> None:
    assert f"{tmp_path}/no.onnx does not exist" in refusal(lambda: choose_features(f"onnx:{tmp_path}/no.onnx", True))
    assert "holds 0 ONNX files" in refusal(lambda: choose_features(f"onnx:{tmp_path}", True))
    assert choose_features("onnx:models:/name/1", labeled=False) == "onnx:models:/name/1"


def test_feature_networks_import_neither_mlflow_nor_click() -> None:
    modules = ["", ".cache", ".classifier_store", ".self_supervised_training", ".inception", ".onnx_network"]
    code = "import sys; " + "; ".join(f"import gan_plugin.features{name}" for name in modules)
    code += "; print([name for name in ('mlflow', 'click', 'onnx', 'torch_fidelity') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
