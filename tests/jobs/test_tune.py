"""A search from its settings to a recipe: real trainings in processes of their own, cut to one epoch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import FakeTime, error_of, options, refusal, refused
from mlflow import MlflowClient

from gan_plugin.config.parsing import parse
from gan_plugin.config.recipe import load_recipe
from gan_plugin.config.settings import TuneSettings
from gan_plugin.config.space import own_values, parse_space
from gan_plugin.jobs import search, study, trial, tune
from gan_plugin.jobs.search import SearchClock
from gan_plugin.jobs.trial import Outcome, Stopped, TrialFailed, command, run_trial, wait_for_end

TRIAL_S = 60.0
TEXTS = {
    "data": "digits",
    "recipe": "dcgan",
    "image_size": "16",
    "space": "generator_lr=2e-4|1e30,batch_size=256|512",
    "minutes": "4",  # for three trials and a seed
    "trial_minutes": "1",
    "seeds": "1",
    "seed": "1",
    "device": "cpu",
}


def test_a_search_refuses() -> None:
    for parameters, sentence in (
        ({"minutes": 6, "seeds": 10}, "minutes=6 is too little for 3 trials of 0.5 minutes and 10 more for the best"),
        ({"minutes": 5, "trial_minutes": 1}, "minutes=5 is too little for 3 trials of 1 minutes and 3 more for the"),
        ({"space": "lr=1..2"}, "In space: Unknown parameter lr: "),
        ({"recipe": "dcgan", "space": "penalty_weight=1..2"}, "In space: penalty_weight changes nothing without a"),
        ({"out": "tuned.json"}, "out='tuned.json' is not possible: give a path that ends in .toml."),
        ({"out": "nowhere/tuned.toml"}, "out='nowhere/tuned.toml' cannot be written: there is no folder "),
        ({"seeds": 0}, "seeds='0' is not possible: give a whole number from 1 to 100."),
        ({"model_name": "gan"}, "Unknown parameter model_name: "),
        ({"data": "nothing"}, "data='nothing' "),
    ):
        minutes = {"minutes": 60, "trial_minutes": 1} if "minutes" not in parameters else {}
        assert refused("tune", {**minutes, **parameters}).startswith(sentence), parameters


def test_the_recipe_of_the_search_is_not_overwritten(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('summary = "mine"\n')
    sentence = refused("tune", {"recipe": own, "out": own})
    assert sentence == f"out={str(own)!r} is the recipe that the search begins with: give another file."


def test_without_optuna_a_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['optuna'] = None; from gan_plugin.cli import main; main(['tune'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert error_of(done) == "tune needs optuna, which is not installed: pip install 'gan_plugin[tune]'."


def test_no_training_begins_that_would_end_late(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime()
    monkeypatch.setattr(search, "time", time)
    clock = SearchClock(end=600.0, trial_s=60.0)
    assert clock.trainings() == 10
    time.now = 301.0
    assert clock.trainings() == 4
    clock.add(40.0)  # one that diverged early promises nothing
    assert clock.trainings() == 4
    clock.add(100.0)  # one that was late may be late again
    assert clock.trainings() == 2
    time.now = 700.0
    assert clock.trainings() == 0


# ---- one training ----------------------------------------------------------------------------------------------------


def python(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let trainings be another program."""
    monkeypatch.setattr(trial, "command", lambda texts: [sys.executable, "-c", program])


def run(folder: Path, stop_requested: Callable[[], bool] = lambda: False) -> Outcome:
    return run_trial({}, folder, environment={}, stop_requested=stop_requested)


def test_a_training_that_is_refused_and_one_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python(monkeypatch, "import sys; print('Error: pack=3 is not possible.', file=sys.stderr); sys.exit(2)")
    outcome = run(tmp_path / "0")
    assert (outcome.value, outcome.refused, outcome.reason) == (None, True, "pack=3 is not possible.")
    python(monkeypatch, "raise OSError('the disk is full')")
    with pytest.raises(TrialFailed, match=r"ended with status 1: OSError: the disk is full"):
        run(tmp_path / "1")


def test_a_stop_ends_the_training_that_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(Stopped):
        run(tmp_path, stop_requested=lambda: True)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert wait_for_end(process, lambda: True) == -signal.SIGTERM


def test_a_space_of_few_choices_is_used_up(tmp_path: Path) -> None:
    space, recipe = parse_space("batch_size=16|32,generator_lr=1e-4|2e-4"), load_recipe("dcgan")
    opened = study.open_study(tmp_path, seed=0, own=own_values(space, recipe))
    tried = []
    while (proposal := study.next_trial(opened, space, recipe)) is not None:
        number, texts = proposal
        tried.append(tuple(texts.values()))
        study.tell(opened, number, Outcome(value=1.0, reason="", refused=False, run_id=None, seconds=1.0))
    assert sorted(tried) == [("16", "1e-4"), ("16", "2e-4"), ("32", "1e-4"), ("32", "2e-4")]
    assert tried[0] == ("16", "2e-4")  # the nearest to the recipe


# ---- a search --------------------------------------------------------------------------------------------------------


