"""Call what processes do together, as one of those that torchrun starts, and save what came of it as JSON.

argv: a folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from gan_plugin.distributed import Ranks, joined, ranks_of_environment
from gan_plugin.training.guard import GuardError


def outcome_of(call: object) -> object:
    assert callable(call)
    try:
        return call()
    except (GuardError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def alarm(ranks: Ranks, of: int) -> None:
    if ranks.rank == of:
        raise GuardError(f"rank {of} has lost it")


def answer(ranks: Ranks, number: int) -> int:
    """Divide by zero where it is asked for its rank."""
    return 12 // (number - ranks.rank)


def answers(ranks: Ranks, number: int, own: object) -> object:
    """What rank 0 decides of all answers; the first line of it, because traces follow."""
    assert callable(own)
    decided = outcome_of(
        lambda: ranks.decide(lambda: ranks.ask(number, own), answer=lambda question: answer(ranks, question))
    )
    return decided.splitlines()[0] if isinstance(decided, str) else decided


def received(ranks: Ranks, path: Path) -> str:
    with ranks.file(path if ranks.is_main else None) as place:
        return place.read_text()


def main() -> None:
    folder = Path(sys.argv[1])
    with joined(ranks_of_environment(), torch.device("cpu")) as ranks:
        own = [torch.full((2, 3), float(ranks.rank)), torch.tensor(10.0 * ranks.rank)]
        results = {
            "average": [tensor.tolist() for tensor in ranks.average(own)],
            "maximum": ranks.maximum([ranks.rank, -ranks.rank, 0.25]),
            "decide": ranks.decide(lambda: f"rank {ranks.rank}"),
            "decided alarm": outcome_of(lambda: ranks.decide(lambda: alarm(ranks, of=0))),
            "checked alarm": outcome_of(lambda: ranks.check(lambda: alarm(ranks, of=1))),
            "answers": answers(ranks, 4, lambda: "own"),
            "no answer": answers(ranks, 1, lambda: "own"),
            "answers in alarm": answers(ranks, 4, lambda: alarm(ranks, of=0)),
            "checked": ranks.check(lambda: ranks.rank // 2),
            "no alarm": outcome_of(lambda: ranks.check(lambda: alarm(ranks, of=2))),
            "gather": ranks.gather({"rank": ranks.rank}),
            "file": received(ranks, folder / "sent.txt"),
            "equal": outcome_of(lambda: ranks.check_equal([0.1], "weights")),
            "unequal": outcome_of(lambda: ranks.check_equal([0.1 * ranks.rank], "weights")),
        }
    (folder / f"{ranks.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
