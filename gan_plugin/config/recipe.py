"""Every hyperparameter, once: its default, what it accepts, what it means, and the part of a recipe that it belongs to.

A recipe is a training method. Those that ship are TOML files in ``recipes/``, and a user may write one: a file holds a
summary and what differs from the defaults. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from gan_plugin.config.kinds import (
    fraction,
    non_negative_number,
    one_of,
    parameter,
    parse_value,
    positive_number,
    ramp,
    share,
    text_of,
    unknown_parameter,
    whole_number,
    yes_or_no,
)
from gan_plugin.config.parts import (
    AUTOENCODER,
    DCGAN,
    GAN,
    MOMENTUM,
    MULTIPLE,
    PENALTY,
    R3GAN,
    RAE,
    RAMP,
    SCHEDULED,
    SIZED,
    SQUARES,
)
from gan_plugin.config.schedule import Ramp, parse_ramp
from gan_plugin.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


RECIPES = resources.files("gan_plugin.config") / "recipes"
SUFFIX = ".toml"


POSITIVE_RAMP, RAMP_FROM_ZERO, FRACTION_RAMP = (ramp(end()) for end in (positive_number, non_negative_number, fraction))


class Hyperparameters(NamedTuple):
    """The value of every ramp of a recipe at one moment of training."""

    penalty_weight: float
    augment_p: float
    generator_lr: float
    discriminator_lr: float
    beta2: float
    ema_half_life: float


@dataclass(frozen=True)
class Recipe:
    """A training method: networks, adversarial training, optimizers.

    A :class:`~gan_plugin.config.schedule.Ramp` is a number, or ``A..B``: from A to B along half a cosine.
    """

    name: str
    summary: str

    _: KW_ONLY
    method: str = parameter(
        "gan",
        one_of("gan", "autoencoder", "vae", "rae"),
        "What the generator learns by: an adversarial game, or as the decoder of an autoencoder, a variational one, or "
        "a regularized one.",
    )

    # networks
    family: str = parameter("dcgan", one_of("dcgan", "subpixel", "r3gan"), "Network family.")
    latent_size: int = parameter(100, whole_number(1, 4096), "Length of z.")
    width: int = parameter(
        0,
        whole_number(8, 4096, multiple_of=8),
        "Channels of the coarsest stage; each finer one has half of those before it, but no fewer than 16 (r3gan "
        "rounds up to a multiple of 16).",
        part=SIZED,
    )
    full_stages: int = parameter(
        4, whole_number(1, 8), "Number of stages, from the coarsest on, with the full width.", part=R3GAN
    )
    blocks: int = parameter(
        0, whole_number(1, 16), "Blocks per stage, residual ones in r3gan and in the discriminator.", part=SIZED
    )
    dropout: float = parameter(0.0, fraction(), "Dropout probability in the discriminator, or the encoder.", part=DCGAN)
    conditional: bool = parameter(
        False, yes_or_no(), "Condition the generator on the class; a recipe's true applies to labeled data only."
    )
    spectral_norm: bool = parameter(
        False, yes_or_no(), "Spectral normalization of every discriminator weight.", part=GAN
    )
    discriminators: int = parameter(1, whole_number(1, 16), "Number of discriminators.", part=GAN)
    discriminator_dropout: float = parameter(
        0.0, fraction(), "Probability of dropping a discriminator from a generator step.", part=MULTIPLE
    )
    softmax_inverse_temperature: float = parameter(
        0.0,
        non_negative_number(),
        "λ in softmax(λ·loss), which weighs the generator's losses against several discriminators; 0 is their mean.",
        part=MULTIPLE,
    )
    pack: int = parameter(1, whole_number(1, 16), "Images that the discriminator sees at once (PacGAN).", part=GAN)
    categorical_codes: int = parameter(
        0, whole_number(0, 1000), "Values of InfoGAN's categorical code; 0 is no code.", part=GAN
    )
    continuous_codes: int = parameter(0, whole_number(0, 1000), "Number of InfoGAN's continuous codes.", part=GAN)

    # adversarial training
    objective: str = parameter(
        "non-saturating",
        one_of("minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "relativistic"),
        "Adversarial loss.",
        part=GAN,
    )
    penalty: str = parameter(
        "none",
        one_of("none", "wgan-gp", "dragan", "r1", "r1+r2"),
        "Penalty on the discriminator's gradients.",
        part=GAN,
    )
    penalty_weight: Ramp = parameter(Ramp(0, 0), RAMP_FROM_ZERO, "Weight of the penalty.", part=PENALTY)
    penalty_every: int = parameter(1, whole_number(1), "Steps from one penalty to the next.", part=PENALTY)
    updates: str = parameter(
        "simultaneous",
        one_of("simultaneous", "alternating", "shared-fakes"),
        "Which fakes the generator learns from: the discriminator's, before either moves (simultaneous) or after its "
        "step (shared-fakes), or its own after that step (alternating).",
        part=GAN,
    )
    discriminator_steps: int = parameter(
        1, whole_number(1), "Discriminator steps for each generator step, with updates=alternating.", part=GAN
    )
    augment: str = parameter(
        "none",
        one_of("none", "diffaugment", "ada", "scheduled"),
        "Augmentation of what the discriminator sees; a recipe's own is for data of fewer images than augment_below.",
        part=GAN,
    )
    augment_p: Ramp = parameter(Ramp(0, 0), FRACTION_RAMP, "Probability of each augmentation.", part=SCHEDULED)
    augment_below: int = parameter(
        30_000, whole_number(0), "Use the recipe's augmentation only below this number of images.", part=GAN
    )

    # autoencoders
    mixture_components: int = parameter(
        0,
        whole_number(0, 1000),
        "Gaussians, for each class, of the mixture from which codes are drawn, fitted to those of the data; with two "
        "or more, z's first value decides on one of them. 0 draws codes from N(0, I).",
        part=AUTOENCODER,
    )
    code_penalty: float = parameter(
        0.0, non_negative_number(), "β in ½β‖code‖², beside the squared error of an image's values in −1…1.", part=RAE
    )
    decoder_penalty: float = parameter(
        0.0, non_negative_number(), "λ in λ‖θ‖² of the decoder's weights θ, likewise.", part=RAE
    )

    # optimizers
    batch_size: int = parameter(
        64,
        whole_number(2),
        "Images per step. A recipe's own is made smaller for a short training; train takes auto, too, which makes it "
        "larger on a GPU as far as memory and the number of steps allow.",
    )
    optimizer: str = parameter("adam", one_of("adam", "rmsprop", "sgd"), "Optimizer of all networks.")
    generator_lr: Ramp = parameter(
        Ramp(2e-4, 2e-4), POSITIVE_RAMP, "Learning rate of the generator, and of an encoder."
    )
    discriminator_lr: Ramp = parameter(Ramp(2e-4, 2e-4), POSITIVE_RAMP, "Learning rate of the discriminator.", part=GAN)
    beta1: float = parameter(0.5, fraction(), "Adam's beta1, or SGD's momentum.", part=MOMENTUM)
    beta2: Ramp = parameter(Ramp(0.999, 0.999), FRACTION_RAMP, "Adam's beta2, or RMSprop's alpha.", part=SQUARES)
    ema_half_life: Ramp = parameter(
        Ramp(0.05, 0.05),
        FRACTION_RAMP,
        "Half-life of the averaged generator's weights, as a fraction of the images seen so far.",
    )
    anneal: float = parameter(
        1.0, share(), "Share of the training over which values A..B go from A to B, where they then stay.", part=RAMP
    )

    def at(self, progress: float) -> Hyperparameters:
        """Return the value of every ramp after a share ``progress`` of the training, 0…1."""
        moves = progress < self.anneal and self.is_annealed
        return self._values(progress / self.anneal) if moves else self._end

    @functools.cached_property
    def is_annealed(self) -> bool:
        """Whether any value changes while training goes on."""
        return bool(moving_values(self))

    def _values(self, annealed: float) -> Hyperparameters:
        return Hyperparameters(*(getattr(self, name).at(annealed) for name in Hyperparameters._fields))

    @functools.cached_property
    def _end(self) -> Hyperparameters:
        return self._values(1.0)


HYPERPARAMETERS = {field.name: field for field in dataclasses.fields(Recipe) if field.metadata}
RAMPS = frozenset(field.name for field in HYPERPARAMETERS.values() if isinstance(field.default, Ramp))


# ---- files -----------------------------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship, in alphabetical order."""
    return sorted(file.name.removesuffix(SUFFIX) for file in RECIPES.iterdir() if file.name.endswith(SUFFIX))


