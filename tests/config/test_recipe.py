"""Recipes: files hold only what differs from the defaults, and a user's own file is checked key by key."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from helpers import refusal

from gan_plugin.config.recipe import (
    HYPERPARAMETERS,
    RAMPS,
    RECIPES,
    Hyperparameters,
    Recipe,
    check_effect,
    load_recipe,
    moving_values,
    override,
    recipe_names,
    resolved,
    without_effect,
)
from gan_plugin.networks import FAMILIES
from gan_plugin.objectives import OBJECTIVES
from gan_plugin.penalties import PENALTIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


# ---- hyperparameters -------------------------------------------------------------------------------------------------


def test_every_field_is_documented() -> None:
    assert set(HYPERPARAMETERS) == {field.name for field in dataclasses.fields(Recipe)} - {"name", "summary"}
    for field in HYPERPARAMETERS.values():
        assert field.metadata["help"].endswith(".")
        assert field.metadata["help"][0].isupper() or field.metadata["help"][0] in "βλ"


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("objective", set(OBJECTIVES)),
        ("penalty", {"none", *PENALTIES}),
        ("family", set(FAMILIES)),
    ],
)
def test_the_accepted_words_are_those_that_training_knows(name: str, names: set[str]) -> None:
    assert set(HYPERPARAMETERS[name].metadata["accepts"].choices) == names


def test_the_values_at_a_moment_are_those_of_all_ramps() -> None:
    assert set(Hyperparameters._fields) == RAMPS
    recipe = load_recipe("r3gan-cifar10")
    for progress in (0, 0.004, 0.0799999, 0.08, 1):
        values = recipe.at(progress)
        assert values == tuple(getattr(recipe, name).at(progress / recipe.anneal) for name in Hyperparameters._fields)
    assert recipe.at(0).beta2 == 0.9
    assert recipe.at(0.04).beta2 == pytest.approx(0.945)  # half-way of the 0.08 over which it is annealed
    assert recipe.at(1) == (0.005, 0.55, 5e-5, 5e-5, 0.99, 0.02)


def test_values_that_do_not_move_are_computed_once() -> None:
    steady, annealed = load_recipe("dcgan"), load_recipe("r3gan")
    assert steady.at(0) is steady.at(1)
    early = override(annealed, anneal=0.2)
    assert early.at(0.2) is early.at(0.3)
    assert early.at(0.1) != early.at(0.2)
    assert annealed.at(0.9) != annealed.at(1)  # where nothing is said, to the end
    faster = override(steady, generator_lr=1e-3)  # not the values of the recipe that it was made from
    assert (faster.at(0).generator_lr, steady.at(0).generator_lr) == (1e-3, 2e-4)
    assert (moving_values(steady), len(moving_values(annealed))) == ([], 5)


def test_what_belongs_to_a_part_is_without_effect_where_the_recipe_lacks_it() -> None:
    assert set(without_effect(load_recipe("r3gan-cifar10"))) == {
        "dropout",
        "discriminator_dropout",
        "softmax_inverse_temperature",
        "mixture_components",
        "code_penalty",
        "decoder_penalty",
    }
    assert "objective" in without_effect(load_recipe("vae"))
    assert without_effect(override(load_recipe("dcgan"), optimizer="sgd"))["beta2"] == "optimizer=adam or rmsprop"
    assert refusal(lambda: check_effect(load_recipe("dcgan"), ["penalty_every"])) == (
        "penalty_every changes nothing without a penalty: give that, too, or leave penalty_every out."
    )


# ---- recipes that ship -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_holds_only_what_differs_from_the_defaults(name: str) -> None:
    recipe = load_recipe(name)
    keys = tomllib.loads((RECIPES / f"{name}.toml").read_text("utf-8")).keys() - {"summary"}
    assert [key for key in keys if getattr(recipe, key) == HYPERPARAMETERS[key].default] == []


def test_what_published_recipes_resolve_to() -> None:
    recipe = resolved(load_recipe("r1"))
    assert {key: recipe[key] for key in ("family", "latent_size", "penalty", "penalty_weight", "penalty_every")} == {
        "family": "dcgan",
        "latent_size": 100,
        "penalty": "r1",
        "penalty_weight": 1.0,
        "penalty_every": 4,
    }
    wgan = resolved(load_recipe("wgan-gp"))
    assert (wgan["generator_lr"], wgan["beta1"], wgan["beta2"], wgan["discriminator_steps"]) == (1e-4, 0.0, 0.9, 5)
    r3gan = resolved(load_recipe("r3gan-ffhq64"))
    assert (r3gan["width"], r3gan["full_stages"], r3gan["ema_half_life"]) == (768, 4, 0.005)


# ---- a user's own ----------------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    text = 'summary = "R1 with less"\npenalty = "r1"\npenalty_weight = "2..0.5"\nanneal = 0.5\nspectral_norm = true\n'
    recipe = load_recipe(write(tmp_path, text))
    assert (recipe.name, recipe.summary, recipe.spectral_norm) == ("mine", "R1 with less", True)
    assert (recipe.at(0).penalty_weight, recipe.at(0.5).penalty_weight) == (2.0, 0.5)
    assert override(recipe, name="dcgan", summary="", **{k: f.default for k, f in HYPERPARAMETERS.items()}) == Recipe(
        "dcgan", ""
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("width = 64", "summary is missing: give one line on what the recipe does."),
        ('summary = ""', "summary is missing: give one line on what the recipe does."),
        ('summary = "x"\npenalty_wait = 1', "Unknown parameter penalty_wait: similar ones are penalty_weight"),
        ('summary = "x"\nname = "y"', "Unknown parameter name: "),
        ('summary = "x"\nwidth = 41', "width='41' is not possible: give a multiple of 8 from 8 to 4096."),
        ('summary = "x"\nspectral_norm = "often"', "spectral_norm='often' is not possible: give true or false."),
        ('summary = "x"\nobjective = 3', "objective='3' is not possible: give one of minimax, "),
        ('summary = "x"\nbeta2 = [0.9, 0.99]', "beta2 is not possible as a list: give a number, true, false or text."),
        ('summary = "x"\npenalty_weight = 1', "penalty_weight changes nothing without a penalty: give that, too, or"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert refusal(lambda: load_recipe(path)).startswith(f"In recipe={path!r}: {sentence}")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing.toml")
    assert refusal(lambda: load_recipe(missing)) == f"recipe={missing!r} cannot be read: No such file or directory."
    broken = write(tmp_path, "summary = ")
    assert refusal(lambda: load_recipe(broken)).startswith(f"recipe={broken!r} is not TOML: ")
    assert refusal(lambda: load_recipe("r2")).startswith("recipe='r2' is unknown: give one of autoencoder, dcgan, ")
