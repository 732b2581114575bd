"""What reading data may take: links in a circle, what is no regular file, and files that unpack to far more."""

from __future__ import annotations

import gzip
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from data_helpers import encoded, noise, save
from helpers import refusal
from PIL import Image

from gan_plugin.cores import control_groups
from gan_plugin.data import decode, limits, load_dataset, unpacked
from gan_plugin.data.files import list_files
from gan_plugin.data.limits import Budget, available_memory

LIMITS = ("memory.max", "memory.limit_in_bytes")  # of the two versions of control groups


def test_folders_that_link_to_each_other_are_read_once(tmp_path: Path) -> None:
    """Eight folders, each with links to all: more paths than can ever be listed."""
    root = tmp_path / "farm"
    for seed in range(8):
        save(noise(seed), root / f"{seed}/image.png")
        for other in range(8):
            (root / f"{seed}/to-{other}").symlink_to(root / f"{other}")
    start = time.perf_counter()
    dataset = load_dataset(str(root))
    assert time.perf_counter() - start < 5
    assert dataset.spec.class_names == tuple("01234567")
    assert len(dataset) == 8
    (note,) = [note for note in dataset.notes if note.startswith("Links to folders that are read anyway")]
    assert note.endswith("were passed over: 0/to-0, 0/to-1, 0/to-2, 0/to-3, 0/to-4, 0/to-5, 0/to-6, 0/to-7, 1/to-0, "
                         "1/to-1 and 54 more.")  # fmt: skip


