"""What a run and a registered version say of themselves in MLflow's UI, as Markdown."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mlflow.utils.mlflow_tags import (
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER,
    MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME,
)

from gan_plugin.data import Dataset
from gan_plugin.device import precision_name
from gan_plugin.errors import join_names
from gan_plugin.training.plan import TrainingPlan, spec_of

MAX_NAMED_CLASSES = 20  # MLflow's databases take descriptions of 5,000 characters
METRICS_HEADING = "**Metrics beside real data**"


def run_name(plan: TrainingPlan, dataset: Dataset) -> str:
    """Return the beginning of a run's name, such as ``r1-digits``."""
    return f"{plan.recipe.name}-{dataset.name}"


def describe_run(plan: TrainingPlan, dataset: Dataset) -> str:
    """Return what a training run is about: the method, the data, and where to look."""
    return "\n".join(
        [
            f"A GAN trained by the recipe **{plan.recipe.name}** on **{dataset.name}**.",
            "",
            *summary_lines(plan, dataset),
            f"- Training: {duration(plan)} in batches of {plan.recipe.batch_size}, seed {plan.seed}, on "
            f"{plan.device.type} in {precision_name(plan.precision)}.",
            "",
            "Losses and quick evaluations are under *Model metrics*, grids of samples from fixed seeds under "
            "*Artifacts*, the exported generator under *Logged models*.",
        ]
    )


def duration(plan: TrainingPlan) -> str:
    """Return how long a training goes on, in words."""
    return f"{plan.minutes:g} minutes" if plan.epochs is None else f"{plan.epochs:,} epochs"


def describe_version(plan: TrainingPlan, dataset: Dataset, *, uri: str, reason: str) -> str:
    """Return what a registered version is: the generator, the data, how to ask for an image, and its limits.

    Args:
        uri: the version's, such as ``models:/gan/1``.
        reason: a sentence on why this generator was exported.
    """
    spec = spec_of(dataset, plan.recipe)
    row = {"seed": 0} | ({"label": spec.class_names[0]} if spec.classes else {})
    request = json.dumps({"dataframe_records": [row]}, ensure_ascii=False)
    return "\n".join(
        [
            f"A generator of {spec} images like those of **{dataset.name}**: one ONNX file that answers with images "
            "for seeds.",
            "",
            *summary_lines(plan, dataset),
            f"- {reason}",
            "",
            METRICS_HEADING,
            "",
            f"None yet: `mlflow run . -e evaluate --env-manager local -P model={uri} -P data=…` measures them.",
            "",
            "**Ask for an image**",
            "",
            "```bash",
            f"mlflow models serve -m {uri} --env-manager local --port 5001",
            f"curl -s localhost:5001/invocations -H 'Content-Type: application/json' -d {shlex.quote(request)}",
            "```",
            "",
            "**Limits**",
            "",
            f"It learned from {len(dataset):,} images and knows nothing beyond them; it may repeat some of them, which "
            "an evaluation's nearest images show. No metric says that every image is good: look at samples before you "
            "use it.",
        ]
    )


def summary_lines(plan: TrainingPlan, dataset: Dataset) -> list[str]:
    """Return the list items on data and recipe that run and version share."""
    spec = dataset.spec
    return [
        f"- Data: {len(dataset):,} images of {spec} from {dataset.name}, split {dataset.split}, digest "
        f"`{dataset.digest}`{in_classes(spec.class_names)}.",
        f"- Recipe: {plan.recipe.name}. {plan.recipe.summary}.",
    ]


def in_classes(names: tuple[str, ...]) -> str:
    """Return a phrase on the data's classes, "" where it has none.

    >>> in_classes(("cat", "dog"))
    ', in 2 classes (cat, dog)'
    """
    if not names:
        return ""
    return f", in {len(names):,} classes ({join_names(names, MAX_NAMED_CLASSES)})"


def with_metrics(description: str, results: Mapping[str, Any], *, run_id: str) -> str:
    """Return a version's description with the metrics of an evaluation, in the place of those of an earlier one.

    Args:
        description: any text; without a section of metrics, one is appended.
        results: what ``metrics.json`` holds.
        run_id: of the evaluation.
    """
    rows = [
        f"| {row['name']}/{row['network'] or results['network']} | {row['value']:.4g} | {number(row['real'])} |"
        for row in results["measurements"]
    ]
    table = "\n".join(["| metric | model | real images |", "|---|---|---|", *rows])
    section = f"{METRICS_HEADING}\n\n{table}\n\nFrom the run `{run_id}`, whose report has the protocol and the images."
    pattern = re.compile(rf"{re.escape(METRICS_HEADING)}\n\n(?:None yet[^\n]*|(?:\|[^\n]*\n)+\nFrom the run `[^\n]*)")
    if pattern.search(description):
        return pattern.sub(lambda _: section, description)
    return "\n\n".join(filter(None, [description, section]))


def number(value: float | None) -> str:
    """Format a baseline; "" where there is none."""
    return "" if value is None else f"{value:.4g}"


def primary_metric_tags(name: str) -> dict[str, str]:
    """Return the tags of an experiment by which MLflow's UI sorts its runs by this metric, lower being better."""
    return {
        MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME: name,
        MLFLOW_EXPERIMENT_PRIMARY_METRIC_GREATER_IS_BETTER: "false",
    }
