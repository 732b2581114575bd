"""What checkpoints and the log in a run's folder cost, as a share of training.

    python benchmarks/reliability/overhead.py --recipe r1 --epochs 30

Trains on scikit-learn's digits with the defaults and adds up the time inside of the functions that write.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gan_plugin.config.recipe import load_recipe
from gan_plugin.config.settings import TrainSettings
from gan_plugin.data import load_dataset
from gan_plugin.tracking.spool import Spool
from gan_plugin.training import loop
from gan_plugin.training.plan import make_plan
from gan_plugin.training.saving import Checkpoints

RESULTS = Path(__file__).parents[1] / "results" / "reliability-overhead.json"


class Clock:
    """Adds up the seconds that functions take; those that one calls within another count once."""

    def __init__(self) -> None:
        self.seconds, self.calls, self.running = 0.0, 0, False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def wrapper(*arguments: Any, **options: Any) -> Any:
            if self.running:
                return function(*arguments, **options)
            self.running, start = True, time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - start
                self.calls += 1
                self.running = False

        return wrapper


@click.command()
@click.option("--recipe", default="r1", show_default=True)
@click.option("--epochs", default=30, show_default=True)
def main(recipe: str, epochs: int) -> None:
    """Measure what checkpoints and the log in a run's folder cost."""
    saving, logging = Clock(), Clock()
    Checkpoints.save = saving.timed(Checkpoints.save)  # type: ignore[method-assign]
    for name in ("metrics", "image", "file", "note"):
        setattr(Spool, name, logging.timed(getattr(Spool, name)))
    dataset = load_dataset("digits")
    settings = TrainSettings(recipe=recipe, epochs=epochs)
    plan = make_plan(load_recipe(recipe), settings, overrides={}, dataset=dataset)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        loop.train(dataset, plan, Spool(Path(folder)), folder=Path(folder))
        total = time.perf_counter() - start
    result = {
        "recipe": recipe,
        "seconds": total,
        "checkpoints": saving.calls,
        "checkpoints' share": saving.seconds / total,
        "events": logging.calls,
        "log's share": logging.seconds / total,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
