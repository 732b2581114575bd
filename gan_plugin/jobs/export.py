"""Export what a training has learned: the generator, its encoder where it has one, and the model in MLflow."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from gan_plugin import flavor
from gan_plugin.data import Dataset
from gan_plugin.data.stored import pixels_of
from gan_plugin.evaluation.results import regular_indices
from gan_plugin.export import ExportError, Parity, ParityError, describe_encoder, export_encoder, export_generator
from gan_plugin.jobs.describe import describe_version
from gan_plugin.media.image import Images
from gan_plugin.networks.autoencoder import Autoencoder, Encoder
from gan_plugin.networks.wrappers import QuantizedEncoder
from gan_plugin.serving.description import Description, Direction, EncoderDescription
from gan_plugin.serving.encoder import OnnxEncoder
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.projection import anomaly_scores, reconstruct
from gan_plugin.serving.pyfunc import digest_of
from gan_plugin.tracking.training_run import TrainingRun
from gan_plugin.training.directions import attribute_directions, chosen_values, principal_directions
from gan_plugin.training.mixture import active_units, codes_of
from gan_plugin.training.plan import TrainingPlan, spec_of
from gan_plugin.training.selection import export_reason
from gan_plugin.training.state import TrainingState

PRECISIONS = {"float32": torch.float32, "float16": torch.float16}  # of the exported generator
PARITY_IMAGES = 64  # that the exported encoder is compared by
HELD_OUT_IMAGES = 1000  # by which an encoder is described
USUAL = 0.95  # share of the held-out images that are to count as like the data


class Origin(NamedTuple):
    """What an exported generator comes from.

    Attributes:
        plan: of the training.
        dataset: the training images.
        held_out: images that were held out; None without any, and where nothing needs them.
        seen: digests of the feature networks by which the generator was chosen.
    """

    plan: TrainingPlan
    dataset: Dataset
    held_out: Dataset | None
    seen: tuple[str, ...] = ()


def export(
    run: TrainingRun,
    state: TrainingState,
    origin: Origin,
    *,
    precision: str,
    model_name: str | None,
    encoder: Encoder | None = None,
) -> None:
    """Export the averaged generator, prove the file equal to it, and log it; register it where it has a name.

    Args:
        precision: of the file, one of PRECISIONS.
        model_name: under which it is registered; None for a model that is only logged.
        encoder: that was trained for it; None for none, and for an autoencoder, which has its own.

    Raises:
        ExportError: a file is not what it must be.
    """
    plan, dataset = origin.plan, origin.dataset
    recipe = plan.recipe
    description = Description(
        latent_size=recipe.latent_size,
        spec=spec_of(dataset, recipe),
        recipe=recipe.name,
        run_id=run.id,
        data=dataset.name,
        data_digest=dataset.digest,
        seen_features=origin.seen,
        directions=directions_of(state, origin, encoder),
    )
    onnx_file = run.folder / flavor.ONNX_FILE
    try:
        parity = export_generator(state.ema, description, onnx_file, dtype=PRECISIONS[precision])
    except ParityError as error:
        run.spool.metrics(parity_metrics(error.parity), state.steps)
        raise
    run.spool.metrics(parity_metrics(parity), state.steps)
    step = state.steps if state.best is None else state.best.step
    of_all = f" of {state.steps:,}" if step <= state.steps else ""  # after a rollback the best may be the younger one
    reason = f"Exported: the averaged generator of step {step:,}{of_all}. {export_reason(state)}"
    run.spool.note("exported", reason)
    files = {"file": onnx_file}
    if isinstance(state.ema, Autoencoder) or encoder is not None:
        files |= log_encoder(run, encoder or state.ema, onnx_file, origin=origin, step=state.steps)
    uri = f"models:/{model_name}/VERSION"  # which is known when it is registered
    run.spool.add(
        "model",
        **kept_files(run, files),
        step=step,
        params={"recipe": recipe.name, "data": dataset.name, "data_digest": dataset.digest, "exported": reason},
        model_name=model_name,
        uri=uri,
        description=describe_version(plan, dataset, uri=uri, reason=reason),
    )
    print(
        f"{reason}\n{onnx_file} is written: PyTorch and ONNX Runtime are at most {parity.largest_difference} of 255 "
        f"gray levels apart, over {parity.images} images.",
        flush=True,
    )


def directions_of(state: TrainingState, origin: Origin, encoder: Encoder | None) -> tuple[Direction, ...]:
    """Return the directions along which images can be edited: of attributes where z can be told, and by analysis."""
    recipe, classes = origin.plan.recipe, state.spec.classes
    by_analysis = principal_directions(state.ema, latent_size=recipe.latent_size, classes=classes)
    quantized = quantized_encoder(state.ema if encoder is None else encoder)
    by_attributes = (
        []
        if quantized is None
        else attribute_directions(quantized, origin.dataset, classes=classes, skipped=chosen_values(state.ema))
    )
    names = {direction.name for direction in by_attributes}
    return (*by_attributes, *(direction for direction in by_analysis if direction.name not in names))


def quantized_encoder(network: nn.Module) -> QuantizedEncoder | None:
    """Return an encoder, or that of an autoencoder, as it is exported; None for another network."""
    if isinstance(network, Autoencoder):
        return QuantizedEncoder(network.encoder, network.prior)
    return QuantizedEncoder(network, None) if isinstance(network, Encoder) else None


def kept_files(run: TrainingRun, files: Mapping[str, Path]) -> dict[str, str]:
    """Keep a model's files under names of their own; returns what the event says of them, with a digest over all."""
    digests = {field: digest_of(path) for field, path in files.items()}
    kept = {field: run.spool.keep(path, f"{path.stem}-{digests[field]}{path.suffix}") for field, path in files.items()}
    return kept | {"digest": "-".join(digests.values())}