def load_recipe(name_or_path: str) -> Recipe:
    """Load a recipe that ships by its name, or a user's own by its path, which ends in ``.toml``.

    Raises:
        UserError: there is no such recipe, or its file is not a recipe; the sentence names the file and the key.
    """
    if name_or_path.endswith(SUFFIX):
        return _read_recipe(Path(name_or_path))
    if name_or_path not in recipe_names():
        raise UserError(
            f"recipe={name_or_path!r} is unknown: give one of {', '.join(recipe_names())}, or the path of a {SUFFIX} "
            "file."
        )
    return _recipe_of(name_or_path, tomllib.loads((RECIPES / f"{name_or_path}{SUFFIX}").read_text("utf-8")))


def _read_recipe(path: Path) -> Recipe:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"recipe={str(path)!r} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise UserError(f"recipe={str(path)!r} is not TOML: {' '.join(str(error).split())}.") from None
    try:
        recipe = _recipe_of(path.stem, values)
        check_effect(recipe, values)
    except UserError as error:
        raise UserError(f"In recipe={str(path)!r}: {error}") from None
    return recipe


def _recipe_of(name: str, values: Mapping[str, Any]) -> Recipe:
    summary = values.get("summary")
    if not isinstance(summary, str) or not summary.strip():
        raise UserError("summary is missing: give one line on what the recipe does.")
    texts = {key: _toml_text(key, value) for key, value in values.items() if key != "summary"}
    return Recipe(name=name, summary=summary, **parse_hyperparameters(texts))


