"""What a user can choose. The command line is made from these classes, and a test holds MLproject to them.

Each field says what it accepts and what it means. Values arrive as text, because MLflow hands parameters on unchecked;
:func:`parse` turns them into a settings object or refuses them in one sentence that names the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from gan_plugin.config.schedule import Ramp, parse_ramp
from gan_plugin.errors import UserError
from gan_plugin.metrics.catalog import BOUNDED, PROMOTING

AUTO = "auto"


class Accepts(NamedTuple):
    """What a parameter takes: a phrase for people, and a parser that raises ValueError for anything else."""

    phrase: str
    parse: Callable[[str], Any]


def whole_number(least: int, most: int | None = None, multiple_of: int = 1) -> Accepts:
    def parse(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most) or value % multiple_of:
            raise ValueError
        return value

    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    return Accepts(f"a {'whole number' if multiple_of == 1 else f'multiple of {multiple_of}'} {bounds}", parse)


def positive_number() -> Accepts:
    def parse(text: str) -> float:
        value = float(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    return Accepts("a number above 0", parse)


def zero_or_more() -> Accepts:
    def parse(text: str) -> float:
        value = float(text)
        if not 0 <= value < math.inf:
            raise ValueError
        return value

    return Accepts("a number of at least 0", parse)


def fraction() -> Accepts:
    def parse(text: str) -> float:
        value = float(text)
        if not 0 <= value < 1:
            raise ValueError
        return value

    return Accepts("a number from 0 to below 1", parse)


def ramp(end: Accepts) -> Accepts:
    """A number, or ``A..B``: from A to B while training goes on."""
    return Accepts(f"{end.phrase}, or two with .. between them", lambda text: parse_ramp(text, end.parse))


def one_of(*names: str) -> Accepts:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return Accepts(f"one of {', '.join(names)}", parse)


def gray_or_rgb() -> Accepts:
    return Accepts("1 or 3", lambda text: int(one_of("1", "3").parse(text)))


def yes_or_no() -> Accepts:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

    def parse(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]

    return Accepts("true or false", parse)


def some_text() -> Accepts:
    def parse(text: str) -> str:
        if not text.strip():
            raise ValueError
        return text.strip()

    return Accepts("some text", parse)


def registered_name() -> Accepts:
    def parse(text: str) -> str:
        if not text.strip() or set(text) & set("/:'\""):
            raise ValueError
        return text.strip()

    return Accepts("a name without / : and quotes", parse)


def or_auto(accepts: Accepts) -> Accepts:
    """The same, or ``auto``, which is None in the settings object."""
    return Accepts(f"{accepts.phrase}, or {AUTO}", lambda text: None if text == AUTO else accepts.parse(text))


def or_none(accepts: Accepts) -> Accepts:
    """The same, or ``none``, which is None in the settings object."""
    return Accepts(f"{accepts.phrase}, or none", lambda text: None if text == "none" else accepts.parse(text))


def setting(default: str, accepts: Accepts, help: str) -> Any:
    """A field whose default is written as a user would write it."""
    return field(default=accepts.parse(default), metadata={"text": default, "accepts": accepts, "help": help})


def required(accepts: Accepts, help: str) -> Any:
    return field(metadata={"text": None, "accepts": accepts, "help": help})


class Threshold(NamedTuple):
    """A bound on a figure: the most for one of which lower is better, else the least."""

    figure: str
    bound: float

    def __str__(self) -> str:
        return f"{self.figure}{BOUNDED[self.figure]}{self.bound:g}"


def some_thresholds() -> Accepts:
    def one(text: str) -> Threshold:
        for figure, sign in BOUNDED.items():
            name, found, bound = text.partition(sign)
            if found and name.strip() == figure and math.isfinite(float(bound)):
                return Threshold(figure, float(bound))
        raise ValueError

    def parse(text: str) -> tuple[Threshold, ...]:
        return () if text.strip() == "none" else tuple(one(part) for part in text.split(","))

    possible = ", ".join(f"{figure}{sign}" for figure, sign in BOUNDED.items())
    return Accepts(f"bounds as in fid_ratio<=20,coverage>=0.2 (possible are {possible}), or none", parse)


OBJECTIVES = ("minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic")
PENALTIES = ("wgan-gp", "dragan", "r1", "r1+r2")
AUGMENTATIONS = ("none", "diffaugment", "ada", "scheduled")
MIN_EVALUATED = 50  # with fewer, no figure means anything
DEVICE = one_of("auto", "cuda", "cpu")
SIZE = or_auto(whole_number(16, 256, multiple_of=4))
FEATURES = "Features that judge: classifier (auto with labels), inception (auto without), or onnx:PATH of a network."
WEIGHTS = "File with Inception's weights; none looks in the cache, then downloads."
DATA = "digits, a folder (IDX files, images, or parquet), a .parquet file, or hub:owner/name"


@dataclass(frozen=True)
class TrainSettings:
    """Parameters of ``train``. None stands for ``auto``: the data's or the recipe's own value."""

    data: str = setting("digits", some_text(), f"Dataset: {DATA}.")
    split: str = setting("train", some_text(), "Which split of the data to train on.")
    image_size: int | None = setting("auto", SIZE, "Side of the square images; auto is the data's own size, else 64.")
    channels: int | None = setting(
        "auto", or_auto(gray_or_rgb()), "1 for gray, 3 for RGB; auto is 1 where every image is gray."
    )
    skip_unreadable: bool = setting("false", yes_or_no(), "Leave out images that cannot be read, and count them.")
    epochs: int = setting("50", whole_number(1), "Passes over the data.")
    recipe: str = setting("r1", some_text(), "Training method; gan-plugin recipes lists them.")
    conditional: bool | None = setting(
        "auto",
        or_auto(yes_or_no()),
        "Whether the generator takes a class; auto is the recipe's choice where the data has classes.",
    )
    objective: str | None = setting("auto", or_auto(one_of(*OBJECTIVES)), "Adversarial loss, instead of the recipe's.")
    penalty: str | None = setting(
        "auto", or_auto(one_of("none", *PENALTIES)), "Penalty on the discriminator's gradient, instead of the recipe's."
    )
    penalty_weight: Ramp | None = setting(
        "auto", or_auto(ramp(zero_or_more())), "Weight of the penalty, instead of the recipe's."
    )
    penalty_every: int | None = setting(
        "auto", or_auto(whole_number(1)), "Steps from one penalty to the next, instead of the recipe's."
    )
    updates: str | None = setting(
        "auto",
        or_auto(one_of("simultaneous", "alternating")),
        "Both players learn from one batch of fakes, or one after the other.",
    )
    discriminator_steps: int | None = setting(
        "auto",
        or_auto(whole_number(1)),
        "Steps of the discriminator for each of the generator's, with updates=alternating.",
    )
    augment: str | None = setting(
        "auto",
        or_auto(one_of(*AUGMENTATIONS)),
        "Augmentation of what the discriminator sees; auto is the recipe's for little data.",
    )
    augment_p: Ramp | None = setting(
        "auto", or_auto(ramp(fraction())), "Probability of the scheduled augmentation, instead of the recipe's."
    )
    augment_below: int | None = setting(
        "auto",
        or_auto(whole_number(0)),
        "Number of images from which on augment=auto is none, instead of the recipe's.",
    )
    family: str | None = setting("auto", or_auto(one_of("dcgan", "r3gan")), "Network family, instead of the recipe's.")
    latent_size: int | None = setting("auto", or_auto(whole_number(1, 4096)), "Length of z, instead of the recipe's.")
    width: int | None = setting(
        "auto",
        or_auto(whole_number(16, 4096, multiple_of=16)),
        "Feature maps of r3gan's coarsest stages, instead of the recipe's.",
    )
    full_stages: int | None = setting(
        "auto", or_auto(whole_number(1, 8)), "Stages of r3gan that have the full width, instead of the recipe's."
    )
    blocks: int | None = setting(
        "auto", or_auto(whole_number(1, 16)), "Residual blocks of a stage of r3gan, instead of the recipe's."
    )
    dropout: float | None = setting(
        "auto", or_auto(fraction()), "Dropout in dcgan's discriminator, instead of the recipe's."
    )
    spectral_norm: bool | None = setting(
        "auto", or_auto(yes_or_no()), "Spectral norm on the discriminator's weights, instead of the recipe's."
    )
    discriminators: int | None = setting(
        "auto", or_auto(whole_number(1, 16)), "How many discriminators, instead of the recipe's."
    )
    discriminator_dropout: float | None = setting(
        "auto", or_auto(fraction()), "Probability with which the generator does not hear a discriminator."
    )
    softmax_temperature: float | None = setting(
        "auto", or_auto(zero_or_more()), "How much more the generator hears of a stricter discriminator; 0 is the mean."
    )
    pack: int | None = setting(
        "auto", or_auto(whole_number(1, 16)), "Dataset that the discriminator judges at once, instead of the recipe's."
    )
    categorical_codes: int | None = setting(
        "auto", or_auto(whole_number(0, 1000)), "InfoGAN: choices of the code that is one, instead of the recipe's."
    )
    continuous_codes: int | None = setting(
        "auto", or_auto(whole_number(0, 1000)), "InfoGAN: codes that are numbers, instead of the recipe's."
    )
    batch_size: int | None = setting(
        "auto", or_auto(whole_number(2)), "Dataset a step; auto is the recipe's, or fewer for little data."
    )
    optimizer: str | None = setting(
        "auto", or_auto(one_of("adam", "rmsprop", "sgd")), "Optimizer of both players, instead of the recipe's."
    )
    generator_lr: Ramp | None = setting(
        "auto", or_auto(ramp(positive_number())), "Learning rate of the generator, instead of the recipe's."
    )
    discriminator_lr: Ramp | None = setting(
        "auto", or_auto(ramp(positive_number())), "Learning rate of the discriminator, instead of the recipe's."
    )
    beta1: float | None = setting(
        "auto", or_auto(fraction()), "Adam's beta1 or SGD's momentum, instead of the recipe's."
    )
    beta2: Ramp | None = setting(
        "auto", or_auto(ramp(fraction())), "Adam's beta2 or RMSprop's alpha, instead of the recipe's."
    )
    ema_half_life: Ramp | None = setting(
        "auto",
        or_auto(ramp(zero_or_more())),
        "Half-life of the averaged generator in images, instead of the recipe's.",
    )
    anneal: int | None = setting(
        "auto",
        or_auto(whole_number(0)),
        "Dataset after which every value A..B has come to B, instead of the recipe's.",
    )
    seed: int = setting("0", whole_number(0, 2**32 - 1), "Equal seeds give equal weights on the CPU.")
    device: str = setting("auto", DEVICE, "auto is CUDA where there is a GPU, else the CPU.")
    precision: str = setting("auto", one_of("auto", "bf16", "float32"), "auto is bf16 where the device does it fast.")
    export_precision: str = setting(
        "float32",
        one_of("float32", "float16"),
        "Of the exported generator. float16, for GPUs, halves the file; it passes a parity gate, too, or is refused.",
    )
    model_name: str = setting("gan", registered_name(), "Name of the registered model.")
    features: str | None = setting("auto", or_auto(some_text()), FEATURES)
    inception_weights: str | None = setting("none", or_none(some_text()), WEIGHTS)
    evaluation_budget: float = setting(
        "0.1", fraction(), "Share of the time for judging the generator on the way; the best is exported. 0 is none."
    )
    guard: bool = setting(
        "true", yes_or_no(), "Go back to a good checkpoint when training collapses or a player wins outright."
    )
    retries: int = setting("3", whole_number(0), "How often the guard goes back before the run fails.")
    samples_every: int = setting("1", whole_number(1), "Epochs between two sample grids.")
    checkpoint_every: int = setting("10", whole_number(1), "Epochs between two checkpoints.")
    resume: str | None = setting("none", or_none(some_text()), "Run id or checkpoint folder to go on from.")
    output_dir: str = setting("outputs", some_text(), "Local folder for checkpoints and the exported generator.")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images a generator is held against."""

    data: str = setting("digits", some_text(), f"Dataset to compare with: {DATA}.")
    split: str = setting("train", some_text(), "The split to compare with, usually what the model was trained on.")
    held_out: str | None = setting(
        "auto",
        or_auto(some_text()),
        "The split that gives the floor of each figure; auto is test or validation if there is one, none is no floor.",
    )
    image_size: int | None = setting("auto", SIZE, "Side to which the images are scaled; auto is their own size.")
    channels: int | None = setting(
        "auto", or_auto(gray_or_rgb()), "1 for gray, 3 for RGB; auto is what the images are."
    )
    skip_unreadable: bool = setting("false", yes_or_no(), "Leave out images that cannot be read, and count them.")


