"""The settings of each command: what is not a hyperparameter of the recipe.

Each field holds its default, what it accepts and what it means: command line, reference and checks derive from that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gan_plugin.config.kinds import (
    AUTO,
    NONE,
    Accepts,
    any_text,
    channel_count,
    fraction,
    image_size,
    one_of,
    or_auto,
    or_none,
    parameter,
    positive_number,
    registered_name,
    toml_path,
    whole_number,
    yes_or_no,
)
from gan_plugin.metrics.catalog import BOUNDED, PROMOTION_METRICS
from gan_plugin.spec import MAX_SEED, Size


def setting(default: str, accepts: Accepts, sentence: str) -> Any:
    """Return a field whose default is written as a user would type it."""
    return parameter(accepts.parse(default), accepts, sentence, text=default)


def required(accepts: Accepts, sentence: str) -> Any:
    """Return a field without a default."""
    return field(metadata={"text": None, "accepts": accepts, "help": sentence})


class Threshold(NamedTuple):
    """A bound on a metric: the largest value for one of which lower is better, else the smallest."""

    metric: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{BOUNDED[self.metric]}{self.bound:g}"


def two_or_more() -> Accepts:
    """Accept two or more texts with commas between, each once."""

    def parse(text: str) -> tuple[str, ...]:
        texts = tuple(part.strip() for part in text.split(","))
        if len(texts) < 2 or not all(texts) or len(set(texts)) < len(texts):
            raise ValueError
        return texts

    return Accepts("two or more, each once, with commas between", parse)


def thresholds() -> Accepts:
    """Accept bounds between commas, or ``none``."""

    def parse_one(text: str) -> Threshold:
        for metric, sign in BOUNDED.items():
            name, separator, bound = text.partition(sign)
            if separator and name.strip() == metric and math.isfinite(float(bound)):
                return Threshold(metric, float(bound))
        raise ValueError

    def parse(text: str) -> tuple[Threshold, ...]:
        return () if text.strip() == NONE else tuple(parse_one(part) for part in text.split(","))

    possible = ", ".join(f"{metric}{sign}" for metric, sign in BOUNDED.items())
    return Accepts(f"bounds as in fid_ratio<=20,coverage>=0.2 (possible are {possible}), or none", parse)


EPOCHS = 50  # where neither epochs nor minutes is given
SAMPLE_GRIDS = 25  # of a training, where samples_every is not given
MIN_EVALUATED = 50  # with fewer images, no metric means anything
MAX_EVALUATED = 1_000_000
DEVICE = one_of(AUTO, "cuda", "cpu")
SIZE = or_auto(image_size())
CHANNELS = or_auto(channel_count())
NETWORKS = "classifier, self-supervised, rotation, inception, or onnx:PATH"
FEATURES = (
    f"Network whose features are compared: {NETWORKS}. auto is classifier with self-supervised beside it, and for data "
    "of fewer than two classes self-supervised alone."
)
QUICK_FEATURES = (
    f"Network by whose features the generator is chosen: {NETWORKS}. auto is classifier, and for data of fewer than "
    "two classes rotation."
)
WEIGHTS = "File with Inception's weights; none looks in the cache, then downloads."
DATA = "digits, a folder (IDX files, images, or parquet), a .parquet file, or hub:owner/name"
HELD_OUT = (
    "Split that is held out of training, for the real-data baseline of each metric; auto is test or validation where "
    "the data has one, else a part of split train, drawn by digest; none holds nothing out."
)
UNREADABLE = "Leave out images that cannot be read, and count them."


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of ``train``. None stands for ``auto``, the data's own value, or for ``none``."""

    data: str = setting("digits", any_text(), f"Data set: {DATA}.")
    split: str = setting("train", any_text(), "Split of the data to train on.")
    held_out: str | None = setting("auto", or_auto(any_text()), HELD_OUT)
    image_size: Size | None = setting("auto", SIZE, "Size of the images in pixels; auto is the data's own, else 64.")
    channels: int | None = setting("auto", CHANNELS, "1 for gray, 3 for RGB; auto is 1 where every image is gray.")
    skip_unreadable: bool = setting("false", yes_or_no(), UNREADABLE)
    epochs: int | None = setting("auto", or_auto(whole_number(1)), f"Passes over the data; auto is {EPOCHS}.")
    minutes: float | None = setting(
        "none",
        or_none(positive_number()),
        "Minutes that the run may take, its export and registration included, in place of epochs: the machine's speed "
        "decides how many images it sees.",
    )
    recipe: str = setting(
        "subpixel", any_text(), "Training method: a name that gan-plugin recipes lists, or the path of a .toml file."
    )
    seed: int = setting(
        "0", whole_number(0, 2**32 - 1), "Equal seeds give equal weights on a CPU, from equally many threads."
    )
    device: str = setting("auto", DEVICE, "auto is CUDA where there is a GPU, else the CPU.")
    precision: str = setting("auto", one_of(AUTO, "bf16", "float32"), "auto is bf16 where that is fast; no TF32.")
    threads: int | None = setting(
        "auto",
        or_auto(whole_number(1)),
        "Threads of a CPU; auto takes one for each core, or fewer where other programs make these faster. Results are "
        "equal to the bit for an equal number only.",
    )
    export_precision: str = setting(
        "float32",
        one_of("float32", "float16"),
        "Precision of the exported generator; float16, for GPUs, halves the file and has to pass a parity gate, too.",
    )
    model_name: str | None = setting(
        "gan", or_none(registered_name()), "Name of the registered model; none logs the model and does not register it."
    )
    features: str | None = setting("auto", or_auto(any_text()), QUICK_FEATURES)
    inception_weights: str | None = setting("none", or_none(any_text()), WEIGHTS)
    evaluation_budget: float = setting(
        "0.1",
        fraction(),
        "Fraction of the time to spend on evaluation during training, so that the best generator is exported; 0 "
        "exports the last one.",
    )
    guard: bool = setting(
        "true", yes_or_no(), "Go back to a good checkpoint when training diverges or collapses, or one network wins."
    )
    retries: int = setting("3", whole_number(0), "How often the guard goes back before the run fails.")
    cuda_graphs: bool = setting("true", yes_or_no(), "On a GPU, record a step's gradients as CUDA graphs.")
    samples_every: int | None = setting(
        "auto",
        or_auto(whole_number(1)),
        "Epochs from one grid of samples, and one look of the guard at them, to the next; auto makes about "
        f"{SAMPLE_GRIDS} of them, at the ends of epochs, or fewer in a run of few minutes, whose time they would take.",
    )
    checkpoint_every: int = setting(
        "10", whole_number(1), "Epochs from one checkpoint to the next, to which the guard may go back."
    )
    checkpoint_minutes: float = setting(
        "5.0", positive_number(), "Minutes after which a checkpoint is saved in any case, for a run that is killed."
    )
    encoder: bool = setting(
        "false",
        yes_or_no(),
        "After a GAN, train an encoder, which finds the z of an image faster and scores how unlike the data it is: in "
        "20 passes over the data, or a quarter of the run's minutes. Autoencoders have one anyway.",
    )
    resume: str | None = setting(
        "none",
        or_none(any_text()),
        "Run id, folder or checkpoint to go on from, in the same run; auto goes on with a run of the same settings "
        "that did not end, and else begins one.",
    )
    new_run: bool = setting("false", yes_or_no(), "Let resume begin a run of its own, instead of going on in the same.")
    output_dir: str = setting("outputs", any_text(), "Local folder for checkpoints and the exported generator.")


