"""Write a recipe as the TOML file that ``load_recipe`` reads: a summary, and what differs from the defaults."""

from __future__ import annotations

import json
from typing import Any

from gan_plugin.config.recipe import Recipe, resolved


def recipe_text(recipe: Recipe, comment: str = "") -> str:
    """Return the file's text.

    Args:
        comment: lines to stand below the summary.
    """
    defaults = resolved(Recipe("", ""))
    own = {name: value for name, value in resolved(recipe).items() if value != defaults[name]}
    lines = [f"summary = {_toml(recipe.summary)}", *(f"# {line}" for line in comment.splitlines())]
    return "\n".join([*lines, *(f"{name} = {_toml(value)}" for name, value in own.items())]) + "\n"


def _toml(value: Any) -> str:
    """Write a string, number or truth value, of which TOML and JSON share the notation."""
    return json.dumps(value, ensure_ascii=False)
