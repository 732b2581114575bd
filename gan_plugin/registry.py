"""Champions: which version has the alias, which had it before, and how that changes while others try the same.

The alias ``champion`` of a registered model names the version that serves. Its tag ``gan.champions`` is the history, a
JSON list of versions with the newest last; where the two disagree the alias holds, since people move aliases by hand.

MLflow's registry cannot change an alias only if it still is what one has read. Creating a registered model, however, is
atomic in every store: the process that creates ``NAME.promotion-lock`` holds the lock. It is held for the moment in
which alias and history are written, never during an evaluation.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode

from gan_plugin.errors import UserError

ALIAS = "champion"
HISTORY = "gan.champions"
LOCK_SUFFIX = ".promotion-lock"
LOCK_PATIENCE = 30.0  # seconds; the lock is held for much less than one
# MLflow looks up the model that is in the way, and reports that it does not exist if it was deleted in between
TAKEN = tuple(map(ErrorCode.Name, (RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST)))
MAX_HISTORY = 100  # a tag has room for 5,000 characters
MAX_DESCRIPTION = 5000  # characters, in MLflow's databases


class Locked(RuntimeError):
    """Another process has held the lock for far longer than a change takes."""


def find_version(client: MlflowClient, name: str, version: int | None) -> str:
    """Return the version requested, or the newest.

    Raises:
        UserError: there is no such model, or no such version of it.
    """
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise UserError(f"model_name={name!r} is not registered here: give the name of a registered model.") from None
    versions = sorted(map(int, versions_of(client, name)))
    if not versions:
        raise UserError(f"model_name={name!r} has no versions: train one first.")
    if version is not None and version not in versions:
        raise UserError(f"{name} has no version {version}: its versions are {', '.join(map(str, versions))}.")
    return str(version or versions[-1])


def champion_of(client: MlflowClient, name: str) -> str | None:
    """Return the version that has the alias; None where none ever had it.

    Raises:
        UserError: a version had it, and now none has: MLflow drops the alias of a version that is deleted.
    """
    current = current_version(client, name)
    if current is None and (past := history(client, name)):
        raise UserError(
            f"The last champion of {name} was version {past[-1]}, and no version has the alias {ALIAS} now (was it "
            f"deleted?): give rollback=true to go back to the previous one, or delete the model's tag {HISTORY} to "
            "begin anew."
        )
    return current


def versions_of(client: MlflowClient, name: str) -> set[str]:
    """Return all versions of a model; its name has no quotes, which the settings refuse."""
    return {str(version.version) for version in client.search_model_versions(f"name = '{name}'")}


def current_version(client: MlflowClient, name: str) -> str | None:
    """Return the version that has the alias now, or None."""
    aliases: dict[str, object] = client.get_registered_model(name).aliases
    version = aliases.get(ALIAS)
    return None if version is None else str(version)


def history(client: MlflowClient, name: str) -> list[str]:
    """Return the versions that were champion, the newest last."""
    tags: dict[str, str] = client.get_registered_model(name).tags
    return list(json.loads(tags.get(HISTORY, "[]")))


def set_champion(client: MlflowClient, name: str, version: str, *, expected: str | None, holder: str) -> bool:
    """Give ``version`` the alias if ``expected`` still has it; False, and nothing changed, if it has not.

    Raises:
        Locked: another promotion holds the lock and does not end.
    """
    with lock(client, name, holder):
        if current_version(client, name) != expected:
            return False
        past = history(client, name)
        if expected is not None and past[-1:] != [expected]:
            past.append(expected)  # its alias was set by hand
        write(client, name, past=[*past, version], version=version)
        return True


def roll_back(client: MlflowClient, name: str, holder: str) -> tuple[str | None, str]:
    """Give the alias back to the previous champion; returns the version that had it and the one that has it now.

    Raises:
        UserError: no earlier champion exists any more, or there never was one.
        Locked: another promotion holds the lock and does not end.
    """
    with lock(client, name, holder):
        current, past = current_version(client, name), history(client, name)
        if current in past:
            past = past[: len(past) - 1 - past[::-1].index(current)]
        existing = versions_of(client, name)
        while past and past[-1] not in existing:
            past.pop()
        if not past:
            raise UserError(f"{name} has no earlier champion to go back to.")
        write(client, name, past=past, version=past[-1])
        return current, past[-1]


def write(client: MlflowClient, name: str, *, past: list[str], version: str) -> None:
    """Write history, then alias: a crash in between leaves an entry too many, which reading by the alias skips."""
    client.set_registered_model_tag(name, HISTORY, json.dumps(past[-MAX_HISTORY:]))
    client.set_registered_model_alias(name, ALIAS, version)


@contextmanager
def lock(client: MlflowClient, name: str, holder: str) -> Iterator[None]:
    """Hold the model's lock, which one process at a time can, on whatever machine.

    Raises:
        Locked: another process holds it for longer than LOCK_PATIENCE.
    """
    lock_name = name + LOCK_SUFFIX
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            client.create_registered_model(
                lock_name, {"holder": holder}, f"Held for a moment while a promotion of {name} changes its alias."
            )
            break
        except MlflowException as error:
            if error.error_code not in TAKEN:
                raise
        if time.monotonic() > deadline:
            raise Locked(
                f"{lock_name} has been there for {LOCK_PATIENCE:g} s, by {lock_holder(client, lock_name)}: if that "
                "promotion is dead, delete this registered model and promote again."
            )
        time.sleep(random.uniform(0.05, 0.25))
    try:
        yield
    finally:
        client.delete_registered_model(lock_name)


def lock_holder(client: MlflowClient, lock_name: str) -> str:
    """Return who holds a lock, in words."""
    try:
        return f"run {client.get_registered_model(lock_name).tags.get('holder', 'unknown')}"
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return "one promotion after another"


def annotate_version(client: MlflowClient, version: ModelVersion, *, tags: dict[str, str], paragraph: str) -> None:
    """Set tags and append a paragraph to the version's description: what people have written there stays.

    A paragraph that already stands last is not repeated. Where there is no room for it, what stands before it is cut.
    """
    for key, value in tags.items():
        client.set_model_version_tag(version.name, str(version.version), key, value)
    description: str = version.description or ""
    if not description.endswith(paragraph):
        before = shorten(description, MAX_DESCRIPTION - len(paragraph) - 2)
        set_description(client, version.name, str(version.version), text="\n\n".join(filter(None, [before, paragraph])))


def set_description(client: MlflowClient, name: str, version: str, *, text: str) -> None:
    """Give a version its description, as much of it as MLflow's databases take."""
    client.update_model_version(name, version, shorten(text, MAX_DESCRIPTION))


def shorten(text: str, length: int) -> str:
    """Return text of at most ``length`` ≥ 1 characters; one that is cut ends in an ellipsis.

    >>> shorten("champion", 8), shorten("champions", 8)
    ('champion', 'champio…')
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"