@dataclass(frozen=True, kw_only=True)
class EvaluatorSettings:
    """How a generator is judged: also what ``evaluator_config`` of ``mlflow.models.evaluate`` takes."""

    features: str | None = setting("auto", or_auto(some_text()), FEATURES)
    inception_weights: str | None = setting("none", or_none(some_text()), WEIGHTS)
    images: int = setting("10000", whole_number(MIN_EVALUATED, 1_000_000), "How many images to generate.")
    seed: int = setting("0", whole_number(0, 2**53 - 1 - 1_000_000), "First of the consecutive seeds.")
    device: str = setting("auto", DEVICE, "Where networks and ONNX Runtime run: auto is CUDA where it works.")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(EvaluatorSettings, DataSettings):
    """Parameters of ``evaluate``."""

    model: str = required(some_text(), "URI of the model, for example models:/gan/1 or models:/gan@champion.")


@dataclass(frozen=True, kw_only=True)
class PromoteSettings(EvaluatorSettings, DataSettings):
    """Parameters of ``promote``."""

    model_name: str = setting("gan", registered_name(), "Name of the registered model.")
    version: int | None = setting("auto", or_auto(whole_number(1)), "The version to promote; auto is the newest.")
    metric: str = setting("fid", one_of(*PROMOTING), "The figure by which the candidate must beat the champion.")
    least_improvement: float = setting(
        "0.02", fraction(), "By what share of the champion's figure it must be better; with few images, ask for more."
    )
    thresholds: tuple[Threshold, ...] = setting(
        "precision>=0.05,recall>=0.05",
        some_thresholds(),
        "What every champion must meet, beside a champion or alone: figures with <= or >=, or none.",
    )
    rollback: bool = setting("false", yes_or_no(), "Give the alias back to the champion before, and compare nothing.")


