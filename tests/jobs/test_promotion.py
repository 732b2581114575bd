"""Promotion against real registries: the better model gets the alias, the worse does not, two at once do no harm."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from generators import export_bank
from helpers import PATIENCE_S, SHORT_CAS, Project, error_of, options, tracking
from mlflow import MlflowClient

from gan_plugin import flavor, lock
from gan_plugin.config.parsing import parse
from gan_plugin.config.settings import PromoteSettings
from gan_plugin.data import load_dataset
from gan_plugin.errors import UserError
from gan_plugin.jobs.promote import Refused, run_promotion
from gan_plugin.lock import Locked
from gan_plugin.registry import annotate_version, champion_of, current_version, history, roll_back, set_champion

pytestmark = pytest.mark.usefixtures("short_cas")
GOOD, BETTER, BEST, BAD = 0.15, 0.1, 0.05, 0.5  # noise in the images
EASY = {"images": 100, "image_size": 16, "thresholds": "fid_ratio<=100,precision>=0.05"}


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """Generators of known quality."""
    digits, folder = load_dataset("digits", image_size=16), tmp_path_factory.mktemp("banks")
    return {noise: export_bank(digits, folder / f"{noise}.onnx", noise=noise) for noise in (GOOD, BETTER, BEST, BAD)}


def register(banks: dict[float, Path], *noises: float) -> None:
    """Versions 1, 2, … of the model "gan" in the store that the environment names."""
    for noise in noises:
        with mlflow.start_run():
            flavor.log_model(banks[noise], registered_model_name="gan")


@pytest.fixture
def client(tmp_path: Path, new_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """An empty store in sqlite, for this process and those that it starts."""
    monkeypatch.chdir(tmp_path)
    uri = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri, uri)


def promote(**parameters: object) -> str:
    return run_promotion(parse(PromoteSettings, {k: str(v) for k, v in {**EASY, **parameters}.items()}))


def outcome(client: MlflowClient, version: str) -> dict[str, str]:
    return dict(client.get_model_version("gan", version).tags)


# ---- who becomes champion --------------------------------------------------------------------------------------------


def test_better_is_promoted_worse_is_refused_and_rollback_restores(
    client: MlflowClient, banks: dict[float, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    register(banks, GOOD)
    client.update_model_version("gan", "1", "Written by a person.")
    assert promote() == "models:/gan/1"  # the first champion, by the thresholds alone
    assert (current_version(client, "gan"), history(client, "gan")) == ("1", ["1"])
    description = client.get_model_version("gan", "1").description
    assert description.startswith("Written by a person.\n\n**Metrics beside real data**\n\n| metric |")
    assert description.endswith("\n\ngan version 1 is the first champion; thresholds: fid_ratio<=100,precision>=0.05.")

    register(banks, BETTER)
    assert promote() == "models:/gan/2"  # the newest
    assert (current_version(client, "gan"), history(client, "gan")) == ("2", ["1", "2"])
    tags = outcome(client, "2")
    assert tags["gan.promotion"] == "promoted"
    metrics = json.loads(tags["gan.promotion.metrics"])
    assert (metrics["candidate"]["version"], metrics["champion"]["version"]) == ("2", "1")
    assert metrics["candidate"]["fid/classifier"] < metrics["champion"]["fid/classifier"]
    assert json.loads(tags["gan.promotion.protocol"])["generated"] == "100 images of the seeds 0 to 99"
    page = mlflow.artifacts.load_text(f"runs:/{tags['gan.promotion.run']}/comparison/comparison.html")
    assert "<h3>gan version 2, the candidate</h3>" in page
    assert "<h3>gan version 1, the champion</h3>" in page
    assert "version 1 had " in client.get_model_version("gan", "2").description

    register(banks, BAD)
    with pytest.raises(Refused, match=r"^gan version 3 is not promoted: .*fid/classifier = \d+\.\d+.* baseline model"):
        promote(thresholds="none")
    assert (current_version(client, "gan"), history(client, "gan")) == ("2", ["1", "2"])
    assert outcome(client, "3")["gan.promotion"] == "refused"
    assert "gan version 3 is not promoted" in client.get_model_version("gan", "3").description

    assert promote(rollback=True) == "models:/gan/1"
    assert "gan version 1 is the champion again, instead of version 2." in capsys.readouterr().out
    assert (current_version(client, "gan"), history(client, "gan")) == ("1", ["1"])
    assert (outcome(client, "1")["gan.promotion"], outcome(client, "2")["gan.promotion"]) == ("restored", "rolled back")
    with pytest.raises(UserError, match=r"^gan has no earlier champion to go back to\.$"):
        promote(rollback=True)


def test_a_threshold_on_the_critic_is_about_images_in_full_size(client: MlflowClient, banks: dict[float, Path]) -> None:
    register(banks, BAD)
    with pytest.raises(Refused, match="gan version 1 is not promoted: Metric critic_auroc/critic-16 "):
        promote(thresholds="critic_auroc<=0.9")
    assert current_version(client, "gan") is None


def test_both_are_evaluated_alike_in_a_run_each(client: MlflowClient, banks: dict[float, Path]) -> None:
    """The same model twice has the same metrics to the last digit, so it is not better than itself."""
    register(banks, GOOD, GOOD)
    promote(version=1)
    with pytest.raises(Refused, match="minimum relative change"):
        promote(version=2)
    parent = next(run for run in client.search_runs(["0"]) if run.data.tags.get("gan.outcome") == "refused")
    children = client.search_runs(["0"], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    roles = {run.data.tags["gan.role"]: run for run in children}
    assert set(roles) == {"candidate", "champion"}
    metrics = [
        {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}
        for run in roles.values()
    ]
    assert metrics[0] == metrics[1]
    assert parent.data.metrics["candidate/fid/classifier"] == metrics[0]["fid/classifier"]
    assert promote(version=2, min_improvement=0) == "models:/gan/2"  # equal is enough where the user chose so


def test_the_first_champion_must_meet_the_thresholds(client: MlflowClient, banks: dict[float, Path]) -> None:
    register(banks, BAD)
    with pytest.raises(Refused, match=r"precision/classifier value threshold check failed.* threshold = 0\.05"):
        promote()
    assert (current_version(client, "gan"), history(client, "gan")) == (None, [])
    promote(thresholds="none")
    assert current_version(client, "gan") == "1"


def test_another_champion_in_the_meantime_is_the_one_to_beat(
    client: MlflowClient, banks: dict[float, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While version 2 is compared with 1, version 3, which is better than both, is promoted."""
    register(banks, GOOD, BETTER, BEST)
    promote(version=1)
    original = set_champion

    def late(client: MlflowClient, name: str, version: str, *, expected: str | None, holder: str) -> bool:
        monkeypatch.setattr("gan_plugin.jobs.promote.set_champion", original)
        assert original(client, name, "3", expected="1", holder="another run")
        return original(client, name, version, expected=expected, holder=holder)

    monkeypatch.setattr("gan_plugin.jobs.promote.set_champion", late)
    with pytest.raises(Refused, match="gan version 2 is not promoted"):
        promote(version=2)
    assert "gan has another champion than a moment ago: comparing with that one." in capsys.readouterr().out
    assert (current_version(client, "gan"), history(client, "gan")) == ("3", ["1", "3"])


