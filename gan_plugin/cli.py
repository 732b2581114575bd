"""The command line: ``gan-plugin train | tune | evaluate | compare | promote | replay | close | unlock | sample | …``.

The options of the first four come from :mod:`gan_plugin.config`.
"""

from __future__ import annotations

import errno
import logging
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gan_plugin import __version__
from gan_plugin.config.kinds import parse_value, registered_name, unknown_parameter
from gan_plugin.config.parsing import SettingsClass, parameters_of, parse, parse_training
from gan_plugin.config.recipe import HYPERPARAMETERS, load_recipe, recipe_names
from gan_plugin.config.settings import CompareSettings, EvaluateSettings, PromoteSettings, TrainSettings, TuneSettings
from gan_plugin.errors import UserError
from gan_plugin.launch import become_torchrun, check_alone
from gan_plugin.output import forgive_output
from gan_plugin.process import age_s
from gan_plugin.spec import MAX_SEED

MAX_SEEDS = 10_000  # on one sheet
FULL = (errno.ENOSPC, errno.EDQUOT)
TRY_AGAIN = 75  # the exit status that sysexits.h has for what may work later

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),  # mlflow run turns -P batch_size=64 to --batch_size 64
}


Function = Callable[..., None]


def options_of(cls: SettingsClass) -> Callable[[Function], Function]:
    """Give a command one option per parameter. Values stay text here: parsing them refuses wrong ones."""

    def decorate(command: Function) -> Function:
        for name, field in reversed(parameters_of(cls).items()):
            text = field.metadata["text"]
            default = "" if text is None else f" [default: {text}]"
            if name in HYPERPARAMETERS:
                default = " [default: the recipe's]"
            option = click.option(
                f"--{name.replace('_', '-')}", name, help=f"{field.metadata['help']}{default}", metavar="VALUE"
            )
            command = option(command)
        return command

    return decorate


def model_options(command: Function) -> Function:
    """Give a command the two ways to name a generator."""
    file = click.option(
        "--onnx", "onnx_file", type=click.Path(path_type=Path), help="An exported file, instead of --model."
    )
    return click.option("--model", metavar="URI", help="An MLflow model, for example models:/gan/1.")(file(command))


class Parameters(click.Command):
    """A command whose unknown options are refused as parameters, which ``mlflow run -P`` passes on as options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an unknown option in one sentence with the names that are near."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [param.name for param in self.params if param.name is not None]
            raise unknown_parameter(error.option_name.lstrip("-").replace("-", "_"), known) from None


class Commands(click.Group):
    """Commands that end with one sentence where the user can fix something, else with a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and turn a ``UserError`` into click's one line and exit status 2."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.UsageError(str(error)) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            where = f" to {error.filename}" if error.filename else ""
            raise click.ClickException(
                f"Nothing more can be written{where} ({error.strerror}): make room, and give the command again; a "
                "training goes on with resume."
            ) from None


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """From images to a served generator, on MLflow."""
    forgive_output()
    if context.invoked_subcommand not in (None, "train"):
        check_alone(context.invoked_subcommand)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@main.command(cls=Parameters)
@options_of(TrainSettings)
def train(**texts: str | None) -> None:
    """Train a GAN, verify its ONNX export, log and register it."""
    settings, overrides = parse_training(without_none(texts))
    started = time.monotonic() - age_s()
    become_torchrun()
    from gan_plugin.distributed import RankLost
    from gan_plugin.export import ExportError
    from gan_plugin.jobs.train import Undelivered, run_training
    from gan_plugin.training.errors import Diverged

    try:
        run_training(settings, overrides, started=started)
    except (Diverged, ExportError, RankLost) as error:
        raise click.ClickException(str(error)) from None
    except Undelivered as error:
        click.ClickException(str(error)).show()
        raise SystemExit(TRY_AGAIN) from None


@main.command(cls=Parameters)
@options_of(TuneSettings)
def tune(**texts: str | None) -> None:
    """Search a recipe's hyperparameters within a total time, and write the best ones as a recipe."""
    settings = parse(TuneSettings, without_none(texts))
    started = time.monotonic() - age_s()
    from gan_plugin.jobs.train import Undelivered
    from gan_plugin.jobs.trial import TrialFailed
    from gan_plugin.jobs.tune import NothingFound, run_tune

    try:
        run_tune(settings, started=started)
    except (NothingFound, TrialFailed) as error:
        raise click.ClickException(str(error)) from None
    except Undelivered as error:
        click.ClickException(str(error)).show()
        raise SystemExit(TRY_AGAIN) from None


@main.command(cls=Parameters)
@options_of(EvaluateSettings)
def evaluate(**texts: str | None) -> None:
    """Measure how good a model's images are, beside real ones."""
    settings = parse(EvaluateSettings, without_none(texts))
    from gan_plugin.jobs.evaluate import run_evaluation

    run_evaluation(settings)


@main.command(cls=Parameters)
@click.argument("named", nargs=-1, metavar="MODEL|RUN...")
@options_of(CompareSettings)
def compare(named: tuple[str, ...], **texts: str | None) -> None:
    """Evaluate generators alike, and log a page with all of them side by side."""
    values = without_none(texts)
    if models := ",".join(filter(None, [*named, values.get("models", "")])):
        values["models"] = models
    settings = parse(CompareSettings, values)
    from gan_plugin.jobs.compare import run_comparison

    print(run_comparison(settings))


