"""A lock in MLflow's registry, which one process at a time holds, on whatever machine, and which outlives no process.

Creating a registered model is atomic in every store: the process that creates ``NAME.promotion-lock`` holds the lock of
``NAME``, and its tags say who that is. A lock is taken over from a process that is known to be dead. Nothing can be
known of one on another host: its lock is taken over when it is much older than any change takes and stays as it is
before the eyes of this process, so that no clock alone decides.

To take over is to delete the lock, and only who holds the lock of the lock may do so: of two processes that see the
same dead one, the slower would otherwise delete the lock that the faster has just taken.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode

from gan_plugin.config.kinds import LOCK_SUFFIX
from gan_plugin.errors import UserError
from gan_plugin.process import ProcessIdentity, this_process

PATIENCE = 30.0  # seconds to wait for a lock, which is held for much less than one
WATCHED = 10.0  # seconds for which a lock of another host must not change before it is taken over
OLD = 600.0  # seconds since it was taken, by the clocks, that it must be old then
# MLflow looks up the model that is in the way, and reports that it does not exist if it was deleted in between
MISSING = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
TAKEN = (ErrorCode.Name(RESOURCE_ALREADY_EXISTS), MISSING)


class Locked(RuntimeError):
    """Another process holds the lock for far longer than a change takes."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock.

    Attributes:
        token: of this one time that the lock was taken.
        process: None where the lock does not say.
        run_id: of the promotion; "" where it has no run yet.
        since: seconds since 1970, by the clock of the store.
    """

    token: str
    process: ProcessIdentity | None
    run_id: str
    since: float

    def is_dead(self) -> bool:
        """Return whether the process is known to be gone."""
        return self.process is not None and self.process.is_dead()

    def is_alive(self) -> bool:
        """Return whether the process is known to live."""
        return self.process is not None and self.process.is_near() and not self.process.is_dead()

    def __str__(self) -> str:
        process = f"process {self.process.pid} on {self.process.host}" if self.process else "an unknown process"
        run = f" in the run {self.run_id}" if self.run_id else ""
        return f"{process}{run}, for {duration(time.time() - self.since)}"


class Lock:
    """A lock that this process holds."""

    def __init__(self, client: MlflowClient, name: str, token: str) -> None:
        self.client, self.name, self.token = client, name, token

    def check(self) -> None:
        """Check that the lock is still this process's, which may have been stopped for long.

        Raises:
            Locked: it was taken over.
        """
        holder = holder_of(self.client, self.name)
        if holder is None or holder.token != self.token:
            raise Locked(f"The lock of {self.name} was taken over from this process, which held it for too long.")


@contextmanager
def lock(client: MlflowClient, name: str, run_id: str) -> Iterator[Lock]:
    """Hold the lock of a registered model, after taking it over from a dead process where one left it.

    Raises:
        Locked: another process holds it for longer than PATIENCE.
    """
    held = Lock(client, name, uuid.uuid4().hex)
    try:
        acquire(held, run_id)
        yield held
    finally:
        delete_if(client, name, held.token)


def acquire(held: Lock, run_id: str) -> None:
    """Create the lock, as soon as nobody else holds it.

    Raises:
        Locked: that takes longer than PATIENCE.
    """
    tags = {"holder": run_id, "token": held.token, "process": this_process().to_json()}
    description = f"Held for a moment while a promotion of {held.name} changes its alias."
    begin, watched_since, watched = time.monotonic(), 0.0, ""
    while True:
        try:
            held.client.create_registered_model(held.name + LOCK_SUFFIX, tags, description)
            return
        except MlflowException as error:
            if error.error_code not in TAKEN:
                raise
        holder, now = holder_of(held.client, held.name), time.monotonic()
        if holder is None:  # deleted in between
            if now - begin > PATIENCE:
                raise Locked(f"The lock of {held.name} comes and goes: promote again when its other promotions end.")
            time.sleep(0.05)
            continue
        if holder.token == held.token:  # made by a request whose answer was lost, and which was repeated
            return
        if holder.token != watched:
            watched, watched_since = holder.token, now
        old = time.time() - holder.since > OLD and now - watched_since > WATCHED
        if holder.is_dead() or (old and not holder.is_alive()):
            take_away(held.client, held.name, holder, run_id=run_id)
        elif now - begin > PATIENCE:
            raise Locked(locked_sentence(held.name, holder))
        else:
            time.sleep(random.uniform(0.05, 0.25))


def take_away(client: MlflowClient, name: str, holder: Holder, *, run_id: str) -> None:
    """Delete a lock if ``holder`` still holds it, under the lock of the lock.

    Raises:
        Locked: another process has been doing that for longer than PATIENCE.
    """
    with lock(client, name + LOCK_SUFFIX, run_id):
        delete_if(client, name, holder.token)


def delete_if(client: MlflowClient, name: str, token: str) -> None:
    """Delete the lock of a model where it is the one with this token."""
    holder = holder_of(client, name)
    if holder is None or holder.token != token:
        return
    try:
        client.delete_registered_model(name + LOCK_SUFFIX)
    except MlflowException as error:
        if error.error_code != MISSING:  # deleted by a request whose answer was lost, and which was repeated
            raise


def holder_of(client: MlflowClient, name: str) -> Holder | None:
    """Return who holds the lock of a model, or None where nobody does."""
    try:
        model = client.get_registered_model(name + LOCK_SUFFIX)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None
    tags: dict[str, str] = model.tags
    return Holder(
        token=tags.get("token", str(model.creation_timestamp)),
        process=ProcessIdentity.from_json(tags.get("process", "")),
        run_id=tags.get("holder", ""),
        since=model.creation_timestamp / 1000,
    )


def locked_sentence(name: str, holder: Holder) -> str:
    """Return why a lock is not to be had and what to do, in one sentence."""
    while name.endswith(LOCK_SUFFIX):  # the lock of a lock
        name = name.removesuffix(LOCK_SUFFIX)
    if holder.is_alive():
        return f"{name} is locked by {holder}, which still runs: wait for it, or end that process."
    return (
        f"{name} is locked by {holder}, and from here nothing is known of that process: if it does not run any more, "
        f"gan-plugin unlock {name} removes the lock, as does the next promotion once it is {duration(OLD)} old."
    )


def take_over_dead(client: MlflowClient, name: str) -> None:
    """Delete the locks that dead processes left, those of locks too, left while they were taken over.

    Raises:
        Locked: another process has been doing that for longer than PATIENCE.
    """
    for level in levels(name):
        holder = holder_of(client, level)
        if holder is not None and holder.is_dead():
            take_away(client, level, holder, run_id="")


def unlock(client: MlflowClient, name: str) -> str:
    """Delete a lock that a process left, on whatever machine; returns a sentence on what was there.

    Where nothing is known of the process, it has WATCHED seconds to delete the lock itself.

    Raises:
        UserError: the process is known to live.
        Locked: another process has been deleting the lock for longer than PATIENCE.
    """
    sentence = f"{name} is not locked."
    for level in levels(name):
        holder = holder_of(client, level)
        if holder is None or (not holder.is_dead() and not holder.is_alive() and not stays(client, level, holder)):
            continue
        if holder.is_alive():
            raise UserError(locked_sentence(name, holder))
        take_away(client, level, holder, run_id="")
        sentence = f"{name} was locked by {holder}; it is not any more."
    return sentence


def levels(name: str) -> list[str]:
    """Return whose locks there may be for a model, the innermost first: it, its lock, and the lock of that."""
    return [name + 2 * LOCK_SUFFIX, name + LOCK_SUFFIX, name]


def stays(client: MlflowClient, name: str, holder: Holder) -> bool:
    """Return whether a lock is the same for WATCHED seconds."""
    end = time.monotonic() + WATCHED
    while time.monotonic() < end:
        current = holder_of(client, name)
        if current is None or current.token != holder.token:
            return False
        time.sleep(0.5)
    return True


def duration(seconds: float) -> str:
    """Format a time span in the unit that suits it; below one second, also a negative one, it is a moment.

    >>> [duration(seconds) for seconds in (-5, 0.2, 12.7, 600, 7300, 200000)]
    ['a moment', 'a moment', '12 s', '10 min', '2 h', '55 h']
    """
    if seconds < 1:
        return "a moment"
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= size)
    return f"{int(seconds // size)} {unit}"
