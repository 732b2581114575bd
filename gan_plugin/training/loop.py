"""The training loop: set up, resume, epochs of steps, and at their ends metrics, samples and checkpoints.

When the guard raises an alarm, the loop goes back to the last good checkpoint and on with other random numbers.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gan_plugin.config.recipe import Recipe, resolved
from gan_plugin.data import Dataset
from gan_plugin.device import gather, precision_name, resident
from gan_plugin.errors import UserError
from gan_plugin.export import Quantized
from gan_plugin.media.image import Image, contact_sheet
from gan_plugin.objectives import OBJECTIVES
from gan_plugin.spec import SampleSpec
from gan_plugin.training.checkpoint import FILE_NAME, NETWORKS, load_checkpoint, save_checkpoint
from gan_plugin.training.ema import calibrate_batch_norm, inputs_of
from gan_plugin.training.gan import Batch, Best, TrainingState, make_step, metric_names, new_state, wants_two_batches
from gan_plugin.training.guard import Alarm, Guard, chance_loss, check_finite, spread

logger = logging.getLogger(__name__)

METRICS_EVERY = 50  # steps
LINE_EVERY = 30  # seconds, at least
GRID_COLUMNS = 8
GRID_SEEDS = range(GRID_COLUMNS**2)
GUARDED_IMAGES, GUARDED_CLASSES = 64, 8  # at which the guard looks, and into how many classes they fall at most
GENERATORS_ORDER = 2**31  # from the discriminators' order of the images to the generator's


class Tracker(Protocol):
    """Where a run's numbers, images and files go. No call may block or raise for long: the loop waits for it."""

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def image(self, key: str, image: Image, step: int) -> None: ...

    def file(self, path: Path, folder: str) -> None: ...

    def note(self, key: str, text: str) -> None: ...


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
    """Training failed, and going back to the last good checkpoint did not help either.

    Attributes:
        state: as it was when it was best, or in the last good checkpoint; None where there was nothing good.
    """

    def __init__(self, reason: str, state: TrainingState | None) -> None:
        super().__init__(reason)
        self.state = state