def as_in_train(name: str) -> Any:
    """Return a field that is the same as the one of ``train``."""
    original = TrainSettings.__dataclass_fields__[name]
    return field(default=original.default, metadata=original.metadata)


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Settings of ``tune``."""

    data: str = as_in_train("data")
    split: str = as_in_train("split")
    held_out: str | None = as_in_train("held_out")
    image_size: Size | None = as_in_train("image_size")
    channels: int | None = as_in_train("channels")
    skip_unreadable: bool = as_in_train("skip_unreadable")
    recipe: str = as_in_train("recipe")
    space: str | None = setting(
        "auto",
        or_auto(any_text()),
        "Hyperparameters to search, with commas between: FIELD=A..B is a range, FIELD=a|b|c are choices; auto is the "
        "learning rates, the penalty's weight and ema_half_life, each around the recipe's own.",
    )
    minutes: float = setting("60.0", positive_number(), "Minutes that all of the search may take.")
    trial_minutes: float | None = setting(
        "auto", or_auto(positive_number()), "Minutes of one training; auto is a twelfth of the search's."
    )
    seeds: int = setting("3", whole_number(1, 100), "Further seeds that the best hyperparameters are trained with.")
    seed: int = setting("0", whole_number(0, 2**32 - 1), "Seed of the search, and of every training in it.")
    device: str = as_in_train("device")
    precision: str = as_in_train("precision")
    threads: int | None = as_in_train("threads")
    features: str | None = as_in_train("features")
    inception_weights: str | None = as_in_train("inception_weights")
    out: str = setting("tuned.toml", toml_path(), "File to write the best hyperparameters to, as a recipe.")
    output_dir: str = setting("outputs", any_text(), "Local folder for the search, and for the trainings in it.")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The real images that a generator is compared with."""

    data: str = setting("digits", any_text(), f"Data set to compare with: {DATA}.")
    split: str = setting("train", any_text(), "Split to compare with, usually the one that the model was trained on.")
    held_out: str | None = setting("auto", or_auto(any_text()), HELD_OUT)
    image_size: Size | None = setting("auto", SIZE, "Size of the images in pixels; auto is the data's own.")
    channels: int | None = setting("auto", CHANNELS, "1 for gray, 3 for RGB; auto is what the images are.")
    skip_unreadable: bool = setting("false", yes_or_no(), UNREADABLE)


