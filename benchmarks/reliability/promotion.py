"""Promotions killed with SIGKILL while they write: does a second try succeed, and are alias and history consistent?

    python benchmarks/reliability/promotion.py [--rounds 40] [--server] [--seed 0] [--out FILE]

In each round a process that makes one version after another champion is killed at a random moment, and then a second
one, soon after it began, which may be taking the first one's lock over. Then this process promotes, as a person who
tries again would. Counted are the rounds in which the killed process left its lock, or the tag with the history unlike
the alias, and those after which anything is wrong. The store is SQLite, or with --server, ``mlflow server`` before it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import mlflow
import psutil
from mlflow import MlflowClient

from gan_plugin.config.kinds import LOCK_SUFFIX
from gan_plugin.connection import open_stores
from gan_plugin.registry import champion_of, history, prepare_promotion, recorded_history, set_champion

RESULTS = Path(__file__).parents[1] / "results" / "reliability-promotion.json"
NAME, VERSIONS = "gan", 5


def promote_next(client: MlflowClient, holder: str) -> tuple[str | None, str]:
    """Make the next of the versions champion; returns the one before and the new one."""
    prepare_promotion(client, NAME)
    before = champion_of(client, NAME)
    version = str(int(before or 0) % VERSIONS + 1)
    if not set_champion(client, NAME, version, expected=before, holder=holder):
        raise RuntimeError("the champion is another one, and nobody else promotes")
    return before, version


def promote_for_ever(uri: str, begun: Event) -> None:
    client = MlflowClient(uri, uri)
    client.get_registered_model(NAME)
    begun.set()
    while True:
        promote_next(client, "killed")


def kill_one(uri: str, seconds: float) -> None:
    """Start a process that promotes, and kill it so many seconds after it began."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gan_plugin.registry"])
    begun = context.Event()
    process = context.Process(target=promote_for_ever, args=(uri, begun))
    process.start()
    if not begun.wait(120):
        raise SystemExit("the process did not begin")
    time.sleep(seconds)
    if not process.is_alive():
        raise SystemExit("the process ended by itself")
    process.kill()
    process.join()


def lock_names(client: MlflowClient) -> list[str]:
    return [model.name for model in client.search_registered_models() if model.name.endswith(LOCK_SUFFIX)]


def run_round(uri: str, chance: random.Random) -> dict[str, object]:
    """Kill two processes and try again; returns what they left and what is wrong after that, a sentence or ""."""
    client = MlflowClient(uri, uri)
    kill_one(uri, chance.uniform(0, 0.5))
    kill_one(uri, chance.uniform(0, 0.1))
    left, torn = lock_names(client), recorded_history(client, NAME) != history(client, NAME)
    begin = time.monotonic()
    try:
        before, version = promote_next(client, "the second try")
    except Exception as error:
        return {"locks": len(left), "torn": torn, "seconds": time.monotonic() - begin, "wrong": repr(error)}
    seconds, past = time.monotonic() - begin, recorded_history(client, NAME)
    expected = [version] if before is None else [before, version]
    wrong = ""
    if champion_of(client, NAME) != version or past[-len(expected) :] != expected:
        wrong = f"champion {champion_of(client, NAME)}, history {past}, should end in {expected}"
    elif any(int(a) % VERSIONS + 1 != int(b) for a, b in itertools.pairwise(past)):
        wrong = f"the history {past} has a gap or an entry too many"
    elif lock_names(client):
        wrong = f"left are {lock_names(client)}"
    return {"locks": len(left), "torn": torn, "seconds": seconds, "wrong": wrong}


@contextlib.contextmanager
def tracking_server(database: str, folder: Path) -> Iterator[str]:
    """``mlflow server`` before a database, on a free port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    words = ["-m", "mlflow", "server", "--port", str(port), "--workers", "2", "--backend-store-uri", database]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=log, stderr=log)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                    break
                time.sleep(0.2)
            yield uri
        finally:
            for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--server", action="store_true", help="through mlflow server")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        os.chdir(folder)
        stack.callback(os.chdir, "/")
        uri = f"sqlite:///{folder}/mlflow.db"
        mlflow.set_tracking_uri(uri)
        open_stores()
        client = MlflowClient(uri, uri)
        client.create_registered_model(NAME)
        for _ in range(VERSIONS):
            client.create_model_version(NAME, "file:///nowhere")
        if arguments.server:
            uri = stack.enter_context(tracking_server(uri, folder))
        chance = random.Random(arguments.seed)
        rounds = [run_round(uri, chance) for _ in range(arguments.rounds)]
    failed = [outcome["wrong"] for outcome in rounds if outcome["wrong"]]
    result = {
        "store": "mlflow server" if arguments.server else "SQLite",
        "rounds": len(rounds),
        "left a lock": sum(outcome["locks"] != 0 for outcome in rounds),
        "left the lock of a lock": sum(outcome["locks"] == 2 for outcome in rounds),
        "history unlike the alias": sum(bool(outcome["torn"]) for outcome in rounds),
        "wrong after a second try": len(failed),
        "longest second try in seconds": round(max(float(str(outcome["seconds"])) for outcome in rounds), 2),
    }
    for key, value in result.items():
        print(f"{key:32}{value}")
    print("\n".join(map(str, failed)), end="\n" if failed else "")
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    arguments.out.write_text(json.dumps(results | {result["store"]: result}, indent=2) + "\n")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
