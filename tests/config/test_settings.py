"""Settings: every wrong value is refused in one sentence that names it, whether it comes as text or from Python."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import yaml
from helpers import ROOT, refusal

from gan_plugin.config.kinds import image_size
from gan_plugin.config.parsing import SettingsClass, as_texts, parameters_of, parse, parse_training, texts_of
from gan_plugin.config.recipe import HYPERPARAMETERS
from gan_plugin.config.schedule import Ramp
from gan_plugin.config.settings import (
    EvaluateSettings,
    EvaluatorSettings,
    PromoteSettings,
    Threshold,
    TrainSettings,
    TuneSettings,
)
from gan_plugin.spec import size_text

ENTRY_POINTS: dict[str, SettingsClass] = {
    "main": TrainSettings,
    "train": TrainSettings,
    "tune": TuneSettings,
    "evaluate": EvaluateSettings,
    "promote": PromoteSettings,
}


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_mlproject_declares_settings_with_their_defaults(entry_point: str) -> None:
    declared = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"][entry_point]
    defaults = {name: parameter.get("default") for name, parameter in declared["parameters"].items()}
    assert 2 <= len(defaults) <= 4
    known = parameters_of(ENTRY_POINTS[entry_point])
    assert defaults == {name: known[name].metadata["text"] for name in defaults}
    assert "auto" not in defaults.values()  # MLflow logs defaults, and a run should say what was used
    words = declared["command"].split()
    assert words[:2] == ["gan-plugin", "train" if entry_point == "main" else entry_point]
    pairs = dict(zip(words[2::2], words[3::2], strict=True))
    assert pairs == {f"--{name.replace('_', '-')}": f"{{{name}}}" for name in defaults}


@pytest.mark.parametrize("cls", [TrainSettings, TuneSettings, PromoteSettings, EvaluatorSettings])
def test_defaults_as_text_are_the_defaults(cls: type[TrainSettings]) -> None:
    texts = {field.name: field.metadata["text"] for field in dataclasses.fields(cls)}
    assert as_texts(cls()) == texts
    assert parse(cls, texts) == cls()


def test_a_setting_is_no_hyperparameter() -> None:
    assert set(HYPERPARAMETERS).isdisjoint(field.name for field in dataclasses.fields(TrainSettings))
    assert set(parameters_of(TrainSettings)) >= {"data", "epochs", "generator_lr"}
    assert "generator_lr" not in parameters_of(PromoteSettings)


REGISTERED_NAME = (
    "a name of at most 190 printable characters without / : @ ? # % \\ and quotes, which neither begins with a period "
    "nor ends in .promotion-lock"
)
SIZES = "HEIGHTxWIDTH or one number for both, each from 16 to 1024"


@pytest.mark.parametrize(
    ("name", "text", "phrase"),
    [
        ("epochs", "0", "a whole number of at least 1, or auto"),
        ("epochs", "many", "a whole number of at least 1, or auto"),
        ("epochs", "3.0", "a whole number of at least 1, or auto"),
        ("minutes", "0", "a number above 0, or none"),
        ("anneal", "0", "a number above 0, at most 1"),
        ("anneal", "200000", "a number above 0, at most 1"),
        ("batch_size", "1", "a whole number of at least 2"),
        ("batch_size", "many", "a whole number of at least 2"),
        ("image_size", "15", f"{SIZES}, or auto"),
        ("image_size", "1025x64", f"{SIZES}, or auto"),
        ("image_size", "64x", f"{SIZES}, or auto"),
        ("image_size", "64x64x3", f"{SIZES}, or auto"),
        ("channels", "2", "1 or 3, or auto"),
        ("generator_lr", "abc", "a number above 0, or two with .. between them"),
        ("generator_lr", "nan", "a number above 0, or two with .. between them"),
        ("beta1", "1", "a number from 0 to below 1"),
        ("beta2", "0.9..1", "a number from 0 to below 1, or two with .. between them"),
        ("penalty", "r3", "one of none, wgan-gp, dragan, r1, r1+r2"),
        ("device", "gpu", "one of auto, cuda, cpu"),
        ("skip_unreadable", "perhaps", "true or false"),
        ("model_name", "a/b", f"{REGISTERED_NAME}, or none"),
        ("seed", "-1", "a whole number from 0 to 4294967295"),
        ("data", " ", "some text"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, text: str, phrase: str) -> None:
    assert refusal(lambda: parse_training({name: text})) == f"{name}={text!r} is not possible: give {phrase}."


IMPOSSIBLE_NAMES = [".", "..", ".a", "a:b", "a@b", "a?b", "a#b", "a%b", "a\\b", "a'b", 'a"b', "a\tb", "a\nb", "a\x00b"]


@pytest.mark.parametrize(
    "name", [*IMPOSSIBLE_NAMES, "a\u2028b", "\ud800", "a" * 191, "gan.promotion-lock", "gan.Promotion-Lock"], ids=ascii
)
@pytest.mark.parametrize("cls", [TrainSettings, PromoteSettings])
def test_a_name_that_mlflow_or_a_uri_or_the_lock_cannot_take_is_refused(cls: SettingsClass, name: str) -> None:
    check = parse_training if cls is TrainSettings else functools.partial(parse, cls)
    phrase = REGISTERED_NAME + (", or none" if cls is TrainSettings else "")
    assert refusal(lambda: check({"model_name": name})) == f"model_name={name!r} is not possible: give {phrase}."


@pytest.mark.parametrize("name", ["gan", "faces 64", "漢字", "a.b", "a" * 190])
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert parse_training({"model_name": f" {name} "})[0].model_name == name


@pytest.mark.parametrize("cls", [TrainSettings, EvaluateSettings, PromoteSettings])
def test_no_parameter_takes_a_blank(cls: SettingsClass) -> None:
    """Nor anything else that it cannot understand: the sentence names it and says what to give."""
    check = parse_training if cls is TrainSettings else functools.partial(parse, cls)
    for name in parameters_of(cls):
        sentence = refusal(
            lambda name=name: check({"model": "m", name: " "} if cls is EvaluateSettings else {name: " "})
        )
        assert sentence.startswith(f"{name}=' ' is not possible: give ")


def test_an_unknown_and_a_missing_parameter() -> None:
    assert refusal(lambda: parse_training({"epoch": "3"})).startswith(
        "Unknown parameter epoch: similar ones are epochs"
    )
    assert refusal(lambda: parse_training({"learning-rate": "3"})).startswith("Unknown parameter learning_rate: ")
    assert refusal(lambda: parse(EvaluateSettings, {"model": "m", "qqqq": "3"})).startswith(
        "Unknown parameter qqqq: the parameters are "
    )
    assert refusal(lambda: parse(EvaluateSettings, {})) == "model is missing: give some text."
    assert refusal(lambda: texts_of(PromoteSettings, {"rollbak": True})) == (
        "Unknown parameter rollbak: similar ones are rollback."
    )


def test_text_becomes_values() -> None:
    settings, overrides = parse_training(
        {"image-size": "32x64", "generator_lr": "1e-3..1e-4", "skip_unreadable": "True", "resume": "none"}
    )
    assert (settings.image_size, settings.skip_unreadable, settings.resume) == ((32, 64), True, None)
    assert overrides == {"generator_lr": Ramp(0.001, 0.0001)}
    assert parse(TrainSettings, {"image_size": "auto"}).image_size is None
    assert parse(TrainSettings, {"image_size": "32"}).image_size == (32, 32)


def test_sizes_are_written_as_they_are_read() -> None:
    for text in ("16", "1024", "256x128"):
        assert size_text(image_size().parse(text)) == text


def test_values_from_python_are_checked_like_text() -> None:
    values = {
        "image_size": (32, 64),
        "generator_lr": (1e-3, 1e-4),
        "beta2": 0.9,
        "guard": False,
        "epochs": 3,
        "seed": None,
    }
    settings, overrides = parse_training(texts_of(TrainSettings, values))
    assert (settings.image_size, settings.guard, settings.epochs, settings.seed) == ((32, 64), False, 3, 0)
    assert overrides == {"generator_lr": Ramp(1e-3, 1e-4), "beta2": Ramp(0.9, 0.9)}
    texts = texts_of(PromoteSettings, {"thresholds": ["coverage>=0.3", "fid<=5"]})
    assert parse(PromoteSettings, texts).thresholds == (Threshold("coverage", 0.3), Threshold("fid", 5.0))
    assert parse(PromoteSettings, texts_of(PromoteSettings, {"thresholds": ()})).thresholds == ()
    assert refusal(lambda: parse_training(texts_of(TrainSettings, {"epochs": 2.5}))) == (
        "epochs='2.5' is not possible: give a whole number of at least 1, or auto."
    )


def test_thresholds_are_read_and_written() -> None:
    settings = parse(PromoteSettings, {"thresholds": "fid_ratio<=12.5, coverage >= 0.3"})
    assert settings.thresholds == (Threshold("fid_ratio", 12.5), Threshold("coverage", 0.3))
    assert as_texts(settings)["thresholds"] == "fid_ratio<=12.5,coverage>=0.3"
    none = parse(PromoteSettings, {"thresholds": "none"})
    assert (none.thresholds, as_texts(none)["thresholds"]) == ((), "none")
    assert parse(PromoteSettings, as_texts(settings)) == settings


@pytest.mark.parametrize(
    "text", ["fid>=3", "coverage<=0.3", "fid_ratio=3", "beauty>=1", "fid<=nan", "fid<=", "fid<=3,"]
)
def test_a_threshold_that_makes_no_sense_is_refused(text: str) -> None:
    assert refusal(lambda: parse(PromoteSettings, {"thresholds": text})).startswith(
        f"thresholds={text!r} is not possible: give bounds as in fid_ratio<=20,"
    )
