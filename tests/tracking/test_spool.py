"""The spool: lines that are whole, whatever happens to the disk or the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import refusal

from gan_plugin.tracking.spool import EVENTS, FOLDER, RunRecord, Spool, last_step, read_events, read_record


def events_of(folder: Path) -> list[dict[str, object]]:
    return [event for event, _ in read_events(folder, 0, 10**6)]


def test_what_is_logged_lies_in_the_folder_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.metrics({"a": np.float32(1.5), "b": float("inf")}, 7)
    spool.image("grid", np.zeros((4, 4, 1), np.uint8), 7)
    (tmp_path / "own").write_text("own")
    spool.file(tmp_path / "own", "folder")
    spool.note("key", "text")
    metrics, image, file, note = events_of(tmp_path)
    assert (metrics["values"], metrics["step"]) == ({"a": 1.5, "b": float("inf")}, 7)
    assert "grid+step+7+timestamp+" in str(image["file"])
    assert (tmp_path / str(image["file"])).read_bytes().startswith(b"\x89PNG")
    assert (file["file"], file["folder"]) == ("own", "folder")
    assert note["values"] == {"key": "text"}


def test_a_file_from_elsewhere_is_kept_as_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "run")
    (tmp_path / "other").write_text("then")
    spool.file(tmp_path / "other", "folder")
    (tmp_path / "other").write_text("now")
    (event,) = events_of(tmp_path / "run")
    assert (tmp_path / "run" / str(event["file"])).read_text() == "then"


def test_a_line_that_a_killed_process_cut_is_left_out(tmp_path: Path) -> None:
    Spool(tmp_path).note("first", "1")
    path = tmp_path / FOLDER / EVENTS
    path.write_bytes(path.read_bytes() + b'{"kind": "tags", "ti')
    assert [event["values"] for event in events_of(tmp_path)] == [{"first": "1"}]  # it may be being written
    Spool(tmp_path).note("second", "2")
    assert [event["values"] for event in events_of(tmp_path)] == [{"first": "1"}, {"second": "2"}]


def test_what_a_full_disk_does_not_take_is_written_when_it_does(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the line on which it is met is cut in the middle."""
    code = f"""
import resource, sys
from pathlib import Path
from gan_plugin.tracking.spool import Spool
spool = Spool(Path({str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
for step in range(40):
    spool.metrics({{"a": step}}, step)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
spool.flush()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("it is kept in memory") == 1
    assert [event["step"] for event in events_of(tmp_path)] == list(range(40))
    lines = (tmp_path / FOLDER / EVENTS).read_bytes().splitlines()
    assert len(lines) == 41  # the one that was cut stands there as well


def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for step in range(3):
        spool.metrics({"system/cpu": 1, "a": 2}, step)
    *_, (_, offset) = read_events(tmp_path, 0, 2)
    assert [event["step"] for event, _ in read_events(tmp_path, offset, 10)] == [2]
    assert (last_step(tmp_path, "system/"), last_step(tmp_path, "other/")) == (2, -1)


def test_a_folder_of_no_run_is_refused(tmp_path: Path) -> None:
    record = RunRecord(
        id="a", run_id=None, tracking_uri="", experiment="Default", name="n", tags={}, started_ms=1, process=""
    )
    record.save(tmp_path)
    assert read_record(tmp_path) == record
    (tmp_path / "run.json").write_text("{}")
    assert "is not the folder of a run: give one in which training wrote run.json" in refusal(
        lambda: read_record(tmp_path)
    )


@pytest.mark.parametrize("key", ["samples", "a/b"])
def test_names_of_images_are_those_of_mlflow(key: str, tmp_path: Path) -> None:
    Spool(tmp_path).image(key, np.zeros((4, 4, 1), np.uint8), 3)
    (event,) = events_of(tmp_path)
    assert Path(str(event["file"])).name.startswith(f"{key.replace('/', '~')}+step+3+timestamp+")
