"""A thousand classes with long names, from a folder to a served image of one of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from helpers import CHROMIUM, PATIENCE_S, ROOT, Project, need_program, options, refusal, serving
from PIL import Image

from gan_plugin import flavor
from gan_plugin.config.parsing import parse
from gan_plugin.config.settings import EvaluateSettings
from gan_plugin.data.dataset import make_dataset
from gan_plugin.evaluation.results import MAX_CLASS_METRICS
from gan_plugin.evaluator import check_fit
from gan_plugin.explorer import write_page
from gan_plugin.features import classifier_training
from gan_plugin.jobs.evaluate import run_evaluation
from gan_plugin.serving.description import Description
from gan_plugin.spec import image_spec

NAMES = [f"{i:04d}_{'of_the_catalog_of_the_museum_' * 3}ü" for i in range(1000)]
PER_CLASS = 2  # images: as many as a class's distance needs
# as few steps of as small networks as there are
TINY = {"recipe": "r3gan", "width": 16, "blocks": 1, "epochs": 1, "batch_size": 512, "augment": "none"}
ALL = {"data": "things", "held_out": "none"}  # or there would not be two images of each class
LOOK_AROUND = """
import { chromium } from "playwright-core";
const [executablePath, address, name] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"], timeout: 0 });
const page = await browser.newPage();
page.setDefaultTimeout(0); // whoever runs this has a limit
const complaints = [];
page.on("pageerror", (error) => complaints.push(error.message));
await page.goto(address);
const settled = () => page.locator('#explorer[aria-busy="false"]').waitFor();
await settled();
await page.locator("#class").selectOption(name);
await settled();
const options = await page.locator("#class option").count();
const shown = await page.locator("#class-shown").textContent();
console.log(JSON.stringify({ options, shown, complaints }));
await browser.close();
"""


@pytest.fixture(scope="module")
def project(make_project: Callable[[], Project]) -> Project:
    """A project with a generator trained by ``gan-plugin train`` on such images."""
    project = make_project()
    gray = np.random.default_rng(0).integers(0, 256, (len(NAMES), PER_CLASS, 16, 16), np.uint8)
    for name, images in zip(NAMES, gray):
        folder = project.folder / "things" / name
        folder.mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{i}.bmp")
    done = project.command(
        "gan-plugin", "train", *options({**ALL, "conditional": "true", "evaluation_budget": 0, **TINY})
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def classes_of(project: Project, context: str) -> list[dict[str, object]]:
    """Return the classes in the newest run's file on its data."""
    uri = f"runs:/{project.runs()[0].info.run_id}/data/{context}.json"
    path = mlflow.artifacts.download_artifacts(uri, tracking_uri=project.tracking_uri)
    classes: list[dict[str, object]] = json.loads(Path(path).read_text("utf-8"))["classes"]
    return classes


EXPECTED = [{"name": name, "images": PER_CLASS} for name in NAMES]


def test_the_run_keeps_every_name_in_a_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    (run,) = project.runs()
    (entry,) = run.inputs.dataset_inputs
    assert {tag.key: tag.value for tag in entry.tags}["classes"] == "1000"
    assert classes_of(project, "training") == EXPECTED


@pytest.mark.usefixtures("short_metrics")
def test_they_are_evaluated_and_reported(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the job, in this process. Each class has its row in the report and in metrics.json, and no metric."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    for name in ("EPOCHS", "MIN_STEPS"):  # noise teaches a classifier nothing, however long
        monkeypatch.setattr(classifier_training, name, 1)
    texts = {"model": "models:/gan/1", **ALL, "images": str(PER_CLASS * len(NAMES)), "device": "cpu"}
    metrics = run_evaluation(parse(EvaluateSettings, texts))
    run = project.runs()[0]
    assert run.info.status == "FINISHED"
    assert metrics["modes/classifier"] == run.data.metrics["modes/classifier"]
    assert not [name for name in run.data.metrics if name.startswith("fid_of_class")]
    assert classes_of(project, "evaluation") == EXPECTED
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="evaluation"))
    results = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert [row["name"] for row in results["classes"] if row["fid"] is not None] == NAMES
    sentence = f"{MAX_CLASS_METRICS} classes are logged as metrics."
    assert [note for note in results["notes"] if note.endswith(sentence)]
    assert sentence in capsys.readouterr().out
    page = (folder / "report.html").read_text("utf-8")
    assert all(f">{name}<" in page for name in NAMES)


def test_one_is_served_by_name(project: Project) -> None:
    with serving(project, "models:/gan/1") as server:
        by_name, by_index, of_another = (
            server.records({"seed": 3, "label": label}).body["predictions"][0]["image"]
            for label in (NAMES[700], 700, 3)
        )
        refused = server.records({"seed": 3, "label": "nothing"})
    assert by_name == by_index != of_another
    assert refused.status == 400
    assert "(1,000 in all)" in refused.text


def test_a_model_of_other_classes_is_refused_in_few_words() -> None:
    """Which are those where the two part, and not the first ones, which are the same."""
    image = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    names = [*NAMES[:-1], "another"]
    dataset = make_dataset(image, torch.arange(2), names, name="", source="", split="train", notes=())
    description = Description(64, image_spec(16, 16, 1, class_names=NAMES))
    assert refusal(lambda: check_fit(description, dataset)) == (
        f"The model knows the classes …, {NAMES[-1]} (1,000 in all) and the data has …, another (1,000 in all): "
        "give the data that it was trained on."
    )


def test_one_is_chosen_in_the_explorer(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("npm", CHROMIUM):
        need_program(program)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    monkeypatch.chdir(project.folder)
    write_page(flavor.download_onnx("models:/gan/1"), tmp_path / "page.html")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / "examples" / "web" / name, tmp_path)
    (tmp_path / "look.mjs").write_text(LOOK_AROUND)
    address = (tmp_path / "page.html").as_uri()
    for words in (["npm", "ci", "--no-audit", "--no-fund"], ["node", "look.mjs", CHROMIUM, address, NAMES[700]]):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {"options": 1001, "shown": f"class {NAMES[700]}", "complaints": []}
