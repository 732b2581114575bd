"""Inception: its weights, fetched and checked, and its input."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from features_helpers import CPU, noise, noisy_dataset
from helpers import refusal
from torch import nn

from gan_plugin.features import inception, load_network
from gan_plugin.features.inception import fetch_inception, load_inception


def weights_file(path: Path, content: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"scale": torch.tensor([1.0, 2.0, 3.0])} if content is None else content, path)
    return path


class Trap:
    """Unpickling one makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@contextmanager
def answering(answer: bytes, status: int = 200, claimed: int | None = None) -> Iterator[str]:
    """A server on the loopback that sends ``answer`` with a Content-Length of ``claimed``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer) if claimed is None else claimed))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{inception.FILE_NAME}"
        finally:
            server.shutdown()
            thread.join()


UNREACHABLE = f"http://127.0.0.1:9/{inception.FILE_NAME}"
ALTERNATIVES = ("inception_weights=PATH", "`gan-plugin fetch inception`", "features=classifier", "features=onnx:PATH")


def test_the_official_files_name_holds_its_checksum() -> None:
    assert inception.FILE_NAME == "weights-inception-2015-12-05-6726825d.pth"
    assert inception.SHA256_START in inception.FILE_NAME


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_an_unreachable_host_is_one_sentence(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(inception, "URL", UNREACHABLE)
    for call in (fetch_inception, lambda: load_network("inception", noisy_dataset(), CPU)):
        message = refusal(call)
        assert UNREACHABLE in message
        assert "refused" in message
        assert all(text in message for text in ALTERNATIVES)
    assert list(cache.iterdir()) == []


def test_a_download_is_checked_and_found_from_then_on(
    fake_torch_fidelity: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    content = weights_file(tmp_path / "good").read_bytes()
    monkeypatch.setattr(inception, "SHA256_START", hashlib.sha256(content).hexdigest()[:8])
    with answering(content) as url:
        monkeypatch.setattr(inception, "URL", url)
        path = fetch_inception()
        assert path == cache / inception.FILE_NAME
        path.write_bytes(b"damaged")
        assert fetch_inception() == path  # fetched again
        assert path.read_bytes() == content
        assert fetch_inception(tmp_path / "folder/copy.pth").read_bytes() == content
        assert fetch_inception(tmp_path) == tmp_path / inception.FILE_NAME
    monkeypatch.setattr(inception, "URL", UNREACHABLE)
    assert fetch_inception() == path  # nothing to fetch
    assert load_network("inception", noisy_dataset(), CPU).name == "inception"


@pytest.mark.parametrize(
    ("answer", "status", "claimed", "expected"),
    [
        (b"<html>a login page</html>", 200, None, "SHA-256"),
        (b"", 404, None, "Not Found"),
        (b"half of it", 200, 20, "IncompleteRead"),
    ],
)
def test_a_download_that_is_not_the_file_leaves_nothing(
    answer: bytes, status: int, claimed: int | None, expected: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    with answering(answer, status, claimed) as url:
        monkeypatch.setattr(inception, "URL", url)
        message = refusal(fetch_inception)
    assert expected in message
    assert all(text in message for text in ALTERNATIVES)
    assert list(cache.iterdir()) == []


def test_a_path_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(inception, "URL", UNREACHABLE)
    assert f"{tmp_path}/file/weights.pth" in refusal(lambda: fetch_inception(tmp_path / "file/weights.pth"))


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_weights_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    monkeypatch.setattr(inception, "URL", UNREACHABLE)
    monkeypatch.setattr(inception, "has_checksum", lambda content: True)
    paths = [tmp_path / "torch/hub/checkpoints" / inception.FILE_NAME, cache / inception.FILE_NAME, tmp_path / "mine"]
    digests = []
    for number, path in enumerate(paths):  # from the last resort to the first
        weights_file(path, {"scale": torch.full((3,), float(number))})
        network = load_inception(paths[2] if number == 2 else None, CPU)
        assert network(noise(1, 4, 4, 3)).features.mean().round() / 128 == pytest.approx(number, abs=0.5)
        digests.append(network.digest)
    assert len(set(digests)) == 3


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_a_path_that_is_no_file_is_refused_though_the_cache_has_one(tmp_path: Path, cache: Path) -> None:
    weights_file(cache / inception.FILE_NAME)
    message = refusal(lambda: load_inception(tmp_path / "no.pth", CPU))
    assert "no.pth' is not a file" in message
    assert all(text in message for text in ALTERNATIVES)


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_a_file_of_the_official_name_must_have_its_checksum(cache: Path, tmp_path: Path) -> None:
    own = weights_file(tmp_path / "own.pth")
    assert load_inception(own, CPU).name == "inception"  # other names are not checked
    weights_file(cache / inception.FILE_NAME)
    message = refusal(lambda: load_inception(None, CPU))
    assert str(cache / inception.FILE_NAME) in message
    assert "6726825d" in message


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_no_code_in_a_weights_file_is_run(tmp_path: Path) -> None:
    trap = weights_file(tmp_path / "trap.pth", {"scale": torch.ones(3), "trap": Trap(tmp_path / "triggered")})
    message = refusal(lambda: load_inception(trap, CPU))
    assert "runs code" in message
    assert all(text in message for text in ALTERNATIVES)
    assert not (tmp_path / "triggered").exists()
    torch.load(trap, weights_only=False)
    assert (tmp_path / "triggered").exists()  # the trap works


@pytest.mark.usefixtures("fake_torch_fidelity")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no PyTorch weights file"),
        (b"\x89PNG not weights at all", "no PyTorch weights file"),
        ({"other": torch.ones(3)}, "another network"),
        ({"scale": torch.ones(4)}, "another network"),
        ([torch.ones(3)], "named tensors"),
        ({"scale": 3}, "named tensors"),
    ],
)
def test_files_without_these_weights_are_refused(content: object, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    message = refusal(lambda: load_inception(path, CPU))
    assert expected in message
    assert str(path) in message
    assert all(text in message for text in ALTERNATIVES)


@pytest.mark.usefixtures("fake_torch_fidelity")
def test_inception_gets_rgb_in_small_batches(tmp_path: Path) -> None:
    network = load_inception(weights_file(tmp_path / "own.pth"), CPU)
    images = noise(70, 8, 8, 3)
    features, logits = network(images)
    expected = images.mean((1, 2)) * [1, 2, 3]
    assert np.allclose(features, expected, rtol=1e-5)
    assert logits is not None
    assert np.allclose(logits, 2 * expected, rtol=1e-5)
    assert network.network.batches == [32, 32, 6]
    gray = network(images[..., :1]).features
    assert np.allclose(gray, images[..., 0].mean((1, 2))[:, None] * [1, 2, 3], rtol=1e-5)
    assert "299x299" in network.resize


def test_the_real_inception(tmp_path: Path) -> None:
    """Random weights, since the real ones cannot be had everywhere; the arithmetic is torch-fidelity's own."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as module
    except Exception as error:  # a torchvision for another torch fails with almost anything
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
    assert module.URL_INCEPTION_V3 == inception.URL

    class Untrained(module.FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: object) -> None:
            torch.manual_seed(0)
            for weight in self.parameters():
                if weight.dim() > 1:
                    nn.init.kaiming_normal_(weight)

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    untrained = Untrained("untrained", ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)
    network = load_inception(weights_file(tmp_path / "random.pth", untrained.state_dict()), CPU)
    images = noise(2, 32, 32, 3)
    features, logits = network(images)
    expected = untrained(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert features.shape == (2, 2048)
    assert logits is not None
    assert logits.shape == (2, 1008)
    assert torch.equal(features, expected[0])
    assert torch.equal(logits, expected[1])
    assert not torch.equal(features[0], features[1])
