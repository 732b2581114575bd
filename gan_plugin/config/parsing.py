"""Settings from text and back: what a person types, what a run logs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from gan_plugin.config.kinds import AUTO, parse_value, text_of, unknown_parameter
from gan_plugin.config.recipe import HYPERPARAMETERS, parse_hyperparameters
from gan_plugin.config.settings import (
    CompareSettings,
    EvaluateSettings,
    EvaluatorSettings,
    PromoteSettings,
    TrainSettings,
    TuneSettings,
)
from gan_plugin.errors import UserError

Settings = TypeVar(
    "Settings", TrainSettings, TuneSettings, EvaluateSettings, CompareSettings, PromoteSettings, EvaluatorSettings
)
AnySettings = TrainSettings | TuneSettings | EvaluateSettings | CompareSettings | PromoteSettings | EvaluatorSettings
SettingsClass = (
    type[TrainSettings]
    | type[TuneSettings]
    | type[EvaluateSettings]
    | type[CompareSettings]
    | type[PromoteSettings]
    | type[EvaluatorSettings]
)


def parameters_of(cls: SettingsClass) -> dict[str, Field[Any]]:
    """Return the parameters of a command by name: the fields of its settings and, for ``train``, of the recipe."""
    settings = {field.name: field for field in fields(cls)}
    return settings | HYPERPARAMETERS if cls is TrainSettings else settings


def explicit_texts(settings: AnySettings) -> dict[str, object]:
    """Return the settings as a user would type them, without those that are left to the data or mean nothing."""
    return {name: text for name, text in as_texts(settings).items() if getattr(settings, name) is not None}


def as_texts(settings: AnySettings) -> dict[str, str]:
    """Return the settings as a user would type them: ``auto`` or ``none`` in place of None."""
    return {
        f.name: f.metadata["text"] if value is None else text_of(value, f.metadata["accepts"].separator)
        for f in fields(settings)
        for value in [getattr(settings, f.name)]
    }


def parse(cls: type[Settings], texts: Mapping[str, str]) -> Settings:
    """Parse settings.

    Args:
        texts: values by the parameter's name, written with ``_`` or ``-``.

    Raises:
        UserError: a parameter is unknown, missing, or does not accept its value; the sentence names it.
    """
    known = {f.name: f for f in fields(cls)}
    texts = normalize_names(texts)
    for name in texts:
        if name not in known:
            raise unknown_parameter(name, parameters_of(cls))
    for name, f in known.items():
        if f.default is MISSING and name not in texts:
            raise UserError(f"{name} is missing: give {f.metadata['accepts'].phrase}.")
    return cls(**{name: parse_value(name, text, known[name].metadata["accepts"]) for name, text in texts.items()})


def parse_training(texts: Mapping[str, str]) -> tuple[TrainSettings, dict[str, Any]]:
    """Parse the settings of ``train``, and the hyperparameters that override the recipe's.

    A ``batch_size`` of None, for auto, is the recipe's, to be fitted to the data, the training and the device.

    Raises:
        UserError: as :func:`parse`.
    """
    texts = normalize_names(texts)
    hyperparameters = {name: text for name, text in texts.items() if name in HYPERPARAMETERS}
    settings = parse(TrainSettings, {name: text for name, text in texts.items() if name not in hyperparameters})
    automatic = hyperparameters.get("batch_size") == AUTO
    if automatic:
        del hyperparameters["batch_size"]
    return settings, parse_hyperparameters(hyperparameters) | ({"batch_size": None} if automatic else {})


def texts_of(cls: SettingsClass, values: Mapping[str, object]) -> dict[str, str]:
    """Write values from Python as text, for :func:`parse`; None leaves a parameter at its default.

    Raises:
        UserError: a parameter is unknown.
    """
    known = parameters_of(cls)
    for name in values:
        if name not in known:
            raise unknown_parameter(name, known)
    known_values = {name: value for name, value in values.items() if value is not None}
    return {name: text_of(value, known[name].metadata["accepts"].separator) for name, value in known_values.items()}


def normalize_names(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the same with ``_`` for ``-`` in the names, as ``mlflow run -P batch-size=64`` passes them on."""
    return {name.replace("-", "_"): text for name, text in texts.items()}
