"""The training loop: epochs of steps, and at their ends metrics, samples, evaluations and checkpoints.

When the guard raises an error, the loop goes back to the last good checkpoint and on with other random numbers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import NoReturn

import torch

from gan_plugin.config.settings import SAMPLE_GRIDS
from gan_plugin.data import Dataset
from gan_plugin.data.loader import BatchLoader
from gan_plugin.device import Throttle, release_memory, tuned, without_tf32
from gan_plugin.distributed import ALONE, Ranks, seed_of_rank, unasked
from gan_plugin.tracking.tracker import Tracker
from gan_plugin.training.budget import Budget, Clock, make_budget
from gan_plugin.training.checkpoint import load_checkpoint
from gan_plugin.training.errors import Diverged, Interrupted
from gan_plugin.training.gan import needs_two_batches, work_cycle
from gan_plugin.training.guard import Guard, GuardError, guard_seeds, real_diversity
from gan_plugin.training.plan import TrainingPlan, check_resumed, spec_of, steps_per_epoch
from gan_plugin.training.progress import ProgressLogger
from gan_plugin.training.samples import exported_generator, generate_images, sample_grid
from gan_plugin.training.saving import Checkpoints
from gan_plugin.training.selection import Evaluator, Share, TimeShare, finish, keep_best, update_best
from gan_plugin.training.state import TrainingState, first_state, seed_after
from gan_plugin.training.steps import balanced_loss, new_step
from gan_plugin.training.weights import check_weights, parameter_sums

SAMPLES_SHARE = 0.02  # of the time of a training in minutes, that grids without an evaluation may take
LOOKS = 4  # of the guard at samples, at least, in a training in minutes

logger = logging.getLogger(__name__)


def train(
    dataset: Dataset,
    plan: TrainingPlan,
    tracker: Tracker,
    *,
    folder: Path,
    resume: Path | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    evaluator: Evaluator | None = None,
    clock: Clock | None = None,
    ranks: Ranks = ALONE,
    share: Share = lambda _, question: unasked(question),
) -> TrainingState:
    """Train for ``plan.epochs`` or ``plan.minutes``; ``ema`` of the state returned is the generator to keep.

    Args:
        folder: where the checkpoint is written, again and again under the same name.
        resume: a checkpoint to go on from, equal to not having stopped.
        stop_requested: called after every step.
        evaluator: called after an epoch when that keeps within ``plan.evaluation_budget`` of the time, and after the
            last; then ``ema`` is the best of those evaluated, and ``best`` of the state says which.
        clock: of a training that ends in time; None counts from now, and keeps nothing for what comes after.
        ranks: the processes that train together; the arguments above but for ``stop_requested`` are those of rank 0.
        share: what the others do of an evaluation, where the evaluator asks them.

    Raises:
        UserError: the data and the plan do not fit together.
        Diverged: the guard raised an error, and again after each of ``plan.retries`` returns to a good checkpoint; or
            there was none, and no time to begin anew.
        Interrupted: ``stop_requested`` returned true in one of the processes; the checkpoint is written.
        RankLost: another process has ended.
    """
    if plan.device.type == "cuda":
        release_memory()  # of steps that were tried out, or there would seem to be no room for the samples
    state = begin(dataset, plan, evaluator, resume=resume, ranks=ranks)
    clock = clock or Clock()
    trainer = Trainer(
        dataset,
        plan,
        tracker=tracker,
        checkpoints=Checkpoints(
            folder, plan.identity(dataset), tracker, interval_s=60 * plan.checkpoint_minutes, resume=resume, ranks=ranks
        ),
        ranks=ranks,
        share=share,
        stop_requested=stop_requested,
        evaluator=evaluator,
        evaluations=evaluation_share(plan, evaluator, clock),
        budget=make_budget(plan, epoch_steps=steps_per_epoch(dataset, plan.recipe), spent=state.seconds, clock=clock),
    )
    while True:
        try:
            trainer.run(state)
            break
        except GuardError as error:
            state = roll_back(state, error, trainer)
        release_memory()  # now that no error refers to what is over
    if trainer.evaluator is not None:
        tracker.metrics({"evaluation/share": trainer.evaluations.used()}, state.steps)
    return finish(state, plan.recipe, dataset)


def begin(
    dataset: Dataset, plan: TrainingPlan, evaluator: Evaluator | None, *, resume: Path | None, ranks: Ranks
) -> TrainingState:
    """Return a new state, or that of a checkpoint; raises as ``train``."""
    state = first_state(plan.recipe, spec_of(dataset, plan.recipe), plan.device, seed=plan.seed, ranks=ranks)
    if ranks.broadcast(resume is not None):
        with ranks.file(resume) as path:
            header = load_checkpoint(path, state, plan.identity(dataset), ranks=ranks)
            check_resumed(header, plan, steps_per_epoch=steps_per_epoch(dataset, plan.recipe))
        keep_best(state, evaluator, ranks)
    return state


def evaluation_share(plan: TrainingPlan, evaluator: Evaluator | None, clock: Clock) -> TimeShare:
    """Return the share of the time for evaluations, of which their preparation has had a part."""
    spent = 0.0 if evaluator is None else evaluator.seconds
    return TimeShare(plan.evaluation_budget, spent=spent, expected=clock.evaluation)


@dataclass
class Trainer:
    """Runs stretches of training: from the start, or from a checkpoint on, until the end or an error of the guard."""

    dataset: Dataset
    plan: TrainingPlan
    _: KW_ONLY
    tracker: Tracker
    checkpoints: Checkpoints
    ranks: Ranks
    share: Share
    stop_requested: Callable[[], bool]
    evaluator: Evaluator | None
    evaluations: TimeShare
    budget: Budget
    samples: TimeShare = field(default_factory=lambda: TimeShare(SAMPLES_SHARE))  # logged where nothing is evaluated
    sampled: float = 0.0  # the progress at the latest samples

    def run(self, state: TrainingState) -> None:
        """Train ``state`` until its budget is used up, for steps or in time.

        Raises:
            GuardError, Interrupted: as ``train`` says.
        """
        plan, recipe = self.plan, self.plan.recipe
        loader = BatchLoader(
            self.dataset,
            recipe.batch_size,
            plan.device,
            seed=seed_after(plan.seed, state.rollbacks),
            labeled=recipe.conditional,
            paired=needs_two_batches(recipe),
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        step = new_step(state, recipe, plan.precision, capture=plan.capture(), ranks=self.ranks)
        epoch_steps, throttle = loader.steps_per_epoch, Throttle(plan.device)
        self.ranks.check_equal(parameter_sums(state), "weights")
        guard = Guard(
            balanced_loss(recipe),
            real_diversity(self.dataset, state.spec.classes),
            state=state.guard,
        )
        progress = ProgressLogger(
            self.tracker, plan, guard, steps_per_epoch=epoch_steps, steps=state.steps, visible=self.ranks.is_main
        )
        was_over = self.budget.is_over(state)
        self.budget.update(state)
        self.agree(state, stop=False)
        self.sampled = min(self.sampled, state.progress)  # which going back makes smaller
        with contextlib.closing(progress), without_tf32():
            if self.budget.is_over(state) and not was_over:  # all time that was left went by without a step
                self.end_epoch(state, guard, epoch=-(-state.steps // epoch_steps), progress=progress)
            while not self.budget.is_over(state):
                orders = loader.orders(state.steps // epoch_steps)
                for index in tuned(range(state.steps % epoch_steps, epoch_steps), "training", cycle=work_cycle(recipe)):
                    progress.step(step(*loader.batches(orders, index)), state.steps)
                    throttle.step()
                    self.budget.update(state)
                    # at an epoch's end, that is asked when all else is done
                    stopped = self.agree(state, stop=bool(state.steps % epoch_steps) and self.stop_requested())
                    if self.budget.is_over(state):
                        break
                    if stopped:
                        self.stop(state, progress)
                    if state.steps % epoch_steps and progress.has_read_all and self.checkpoints.is_due():
                        progress.flush()
                        self.save_meanwhile(state, guard)
                progress.epoch(state.steps)
                self.end_epoch(state, guard, epoch=-(-state.steps // epoch_steps), progress=progress)
                if not self.budget.is_over(state) and self.is_stopped():
                    self.stop(state, progress)
                progress.reset_timer()

    def agree(self, state: TrainingState, *, stop: bool) -> bool:
        """Let all have the progress of rank 0, by its clock; returns whether any of the processes is to ``stop``."""
        own = (state.progress, state.seconds) if self.ranks.is_main else (0.0, 0.0)
        state.progress, state.seconds, any_stop = self.ranks.maximum([*own, stop])
        return any_stop != 0

    def is_stopped(self) -> bool:
        """Return whether any of the processes was asked to stop."""
        return self.ranks.maximum([self.stop_requested()]) != [0]

    def end_epoch(self, state: TrainingState, guard: Guard, *, epoch: int, progress: ProgressLogger) -> None:
        """Log samples, evaluate and save a checkpoint, where they are due; the guard checks what there is.

        Where nothing is due, a GPU is not waited for.
        """
        is_last = self.budget.is_over(state)
        if not (is_last or self.is_due(state, epoch)):
            return
        progress.flush()
        self.ranks.check(lambda: check_weights(state))
        self.ranks.decide(
            lambda: self.look_if_due(state, guard, epoch=epoch, is_last=is_last),
            answer=lambda question: self.share(state, question),
        )
        may_be_good = epoch % self.plan.checkpoint_every == 0 and not self.has_warning(guard)
        if is_last or may_be_good:
            self.checkpoints.save_good(state)
        elif self.checkpoints.is_due():
            self.save_meanwhile(state, guard)

    def is_due(self, state: TrainingState, epoch: int) -> bool:
        """Return whether anything is due at the end of this epoch that needs the weights: by its number, or by time."""

        def needs_generator() -> bool:
            evaluates = self.evaluator is not None and self.evaluations.allows()
            return evaluates or self.samples_are_due(state, epoch, evaluated=False)

        by_number = epoch % self.plan.checkpoint_every == 0
        return by_number or self.ranks.decide(needs_generator) or self.checkpoints.is_due()

    def has_warning(self, guard: Guard) -> bool:
        """Return whether the guard of rank 0, which alone looks at samples, has a warning."""
        return self.ranks.decide(lambda: guard.has_warning)

    def look_if_due(self, state: TrainingState, guard: Guard, *, epoch: int, is_last: bool) -> None:
        """Log samples and evaluate, where they are due; the guard checks what there is."""
        may_evaluate = self.evaluations.allows() and self.budget.has_time_to_evaluate()
        evaluator = self.evaluator if is_last or may_evaluate else None
        samples_due = is_last or self.samples_are_due(state, epoch, evaluated=evaluator is not None)
        if samples_due or evaluator is not None:
            share = self.samples if evaluator is None else self.evaluations
            with share.spending():
                self.look_at_generator(state, guard, evaluator=evaluator, samples_due=samples_due)
            if self.plan.guard and is_last:
                guard.final_check()

    def look_at_generator(
        self, state: TrainingState, guard: Guard, *, evaluator: Evaluator | None, samples_due: bool
    ) -> None:
        """Log samples of the averaged generator, evaluate it, and have the guard check its images."""
        plan, sizes = self.plan, {"latent_size": self.plan.recipe.latent_size, "classes": state.spec.classes}
        generator = exported_generator(state, plan.recipe, self.dataset)
        if samples_due:
            self.sampled = state.progress
            self.tracker.image("samples", sample_grid(generator, **sizes), state.steps)
        if evaluator is not None:
            value = update_best(state, evaluator, generator=generator, tracker=self.tracker)
            if value is None:
                self.evaluator = None
            elif plan.guard:
                guard.add_fid(value)
        if plan.guard:
            seeds, groups = guard_seeds(state.spec.classes)
            images = torch.from_numpy(generate_images(generator, seeds, **sizes))
            self.tracker.metrics(guard.add_samples(images, groups, state.steps), state.steps)
            guard.check(state.steps)

    def samples_are_due(self, state: TrainingState, epoch: int, *, evaluated: bool) -> bool:
        """Return whether samples are due at the end of this epoch: by its number, or in minutes by the progress.

        In minutes they keep within SAMPLES_SHARE of the time, but for a few that the guard needs, and for those of a
        generator that is ``evaluated``, and so made ready, anyway.
        """
        if self.plan.samples_every is not None:
            return epoch % self.plan.samples_every == 0
        share = state.progress - self.sampled
        return share >= 1 / LOOKS or (share >= 1 / SAMPLE_GRIDS and (evaluated or self.samples.allows()))

    def save_meanwhile(self, state: TrainingState, guard: Guard) -> None:
        """Write a checkpoint because time has passed, where a run may well go on from it."""
        with contextlib.suppress(GuardError):  # the end of the epoch sees to weights that are not finite
            self.ranks.check(lambda: check_weights(state))
            if not self.has_warning(guard):
                self.checkpoints.save(state)

    def stop(self, state: TrainingState, progress: ProgressLogger) -> NoReturn:
        """Leave a checkpoint to go on from; where the weights are no longer finite, that is the last good one."""
        try:
            progress.flush()
            self.ranks.check(lambda: check_weights(state))
        except GuardError:
            raise Interrupted(self.checkpoints.last_good) from None
        self.checkpoints.save(state)
        raise Interrupted(self.checkpoints.newest)


def roll_back(state: TrainingState, error: GuardError, trainer: Trainer) -> TrainingState:
    """Return the last good checkpoint's state, or a new one where there is none, to go on with other random numbers.

    Raises:
        Diverged: that has been done ``plan.retries`` times, or no time is left to begin anew.
    """
    plan, rollbacks = trainer.plan, state.rollbacks + 1
    seed = seed_after(plan.seed, rollbacks)
    ranks, has_good = trainer.ranks, trainer.checkpoints.has_good()
    restored = first_state(plan.recipe, state.spec, plan.device, seed=seed, ranks=ranks)
    if has_good:
        with ranks.file(trainer.checkpoints.last_good) as path:
            load_checkpoint(path, restored, plan.identity(trainer.dataset), ranks=ranks)
        torch.manual_seed(seed_of_rank(seed, ranks.rank))  # instead of the checkpoint's random state
        keep_best(restored, trainer.evaluator, ranks)
    restored.best, restored.rollbacks = state.best, rollbacks  # the best may be younger than the checkpoint
    what = f"In step {state.steps:,} {error}"
    where = f"step {restored.steps:,}" if has_good else "the start"
    has_result = ranks.decide(lambda: has_good or restored.best is not None)
    end = ranks.decide(lambda: reason_to_end(trainer, restored, has_result=has_result))
    if end is not None:
        raise Diverged(
            f"{what}{end}: training has diverged; a smaller generator_lr and discriminator_lr, a penalty, or "
            "precision=float32 may hold it.",
            finish(restored, plan.recipe, trainer.dataset) if has_result else None,
        ) from None
    logger.warning("%s: back to %s with another seed, %d of %d.", what, where, rollbacks, plan.retries)
    trainer.tracker.note(f"guard.{rollbacks}", f"{what}: back to {where} with another seed.")
    # not at a training step, which goes back, too: MLflow takes the value of the highest one for the latest
    trainer.tracker.metrics({"guard/rollbacks": rollbacks}, rollbacks)
    return restored


def reason_to_end(trainer: Trainer, restored: TrainingState, *, has_result: bool) -> str | None:
    """Return the part of a sentence that says why training does not go on from ``restored``; None where it does."""
    plan = trainer.plan
    if not plan.guard:
        return ""
    if restored.rollbacks > plan.retries:
        return f", and going back is used up with retries={plan.retries}"
    if not has_result and not trainer.budget.has_time_to_begin():
        return ", and there is neither a good checkpoint nor time to begin anew"
    return None