def test_a_folder_counts_under_its_own_name_and_not_under_that_of_a_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "farm", tmp_path / "outside"
    for path in (root / "zebra/z.png", outside / "1.png", outside / "deeper/2.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "ant").symlink_to(root / "zebra")
    (root / "bee").symlink_to(outside)
    (root / "cow").symlink_to(outside / "deeper")
    (outside / "back").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    listing = list_files(root)
    assert listing.files == ["bee/1.png", "bee/deeper/2.png", "self", "zebra/z.png"]
    assert listing.repeated == ["ant", "bee/back", "cow"]


def test_pipes_sockets_and_devices_are_named_and_not_waited_for(tmp_path: Path) -> None:
    for seed in range(2):
        save(noise(seed), tmp_path / f"{seed}.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        directory = os.open(tmp_path, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{directory}/socket.png")  # a socket's path may not be long
        os.close(directory)
        message = refusal(lambda: load_dataset(str(tmp_path)))
        assert (
            f"3 of 5 images in {tmp_path} cannot be read: pipe.png (not a regular file), socket.png (not a regular "
            in (message)
        )
        assert "zeros.png (not a regular file); repair" in message
        assert len(load_dataset(str(tmp_path), skip_unreadable=True)) == 2


def test_a_pipe_in_place_of_parquet_or_of_its_image(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    os.mkfifo(tmp_path / "train.parquet")
    message = f"{tmp_path}/train.parquet is not a regular file: give parquet files."
    assert refusal(lambda: load_dataset(str(tmp_path))) == message
    cells = [{"bytes": encoded(noise(0)), "path": None}, {"bytes": None, "path": str(tmp_path / "train.parquet")}]
    pq.write_table(pa.table({"image": cells}), tmp_path / "x.parquet")
    assert "row 1 (not a regular file)" in refusal(lambda: load_dataset(str(tmp_path / "x.parquet")))


def write_bomb(path: Path, shape: tuple[int, int, int], size: int) -> None:
    """An IDX file of this shape whose gzip unpacks to ``size`` zeros."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, *shape))
        for _ in range(size // 2**20):
            file.write(bytes(2**20))


def test_a_gzip_is_unpacked_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_bomb(path, (10, 28, 28), 2**28)
    start = time.perf_counter()
    message = refusal(lambda: load_dataset(str(tmp_path)))
    assert time.perf_counter() - start < 1
    assert message == (
        f"{path} is truncated or has extra data: after its header there are at least 1,056,416 bytes, not the 7,840 of "
        "10x28x28 values."
    )


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_bomb(path, (2**32 - 1, 28, 28), 2**20)
    message = refusal(lambda: load_dataset(str(tmp_path)))
    assert message.startswith(f"{path} with 4294967295x28x28 values would take 3,367.3 GB of memory and ")
    assert message.endswith(" are free: give fewer or smaller images, or a machine with more memory.")


@pytest.mark.parametrize(
    ("limit", "used", "cache"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # of version 1
    ],
)
def test_the_memory_of_a_container_counts(tmp_path: Path, limit: str, used: str, cache: str) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    for group, most in ((outer, "2000000"), (inner, "1000000")):
        group.mkdir()
        (group / limit).write_text(f"{most}\n")
        (group / used).write_text("700000\n")
        (group / "memory.stat").write_text(f"anon 500000\n{cache} 100000\n")
    assert available_memory([inner, outer]) == 400_000
    (inner / limit).write_text(f"{2**63 - 4096}\n")  # as version 1 says that there is none
    assert available_memory([inner, outer]) == 1_400_000
    (outer / limit).write_text("max\n")
    assert available_memory([inner, outer]) > 2**20


def test_the_memory_of_a_real_control_group_counts() -> None:
    """Needs root and a control group that can be divided, as on a machine of one's own."""
    parent = next(control_groups("memory"), None)
    if parent is None:
        pytest.skip("there are no control groups")
    group = parent / f"test-limits-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        limit = next((path for path in map(group.joinpath, LIMITS) if path.exists()), None)
        if limit is None:
            pytest.skip("control groups limit no memory here")
        limit.write_text(str(2**30))
        program = "from gan_plugin.data.limits import available_memory; print(available_memory())"
        joined = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0'); {program}"
        done = subprocess.run([sys.executable, "-c", joined], capture_output=True, text=True, check=True)
        assert 2**29 < int(done.stdout) < 2**30
    finally:
        group.rmdir()


def test_images_are_decoded_together_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large images at most as many at a time as the budget holds, and each of them at last."""
    sizes, most, running, lock = (40, 40, 90, 40, 40, 90, 40, 40), 0, 0, threading.Lock()
    for index, side in enumerate(sizes):
        save(noise(index, side, side), tmp_path / f"{index}.png")
    real = decode.to_rgb

    def slowly(image: Image.Image) -> Image.Image:
        nonlocal most, running
        with lock:
            running += image.width**2
            most = max(most, running)
        time.sleep(0.02)
        rgb = real(image)
        with lock:
            running -= image.width**2
        return rgb

    monkeypatch.setattr(decode, "to_rgb", slowly)
    monkeypatch.setattr(decode, "decoding_budget", lambda: Budget(12 * 2 * 40**2))
    monkeypatch.setattr("gan_plugin.data.threads.BLOCK", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert len(load_dataset(str(tmp_path), image_size=16)) == len(sizes)
    assert most == 90**2  # alone; of the smaller ones two


def test_an_encoded_image_of_more_bytes_than_any_is_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for seed in range(2):
        save(noise(seed), tmp_path / f"images/{seed}.png")
    with (tmp_path / "images/2.png").open("wb") as file:
        file.truncate(limits.MAX_FILE_BYTES + 1)  # a hole, which takes no space
    message = refusal(lambda: load_dataset(str(tmp_path / "images")))
    assert "cannot be read: 2.png (its file has 0.5 GB, more than 0.5 GB); repair" in message
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", 10_000)
    pq.write_table(pa.table({"image": [encoded(noise(0)), bytes(10_001)]}), tmp_path / "x.parquet")
    assert "row 1 (its file has 0.0 GB" in refusal(lambda: load_dataset(str(tmp_path / "x.parquet")))


@pytest.mark.parametrize("dictionary", [True, False])
def test_parquet_that_unpacks_to_far_more(dictionary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    # one cell that no compression shrinks, stored once in a dictionary; or zeros, stored each time
    cell = np.random.default_rng(0).bytes(2**22) if dictionary else bytes(2**22)
    pq.write_table(pa.table({"image": [cell] * 24}), path, compression="zstd", use_dictionary=dictionary)
    assert path.stat().st_size < 5_000_000
    monkeypatch.setattr(unpacked, "available_memory", lambda: 2 * 90_000_000)
    message = refusal(lambda: load_dataset(str(path)))
    assert message.startswith(f"{path} has a row group of more than 0.1 GB when it is unpacked, half of the memory")
    monkeypatch.setattr(unpacked, "available_memory", lambda: 2 * 110_000_000)
    unpacked.check_unpacked([path])
