"""What a run logs, kept in its own folder: a line of JSON for each thing, in order. Imports no MLflow.

Training writes here and waits for nobody. :mod:`gan_plugin.tracking.replay` delivers it to MLflow, at once or later.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gan_plugin.errors import UserError
from gan_plugin.media.image import Image, to_pil
from gan_plugin.storage import write_atomically

FOLDER = "spool"  # in a run's folder
EVENTS, FILES = "events.jsonl", "files"
RECORD = "run.json"  # in a run's folder

logger = logging.getLogger(__name__)

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run's folder says of its run, so that anyone can go on with it or deliver it.

    Attributes:
        id: the folder's name: MLflow's run id, or one of its own where MLflow did not answer in time.
        run_id: MLflow's run id; None where there is no run yet.
        tracking_uri: where the run is, or was meant to be, without a password.
        experiment: name of the experiment.
        experiment_id: where the run was meant to be, for an experiment of which no name was known.
        name: the run's.
        tags: with which MLflow is to make the run, if it has not yet.
        started_ms: milliseconds since 1970.
        process: of the training, as :class:`gan_plugin.process.ProcessIdentity` writes it.
        identity: what a resumed run must agree on.
        status: RUNNING, or how the run ended: as MLflow says it, or DIVERGED.
        delivered: whether all of it is with MLflow, a model among it.
    """

    id: str
    run_id: str | None
    tracking_uri: str
    experiment: str
    name: str
    tags: dict[str, str]
    started_ms: int
    process: str
    experiment_id: str | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    status: str = "RUNNING"
    delivered: bool = False

    def save(self, folder: Path) -> None:
        """Write the record into the run's folder."""
        text = json.dumps(asdict(self), indent=1)

        def write(partial: Path) -> None:
            partial.write_text(text, "utf-8")

        write_atomically(folder / RECORD, write)


def read_record(folder: Path) -> RunRecord:
    """Read what a run's folder says of its run.

    Raises:
        UserError: it is no run's folder, or its record is damaged.
    """
    try:
        return RunRecord(**json.loads((folder / RECORD).read_text("utf-8")))
    except (OSError, TypeError, ValueError):
        raise UserError(
            f"{str(folder)!r} is not the folder of a run: give one in which training wrote {RECORD}, such as "
            "outputs/RUN_ID."
        ) from None


class Spool:
    """Log a run into its folder; may be used by several threads.

    What the disk does not take is kept in memory, and written as soon as it does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / FOLDER / EVENTS
        self.files = folder / FOLDER / FILES
        self.lock = threading.Lock()
        self.unwritten: list[str] = []
        self.files.mkdir(parents=True, exist_ok=True)
        for leftover in self.files.glob("*.partial"):  # of a killed process
            leftover.unlink(missing_ok=True)
        self.path.touch()
        self.torn = self.path.stat().st_size > 0 and not self.path.read_bytes().endswith(b"\n")  # by a killed process

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of one step."""
        self.add("metrics", values={name: float(value) for name, value in values.items()}, step=step)

    def image(self, key: str, image: Image, step: int) -> None:
        """Log an image of a step under ``key``, under the name by which MLflow's UI makes a slider of such images."""
        now = milliseconds()
        name = f"{key.replace('/', '~')}+step+{step}+timestamp+{now}+{uuid.uuid4()}.png"
        if self._write_file(name, lambda partial: to_pil(image).save(partial, "PNG")):
            self.add("image", file=f"{FOLDER}/{FILES}/{name}")

    def file(self, path: Path, folder: str) -> None:
        """Log a file into an artifact folder: one of the run's folder as it is when delivered, another as it is now."""
        if path.is_relative_to(self.folder):
            self.add("file", file=path.relative_to(self.folder).as_posix(), folder=folder)
        elif self._write_file(path.name, lambda partial: shutil.copyfile(path, partial)):
            self.add("file", file=f"{FOLDER}/{FILES}/{path.name}", folder=folder)

    def keep(self, path: Path, name: str) -> str:
        """Keep a file that others will replace under a name of its own; returns the path to name in an event.

        Raises:
            OSError: it cannot be written.
        """
        kept = self.files / name
        if not kept.exists():
            partial = self.files / f"{name}.partial"
            shutil.copyfile(path, partial)
            os.replace(partial, kept)
        return f"{FOLDER}/{FILES}/{name}"

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Log a JSON file under an artifact path such as ``data/training.json``."""
        folder, _, base = name.rpartition("/")
        text = json.dumps(content, indent=1, ensure_ascii=False)
        if self._write_file(base, lambda partial: partial.write_text(text, "utf-8")):
            self.add("file", file=f"{FOLDER}/{FILES}/{base}", folder=folder)

    def note(self, key: str, text: str) -> None:
        """Set a tag of the run."""
        self.add("tags", values={key: text})

    def add(self, kind: str, **fields: Any) -> None:
        """Append an event, with the time."""
        self._append(json.dumps({"kind": kind, "time": milliseconds(), **fields}) + "\n")

    def flush(self) -> None:
        """Write what the disk has not taken yet.

        Raises:
            OSError: it does not take it now either.
        """
        self._append("")
        if self.unwritten:
            self._write_lines()

    def _append(self, line: str) -> None:
        with self.lock:
            failed_before = bool(self.unwritten)
            if line:
                self.unwritten.append(line)
            try:
                self._write_lines()
            except OSError as error:
                if not failed_before:
                    logger.warning("%s cannot be written (%s); it is kept in memory.", self.path, error.strerror)

    def _write_lines(self) -> None:
        """Write each line at once, so that a reader sees whole ones; a torn one is ended, and written again."""
        with self.path.open("ab", buffering=0) as file:
            while self.unwritten:
                content = (b"\n" if self.torn else b"") + self.unwritten[0].encode()
                self.torn = True  # until all of it is written
                written = file.write(content)
                if written != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.torn = False
                del self.unwritten[0]

    def _write_file(self, name: str, write: Callable[[Path], object]) -> bool:
        """Write a file of the spool; without waiting for the disk, since none of them is worth the time of a step."""
        path, partial = self.files / name, self.files / f"{name}.partial"
        try:
            write(partial)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            logger.warning("%s cannot be written (%s); the run goes on without it.", path, error.strerror)
            return False
        return True


def read_events(folder: Path, offset: int, limit: int) -> Iterator[tuple[Event, int]]:
    """Read events from a position on.

    Args:
        folder: the run's.
        offset: bytes.
        limit: the most events.

    Yields:
        Each event, and the position behind it. A line that a full disk or a killed process cut is left out, and one
        that is being written at this moment is not read yet.
    """
    try:
        file = (folder / FOLDER / EVENTS).open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        while limit > 0 and (line := file.readline()).endswith(b"\n"):
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            limit -= 1
            yield event, offset


def milliseconds() -> int:
    """Return the time as MLflow counts it."""
    return int(time.time() * 1000)


def update_record(folder: Path, **fields: Any) -> None:
    """Let a run's folder say something else of the run."""
    replace(read_record(folder), **fields).save(folder)


def last_step(folder: Path, prefix: str) -> int:
    """Return the last step at which a metric was logged whose name has this prefix, or −1."""
    steps = [
        event["step"]
        for event, _ in read_events(folder, 0, sys.maxsize)
        if event["kind"] == "metrics" and any(name.startswith(prefix) for name in event["values"])
    ]
    return max(steps, default=-1)
