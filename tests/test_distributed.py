"""Several processes, really: what they do together, and that they learn what one learns from the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import PATIENCE_S, ROOT, refusal
from training_helpers import assert_same

from gan_plugin.config.recipe import load_recipe, override
from gan_plugin.distributed import Ranks, joined, ranks_of_environment, seed_of_rank
from gan_plugin.training.plan import check_share

SIZES = ("width=32", "full_stages=4", "blocks=1", "batch_size=16", "augment=none")
METHODS = {  # without batch norm, whose statistics are each process's own
    "r3gan": SIZES,
    "r1": ("family=r3gan", *SIZES, "penalty_every=2"),
    "dcgan": ("family=r3gan", *SIZES[:-1], "dropout=0.0", "updates=simultaneous"),
}
# The largest and the mean difference of weights after STEPS steps. Of rounding, Adam makes a part of its rate where a
# gradient is near zero, on some CPUs in more weights than on others; float64 shows that there is nothing else.
WITHIN = {"float64": (1e-12, 1e-14), "float32": (1e-3, 1e-5)}
STEPS = 20


def run_processes(count: int, worker: str, *words: object) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*(torchrun if count > 1 else [sys.executable]), str(ROOT / "tests" / worker), *map(str, words)]
    subprocess.run(command, check=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "sent.txt").write_text("from rank 0")
    run_processes(2, "distributed_worker.py", folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


EXPECTED = {
    "average": [[[0.5] * 3] * 2, 5.0],
    "maximum": [1, 0, 0.25],
    "decide": "rank 0",
    "decided alarm": "GuardError: rank 0 has lost it",
    "checked alarm": "GuardError: rank 1 has lost it",
    "answers": ["own", 4],
    "no answer": "RuntimeError: Process 1 could not do its share:",
    "answers in alarm": "GuardError: rank 0 has lost it",
    "checked": 0,
    "no alarm": None,
    "gather": [{"rank": 0}, {"rank": 1}],
    "file": "from rank 0",
    "equal": None,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_processes_do_together(name: str, results: list[dict[str, Any]]) -> None:
    assert [result[name] for result in results] == [EXPECTED[name]] * 2


def test_weights_that_differ_are_named_in_both(results: list[dict[str, Any]]) -> None:
    unequal = [result["unequal"] for result in results]
    assert unequal == [
        "RuntimeError: The weights of rank 1 are not those of rank 0.",
        "RuntimeError: The weights of rank 0 are not those of rank 1.",
    ]


@pytest.fixture(scope="module", params=WITHIN)
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for one process and one for two, with what each method has learned in each process."""
    folder = tmp_path_factory.mktemp("learned") / request.param
    for count in (1, 2):
        (folder / str(count)).mkdir(parents=True)
        trainings = [",".join((name, *values)) for name, values in METHODS.items()]
        run_processes(count, "ranks_worker.py", folder / str(count), STEPS, request.param, *trainings)
    return folder


@pytest.mark.parametrize("recipe", METHODS)
def test_two_processes_learn_what_one_learns_from_the_whole_batch(recipe: str, learned: Path) -> None:
    """The processes are equal to the bit, and one with the same latents is so but for rounding."""
    places = (f"1/{recipe}.0.pt", f"2/{recipe}.0.pt", f"2/{recipe}.1.pt")
    one, first, second = (torch.load(learned / place) for place in places)
    largest, mean = WITHIN[learned.name]
    differences = []
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name])
        assert weight.dtype == getattr(torch, learned.name)
        differences.append((weight - one["weights"][name]).abs().flatten())
    assert torch.cat(differences).max() < largest
    assert torch.cat(differences).mean() < mean
    for name, value in first["metrics"].items():
        torch.testing.assert_close(value, one["metrics"][name], rtol=1e-3, atol=1e-4)


def test_two_processes_that_stop_and_go_on_learn_what_two_learn_that_did_not_stop(tmp_path: Path) -> None:
    """One of them is asked to stop. Each draws for itself, for example what dropout leaves out."""
    for name in ("unstopped", "resumed"):
        (tmp_path / name).mkdir()
    run_processes(2, "resume_worker.py", tmp_path)
    for rank in (0, 1):
        unstopped, resumed = torch.load(tmp_path / f"{rank}.pt")
        assert_same(unstopped, resumed)


def test_one_process_needs_no_others() -> None:
    """And its values are what they are."""
    ranks = ranks_of_environment({})
    tensor = torch.ones(2)
    assert ranks == Ranks(rank=0, world_size=1, local_rank=0)
    assert ranks.average([tensor])[0] is tensor
    assert ranks.decide(lambda: ranks.ask("what?", lambda: tensor))[0] is tensor
    with joined(ranks, torch.device("cpu")):
        assert not torch.distributed.is_initialized()


def test_torchrun_says_which_process_this_is() -> None:
    environment = {"TORCHELASTIC_RUN_ID": "x", "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}
    assert ranks_of_environment(environment) == Ranks(rank=9, world_size=16, local_rank=1)


def test_every_process_draws_with_a_seed_of_its_own() -> None:
    assert seed_of_rank(3, 0) == 3  # as one alone does
    assert len({seed_of_rank(seed, rank) for seed in range(30) for rank in range(30)}) == 900


@pytest.mark.parametrize(
    ("batch_size", "pack", "world_size", "sentence"),
    [
        (30, 1, 4, "batch_size=30 cannot be shared equally by 4 processes: give 28 or 32."),
        (32, 3, 2, "batch_size=32 cannot be shared equally by 2 processes in packs of 3: give 30 or 36."),
        (16, 1, 32, "batch_size=16 cannot be shared equally by 32 processes: give 32."),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(batch_size: int, pack: int, world_size: int, sentence: str) -> None:
    recipe = override(load_recipe("dcgan"), batch_size=batch_size, pack=pack)
    assert refusal(lambda: check_share(recipe, world_size)) == sentence