@dataclass(frozen=True, kw_only=True)
class EvaluatorSettings:
    """How a generator is evaluated: also what ``evaluator_config`` of ``mlflow.models.evaluate`` takes."""

    features: str | None = setting("auto", or_auto(any_text()), FEATURES)
    inception_weights: str | None = setting("none", or_none(any_text()), WEIGHTS)
    images: int = setting("10000", whole_number(MIN_EVALUATED, MAX_EVALUATED), "Number of images to generate.")
    seed: int = setting("0", whole_number(0, MAX_SEED - MAX_EVALUATED), "First of the consecutive seeds.")
    device: str = setting("auto", DEVICE, "Where networks and ONNX Runtime run; auto is CUDA where it works.")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(EvaluatorSettings, DataSettings):
    """Settings of ``evaluate``."""

    model: str = required(any_text(), "URI of the model, for example models:/gan/1 or models:/gan@champion.")


@dataclass(frozen=True, kw_only=True)
class CompareSettings(EvaluatorSettings, DataSettings):
    """Settings of ``compare``."""

    models: tuple[str, ...] = required(
        two_or_more(),
        "URIs of models, or ids of the runs that trained or evaluated them, with commas between.",
    )


@dataclass(frozen=True, kw_only=True)
class PromoteSettings(EvaluatorSettings, DataSettings):
    """Settings of ``promote``."""

    model_name: str = setting("gan", registered_name(), "Name of the registered model.")
    version: int | None = setting("auto", or_auto(whole_number(1)), "Version to promote; auto is the newest.")
    metric: str = setting(
        "fid", one_of(*PROMOTION_METRICS), "Metric by which the candidate must be better than the champion."
    )
    min_improvement: float = setting(
        "0.02", fraction(), "Required relative improvement on the champion; with few images, ask for more."
    )
    thresholds: tuple[Threshold, ...] = setting(
        "precision>=0.05,recall>=0.05",
        thresholds(),
        "What every champion must meet, the first one too: metrics with <= or >=, or none.",
    )
    rollback: bool = setting("false", yes_or_no(), "Give the alias back to the previous champion, and compare nothing.")