Settings = TypeVar("Settings", TrainSettings, EvaluateSettings, PromoteSettings, EvaluatorSettings)


def as_typed(settings: Settings) -> dict[str, object]:
    """The settings as a user would type them: ``auto`` or ``none`` in the place of None."""

    def typed(value: object, text: str) -> object:
        if value is None:
            return text
        if isinstance(value, Ramp):
            return str(value)
        return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else value

    return {f.name: typed(getattr(settings, f.name), f.metadata["text"]) for f in fields(settings)}


def parse(cls: type[Settings], given: Mapping[str, str]) -> Settings:
    """Settings from text.

    Raises:
        UserError: a parameter is unknown, missing or has a value that it does not take; the message names it.
    """
    known = {f.name: f for f in fields(cls)}
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"Unknown parameter {', '.join(unknown)}: the parameters are {', '.join(known)}.")
    if missing := [name for name, f in known.items() if f.default is MISSING and name not in given]:
        raise UserError(f"{missing[0]} is missing: give {known[missing[0]].metadata['accepts'].phrase}.")
    values = {}
    for name, text in given.items():
        accepts: Accepts = known[name].metadata["accepts"]
        try:
            values[name] = accepts.parse(text)
        except ValueError:
            raise UserError(f"{name}={text!r} is not possible: give {accepts.phrase}.") from None
    return cls(**values)
