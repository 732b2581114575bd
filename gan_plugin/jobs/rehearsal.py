"""A run that ends in time, planned: what comes after the last step is tried out before the first one, and timed."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path

import torch

from gan_plugin import flavor
from gan_plugin.data import Dataset
from gan_plugin.errors import UserError
from gan_plugin.evaluation.quick import QuickFid
from gan_plugin.export import ParityError, export_generator
from gan_plugin.jobs.export import Origin, directions_of, write_encoder
from gan_plugin.networks.autoencoder import Autoencoder, Encoder
from gan_plugin.serving.description import Description
from gan_plugin.training.budget import MIN_TRAINING, Clock
from gan_plugin.training.encoder import new_encoder
from gan_plugin.training.plan import TrainingPlan, spec_of
from gan_plugin.training.samples import exported_generator
from gan_plugin.training.speed import seconds_per_step, share_of
from gan_plugin.training.state import new_state

DELIVERY_S = 4.0  # of computing, until MLflow has the last of it; a server that is slower makes the run late


def plan_time(
    plan: TrainingPlan,
    dataset: Dataset,
    evaluator: QuickFid | None,
    *,
    started: float,
    spent: float,
    world_size: int,
    file: Path,
    dtype: torch.dtype,
    encoder_s: float = 0.0,
    held_out: Dataset | None = None,
) -> Clock:
    """Return how much time is kept for the end of a run, and print what its minutes are spent on.

    Args:
        plan: with minutes.
        dataset: the training images.
        evaluator: of the generator, while it trains.
        started: when the run began, by ``time.monotonic``.
        spent: seconds that the run had taken before that.
        world_size: the processes that share each batch.
        file: where an untrained generator may be written to for a moment.
        dtype: of the exported file.
        encoder_s: seconds to keep for the training of an encoder.
        held_out: images by which an encoder is described.

    Raises:
        UserError: the minutes leave no time to train; the sentence says how many would.
    """
    assert plan.minutes is not None
    origin = Origin(plan, dataset, held_out)
    reserve, evaluation = rehearse(origin, evaluator, file=file, dtype=dtype, with_encoder=encoder_s > 0)
    spec = spec_of(dataset, plan.recipe)
    share = share_of(plan.recipe, world_size)
    step_s = seconds_per_step(
        share, dataset, spec, device=plan.device, precision=plan.precision, capture=plan.capture()
    )
    ready_s = spent + time.monotonic() - started
    left = 60 * plan.minutes - ready_s - reserve - encoder_s
    if spent == 0 and left < MIN_TRAINING * 60 * plan.minutes:
        of_encoder = encoder_s / (60 * plan.minutes)
        needed = math.ceil((ready_s + reserve) / (1 - MIN_TRAINING - of_encoder) / 6) / 10  # minutes, in tenths
        raise UserError(
            f"minutes={plan.minutes:g} leaves no time to train: getting ready took {ready_s:.0f} s, and evaluation, "
            f"export and registration take {reserve:.0f} s: give at least {needed:.1f}."
        )
    images = max(left, 0) / step_s * plan.recipe.batch_size
    encoder = f", {encoder_s:.0f} s for the encoder" if encoder_s else ""
    print(
        f"Of {plan.minutes:g} minutes {ready_s:.0f} s are spent, and {reserve:.0f} s are kept for the last evaluation, "
        f"the export and the registration{encoder}: {max(left, 0):.0f} s of training, about {images:,.0f} images in "
        f"batches of {plan.recipe.batch_size}.",
        flush=True,
    )
    return Clock(started, reserve, evaluation, encoder_s)


def rehearse(
    origin: Origin, evaluator: QuickFid | None, *, file: Path, dtype: torch.dtype, with_encoder: bool = False
) -> tuple[float, float]:
    """Export an untrained generator, with its encoder if it has one.

    Returns the seconds to keep for the end and those of an evaluation.

    What is kept is for delivery, too. A part of an evaluation is enough to tell how long all of it takes. Beside other
    programs, a second of computing takes longer than a second: delivery then as much longer as this does.

    Raises:
        ExportError: these networks cannot be exported: known before the time is spent.
    """
    plan, dataset = origin.plan, origin.dataset
    spec = spec_of(dataset, plan.recipe)
    with torch.random.fork_rng(devices=[]):
        state = new_state(plan.recipe, spec, plan.device)
        start, computed = time.monotonic(), time.process_time()
        generator = exported_generator(state, plan.recipe, dataset)
        if plan.device.type == "cuda":
            torch.cuda.synchronize()
        ready = time.monotonic() - start
        features = 0.0 if evaluator is None else evaluator.time_evaluation(generator)
        encoder = new_encoder(plan.recipe, state).to(plan.device).eval() if with_encoder else None
        network = generator if encoder is None else encoder
        try:
            with suppress(ParityError):  # of random weights: only the time is asked for
                export_generator(generator, Description(plan.recipe.latent_size, spec), file, dtype=dtype)
            directions_of(state, origin, encoder)
            if isinstance(network, (Autoencoder, Encoder)):
                with suppress(ParityError):
                    write_encoder(network, file, origin)
        finally:
            file.unlink(missing_ok=True)
            file.with_name(flavor.ENCODER_FILE).unlink(missing_ok=True)
        seconds = time.monotonic() - start
        delivery = DELIVERY_S * max(seconds / (time.process_time() - computed), 1.0)
        return features + seconds + delivery, ready + features
