"""The parameters and recipes as Markdown tables, for the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields
from typing import Any

from gan_plugin.config.recipe import HYPERPARAMETERS, load_recipe, recipe_names
from gan_plugin.config.settings import SettingsClass


def parameter_table(cls: SettingsClass) -> str:
    """Return a table of a command's own settings: parameter, default, what it accepts, meaning."""
    rows = (_cells(field) for field in fields(cls))
    return _table(("parameter", "default", "accepts", "meaning"), rows)


def hyperparameter_table() -> str:
    """Return a table of the hyperparameters of a recipe, with the part without which each means nothing."""
    rows = (
        (*_cells(field), _escape(field.metadata["part"].phrase) if "part" in field.metadata else "")
        for field in HYPERPARAMETERS.values()
    )
    return _table(("hyperparameter", "default", "accepts", "meaning", "needs"), rows)


def recipe_table() -> str:
    """Return a table of the recipes that ship."""
    rows = ((f"`{name}`", _escape(load_recipe(name).summary)) for name in recipe_names())
    return _table(("recipe", "summary"), rows)


def _cells(field: Field[Any]) -> tuple[str, str, str, str]:
    text = field.metadata["text"]
    default = "*required*" if text is None else f"`{text}`"
    phrase, sentence = field.metadata["accepts"].phrase, field.metadata["help"]
    return f"`{field.name}`", default, _escape(phrase), _escape(sentence)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _escape(text: str) -> str:
    r"""Escape what Markdown would read as markup.

    >>> _escape("bound of |z|, fid<=20")
    'bound of \\|z\\|, fid\\<=20'
    """
    return re.sub(r"([|<*\[\]])", r"\\\1", text)
