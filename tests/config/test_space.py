"""The space of a search: what people may write, what is refused, and where a recipe is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import refusal

from gan_plugin.config.recipe import (
    RECIPES,
    load_recipe,
    override,
    parse_hyperparameters,
    recipe_names,
    resolved,
    tomllib,
)
from gan_plugin.config.recipe_file import recipe_text
from gan_plugin.config.space import (
    Choices,
    Range,
    check_space,
    default_space,
    in_order,
    own_values,
    parse_space,
    texts_at,
)


def test_ranges_and_choices() -> None:
    space = parse_space("generator-lr=1e-4..1e-2, batch_size=16 | 32,penalty_every=1..8,objective=hinge")
    assert space == {
        "generator_lr": Range(1e-4, 1e-2),
        "batch_size": Choices(("16", "32")),
        "penalty_every": Range(1, 8),
        "objective": Choices(("hinge",)),
    }
    penalty_every, generator_lr = space["penalty_every"], space["generator_lr"]
    assert isinstance(penalty_every, Range)
    assert isinstance(generator_lr, Range)
    assert (penalty_every.is_whole, penalty_every.is_log, generator_lr.is_whole, generator_lr.is_log) == (1, 0, 0, 1)
    assert parse_space("generator_lr=4e-4..1e-4|2e-4")["generator_lr"] == Choices(("4e-4..1e-4", "2e-4"))


def test_a_value_has_few_digits_and_stays_in_its_range() -> None:
    assert Range(0.0, 0.99996).text(0.99996) == "0.99996"  # with four digits it would be 1
    assert Range(1e-4, 1e-2).text(0.0012345678) == "0.001235"
    assert Range(2, 64).text(17) == "17"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rate=1e-4..1e-2", "In space: Unknown parameter learning_rate: the parameters are method, family, "),
        ("generator_rl=1..2", "In space: Unknown parameter generator_rl: similar ones are "),
        ("epochs=1..2", "In space: Unknown parameter epochs: "),
        ("generator_lr", "space has 'generator_lr': give FIELD=A..B for a range, or FIELD=a|b|c for choices."),
        ("generator_lr=1e-4..1e-2,", "space has '': give FIELD=A..B"),
        ("generator_lr=1e-2..1e-4", "In space: generator_lr=1e-2..1e-4 is no range: give the smaller number first."),
        ("generator_lr=0..1", "In space: generator_lr='0' is not possible: give a number above 0"),
        ("generator_lr=1..2..3", "In space: generator_lr=1..2..3 has three numbers: give A..B, or choices"),
        ("objective=hinge|best", "In space: objective='best' is not possible: give one of minimax, "),
        (
            "conditional=0..1",
            "In space: conditional=0..1 is no range: give choices with | between, each true or ",
        ),
        (
            "width=16..64",
            "In space: width=16..64 has numbers that are not possible: give choices with | between, each ",
        ),
        ("batch_size=16|32|16", "In space: batch_size=16|32|16 has a value twice: give different ones."),
        ("batch_size=16,batch_size=32", "space has batch_size twice: give it once, with all of its values."),
    ],
)
def test_refusals_of_a_space(text: str, sentence: str) -> None:
    assert refusal(lambda: parse_space(text)).startswith(sentence)


def test_what_would_change_nothing_is_refused_unless_a_choice_brings_its_part() -> None:
    dcgan = load_recipe("dcgan")
    assert refusal(lambda: check_space(parse_space("penalty_weight=1..10"), dcgan)) == (
        "In space: penalty_weight changes nothing without a penalty: give that, too, or leave penalty_weight out."
    )
    space = parse_space("penalty_weight=1..10,penalty=none|r1")
    check_space(space, dcgan)
    assert in_order(space) == ["penalty", "penalty_weight"]


@pytest.mark.parametrize("name", recipe_names())
def test_the_default_space_is_around_a_recipe(name: str) -> None:
    recipe = load_recipe(name)
    space = parse_space(default_space(recipe))
    check_space(space, recipe)
    assert {"generator_lr", "ema_half_life"} <= set(space)
    assert ("discriminator_lr" in space) == (recipe.method == "gan")
    assert ("penalty_weight" in space) == (recipe.penalty != "none")
    own = override(recipe, **parse_hyperparameters(texts_at(space, own_values(space, recipe))))
    assert resolved(own) == resolved(recipe)


def test_the_nearest_point_where_the_recipes_own_is_outside() -> None:
    space = parse_space("generator_lr=1e-3..1e-2,batch_size=16|32,penalty_every=1..2")
    assert own_values(space, load_recipe("r1")) == {"generator_lr": 1e-3, "batch_size": "16", "penalty_every": 2}


@pytest.mark.parametrize("name", recipe_names())
def test_a_written_recipe_is_read_again(name: str, tmp_path: Path) -> None:
    recipe, path = load_recipe(name), tmp_path / "own.toml"
    path.write_text(recipe_text(recipe, "two\nlines"), "utf-8")
    read = load_recipe(str(path))
    assert (resolved(read), read.summary) == (resolved(recipe), recipe.summary)
    shipped = tomllib.loads((RECIPES / f"{name}.toml").read_text("utf-8"))
    assert set(tomllib.loads(path.read_text("utf-8"))) <= set(shipped)  # and no default
