"""Champions: which version has the alias, which had it before, and how that changes while others try the same.

The alias ``champion`` of a registered model names the version that serves. Its tag ``gan.champions`` is the history, a
JSON list of versions with the newest last. Where the two disagree the alias holds: a person moved it by hand, or a
process ended between the two. The history is therefore always read with the alias (:func:`history`).

MLflow's registry cannot change an alias only if it still is what one has read, so a lock is held for the moment in
which alias and history are written, never during an evaluation.
"""

from __future__ import annotations

import json

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from gan_plugin.connection import connected
from gan_plugin.errors import UserError
from gan_plugin.lock import holder_of, lock, take_over_dead, unlock

ALIAS = "champion"
HISTORY = "gan.champions"
MAX_HISTORY = 100  # a tag has room for 5,000 characters
MAX_DESCRIPTION = 5000  # characters, in MLflow's databases


def find_version(client: MlflowClient, name: str, version: int | None) -> str:
    """Return the version requested, or the newest.

    Raises:
        UserError: there is no such model, or no such version of it.
    """
    check_registered(client, name)
    versions = sorted(map(int, versions_of(client, name)))
    if not versions:
        raise UserError(f"model_name={name!r} has no versions: train one first.")
    if version is not None and version not in versions:
        raise UserError(f"{name} has no version {version}: its versions are {', '.join(map(str, versions))}.")
    return str(version or versions[-1])


def check_registered(client: MlflowClient, name: str) -> None:
    """Check that there is a registered model of this name.

    Raises:
        UserError: there is none.
    """
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise UserError(f"model_name={name!r} is not registered here: give the name of a registered model.") from None


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
    """Return the versions that were champion, the newest last, which is the present one where there is one."""
    past, current = recorded_history(client, name), current_version(client, name)
    if current is None:
        return past
    return past[: len(past) - past[::-1].index(current)] if current in past else [*past, current]


def recorded_history(client: MlflowClient, name: str) -> list[str]:
    """Return the history as the tag has it."""
    tags: dict[str, str] = client.get_registered_model(name).tags
    return list(json.loads(tags.get(HISTORY, "[]")))


def record_history(client: MlflowClient, name: str, past: list[str]) -> None:
    """Write the history where it is not there yet, as much of it as a tag has room for."""
    newest = past[-MAX_HISTORY:]
    if newest != recorded_history(client, name):
        client.set_registered_model_tag(name, HISTORY, json.dumps(newest))


def prepare_promotion(client: MlflowClient, name: str) -> None:
    """Hold the lock once, before a long evaluation, and put in order what a promotion that was killed has left.

    Raises:
        Locked: another process holds the lock and does not end.
    """
    take_over_dead(client, name)
    with lock(client, name, "") as held:
        past = history(client, name)
        held.check()
        record_history(client, name, past)


def unlock_model(name: str) -> str:
    """Delete the lock that a promotion of a model left; returns a sentence on whose it was.

    Raises:
        UserError: there is no such model, the promotion is known to run, or MLflow does not answer.
        Locked: another process has been deleting the lock and does not end.
    """
    with connected():
        client = MlflowClient()
        if holder_of(client, name) is None:
            check_registered(client, name)
        return unlock(client, name)


def set_champion(client: MlflowClient, name: str, version: str, *, expected: str | None, holder: str) -> bool:
    """Give ``version`` the alias if ``expected`` still has it; False, and nothing changed, if it has not.

    The tag has ``expected`` before the alias moves and gets ``version`` after: whenever the process ends, the history
    is the one before or the one after.

    Raises:
        Locked: another promotion holds the lock and does not end.
    """
    with lock(client, name, holder) as held:
        if current_version(client, name) != expected:
            return False
        past = history(client, name)
        held.check()
        record_history(client, name, past)
        client.set_registered_model_alias(name, ALIAS, version)
        record_history(client, name, [*past, version])
        return True


def roll_back(client: MlflowClient, name: str, holder: str) -> tuple[str | None, str]:
    """Give the alias back to the previous champion; returns the version that had it and the one that has it now.

    Raises:
        UserError: no earlier champion exists any more, or there never was one.
        Locked: another promotion holds the lock and does not end.
    """
    with lock(client, name, holder) as held:
        current, past = current_version(client, name), history(client, name)
        if current is not None:
            past.pop()
        existing = versions_of(client, name)
        while past and past[-1] not in existing:
            past.pop()
        if not past:
            raise UserError(f"{name} has no earlier champion to go back to.")
        held.check()
        record_history(client, name, past)
        client.set_registered_model_alias(name, ALIAS, past[-1])
        return current, past[-1]


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