def log_encoder(run: TrainingRun, network: nn.Module, onnx_file: Path, *, origin: Origin, step: int) -> dict[str, Path]:
    """Export an encoder and log what it is; returns its file, or with a warning none where that is not the encoder."""
    try:
        path, metrics = write_encoder(network, onnx_file, origin)
    except ExportError as error:
        warn(run, f"The model is logged without its encoder. {error}")
        return {}
    run.spool.metrics(metrics, step)
    return {"encoder": path}


def warn(run: TrainingRun, sentence: str) -> None:
    """Say in the run and on the terminal what the model lacks."""
    run.spool.note("encoder", sentence)
    print(sentence, file=sys.stderr, flush=True)


def write_encoder(network: nn.Module, onnx_file: Path, origin: Origin) -> tuple[Path, dict[str, float]]:
    """Export an encoder, or that of an autoencoder, beside its generator's file, and describe it by held-out images.

    Returns:
        its path, and how far the file is from the encoder and from these images.

    Raises:
        ExportError: the file is not the encoder.
    """
    path = onnx_file.with_name(flavor.ENCODER_FILE)
    generator = OnnxGenerator(onnx_file, device="cpu")
    encoder, units = quantized_encoder(network), None
    assert encoder is not None
    if isinstance(network, Autoencoder):
        codes, _ = codes_of(network, origin.dataset)
        units = active_units(codes) if origin.plan.recipe.method == "vae" else None
    description = EncoderDescription(digest_of(onnx_file), active_units=units)
    images = evenly_spaced(origin.dataset, PARITY_IMAGES)
    parity = export_encoder(encoder, description, path, generator=generator, images=images)
    metrics = {f"{name}_encoder": value for name, value in parity_metrics(parity).items()}
    if origin.held_out is not None:
        description, reconstruction = described_by(origin.held_out, description, OnnxEncoder(path), generator=generator)
        describe_encoder(path, description)
        metrics |= reconstruction
    return path, metrics


def described_by(
    held_out: Dataset, description: EncoderDescription, encoder: OnnxEncoder, *, generator: OnnxGenerator
) -> tuple[EncoderDescription, dict[str, float]]:
    """Return what an encoder's file says of itself, with what held-out images have in common, and metrics of these."""
    images = evenly_spaced(held_out, HELD_OUT_IMAGES)
    projected = reconstruct(generator, encoder, images)
    scores = anomaly_scores(encoder, images, projected.images)
    described = dataclasses.replace(
        description,
        low_psnr=float(np.quantile(projected.psnr, 1 - USUAL)),
        high_anomaly=float(np.quantile(scores, USUAL)),
    )
    return described, {"reconstruction_psnr/pixels": float(projected.psnr.mean())}


def evenly_spaced(dataset: Dataset, count: int) -> Images:
    """Return at most ``count`` images uint8 [N, H, W, C], spaced evenly over the data."""
    return pixels_of(dataset.samples)[regular_indices(len(dataset), count)]


def parity_metrics(parity: Parity) -> dict[str, float]:
    """Return how far the exported file is from the generator."""
    return {
        "export/largest_difference": float(parity.largest_difference),
        "export/differing_pixels": parity.differing_pixels,
    }