@main.command(cls=Parameters)
@options_of(PromoteSettings)
def promote(**texts: str | None) -> None:
    """Make a version the champion, if it is better than the current one."""
    settings = parse(PromoteSettings, without_none(texts))
    from gan_plugin.jobs.promote import Refused, run_promotion
    from gan_plugin.lock import Locked

    try:
        run_promotion(settings)
    except (Refused, Locked) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def replay(folder: Path) -> None:
    """Deliver to MLflow what a training left in FOLDER, such as outputs/RUN_ID, while no server answered.

    The run goes to MLFLOW_TRACKING_URI, registration included; also days later, and to another server.
    """
    from gan_plugin.jobs.replay import replay_run

    uri = replay_run(folder.resolve())
    if uri is not None:
        click.echo(f"{uri}")


@main.command()
@click.argument("run_id")
def close(run_id: str) -> None:
    """Close a run that a killed process left as RUNNING.

    Commands close those of their own machine by themselves.
    """
    from gan_plugin.jobs import replay

    replay.close(run_id)
    click.echo(f"{run_id} is KILLED.")


@main.command()
@click.argument("name")
def unlock(name: str) -> None:
    """Remove the lock that a promotion of the registered model NAME left when it ended, and say whose it was.

    A promotion does this itself where it can know that the other has ended. A lock whose process still runs stays.
    """
    name = parse_value("name", name, registered_name())
    from gan_plugin.lock import Locked
    from gan_plugin.registry import unlock_model

    try:
        click.echo(unlock_model(name))
    except Locked as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@model_options
@click.option("--label", help="Class of all images, by name or index; without it the class is searched, too.")
@click.option("--evaluations", type=int, default=1024, show_default=True, help="Generated images in search of each.")
@click.option("--crop", is_flag=True, help="Crop images to the generator's shape, and resize them.")
@click.option("--device", default="auto", show_default=True, help="auto, cuda or cpu.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("projection.png"), show_default=True)
def project(*, model: str | None, onnx_file: Path | None, files: tuple[Path, ...], **options: Any) -> None:
    """Write image files beside the nearest images that a generator makes; print the z of each as a line of JSON."""
    from gan_plugin.projection import write_projection

    for line in write_projection(model, onnx_file, files, **options):
        click.echo(line)


@main.command()
@model_options
@click.option("--seeds", default="0-63", show_default=True, help="Seeds, as in 0-63 or 3,14,15.")
@click.option("--truncation", type=float, help="Bound of |z| in standard deviations: smaller is safer and less varied.")
@click.option("--label", help="Class of all images, by name or index; without it the seed chooses.")
@click.option("--edit", "edits", multiple=True, metavar="NAME=STEP", help="Step along a direction of the file's.")
@click.option("--columns", type=click.IntRange(1), default=8, show_default=True, help="Images per row.")
@click.option("--device", default="auto", show_default=True, help="auto, cuda or cpu.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples.png"), show_default=True)
def sample(*, model: str | None, onnx_file: Path | None, out: Path, seeds: str, **options: Any) -> None:
    """Write a sheet of images from seeds."""
    from gan_plugin.sampling import write_samples

    write_samples(model, onnx_file, out, seeds=parse_seeds(seeds), **options)
    click.echo(f"{out}")


@main.command()
@click.argument("model", required=False)
@click.option(
    "--onnx", "onnx_file", type=click.Path(path_type=Path), help="An exported file, instead of a model's URI."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("explorer.html"), show_default=True)
@click.option("--browser/--no-browser", default=True, help="Open the page when it is written.")
def explore(*, model: str | None, onnx_file: Path | None, out: Path, browser: bool) -> None:
    """Explore a generator, MODEL being a URI such as models:/gan@champion.

    Writes a page that holds the generator and what runs it: one HTML file, which needs no server and no network.
    """
    from gan_plugin.explorer import write_page
    from gan_plugin.sampling import find_onnx

    write_page(find_onnx(model, onnx_file), out)
    click.echo(f"{out}")
    if browser and not webbrowser.open(out.resolve().as_uri()):
        click.echo("There is no browser here: open the file on a machine that has one.", err=True)


@main.command()
def recipes() -> None:
    """List the training methods."""
    for name in recipe_names():
        click.echo(f"{name:16} {load_recipe(name).summary}")


@main.command()
@click.argument("network", type=click.Choice(["inception"]))
@click.option("--out", type=click.Path(path_type=Path), help="File to write, instead of the cache's.")
def fetch(network: str, out: Path | None) -> None:
    """Download a feature network's weights, for machines that reach no network later."""
    from gan_plugin.features.inception import fetch_inception

    click.echo(f"{fetch_inception(out)}")


@main.command()
@click.option("--demand", type=click.Choice(["cpu", "cuda"]), help="End with status 1 where this device cannot serve.")
def doctor(demand: str | None) -> None:
    """Report what generators can be served on here, and how to fix what does not work."""
    from gan_plugin.doctor import check_serving

    report = check_serving()
    click.echo("\n".join(report.lines))
    if demand is not None and demand not in report.devices:
        raise SystemExit(1)


def without_none(texts: dict[str, str | None]) -> dict[str, str]:
    """Return the options that are on the command line."""
    return {name: text for name, text in texts.items() if text is not None}


def parse_seeds(text: str) -> list[int]:
    """Parse numbers and ranges between commas.

    >>> parse_seeds("0-3,7")
    [0, 1, 2, 3, 7]
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), min(int(last or first), int(first) + MAX_SEEDS) + 1)
    except ValueError:
        seeds = []
    if not seeds or len(seeds) > MAX_SEEDS or not 0 <= min(seeds) <= max(seeds) <= MAX_SEED:
        raise UserError(
            f"seeds={text!r} is not possible: give at most {MAX_SEEDS:,} whole numbers from 0, as in 0-63 or 3,14,15."
        )
    return seeds
