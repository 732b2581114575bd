"""The cache folder: which it is, shared with others, damaged, and where it cannot be written."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from features_helpers import CPU, noisy_dataset
from helpers import need_root

from gan_plugin.features import cache as cache_module
from gan_plugin.features.cache import Content, cache_folder, cached
from gan_plugin.features.classifier import Classifier
from gan_plugin.features.classifier_store import classifier_of
from gan_plugin.features.store import load_trained, network_file


@pytest.fixture(autouse=True)
def warnings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a new process warns of."""
    monkeypatch.setattr(cache_module, "_in_memory", {})
    monkeypatch.setattr(cache_module, "_warnings", set())
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("mlflow.gan_plugin")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


class Counted:
    """What a cache is asked for: a tensor, and how often it was computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Content:
        self.calls += 1
        return {"x": torch.arange(1000.0)}, {}

    def get(self, name: str = "numbers") -> Path | None:
        value, path = cached(name, self, lambda content: content[0]["x"])
        assert torch.equal(value, torch.arange(1000.0))
        return path


def test_the_cache_folder_is_the_first_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folders = [cache_folder()]
    for name in ("GAN_PLUGIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
        folders.append(cache_folder())
    assert folders == [tmp_path / "own", tmp_path / "shared/gan_plugin", tmp_path / "home/.cache/gan_plugin"]


def test_a_damaged_file_is_replaced_with_a_warning(cache: Path, warnings: list[str]) -> None:
    path = Counted().get()
    assert path == cache / "numbers.safetensors"
    intact = path.read_bytes()
    path.write_bytes(intact[:-7] + bytes([intact[-7] ^ 8]) + intact[-6:])
    counted = Counted()
    assert counted.get() == path
    assert counted.calls == 1
    assert warnings == [f"{path} was damaged (its content is not what was written) and has been computed again."]
    assert (counted.get(), counted.calls) == (path, 1)


def test_a_good_file_is_never_replaced(cache: Path) -> None:
    first = Counted()

    def overtaken() -> Content:
        assert first.get() is not None  # another process writes the file meanwhile
        return {"x": torch.zeros(3)}, {}

    value, path = cached("numbers", overtaken, lambda content: content[0]["x"])
    assert path is not None
    assert len(value) == 1000
    written = path.stat()
    assert Counted().get() == path
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_folder_that_cannot_be_made_costs_one_warning(
    cache: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.touch()
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(cache / "inside"))
    counted = Counted()
    assert [counted.get(), counted.get(), counted.get("others")] == [None, None, None]
    assert counted.calls == 2  # and not three times
    assert warnings == [
        f"The cache folder {cache / 'inside'} cannot be written (Not a directory): what belongs there is computed "
        "again by every process; set GAN_PLUGIN_CACHE to a folder that can."
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    need_root()
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("obstacle", ["full", "read-only"])
def test_a_full_or_read_only_disk_costs_one_warning(
    obstacle: str, small_disk: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(small_disk))
    if obstacle == "full":
        (small_disk / "ballast").write_bytes(bytes(48 * 1024))
    else:
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    before = sorted(small_disk.iterdir())
    dataset = noisy_dataset()
    classifier, path = classifier_of(dataset, CPU)
    assert path is None
    again, _ = classifier_of(dataset, CPU)
    assert again.digest == classifier.digest
    assert sorted(small_disk.iterdir()) == before
    with network_file(classifier) as file:  # what a run logs
        assert file.name == f"classifier-1-{dataset.digest}.safetensors"
        assert load_trained(Classifier, file, CPU).digest == classifier.digest
    reason = {"full": "No space left on device", "read-only": "Read-only file system"}[obstacle]
    (warning,) = warnings
    assert f"The cache folder {small_disk} cannot be written (" in warning
    assert reason in warning


AS_ANOTHER_USER = """
import logging, os, torch
from safetensors.torch import save
from gan_plugin.features.cache import cached
save({"x": torch.zeros(1)})  # has it import all of numpy, whose folder the other user may not be able to read
logging.basicConfig(level=logging.WARNING, format="%(message)s")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
calls = []
def compute():
    calls.append(1)
    return {"x": torch.arange(1000.0)}, {}
value, path = cached("numbers", compute, lambda content: content[0]["x"])
print(len(calls), path is not None, torch.equal(value, torch.arange(1000.0)))
"""


def test_a_folder_shared_by_users_as_tmp_is(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A good file of another user is read; a damaged one stays, and the work goes on with one warning."""
    need_root()
    folder = Path("/tmp") / f"gan-plugin-{tmp_path_factory.getbasetemp().name}-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o1777)
    environment = {**os.environ, "GAN_PLUGIN_CACHE": str(folder)}

    def as_another_user() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", AS_ANOTHER_USER]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    path = folder / "numbers.safetensors"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GAN_PLUGIN_CACHE", str(folder))
            assert Counted().get() == path
        done = as_another_user()
        assert (done.stdout, done.stderr) == ("0 True True\n", "")
        path.write_bytes(path.read_bytes()[:-1])
        done = as_another_user()
        assert done.stdout == "1 False True\n"
        assert done.stderr.startswith(f"{path} is damaged (it is no safetensors file, or cut: ")
        assert "and cannot be replaced (Operation not permitted): it was computed again for this process" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        path.chmod(0o600)
        done = as_another_user()
        assert done.stdout == "1 False True\n"
        assert "is damaged (it cannot be read: Permission denied" in done.stderr
        assert list(folder.iterdir()) == [path]
    finally:
        path.unlink(missing_ok=True)
        folder.rmdir()