def test_a_version_that_became_champion_in_the_meantime_is_not_called_refused(
    client: MlflowClient, banks: dict[float, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same version promoted twice at once."""
    register(banks, GOOD)

    def late(client: MlflowClient, name: str, version: str, *, expected: str | None, holder: str) -> bool:
        assert set_champion(client, name, "1", expected=None, holder="another run")
        return set_champion(client, name, version, expected=expected, holder=holder)

    monkeypatch.setattr("gan_plugin.jobs.promote.set_champion", late)
    with pytest.raises(UserError, match=r"^gan version 1 became the champion while it was evaluated here\.$"):
        promote()
    assert (current_version(client, "gan"), history(client, "gan")) == ("1", ["1"])
    assert "gan.promotion" not in outcome(client, "1")


def test_a_collapsed_champion_can_be_replaced(client: MlflowClient, tmp_path: Path, banks: dict[float, Path]) -> None:
    """It has no cas, since no classifier can be learned from a single class."""
    digits = load_dataset("digits", image_size=16)
    with mlflow.start_run():
        flavor.log_model(
            export_bank(digits, tmp_path / "one.onnx", images=digits.samples[:1]), registered_model_name="gan"
        )
    register(banks, GOOD)
    promote(version=1, thresholds="none")
    assert promote(version=2, thresholds="cas>=0.1", metric="cas") == "models:/gan/2"
    with pytest.raises(Refused, match="cas/classifier was missing from the evaluation result of the candidate"):
        promote(version=1, thresholds="none", metric="cas")


# ---- the registry ----------------------------------------------------------------------------------------------------


def empty_versions(client: MlflowClient, count: int) -> None:
    client.create_registered_model("gan")
    for _ in range(count):
        client.create_model_version("gan", "file:///nowhere")


def test_of_many_at_once_exactly_one_becomes_champion(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", PATIENCE_S)  # the last of them waits for all others
    empty_versions(client, 9)
    assert set_champion(client, "gan", "1", expected=None, holder="first")
    versions = [str(version) for version in range(2, 10)]
    barrier = threading.Barrier(len(versions))

    def try_one(version: str) -> bool:
        barrier.wait()
        return set_champion(client, "gan", version, expected="1", holder=f"run {version}")

    with ThreadPoolExecutor(len(versions)) as pool:
        champions = [version for version, done in zip(versions, pool.map(try_one, versions)) if done]
    assert len(champions) == 1
    assert (current_version(client, "gan"), history(client, "gan")) == (champions[0], ["1", champions[0]])
    assert [model.name for model in client.search_registered_models()] == ["gan"]  # no lock is left


def test_annotations_are_appended_to_what_people_wrote_and_not_repeated(client: MlflowClient) -> None:
    empty_versions(client, 1)
    client.update_model_version("gan", "1", "Written by a person.")
    for paragraph in ("One paragraph.", "| a | table |\n|---|---|", "| a | table |\n|---|---|"):
        annotate_version(
            client, client.get_model_version("gan", "1"), tags={"gan.outcome": "tested"}, paragraph=paragraph
        )
    version = client.get_model_version("gan", "1")
    assert version.description == "Written by a person.\n\nOne paragraph.\n\n| a | table |\n|---|---|"
    assert version.tags["gan.outcome"] == "tested"


def test_a_description_stays_within_what_mlflows_databases_take(client: MlflowClient) -> None:
    """After many promotions the newest paragraph is whole, and what it is for stands first as before."""
    empty_versions(client, 1)
    for i in range(60):
        version = client.get_model_version("gan", "1")
        annotate_version(client, version, tags={}, paragraph=f"Refused in promotion {i}: " + 40 * "word ")
    description = client.get_model_version("gan", "1").description
    assert len(description) == 5000
    assert description.startswith("Refused in promotion 0: ")
    assert description.endswith("…\n\nRefused in promotion 59: " + 40 * "word ")


def test_a_lock_of_another_host_is_reported_before_any_evaluation(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_versions(client, 1)
    client.create_registered_model("gan.promotion-lock", {"holder": "abc"})
    monkeypatch.setattr(lock, "PATIENCE", 0.5)
    for rollback in (False, True):
        with pytest.raises(Locked, match=r"^gan is locked by an unknown process in the run abc, for "):
            promote(rollback=rollback)
    assert client.search_runs(["0"]) == []


def test_rollback_goes_back_step_by_step_past_deleted_versions(client: MlflowClient) -> None:
    empty_versions(client, 4)
    for before, version in ((None, "1"), ("1", "2"), ("2", "3"), ("3", "4")):
        assert set_champion(client, "gan", version, expected=before, holder="run")
    client.delete_model_version("gan", "2")
    assert roll_back(client, "gan", "run") == ("4", "3")
    assert roll_back(client, "gan", "run") == ("3", "1")
    assert history(client, "gan") == ["1"]
    with pytest.raises(UserError, match="no earlier champion"):
        roll_back(client, "gan", "run")
    assert current_version(client, "gan") == "1"


def test_a_champion_that_someone_set_by_hand_is_remembered(client: MlflowClient) -> None:
    empty_versions(client, 3)
    client.set_registered_model_alias("gan", "champion", "2")
    assert champion_of(client, "gan") == "2"
    assert not set_champion(client, "gan", "3", expected=None, holder="run")
    assert set_champion(client, "gan", "3", expected="2", holder="run")
    assert roll_back(client, "gan", "run") == ("3", "2")


def test_a_deleted_champion_is_reported_and_rolled_back_from(client: MlflowClient) -> None:
    empty_versions(client, 3)
    set_champion(client, "gan", "1", expected=None, holder="run")
    set_champion(client, "gan", "2", expected="1", holder="run")
    client.delete_model_version("gan", "2")
    with pytest.raises(UserError, match=r"^The last champion of gan was version 2, and no version has the"):
        promote(version=3)
    assert promote(rollback=True) == "models:/gan/1"
    assert champion_of(client, "gan") == "1"


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"model_name": "nobody"}, "model_name='nobody' is not registered here: give the name of a registered model."),
        (
            {"model_name": "it's"},
            'model_name="it\'s" is not possible: give a name of at most 190 printable characters ',
        ),
        ({"version": 7}, "gan has no version 7: its versions are 1, 2."),
        ({"version": 1}, "gan version 1 is the champion already: give another version."),
        ({"data": "nowhere"}, "data='nowhere' is neither 'digits', a folder"),
        (
            {"held_out": "none"},
            "fid_ratio needs held-out images, and nothing of data='digits' is held out here: give held_out=auto",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_evaluation(
    client: MlflowClient, parameters: dict[str, object], sentence: str
) -> None:
    empty_versions(client, 2)
    set_champion(client, "gan", "1", expected=None, holder="run")
    with pytest.raises(UserError) as refusal:
        promote(**parameters)
    assert str(refusal.value).startswith(sentence)
    assert current_version(client, "gan") == "1"


def test_a_champion_whose_files_are_gone_is_reported(client: MlflowClient, banks: dict[float, Path]) -> None:
    register(banks, GOOD)
    client.create_model_version("gan", "file:///nowhere")
    set_champion(client, "gan", "2", expected=None, holder="run")
    with pytest.raises(UserError, match="'models:/gan/2' cannot be loaded: "):
        promote(version=1)
    assert current_version(client, "gan") == "2"
    with pytest.raises(UserError, match="The model makes images of 16×16×1 and the data has 32×32×1: give"):
        promote(version=1, image_size=32)
    assert {run.data.tags.get("gan.role") for run in client.search_runs(["0"])} == {None}  # nothing was evaluated


# ---- as people run it ------------------------------------------------------------------------------------------------


def test_the_entry_point_promotes_refuses_and_rolls_back(
    make_project: Callable[[], Project], banks: dict[float, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project()
    project.learn_shortly()
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    register(banks, GOOD, BAD)
    done = project.mlflow_run("promote", version=1, **EASY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "models:/gan@champion names it." in done.stdout
    refused = project.mlflow_run("promote", **EASY)
    assert refused.returncode != 0
    assert "Error: gan version 2 is not promoted: Metric " in refused.stderr
    assert project.runs()[-1].info.status == "FINISHED"
    assert "FAILED" in {run.info.status for run in project.runs()}
    assert current_version(project.client, "gan") == "1"
    nothing = project.command("gan-plugin", "promote", *options({"rollback": True}))
    assert (nothing.returncode, error_of(nothing)) == (2, "gan has no earlier champion to go back to.")


@pytest.fixture
def remote(make_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project whose store is behind ``mlflow server``, which the environment names."""
    project = make_project()
    with tracking(project, workers=2) as (_, uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield project


def test_through_a_server_two_at_once_leave_the_better_one_champion(remote: Project, banks: dict[float, Path]) -> None:
    """Two processes that begin together, of which either may be the first to end; then rollback, and a worse one."""
    register(banks, GOOD, BETTER, BEST)
    uri = os.environ["MLFLOW_TRACKING_URI"]
    client = MlflowClient(uri, uri)
    set_champion(client, "gan", "1", expected=None, holder="run")

    def start(version: int) -> subprocess.Popen[str]:
        words = ["promote", *options({**EASY, "version": version})]
        code = f"{SHORT_CAS}\nfrom gan_plugin.cli import main\nmain({words!r})"
        return subprocess.Popen(
            ["python", "-c", code],
            cwd=remote.folder,
            # one thread each: torch's threads spin while they wait, and two processes would starve each other
            env=remote.environment(MLFLOW_TRACKING_URI=uri, OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    processes = {version: start(version) for version in (2, 3)}
    outputs = {version: process.communicate(timeout=PATIENCE_S)[0] for version, process in processes.items()}
    assert current_version(client, "gan") == "3", outputs
    assert processes[3].returncode == 0, outputs[3]
    if processes[2].returncode == 0:  # it came first
        assert history(client, "gan") == ["1", "2", "3"]
        assert json.loads(outcome(client, "3")["gan.promotion.metrics"])["champion"]["version"] == "2"
    else:
        assert history(client, "gan") == ["1", "3"]
        assert "gan version 2 is not promoted" in outputs[2]
    assert [model.name for model in client.search_registered_models()] == ["gan"]

    before = history(client, "gan")[-2]
    assert promote(rollback=True) == f"models:/gan/{before}"
    register(banks, BAD)
    with pytest.raises(Refused, match="gan version 4 is not promoted"):
        promote(thresholds="none")
    assert current_version(client, "gan") == before
