"""The site's reference pages against the package that they describe. ``.ci/run`` builds the site itself."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT, load_script

from gan_plugin.config.recipe import HYPERPARAMETERS, load_recipe, recipe_names
from gan_plugin.config.settings import EvaluateSettings, TrainSettings
from gan_plugin.metrics.catalog import CATALOG
from gan_plugin.training.steps import metric_names

DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "reference").glob("*.md"))
BLOCK = re.compile(r"<!-- generated: (.+?) -->")


def test_generated_tables_are_the_packages_own(tmp_path: Path) -> None:
    copies = [Path(shutil.copy(page, tmp_path)) for page in PAGES]
    subprocess.run([sys.executable, DOCS / "generate.py", *copies], check=True)
    for page, copy in zip(PAGES, copies):
        text = page.read_text("utf-8")
        assert len(BLOCK.findall(text)) == text.count("<!-- end -->") >= 1
        assert copy.read_text("utf-8") == text, "run: python docs/generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return load_script(DOCS / "generate.py")


def test_every_table_is_on_one_page(generate: ModuleType) -> None:
    names = [name for page in PAGES for name in BLOCK.findall(page.read_text("utf-8"))]
    assert sorted(names) == sorted(generate.BLOCKS)


def test_what_a_training_step_logs_is_explained() -> None:
    explained = re.findall(r"`([\w/]+)`", (DOCS / "reference" / "metrics.md").read_text("utf-8"))
    logged = {name for recipe in recipe_names() for name in metric_names(load_recipe(recipe))}
    assert logged <= set(explained)


def test_the_tables_have_every_parameter_recipe_and_metric(generate: ModuleType) -> None:
    train = generate.parameter_table(TrainSettings).splitlines()
    assert train[0] == "| parameter | default | accepts | meaning |"
    assert len(train) == 2 + len(dataclasses.fields(TrainSettings))
    assert "| `model` | *required* | some text |" in generate.parameter_table(EvaluateSettings)
    hyperparameters = generate.hyperparameter_table().splitlines()
    penalty_every = "| `penalty_every` | `1` | a whole number of at least 1 | Steps from one penalty to the next. |"
    assert f"{penalty_every} a penalty |" in hyperparameters
    assert len(hyperparameters) == 2 + len(HYPERPARAMETERS)
    recipes = generate.recipe_table().splitlines()
    assert "| `dcgan` | The tutorial's DCGAN with the non-saturating loss |" in recipes
    metrics = generate.metric_table().splitlines()
    assert len(metrics) == 2 + len(CATALOG)
    (fid,) = [line for line in metrics if line.startswith("| `fid` | `fid/NETWORK` | ↓ lower | Fréchet distance ")]
    paper = "[Heusel et al. 2017](https://arxiv.org/abs/1706.08500)"
    assert fid.endswith(f"| metric, threshold `fid<=…` | {paper} |")