class Interrupted(RuntimeError):
    """Training was asked to stop and left a checkpoint behind, unless nothing was worth it; None then."""

    def __init__(self, checkpoint: Path | None) -> None:
        where = "its weights are not finite" if checkpoint is None else f"go on with resume={checkpoint}"
        super().__init__(f"Training stopped as asked; {where}.")


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides what a training run does."""

    recipe: Recipe
    epochs: int
    seed: int
    device: torch.device
    precision: torch.dtype
    samples_every: int  # epochs
    checkpoint_every: int  # epochs
    evaluation_budget: float = 0.0  # of the time
    guard: bool = True  # whether more than a value that is not finite ends training
    retries: int = 3  # returns to a good checkpoint

    def identity(self, dataset: Dataset) -> dict[str, Any]:
        """What a resumed run must agree on. More epochs are welcome; another device is possible."""
        recipe = {"recipe": self.recipe.name, **resolved(self.recipe)}
        data = {"shape": list(dataset.spec.shape), "data": dataset.digest}
        return {**recipe, **data, "seed": self.seed, "precision": precision_name(self.precision)}


def train(
    dataset: Dataset,
    plan: TrainingPlan,
    tracker: Tracker,
    folder: Path,
    resume: Path | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
    judge: Judge | None = None,
) -> TrainingState:
    """Play the state for ``plan.epochs`` over ``images``; ``ema`` of the state returned is the generator to keep.

    Args:
        folder: where the checkpoint is written, again and again under the same name.
        resume: a checkpoint to go on from, equal to not having stopped.
        stop_asked: looked at after every step.
        judge: asked after an epoch when that keeps within ``plan.evaluation_budget`` of the time, and after the last; then
            ``ema`` is the best of those that were judged, and ``best`` of the state says which.

    Raises:
        UserError: the data and the plan do not fit together.
        Diverged: the guard raised an alarm, and again after each of ``plan.retries`` returns to a good checkpoint.
        Interrupted: ``stop_asked`` said yes; the checkpoint is written.
    """
    check_batch(dataset, plan.recipe)
    torch.manual_seed(plan.seed)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    state = new_state(plan.recipe, spec_of(dataset, plan.recipe), plan.device)
    checkpoint = folder / FILE_NAME
    if resume is not None:
        load_checkpoint(resume, state, plan.identity(dataset))
        check_resumed(state, len(dataset) // plan.recipe.batch_size, plan.epochs)
        forget_incomparable(state, judge)
    good = resume
    clock = EvaluationClock(plan.evaluation_budget, judge)
    while True:
        run = Run(dataset, plan, tracker, checkpoint, stop_asked, judge, clock, good)
        try:
            run.play(state)
            break
        except Alarm as alarm:
            state = go_back(state, alarm, run)
            good, judge = run.good, run.judge
    if judge is not None:
        tracker.metrics({"evaluation/share": clock.used()}, state.steps)
    return finished(state, plan.recipe)


def go_back(state: TrainingState, alarm: Alarm, run: Run) -> TrainingState:
    """The last good checkpoint's state, or a new one where there is none, that goes on with other random numbers.

    Raises:
        Diverged: that has been done ``plan.retries`` times.
    """
    plan = run.plan
    seed = seed_of(plan.seed, state.rollbacks + 1)
    torch.manual_seed(seed)
    again = new_state(plan.recipe, state.spec, plan.device)
    if run.good is not None:
        load_checkpoint(run.good, again, plan.identity(run.dataset))
        torch.manual_seed(seed)  # instead of the checkpoint's random state
        forget_incomparable(again, run.judge)
    again.best = state.best  # it may be younger than the checkpoint
    where = f"step {again.steps:,}" if run.good is not None else "the start"
    told = f"In step {state.steps:,} {alarm}"
    again.rollbacks = state.rollbacks + 1
    if not plan.guard or again.rollbacks > plan.retries:
        kept = finished(again, plan.recipe) if run.good is not None or again.best is not None else None
        tries = f", and going back is used up with retries={plan.retries}" if plan.guard else ""
        raise Diverged(
            f"{told}{tries}: training has diverged; a smaller generator_lr and discriminator_lr, a penalty, or "
            "precision=float32 may hold it.",
            kept,
        ) from None
    logger.warning("%s: back to %s with another seed, %d of %d.", told, where, again.rollbacks, plan.retries)
    run.tracker.note(f"guard.{again.rollbacks}", f"{told}: back to {where} with another seed.")
    # not at a step of the state, which goes back, too: MLflow takes the value of the highest one for the latest
    run.tracker.metrics({"guard/rollbacks": again.rollbacks}, again.rollbacks)
    return again


def finished(state: TrainingState, recipe: Recipe) -> TrainingState:
    """The state with the generator to keep in ``ema``: the best that was judged, else the latest."""
    calibrate_batch_norm(state.ema, recipe.latent_size, state.spec.classes)
    if state.best is not None:
        state.ema.load_state_dict(state.best.weights)
    return state


def seed_of(seed: int, rollbacks: int) -> int:
    """Another seed after each return to a checkpoint, or what failed would happen again.

    Within 32 bits, because PyTorch's generator on the CPU looks at no others.
    """
    return (seed + rollbacks * 2_654_435_761) % 2**32


def spec_of(dataset: Dataset, recipe: Recipe) -> SampleSpec:
    """Return what the generator makes: the data's samples, with their labels where the recipe is conditional."""
    return dataset.spec if recipe.conditional else dataset.spec.unlabeled()


