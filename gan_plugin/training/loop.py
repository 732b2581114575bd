"""The training loop: set up, resume, epochs of steps, and at their ends metrics, samples and checkpoints."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gan_plugin.data import Pictures
from gan_plugin.errors import UserError
from gan_plugin.export import Showable
from gan_plugin.recipes import Recipe
from gan_plugin.serving.latents import latents
from gan_plugin.serving.pictures import Picture, contact_sheet
from gan_plugin.training.checkpoint import FILE_NAME, load_checkpoint, save_checkpoint
from gan_plugin.training.device import gather, precision_name, resident
from gan_plugin.training.ema import calibrate_batch_norm
from gan_plugin.training.step import STEP_METRICS, Best, Game, make_step, new_game

logger = logging.getLogger(__name__)

METRICS_EVERY = 50  # steps
LINE_EVERY = 30  # seconds, at least
GRID_COLUMNS = 8
GRID_SEEDS = range(GRID_COLUMNS**2)


class Tracker(Protocol):
    """Where a run's numbers, pictures and files go. No call may block or raise for long: the loop waits for it."""

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def image(self, key: str, picture: Picture, step: int) -> None: ...

    def file(self, path: Path, folder: str) -> None: ...


class Judge(Protocol):
    """Says how good a generator is, while it is trained.

    Attributes:
        metric: the name under which its figure is logged; lower is better.
        digest: of what decides the figure; figures of judges with other digests cannot be compared.
        seconds: what it has cost so far, its preparation included.
    """

    metric: str
    digest: str
    seconds: float

    def __call__(self, generator: nn.Module) -> float:
        """The figure of an averaged generator in eval mode, which is left as it is."""


class Diverged(RuntimeError):
    """A loss is no longer a finite number."""


class Interrupted(RuntimeError):
    """Training was asked to stop and left a checkpoint behind."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"Training stopped as asked; go on with resume={checkpoint}.")
        self.checkpoint = checkpoint


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a training run does."""

    recipe: Recipe
    epochs: int
    seed: int
    device: torch.device
    precision: torch.dtype
    samples_every: int  # epochs
    checkpoint_every: int  # epochs
    judging_share: float = 0.0  # of the time

    def identity(self, pictures: Pictures) -> dict[str, Any]:
        """What a resumed run must agree on. More epochs are welcome; another device is possible."""
        recipe = {k: v for k, v in dataclasses.asdict(self.recipe).items() if k != "summary"}
        data = {"image_size": pictures.size, "channels": pictures.channels, "data": pictures.digest}
        return {**recipe, **data, "seed": self.seed, "precision": precision_name(self.precision)}


