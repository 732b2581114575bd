"""The cache folder, and files that appear in it whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from helpers import PATIENCE_S, refusal

from gan_plugin.features.cache import cache_folder
from gan_plugin.storage import write_atomically


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
    assert all(folder.is_dir() for folder in folders)


def test_a_cache_folder_that_cannot_be_created_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAN_PLUGIN_CACHE", str(tmp_path / "file/cache"))
    message = refusal(cache_folder)
    assert str(tmp_path / "file/cache") in message
    assert "GAN_PLUGIN_CACHE" in message


def test_a_cache_folder_without_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write everywhere
    assert "no permission" in refusal(cache_folder)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder/file"
    write_atomically(path, lambda partial: partial.write_text("old") and None)

    def fail(partial: Path) -> None:
        partial.write_text("ne")
        assert path.read_text() == "old"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_two_writers_at_once_both_succeed(tmp_path: Path) -> None:
    path, both, failures = tmp_path / "file", threading.Barrier(2, timeout=PATIENCE_S), []

    def write(text: str) -> None:
        def fill(partial: Path) -> None:
            partial.write_text(text)
            both.wait()  # both are half-written now
            assert partial.read_text() == text

        try:
            write_atomically(path, fill)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert path.read_text() in ("one", "other")
    assert list(tmp_path.iterdir()) == [path]


def test_a_cached_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", lambda partial: partial.write_text("shared") and None)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