@dataclass
class Run:
    """One uninterrupted stretch of training: from the start, or from a checkpoint on, until the end or an alarm."""

    dataset: Dataset
    plan: TrainingPlan
    tracker: Tracker
    checkpoint: Path
    stop_asked: Callable[[], bool]
    judge: Judge | None
    clock: EvaluationClock
    good: Path | None  # the last good checkpoint

    def play(self, state: TrainingState) -> None:
        """Train ``state`` to the end of the last epoch.

        Raises:
            Alarm, Interrupted: as ``train`` says.
        """
        plan, recipe = self.plan, self.plan.recipe
        steps_an_epoch = check_batch(self.dataset, recipe)
        feed = BatchLoader(self.dataset, plan, seed_of(plan.seed, state.rollbacks))
        step = make_step(state, recipe, plan.precision)
        guard = new_guard(self.dataset, state, recipe)
        with contextlib.closing(ProgressLogger(self.tracker, plan, guard, steps_an_epoch, state.steps)) as report:
            for epoch in range(state.steps // steps_an_epoch, plan.epochs):
                orders = feed.orders(epoch)
                for batch in range(state.steps % steps_an_epoch, steps_an_epoch):
                    values = step(*feed.batches(orders, batch))
                    report.step(values, state.steps)
                    if state.steps % steps_an_epoch and self.stop_asked():
                        self.stop(state)
                report.epoch(epoch + 1, state.steps)
                self.end_epoch(state, guard, epoch + 1)
                if epoch + 1 < plan.epochs and self.stop_asked():
                    self.stop(state)
                report.restart_clock()  # samples, judging and checkpoints are not the training's time

    def end_epoch(self, state: TrainingState, guard: Guard, epoch: int) -> None:
        """Samples, judging and a checkpoint, where they are due; the guard looks at what there is."""
        check_weights(state)
        plan = self.plan
        last = epoch == plan.epochs
        sampled = last or epoch % plan.samples_every == 0
        judged = self.judge is not None and (last or self.clock.allows())
        if sampled or judged:
            shown = calibrated_ema(state, plan.recipe)
        if sampled:
            sheet = contact_sheet(images_of(shown, GRID_SEEDS, state.spec.classes, plan), GRID_COLUMNS)
            self.tracker.image("samples", sheet, state.steps)
        if self.judge is not None and judged:
            value = keep_best(state, self.judge, shown, self.tracker)
            if value is None:
                self.judge = None
            elif plan.guard:
                guard.judged(value)
        if plan.guard and (sampled or judged):
            seeds, groups = guarded_seeds(state.spec.classes)
            images = torch.from_numpy(images_of(shown, seeds, state.spec.classes, plan))
            self.tracker.metrics(guard.look(images, groups, state.steps), state.steps)
            guard.check(state.steps)
            if last:
                guard.conclude()
        if last or (epoch % plan.checkpoint_every == 0 and not guard.suspicious):
            self.save(state)
            self.good = self.checkpoint

    def save(self, state: TrainingState) -> None:
        save_checkpoint(self.checkpoint, state, self.plan.identity(self.dataset))
        self.tracker.file(self.checkpoint, "checkpoint")

    def stop(self, state: TrainingState) -> NoReturn:
        """Leave a checkpoint that can be gone on from, the last good one where the weights are no longer finite."""
        try:
            check_weights(state)
        except Alarm:
            raise Interrupted(self.good) from None
        self.save(state)
        raise Interrupted(self.checkpoint)


class BatchLoader:
    """Batches of real images in each epoch's own order, from wherever the data lives."""

    def __init__(self, dataset: Dataset, plan: TrainingPlan, seed: int) -> None:
        self.images, self.device, self.seed = resident(dataset.samples, plan.device), plan.device, seed
        self.labels: Tensor | None = None
        if plan.recipe.conditional and dataset.labels is not None:
            self.labels = dataset.labels.to(self.images.device)
        self.size, self.two = plan.recipe.batch_size, wants_two_batches(plan.recipe)

    def orders(self, epoch: int) -> list[Tensor]:
        """The epoch's order [N] for the discriminators and, where it needs images of its own, for the generator."""
        seeds = [self.seed, self.seed + GENERATORS_ORDER] if self.two else [self.seed]
        return [shuffled(len(self.images), seed, epoch).to(self.images.device) for seed in seeds]

    def batches(self, orders: list[Tensor], batch: int) -> tuple[Batch, Batch]:
        """One for the discriminators and one for the generator, which are the same where one order serves both."""
        found = [self.batch(order[batch * self.size :][: self.size]) for order in orders]
        return found[0], found[-1]

    def batch(self, rows: Tensor) -> Batch:
        labels = None if self.labels is None else self.labels[rows].to(self.device)
        return Batch(gather(self.images, rows, self.device), labels)


def new_guard(dataset: Dataset, state: TrainingState, recipe: Recipe) -> Guard:
    real = real_diversity(dataset, state.spec.classes)
    return Guard(chance_loss(OBJECTIVES[recipe.objective]), real, state.past)


def guarded_seeds(classes: int) -> tuple[Sequence[int], Tensor]:
    """Seeds of the images at which the guard looks, and their groups int64 [N]: classes, where there are such.

    A seed's class is its remainder (see :func:`gan_plugin.seeds.default_labels`).

    >>> guarded_seeds(20)[0][:9]
    [0, 20, 40, 60, 80, 100, 120, 140, 1]
    """
    if classes == 0:
        return range(GUARDED_IMAGES), torch.zeros(GUARDED_IMAGES, dtype=torch.int64)
    some = min(classes, GUARDED_CLASSES)
    of_each = GUARDED_IMAGES // some
    seeds = [label + classes * i for label in range(some) for i in range(of_each)]
    return seeds, torch.arange(some).repeat_interleave(of_each)


def real_diversity(dataset: Dataset, classes: int) -> float:
    """What the guard compares with: the spread of as many real images, of the same classes."""
    order = shuffled(len(dataset), 0, 0)
    if classes == 0 or dataset.labels is None:
        some = order[:GUARDED_IMAGES]
        return spread(dataset.samples[some], torch.zeros_like(some))
    labels, (_, groups) = dataset.labels[order], guarded_seeds(classes)
    chosen = [(labels == label).nonzero()[: (groups == label).sum(), 0] for label in groups.unique()]
    rows = order[torch.cat(chosen)]
    return spread(dataset.samples[rows], dataset.labels[rows])


def check_weights(state: TrainingState) -> None:
    """
    Raises:
        Alarm: a weight is not finite; a loss shows that one step later.
    """
    for name in NETWORKS:
        for key, value in getattr(state, name).state_dict().items():
            if not value.isfinite().all():
                raise Alarm(f"{name}.{key} became {value[~value.isfinite()][0].item()}")


class EvaluationClock:
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


def keep_best(state: TrainingState, judge: Judge, shown: nn.Module, tracker: Tracker) -> float | None:
    """Judge the averaged generator as it is shown, and remember it where it is the best so far; returns the figure.

    None, with a warning, where judging failed: whatever goes wrong there, training goes on.

    Raises:
        Alarm: the figure is not finite.
    """
    try:
        value = judge(shown)
    except Exception:
        logger.warning("Judging failed; training goes on, and no generator is judged from here on.", exc_info=True)
        return None
    check_finite({judge.metric: value})
    tracker.metrics({judge.metric: value}, state.steps)
    judged = 1 if state.best is None else state.best.judged + 1
    if state.best is None or value <= state.best.value:
        weights = {name: tensor.clone() for name, tensor in shown.state_dict().items()}
        state.best = Best(judge.metric, judge.digest, value, state.steps, judged, weights)
    else:
        state.best = dataclasses.replace(state.best, judged=judged)
    return value


def forget_incomparable(state: TrainingState, judge: Judge | None) -> None:
    """Drop, with a warning, a best generator that what comes now cannot be compared with."""
    if state.best is not None and (judge is None or judge.digest != state.best.digest):
        now = "nothing judges" if judge is None else f"{judge.metric} of another network judges"
        logger.warning(
            "The best generator so far, %s %.4g at step %d, is no longer a candidate: now %s.",
            state.best.metric,
            state.best.value,
            state.best.step,
            now,
        )
        state.best = None
        state.past = dataclasses.replace(state.past, lowest=None, worse=0)


def check_batch(dataset: Dataset, recipe: Recipe) -> int:
    """Steps an epoch; a last, smaller batch is left to the next epoch's shuffle."""
    if len(dataset) < recipe.batch_size:
        raise UserError(
            f"batch_size={recipe.batch_size} is more than the {len(dataset)} images of the data: give a smaller one."
        )
    return len(dataset) // recipe.batch_size


def check_moves(dataset: Dataset, recipe: Recipe, epochs: int) -> None:
    """
    Raises:
        UserError: the data is less than a batch, or the generator would never learn.
    """
    steps = check_batch(dataset, recipe) * epochs
    if steps < recipe.discriminator_steps:
        raise UserError(
            f"discriminator_steps={recipe.discriminator_steps} is more than the training's {steps} steps, in which the "
            "generator would never learn: give a smaller one, more epochs, or a smaller batch_size."
        )


def check_resumed(state: TrainingState, steps_an_epoch: int, epochs: int) -> None:
    """A checkpoint of exactly these epochs is fine: what follows training may have failed the first time."""
    if state.steps > epochs * steps_an_epoch:
        done = state.steps / steps_an_epoch
        raise UserError(f"epochs={epochs} is less than the {done:.4g} epochs behind the checkpoint: give more.")


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """One epoch's order of the images, int64 [count], from seed and epoch alone: a resumed run finds its place."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def calibrated_ema(state: TrainingState, recipe: Recipe) -> nn.Module:
    """A copy of the averaged generator with batch norm's statistics measured anew, as it would be exported.

    A copy, because what is measured for showing must not change what is trained.
    """
    shown = copy.deepcopy(state.ema)
    calibrate_batch_norm(shown, recipe.latent_size, state.spec.classes)
    return shown


@torch.no_grad()
def images_of(shown: nn.Module, seeds: Sequence[int], classes: int, plan: TrainingPlan) -> Image:
    """A generator's images uint8 [N, H, W, C] of N seeds, each of its own class where there are classes."""
    images: Image = Quantized(shown)(*inputs_of(seeds, plan.recipe.latent_size, classes, plan.device)).cpu().numpy()
    return images


class ProgressLogger:
    """Means of the step's values, kept on the device and read every METRICS_EVERY steps; a bar or a line an epoch."""

    def __init__(self, tracker: Tracker, plan: TrainingPlan, guard: Guard, steps_an_epoch: int, steps: int) -> None:
        self.tracker, self.plan, self.guard, self.steps_an_epoch = tracker, plan, guard, steps_an_epoch
        self.names = metric_names(plan.recipe)
        self.total, self.count = torch.zeros(len(self.names), device=plan.device), 0
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

    def step(self, values: Mapping[str, Tensor], step: int) -> None:
        """Take in one step's values; a synchronization once in METRICS_EVERY steps."""
        self.total += torch.stack([values[name] for name in self.names])
        self.count += 1
        self.bar.update()
        if self.count == METRICS_EVERY or step % self.steps_an_epoch == 0:
            self._read(step)

    def _read(self, step: int) -> None:
        self.latest = dict(zip(self.names, (self.total / self.count).tolist()))
        self.total.zero_()
        self.count = 0
        check_finite(self.latest)
        if self.plan.guard:
            self.latest |= self.guard.read(self.latest["loss/discriminator"], step)
        self.tracker.metrics(self.latest, step)
        if self.plan.guard:
            self.guard.check(step)
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
            said = {name: value for name, value in self.latest.items() if name.startswith("loss/")}
            losses = "  ".join(f"{name} {value:.3f}" for name, value in said.items())
            print(f"epoch {epochs}  {losses}  {self._speed(step):,.0f} images/s", flush=True)

    def restart_clock(self) -> None:
        self.seconds = time.perf_counter()

    def close(self) -> None:
        self.bar.close()