class Trainings:
    """Trainings of one epoch, on a clock by which all of them take their minutes.

    Attributes:
        time: that clock.
        outcomes: of the trainings so far.
        stop_after: number of trainings after which a SIGTERM comes.
    """

    def __init__(self) -> None:
        self.time, self.stop_after = FakeTime(), 0
        self.outcomes: list[Outcome] = []

    def command(self, texts: Mapping[str, str]) -> list[str]:
        shorter = {name: text for name, text in texts.items() if name != "minutes"}
        return command({**shorter, "epochs": "1"})

    def run(self, *arguments: Any, **keywords: Any) -> Outcome:
        outcome = replace(run_trial(*arguments, **keywords), seconds=TRIAL_S)
        self.time.now += TRIAL_S
        self.outcomes.append(outcome)
        if len(self.outcomes) == self.stop_after:
            signal.raise_signal(signal.SIGTERM)
        return outcome


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_store: Callable[[Path], str]) -> Trainings:
    short = Trainings()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    monkeypatch.setattr(trial, "command", short.command)
    monkeypatch.setattr(search, "run_trial", short.run)
    for module in (search, tune):
        monkeypatch.setattr(module, "time", short.time)
    return short


def test_a_search_that_is_interrupted_goes_on_and_writes_a_recipe(
    trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, client = parse(TuneSettings, TEXTS), MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    trainings.stop_after = 2
    with pytest.raises(SystemExit) as ending:
        tune.run_tune(settings)
    assert ending.value.code == 128 + signal.SIGTERM
    assert "no other seed was tried" in load_recipe("tuned.toml").summary
    (parent,) = parents(client)
    assert (parent.info.status, len(trainings.outcomes)) == ("KILLED", 2)
    identity = json.loads(next(tmp_path.glob("outputs/*/run.json")).read_text())["identity"]
    of_another_network = identity | {"features_digest": identity["features_digest"][::-1]}
    assert tune.find_unfinished_search(tmp_path / "outputs", of_another_network) is None

    trainings.stop_after, trainings.time.now = 0, 0.0
    assert tune.run_tune(settings) == Path("tuned.toml")
    output = capsys.readouterr().out
    assert f"Going on with the search {parent.info.run_id}, which did not end." in output
    assert len(trainings.outcomes) == 4  # the two of before count: one more trial, and a seed of the best
    (parent,) = parents(client)
    assert parent.info.status == "FINISHED"

    children = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert {child.info.run_id for child in children} == {outcome.run_id for outcome in trainings.outcomes}
    assert not client.search_registered_models()
    trials = json.loads(next(tmp_path.glob("outputs/*/study.json")).read_text())["trials"]
    assert len({tuple(entry["params"].items()) for entry in trials}) == len(trials) == 3  # nothing is tried twice
    assert trials[0]["params"]["generator_lr"] == "2e-4"  # the recipe's own is the first
    pruned = [entry for entry in trials if entry["value"] is None]
    assert pruned, "another seed than 1 may draw a learning rate of 1e30"
    assert all("training has diverged" in entry["reason"] for entry in pruned)
    assert {entry["params"]["generator_lr"] for entry in pruned} == {"1e30"}

    best = min((entry for entry in trials if entry["value"] is not None), key=lambda entry: entry["value"])
    summary, comment, *values = Path("tuned.toml").read_text("utf-8").splitlines()
    assert summary.startswith('summary = "dcgan tuned on digits in 4 minutes: fid_2k/classifier ')
    assert comment.startswith("# dcgan: The tutorial's DCGAN")
    assert values == ["dropout = 0.3", f"batch_size = {best['params']['batch_size']}"]  # and no default
    assert load_recipe("tuned.toml").batch_size == int(best["params"]["batch_size"])
    history = client.get_metric_history(parent.info.run_id, "best/fid_2k/classifier")
    assert [metric.step for metric in history] == [entry["number"] for entry in trials]
    assert history[-1].value == pytest.approx(best["value"])
    assert parent.data.metrics["fid_2k/classifier"] == trainings.outcomes[-1].value
    assert parent.data.params["best/generator_lr"] == "2e-4"
    names = {file.path for file in client.list_artifacts(parent.info.run_id, "search")}
    assert names == {"search/study.json", "search/tuned.toml"}


def test_a_search_whose_first_training_is_refused_ends_with_its_sentence(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "command", lambda texts: [*trainings.command(texts), "--epochs=1", "--minutes=1"])
    sentence = refusal(lambda: tune.run_tune(parse(TuneSettings, TEXTS)))
    assert sentence.startswith("The first trial, with trial_minutes=1, is refused: epochs=1 and minutes=1 both say how")
    assert study.best(study.open_study(next(Path("outputs").glob("*/run.json")).parent, seed=0, own={})) is None


def parents(client: MlflowClient) -> list[Any]:
    return [run for run in client.search_runs(["0"]) if str(run.info.run_name).startswith("tune-dcgan-digits-")]


def test_a_model_may_be_logged_and_not_registered(trained: Any) -> None:
    parameters = {"recipe": "dcgan", "image_size": 16, "epochs": 1, "batch_size": 512, "evaluation_budget": 0.0}
    done = trained.project.command("gan-plugin", "train", *options({**parameters, "model_name": "none"}))
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "is logged, and not registered. Serve it:" in line)
    assert line.startswith("models:/m-")
    latest = trained.project.runs()[0]
    assert not trained.project.client.search_model_versions(f"run_id = '{latest.info.run_id}'")
    assert latest.outputs.model_outputs
