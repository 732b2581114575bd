"""Files that are whole or not there, on file systems that are full, shared, or hold what a killed process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gan_plugin.storage import DamagedFileError, load_tensors, save_tensors, write_atomically

TENSORS = {
    "weights": torch.arange(12, dtype=torch.float32).reshape(3, 4).t(),  # not contiguous
    "half": torch.ones(3, dtype=torch.bfloat16),
    "flag": torch.tensor(True),
    "empty": torch.zeros(0, 3, dtype=torch.int64),
}
HEADER = {"name": "é", "steps": 3}


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    save_tensors(path, TENSORS, HEADER)
    tensors, header = load_tensors(path)
    assert header == HEADER
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_tensors(path, TENSORS, HEADER)
    intact = path.read_bytes()
    for place in range(len(intact)):
        flipped = bytes([intact[place] ^ (1 << place % 8)])
        for damaged in (intact[:place] + flipped + intact[place + 1 :], intact[:place]):
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError) as caught:
                load_tensors(path)
            assert not str(caught.value).endswith(".")
            assert "\n" not in str(caught.value)


def test_what_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DamagedFileError, match="not a regular file"):
            load_tensors(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder/file"
    write_atomically(path, text("old"))

    def fail(partial: Path) -> None:
        partial.write_text("ne")
        assert path.read_text() == "old"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert names(path.parent) == ["file"]


def test_a_file_system_that_is_full_leaves_the_old_file(tmp_path: Path) -> None:
    """The limit on a file's size refuses a write as a full disk does, without one."""
    program = """
import errno, resource, signal, sys, torch
from pathlib import Path
from gan_plugin.storage import load_tensors, save_tensors
path = Path(sys.argv[1])
save_tensors(path, {"x": torch.zeros(10)}, {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    save_tensors(path, {"x": torch.zeros(10_000)}, {})
except OSError as error:
    print(errno.errorcode[error.errno], error.filename == str(path))
    print(len(load_tensors(path)[0]["x"]), [file.name for file in path.parent.iterdir()])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "file"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "EFBIG True\n10 ['file']"


def test_two_writers_at_once_both_succeed(tmp_path: Path) -> None:
    path, both, failures = tmp_path / "file", threading.Barrier(2, timeout=20), []

    def write(content: str) -> None:
        def fill(partial: Path) -> None:
            partial.write_text(content)
            both.wait()  # both are half-written now
            assert partial.read_text() == content

        try:
            write_atomically(path, fill)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert path.read_text() in ("one", "other")
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_meets_a_mixture_while_a_file_is_replaced(tmp_path: Path) -> None:
    path, stop = tmp_path / "file", threading.Event()
    save_tensors(path, {"x": torch.zeros(1000)}, {"value": 0})

    def replace_often() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            save_tensors(path, {"x": torch.full((1000,), float(value))}, {"value": value})

    writer = threading.Thread(target=replace_often)
    writer.start()
    try:
        for _ in range(1500):
            tensors, header = load_tensors(path)
            assert bool((tensors["x"] == header["value"]).all())
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_has_the_permissions_of_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "text", text("shared"))
        save_tensors(tmp_path / "tensors", TENSORS, HEADER)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def write_for_ever(folder: Path) -> subprocess.Popen[str]:
    """Start a process that writes a file and never finishes."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom gan_plugin.storage import write_atomically\n"
        "def fill(path):\n    path.write_text('half')\n    print('writing', flush=True)\n    time.sleep(600)\n"
        "write_atomically(Path(sys.argv[1]) / 'file', fill)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    process = write_for_ever(tmp_path)
    try:
        write_atomically(tmp_path / "other", text("1"))
        assert len(names(tmp_path)) == 2  # its process lives and is still writing
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        assert len(names(tmp_path)) == 2
        write_atomically(tmp_path / "other", text("2"))
        assert names(tmp_path) == ["other"]
    finally:
        process.kill()
        process.wait(20)


def test_what_other_machines_left_goes_after_a_day(tmp_path: Path) -> None:
    old = time.time() - 25 * 3600
    kept = {"file.partial": old, "notes.txt": old, f"x.0123abcd-1-1700000000.{'0' * 32}.partial": time.time()}
    removed = {f"x.0123abcd-1-1700000000.{'1' * 32}.partial": old, f"x.{'2' * 32}.partial": old}
    for name, modified in {**kept, **removed}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (modified, modified))
    write_atomically(tmp_path / "new", text("1"))
    assert names(tmp_path) == sorted([*kept, "new"])