def train(
    pictures: Pictures,
    plan: Plan,
    tracker: Tracker,
    folder: Path,
    resume: Path | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
    judge: Judge | None = None,
) -> Game:
    """Play the game for ``plan.epochs`` over ``pictures``; ``ema`` of the game returned is the generator to keep.

    Args:
        folder: where the checkpoint is written, again and again under the same name.
        resume: a checkpoint to go on from, equal to not having stopped.
        stop_asked: looked at after every step.
        judge: asked after an epoch when that keeps within ``plan.judging_share`` of the time, and after the last; then
            ``ema`` is the best of those that were judged, and ``best`` of the game says which.

    Raises:
        UserError: the data and the plan do not fit together.
        Diverged: a loss became infinite or not a number.
        Interrupted: ``stop_asked`` said yes; the checkpoint is written.
    """
    steps_an_epoch = check_batch(pictures, plan.recipe)
    torch.manual_seed(plan.seed)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    game = new_game(plan.recipe, pictures.size, pictures.channels, plan.device)
    identity = plan.identity(pictures)
    if resume is not None:
        load_checkpoint(resume, game, identity)
        check_resumed(game, steps_an_epoch, plan.epochs)
        forget_incomparable(game, judge)
    images = resident(pictures.images, plan.device)
    step = make_step(game, plan.recipe, plan.precision)
    checkpoint = folder / FILE_NAME
    clock = JudgingClock(plan.judging_share, judge)
    with contextlib.closing(Report(tracker, plan, steps_an_epoch, game.steps)) as report:
        for epoch in range(game.steps // steps_an_epoch, plan.epochs):
            order = shuffled(len(pictures), plan.seed, epoch).to(images.device)  # [N]
            for batch in range(game.steps % steps_an_epoch, steps_an_epoch):
                rows = order[batch * plan.recipe.batch_size :][: plan.recipe.batch_size]
                report.step(step(gather(images, rows, plan.device)), game.steps)
                if stop_asked():
                    save_checkpoint(checkpoint, game, identity)
                    tracker.file(checkpoint, "checkpoint")
                    raise Interrupted(checkpoint)
            report.epoch(epoch + 1, game.steps)
            last = epoch + 1 == plan.epochs
            sampled = last or (epoch + 1) % plan.samples_every == 0
            judged = judge is not None and (last or clock.allows())
            if sampled or judged:
                shown = showable_ema(game, plan.recipe)
            if sampled:
                tracker.image("samples", sample_grid(shown, plan), game.steps)
            if judge is not None and judged and not keep_best(game, judge, shown, tracker):
                judge = None
            if last or (epoch + 1) % plan.checkpoint_every == 0:
                save_checkpoint(checkpoint, game, identity)
                tracker.file(checkpoint, "checkpoint")
            report.restart_clock()  # samples, judging and checkpoints are not the training's time
    if judge is not None:
        tracker.metrics({"judging/share": clock.used()}, game.steps)
    calibrate_batch_norm(game.ema, plan.recipe.latent_size)
    if game.best is not None:
        game.ema.load_state_dict(game.best.weights)
    return game


class JudgingClock:
    """Keeps judging within a share of the time since training began, its preparation included."""

    def __init__(self, share: float, judge: Judge | None) -> None:
        self.share, self.judge = share, judge
        self.began = time.perf_counter() - (0.0 if judge is None else judge.seconds)  # its preparation is time, too

    def allows(self) -> bool:
        """Whether what judging has cost is within its share: one call's cost is known only after it."""
        return self.used() <= self.share

    def used(self) -> float:
        """The share so far."""
        return 0.0 if self.judge is None else self.judge.seconds / (time.perf_counter() - self.began)


def keep_best(game: Game, judge: Judge, shown: nn.Module, tracker: Tracker) -> bool:
    """Judge the averaged generator as it is shown, and remember it where it is the best so far.

    False, with a warning, where judging failed: whatever goes wrong there, training goes on.
    """
    try:
        value = judge(shown)
    except Exception:
        logger.warning("Judging failed; training goes on, and no generator is judged from here on.", exc_info=True)
        return False
    tracker.metrics({judge.metric: value}, game.steps)
    judged = 1 if game.best is None else game.best.judged + 1
    if game.best is None or value <= game.best.value:
        weights = {name: tensor.clone() for name, tensor in shown.state_dict().items()}
        game.best = Best(judge.metric, judge.digest, value, game.steps, judged, weights)
    else:
        game.best = dataclasses.replace(game.best, judged=judged)
    return True


def forget_incomparable(game: Game, judge: Judge | None) -> None:
    """Drop, with a warning, a best generator that what comes now cannot be compared with."""
    if game.best is not None and (judge is None or judge.digest != game.best.digest):
        now = "nothing judges" if judge is None else f"{judge.metric} of another network judges"
        logger.warning(
            "The best generator so far, %s %.4g at step %d, is no longer a candidate: now %s.",
            game.best.metric,
            game.best.value,
            game.best.step,
            now,
        )
        game.best = None


def check_batch(pictures: Pictures, recipe: Recipe) -> int:
    """Steps an epoch; a last, smaller batch is left to the next epoch's shuffle."""
    if len(pictures) < recipe.batch_size:
        raise UserError(
            f"batch_size={recipe.batch_size} is more than the {len(pictures)} pictures of the data: give a smaller one."
        )
    return len(pictures) // recipe.batch_size


def check_resumed(game: Game, steps_an_epoch: int, epochs: int) -> None:
    """A checkpoint of exactly these epochs is fine: what follows training may have failed the first time."""
    if game.steps > epochs * steps_an_epoch:
        done = game.steps / steps_an_epoch
        raise UserError(f"epochs={epochs} is less than the {done:.4g} epochs behind the checkpoint: give more.")


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """One epoch's order of the pictures, int64 [count], from seed and epoch alone: a resumed run finds its place."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def showable_ema(game: Game, recipe: Recipe) -> nn.Module:
    """A copy of the averaged generator with batch norm's statistics measured anew, as it would be exported.

    A copy, because what is measured for showing must not change what is trained.
    """
    shown = copy.deepcopy(game.ema)
    calibrate_batch_norm(shown, recipe.latent_size)
    return shown


@torch.no_grad()
def sample_grid(shown: nn.Module, plan: Plan) -> Picture:
    """A generator's pictures of the fixed seeds 0 to 63, as one contact sheet."""
    z = torch.from_numpy(latents(GRID_SEEDS, plan.recipe.latent_size)).to(plan.device)
    pictures = Showable(shown)(z).cpu().numpy()  # [64, H, W, C]
    return contact_sheet(pictures, GRID_COLUMNS)


class Report:
    """Means of the step's values, kept on the device and read every METRICS_EVERY steps; a bar or a line an epoch."""

    def __init__(self, tracker: Tracker, plan: Plan, steps_an_epoch: int, steps: int) -> None:
        self.tracker, self.plan, self.steps_an_epoch = tracker, plan, steps_an_epoch
        self.total, self.count = torch.zeros(len(STEP_METRICS), device=plan.device), 0
        self.latest: dict[str, float] = {}
        self.seconds, self.first_step = time.perf_counter(), steps
        self.said = time.perf_counter()
        self.bar = tqdm(
            total=plan.epochs * steps_an_epoch,
            initial=steps,
            unit="step",
            smoothing=0.05,
            disable=not sys.stderr.isatty(),
        )

    def step(self, values: Tensor, step: int) -> None:
        """Take in one step's values [4]; a synchronisation once in METRICS_EVERY steps."""
        self.total += values
        self.count += 1
        self.bar.update()
        if self.count == METRICS_EVERY or step % self.steps_an_epoch == 0:
            self._read(step)

    def _read(self, step: int) -> None:
        self.latest = dict(zip(STEP_METRICS, (self.total / self.count).tolist()))
        self.total.zero_()
        self.count = 0
        for name, value in self.latest.items():
            if not math.isfinite(value):
                raise Diverged(
                    f"{name} became {value} in step {step}: training has diverged; "
                    "a smaller generator_lr and discriminator_lr, or precision=float32, may hold it."
                )
        self.tracker.metrics(self.latest, step)
        self.bar.set_postfix(G=f"{self.latest['loss/generator']:.3f}", D=f"{self.latest['loss/discriminator']:.3f}")
        if time.perf_counter() - self.said > LINE_EVERY:
            self._say(step)

    def epoch(self, epoch: int, step: int) -> None:
        self.tracker.metrics({"epoch": epoch, "throughput/images_per_second": self._speed(step)}, step)
        self._say(step)
        self.first_step = step

    def _speed(self, step: int) -> float:
        """Images/s since the clock was restarted."""
        elapsed = time.perf_counter() - self.seconds
        return (step - self.first_step) * self.plan.recipe.batch_size / elapsed

    def _say(self, step: int) -> None:
        """A plain line, where there is no bar."""
        self.said = time.perf_counter()
        if self.bar.disable:
            epochs = f"{step / self.steps_an_epoch:.4g}/{self.plan.epochs}"
            losses = "  ".join(f"{name} {value:.3f}" for name, value in self.latest.items())
            print(f"epoch {epochs}  {losses}  {self._speed(step):,.0f} images/s", flush=True)

    def restart_clock(self) -> None:
        self.seconds = time.perf_counter()

    def close(self) -> None:
        self.bar.close()