def _toml_text(key: str, value: object) -> str:
    if not isinstance(value, (str, int, float)):
        raise UserError(f"{key} is not possible as a {type(value).__name__}: give a number, true, false or text.")
    return text_of(value)


# ---- values ----------------------------------------------------------------------------------------------------------


def parse_hyperparameters(texts: Mapping[str, str]) -> dict[str, Any]:
    """Parse hyperparameters by name.

    Raises:
        UserError: one is unknown or does not accept its value; the sentence names it.
    """
    for name in texts:
        if name not in HYPERPARAMETERS:
            raise unknown_parameter(name, HYPERPARAMETERS)
    return {name: parse_value(name, text, HYPERPARAMETERS[name].metadata["accepts"]) for name, text in texts.items()}


def override(recipe: Recipe, **values: object) -> Recipe:
    """Return the recipe with every value that is not None in place of its own; a number may stand for a ramp."""
    overrides: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    ramps = {k: parse_ramp(v) for k, v in overrides.items() if k in RAMPS and not isinstance(v, Ramp)}
    return dataclasses.replace(recipe, **overrides | ramps)


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return every hyperparameter as a plain value that JSON holds and people read."""
    values = {name: getattr(recipe, name) for name in HYPERPARAMETERS}
    return {k: (v.start if v.start == v.end else str(v)) if isinstance(v, Ramp) else v for k, v in values.items()}


# ---- parts -----------------------------------------------------------------------------------------------------------


def moving_values(recipe: Recipe) -> list[str]:
    """Return the names of the ramps that change while training goes on."""
    return [name for name in sorted(RAMPS) if getattr(recipe, name).start != getattr(recipe, name).end]


def without_effect(recipe: Recipe) -> dict[str, str]:
    """Return the hyperparameters that belong to a part that the recipe lacks, with that part's phrase."""
    parts = {name: field.metadata["part"] for name, field in HYPERPARAMETERS.items() if "part" in field.metadata}
    return {name: part.phrase for name, part in parts.items() if not part.is_in(recipe)}


def check_effect(recipe: Recipe, overridden: Collection[str]) -> None:
    """Refuse hyperparameters that would change nothing.

    Raises:
        UserError: one of those named in ``overridden`` belongs to a part that the recipe lacks.
    """
    for name, phrase in without_effect(recipe).items():
        if name in overridden:
            raise UserError(f"{name} changes nothing without {phrase}: give that, too, or leave {name} out.")
