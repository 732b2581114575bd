"""The cache folder, and files that appear in it whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from helpers import refusal

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
