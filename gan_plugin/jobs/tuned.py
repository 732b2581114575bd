"""What a search found: a table, a recipe of the user's own, and what its run in MLflow says."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gan_plugin.config.recipe import override, parse_hyperparameters
from gan_plugin.config.recipe_file import recipe_text
from gan_plugin.config.space import texts_at
from gan_plugin.jobs import study as studies
from gan_plugin.jobs.search import Search
from gan_plugin.storage import write_atomically
from gan_plugin.tracking.run import RUN_NOTE
from gan_plugin.training.rules import without_unused

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STUDY = "study.json"
MAX_ROWS = 20  # of a table in MLflow, whose databases take descriptions of 5,000 characters


def write_results(search: Search, *, is_over: bool) -> bool:
    """Write the study, and the recipe with the best hyperparameters; returns whether there are any.

    Args:
        is_over: whether the search came to its end; parameters of its run, which cannot change, are logged only then.
    """
    run, study = search.run, search.study
    file = run.folder / STUDY
    file.write_text(json.dumps(studies.as_json(study, search.plan.space), indent=1, ensure_ascii=False), "utf-8")
    run.spool.file(file, "search")
    rows = studies.table(study, search.plan.space)
    print(aligned(rows), flush=True)
    best = studies.best(study)
    if best is None or best.value is None:
        return False
    texts = texts_at(search.plan.space, best.params)
    result = describe_best(search, best)
    write_recipe(search, {**search.plan.fixed, **texts}, result)
    run.spool.note(RUN_NOTE, describe_search(search, rows, result))
    if is_over:
        run.parameters({f"best/{name}": text for name, text in texts.items()})
        run.spool.metrics({f"importance/{k}": v for k, v in studies.importances(study).items()}, best.number)
        run.spool.metrics(summary_metrics(search.plan.metric, values_of(search, best.number)), best.number)
    out, data = (shlex.quote(text) for text in (search.settings.out, search.settings.data))
    print(f"Trial {best.number} is the best: {result}.\n{out} has it as a recipe. Train with it:")
    print(f"  gan-plugin train --data {data} --recipe {out}", flush=True)
    return True


def write_recipe(search: Search, texts: dict[str, str], result: str) -> None:
    """Write the user's file, and log it."""
    recipe, settings = search.plan.recipe, search.settings
    tuned = without_unused(override(recipe, **parse_hyperparameters(texts)))
    summary = f"{recipe.name} tuned on {settings.data} in {settings.minutes:g} minutes: {result}"
    text = recipe_text(replace(tuned, summary=summary), f"{recipe.name}: {recipe.summary}")

    def write(partial: Path) -> None:
        partial.write_text(text, "utf-8")

    out = Path(settings.out).resolve()
    write_atomically(out, write)
    search.run.spool.file(out, "search")


def values_of(search: Search, number: int) -> list[float]:
    """Return the values of a trial's hyperparameters with further seeds."""
    values = (entry["value"] for entry in studies.repeats(search.study, number))
    return [value for value in values if value is not None]


def describe_best(search: Search, best: FrozenTrial) -> str:
    """Return how good the best trial is: over further seeds, or by what it was chosen where there are none."""
    values, metric, minutes = values_of(search, best.number), search.plan.metric, search.plan.trial_minutes
    failed = len(studies.repeats(search.study, best.number)) - len(values)
    if values:
        return (
            f"{metric} {mean_and_std(values)} in {minutes:g}-minute trainings with {other_seeds(len(values), failed)}"
        )
    trials = len(studies.ended(search.study))
    return f"{metric} {best.value:.4g}, the lowest of {trials} {minutes:g}-minute trainings, {other_seeds(0, failed)}"


def other_seeds(finished: int, failed: int) -> str:
    """Return a phrase on the trainings of the best with other seeds.

    >>> other_seeds(3, 0), other_seeds(1, 2), other_seeds(0, 1), other_seeds(0, 0)
    ('3 other seeds', '1 other seed, and 2 failed', 'and 1 other seed failed', 'and no other seed was tried')
    """
    seeds = f"{finished or failed} other {'seed' if (finished or failed) == 1 else 'seeds'}"
    if finished:
        return seeds + (f", and {failed} failed" if failed else "")
    return f"and {seeds} failed" if failed else "and no other seed was tried"


def mean_and_std(values: Sequence[float]) -> str:
    """Return the mean and, of two or more, the sample's standard deviation.

    >>> mean_and_std([1.0, 2.0]), mean_and_std([3.0])
    ('1.5 ± 0.71', '3')
    """
    mean = f"{statistics.fmean(values):.4g}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2g}"


def summary_metrics(metric: str, values: Sequence[float]) -> dict[str, float]:
    """Return the metrics of a search as a whole: under the name of its trainings' metric, so that they sort together.

    >>> summary_metrics("fid_2k/classifier", [1.0, 3.0])
    {'fid_2k/classifier': 2.0, 'fid_2k_std/classifier': 1.4142135623730951}
    """
    name, network = metric.split("/", maxsplit=1)
    mean = {metric: statistics.fmean(values)} if values else {}
    return mean | ({f"{name}_std/{network}": statistics.stdev(values)} if len(values) > 1 else {})


def describe_search(search: Search, rows: list[list[str]], result: str) -> str:
    """Return what the search's run says of itself in MLflow's UI, as Markdown."""
    recipe, data = search.plan.recipe.name, search.settings.data
    head, *body = (f"| {' | '.join(row)} |" for row in rows[: MAX_ROWS + 1])
    return "\n".join(
        [
            f"A search from the recipe **{recipe}** on **{data}**. The best: {result}.",
            "",
            head,
            "|" + "---|" * len(rows[0]),
            *body,
            "",
            "The trainings are the runs below this one; the recipe and all values are under *Artifacts*.",
        ]
    )


def aligned(rows: list[list[str]]) -> str:
    """Return rows of cells as lines with aligned columns.

    >>> print(aligned([["trial", "value"], ["10", "2"]]))
    trial  value
    10     2
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
