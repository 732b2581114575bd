"""The lock of a registered model: one holder at a time, and none that outlives its process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import ROOT, refused
from mlflow import MlflowClient

from gan_plugin import lock as locks
from gan_plugin.cli import main
from gan_plugin.lock import Locked, holder_of, lock, take_away, take_over_dead, unlock
from gan_plugin.process import ProcessIdentity, this_process
from gan_plugin.registry import history, recorded_history, roll_back, set_champion

HOLD = """
import sys, time
from mlflow import MlflowClient
from gan_plugin.lock import lock
uri = sys.argv[1]
with lock(MlflowClient(uri, uri), "gan", "a1b2"):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def client(tmp_path: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A store with the model gan, of three versions, for this process and those that it starts; waits are short."""
    monkeypatch.chdir(tmp_path)
    uri = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(locks, "PATIENCE", 0.5)
    monkeypatch.setattr(locks, "WATCHED", 0.2)
    client = MlflowClient(uri, uri)
    client.create_registered_model("gan")
    for _ in range(3):
        client.create_model_version("gan", "file:///nowhere")
    return client


@pytest.fixture(scope="module")
def dead() -> ProcessIdentity:
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return dataclasses.replace(this_process(), pid=process.pid)


@pytest.fixture(scope="module")
def foreign() -> ProcessIdentity:
    return ProcessIdentity(host="elsewhere", space="another boot", pid=7, started=0.0)


def leave_lock(client: MlflowClient, process: ProcessIdentity, name: str = "gan") -> None:
    tags = {"holder": "a1b2", "token": f"left on {name}", "process": process.to_json()}
    client.create_registered_model(f"{name}.promotion-lock", tags)


def models(client: MlflowClient) -> list[str]:
    return [model.name for model in client.search_registered_models()]


def test_a_process_that_is_killed_loses_its_lock_and_one_that_lives_keeps_it(client: MlflowClient) -> None:
    words = [sys.executable, "-c", HOLD, os.environ["MLFLOW_TRACKING_URI"]]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        who = rf"^gan is locked by process {process.pid} on \S+ in the run a1b2, for .*, which still runs: wait for it"
        with pytest.raises(Locked, match=who):
            set_champion(client, "gan", "1", expected=None, holder="me")
        assert refused("unlock", None, "gan").startswith(f"gan is locked by process {process.pid} on ")
    finally:
        process.kill()
        process.wait()
        process.communicate()
    assert holder_of(client, "gan") is not None
    assert set_champion(client, "gan", "1", expected=None, holder="me")
    assert models(client) == ["gan"]


def test_of_many_that_take_over_one_holds_the_lock_at_a_time(client: MlflowClient, dead: ProcessIdentity) -> None:
    leave_lock(client, dead)
    leave_lock(client, dead, "gan.promotion-lock")  # killed while it took that over
    barrier, inside, at_once = threading.Barrier(6), list[int](), list[int]()

    def take(number: int) -> None:
        barrier.wait()
        with lock(client, "gan", str(number)):
            inside.append(number)
            at_once.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    locks.PATIENCE = 20.0  # the fixture's patch restores it
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take, range(6)))
    assert at_once == [1] * 6
    assert models(client) == ["gan"]


def test_who_saw_a_dead_holder_does_not_take_the_lock_from_the_next(
    client: MlflowClient, dead: ProcessIdentity
) -> None:
    leave_lock(client, dead)
    seen = holder_of(client, "gan")
    assert seen is not None
    with lock(client, "gan", "faster") as held:
        take_away(client, "gan", seen, run_id="slower")
        held.check()


def test_who_was_stopped_until_others_took_over_does_not_write(client: MlflowClient) -> None:
    with lock(client, "gan", "stopped") as held:
        client.delete_registered_model("gan.promotion-lock")
        leave_lock(client, this_process())
        with pytest.raises(Locked, match=r"^The lock of gan was taken over from this process, which held it for too"):
            held.check()
    assert models(client) == ["gan", "gan.promotion-lock"]  # the other's stays


def test_a_lock_of_another_host_is_named_and_taken_over_when_it_is_old(
    client: MlflowClient, foreign: ProcessIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lock(client, foreign)
    with pytest.raises(Locked) as refusal:
        set_champion(client, "gan", "1", expected=None, holder="me")
    assert str(refusal.value).startswith("gan is locked by process 7 on elsewhere in the run a1b2, for ")
    assert str(refusal.value).endswith(
        ", and from here nothing is known of that process: if it does not run any more, gan-plugin unlock gan removes "
        "the lock, as does the next promotion once it is 10 min old."
    )
    monkeypatch.setattr(locks, "OLD", -3600.0)  # a clock far ahead of the store's decides nothing alone
    monkeypatch.setattr(locks, "WATCHED", 60.0)
    with pytest.raises(Locked):
        set_champion(client, "gan", "1", expected=None, holder="me")
    monkeypatch.setattr(locks, "WATCHED", 0.2)
    assert set_champion(client, "gan", "1", expected=None, holder="me")
    assert models(client) == ["gan"]


def test_the_command_unlock(client: MlflowClient, foreign: ProcessIdentity, dead: ProcessIdentity) -> None:
    for process, host in ((foreign, "elsewhere"), (dead, dead.host)):
        leave_lock(client, process)
        leave_lock(client, process, "gan.promotion-lock")
        result = CliRunner().invoke(main, ["unlock", "gan"])
        assert result.output.startswith(f"gan was locked by process {process.pid} on {host} in the run a1b2, for ")
        assert models(client) == ["gan"]
    assert CliRunner().invoke(main, ["unlock", "gan"]).output == "gan is not locked.\n"
    assert refused("unlock", None, "nobody").startswith("model_name='nobody' is not registered here")
    assert refused("unlock", None, "gan.promotion-lock").startswith("name='gan.promotion-lock' is not possible: ")


def test_a_lock_that_its_process_deletes_after_a_moment_is_not_taken_away(
    client: MlflowClient, foreign: ProcessIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lock(client, foreign)
    monkeypatch.setattr(locks, "WATCHED", 20.0)
    timer = threading.Timer(0.3, client.delete_registered_model, ["gan.promotion-lock"])
    timer.start()
    assert unlock(client, "gan") == "gan is not locked."
    timer.join()


def test_a_lock_made_without_its_process_is_one_of_which_nothing_is_known(client: MlflowClient) -> None:
    client.create_registered_model("gan.promotion-lock", {"holder": "a1b2"})
    take_over_dead(client, "gan")
    assert models(client) == ["gan", "gan.promotion-lock"]
    assert unlock(client, "gan").startswith("gan was locked by an unknown process in the run a1b2, for ")


# ---- what a process leaves that is killed between two writes ---------------------------------------------------------


class Killed(BaseException):
    pass


def kill_at(client: MlflowClient, write: int, change: Callable[[], object]) -> None:
    """Make a change whose n-th write of history or alias, from 0, raises, as if the process were killed there."""
    writes = iter(range(10))

    def killed_at(method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if next(writes) == write:
                raise Killed
            return method(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        for name in ("set_registered_model_tag", "set_registered_model_alias"):
            patch.setattr(client, name, killed_at(getattr(client, name)))
        change()


@pytest.mark.parametrize("write", [0, 1, 2])
@pytest.mark.parametrize(("tag", "alias"), [(["1", "2"], "2"), ([], "2"), ([], None)])
def test_wherever_a_promotion_ends_the_next_goes_on(
    client: MlflowClient, tag: list[str], alias: str | None, write: int
) -> None:
    """Also where a person had set the alias, of which the tag knows nothing, and where there was no champion yet."""
    if tag:
        client.set_registered_model_tag("gan", "gan.champions", json.dumps(tag))
    if alias is not None:
        client.set_registered_model_alias("gan", "champion", alias)
    before = history(client, "gan")
    kill_at(client, write, lambda: set_champion(client, "gan", "3", expected=alias, holder="killed"))
    assert history(client, "gan") in (before, [*before, "3"])
    if history(client, "gan") == before:
        assert set_champion(client, "gan", "3", expected=alias, holder="again")
    assert history(client, "gan") == [*before, "3"]
    if before:
        assert roll_back(client, "gan", "run") == ("3", before[-1])
        assert recorded_history(client, "gan") == before


@pytest.mark.parametrize("write", [0, 1])
def test_wherever_a_rollback_ends_it_can_be_repeated(client: MlflowClient, write: int) -> None:
    for before, version in ((None, "1"), ("1", "2"), ("2", "3")):
        set_champion(client, "gan", version, expected=before, holder="run")
    kill_at(client, write, lambda: roll_back(client, "gan", "killed"))
    assert history(client, "gan") == ["1", "2", "3"]
    assert roll_back(client, "gan", "again") == ("3", "2")
    assert recorded_history(client, "gan") == ["1", "2"]


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_killed_promotions_leave_nothing_that_a_second_try_does_not_mend(tmp_path: Path) -> None:
    """The short version of the benchmark, whose processes are killed at random moments."""
    script = ROOT / "benchmarks" / "reliability" / "promotion.py"
    words = [sys.executable, str(script), "--rounds", "3", "--out", str(tmp_path / "results.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())["SQLite"]
    assert (results["rounds"], results["wrong after a second try"]) == (3, 0)
