"""Settings: every wrong value is refused in one sentence that names it, and MLproject offers the same parameters."""

import dataclasses

import pytest
import yaml
from helpers import ROOT

from gan_plugin.config.schedule import Ramp
from gan_plugin.config.settings import EvaluateSettings, PromoteSettings, Threshold, TrainSettings, as_typed, parse
from gan_plugin.errors import UserError


def offered(entry_point: str) -> dict[str, str | None]:
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    return {name: p.get("default") for name, p in project["entry_points"][entry_point]["parameters"].items()}


@pytest.mark.parametrize(
    ("entry_point", "settings"),
    [
        ("main", TrainSettings),
        ("train", TrainSettings),
        ("evaluate", EvaluateSettings),
        ("promote", PromoteSettings),
    ],
)
def test_mlproject_offers_the_settings(entry_point: str, settings: type) -> None:
    assert offered(entry_point) == {f.name: f.metadata["text"] for f in dataclasses.fields(settings)}
    command = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"][entry_point]["command"].split()
    pairs = dict(zip(command[2::2], command[3::2], strict=True))
    assert pairs == {f"--{name.replace('_', '-')}": f"{{{name}}}" for name in offered(entry_point)}


def test_defaults_as_text_are_the_defaults() -> None:
    given = {name: text for name, text in offered("main").items() if text is not None}
    assert parse(TrainSettings, given) == TrainSettings()
    assert {name: str(value) for name, value in as_typed(TrainSettings()).items()} == {
        **given,
        "skip_unreadable": "False",
        "guard": "True",
    }


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("epochs", "0", "epochs='0' is not possible: give a whole number of at least 1."),
        ("epochs", "many", "epochs='many' is not possible: give a whole number of at least 1."),
        ("batch_size", "1", "batch_size='1' is not possible: give a whole number of at least 2, or auto."),
        ("image_size", "30", "image_size='30' is not possible: give a multiple of 4 from 16 to 256, or auto."),
        ("image_size", "512", "image_size='512' is not possible: give a multiple of 4 from 16 to 256, or auto."),
        ("channels", "2", "channels='2' is not possible: give 1 or 3, or auto."),
        (
            "generator_lr",
            "abc",
            "generator_lr='abc' is not possible: give a number above 0, or two with .. between them, or auto.",
        ),
        (
            "generator_lr",
            "nan",
            "generator_lr='nan' is not possible: give a number above 0, or two with .. between them, or auto.",
        ),
        ("beta1", "1", "beta1='1' is not possible: give a number from 0 to below 1, or auto."),
        (
            "beta2",
            "0.9..1",
            "beta2='0.9..1' is not possible: give a number from 0 to below 1, or two with .. between them, or auto.",
        ),
        ("penalty", "r3", "penalty='r3' is not possible: give one of none, wgan-gp, dragan, r1, r1+r2, or auto."),
        ("device", "gpu", "device='gpu' is not possible: give one of auto, cuda, cpu."),
        ("skip_unreadable", "perhaps", "skip_unreadable='perhaps' is not possible: give true or false."),
        ("model_name", "a/b", "model_name='a/b' is not possible: give a name without / : and quotes."),
        ("seed", "-1", "seed='-1' is not possible: give a whole number from 0 to 4294967295."),
        ("data", " ", "data=' ' is not possible: give some text."),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse(TrainSettings, {name: text})
    assert str(refusal.value) == sentence


def test_an_unknown_and_a_missing_parameter() -> None:
    with pytest.raises(UserError, match=r"^Unknown parameter epoch: the parameters are data, split, "):
        parse(TrainSettings, {"epoch": "3"})
    with pytest.raises(UserError, match=r"^model is missing: give some text\.$"):
        parse(EvaluateSettings, {})


def test_text_becomes_values() -> None:
    settings = parse(
        TrainSettings, {"image_size": "32", "generator_lr": "1e-3..1e-4", "skip_unreadable": "True", "resume": "none"}
    )
    assert (settings.image_size, settings.generator_lr, settings.skip_unreadable, settings.resume) == (
        32,
        Ramp(0.001, 0.0001),
        True,
        None,
    )
    assert parse(TrainSettings, {"image_size": "auto"}).image_size is None


def test_ramps_are_read_and_written() -> None:
    settings = parse(TrainSettings, {"generator_lr": "1e-3..1e-4", "beta2": "0.9"})
    typed = as_typed(settings)
    assert (typed["generator_lr"], typed["beta2"], typed["discriminator_lr"]) == ("0.001..0.0001", "0.9", "auto")


def test_thresholds_are_read_and_written() -> None:
    settings = parse(PromoteSettings, {"thresholds": "fid_ratio<=12.5, coverage >= 0.3"})
    assert settings.thresholds == (Threshold("fid_ratio", 12.5), Threshold("coverage", 0.3))
    assert as_typed(settings)["thresholds"] == "fid_ratio<=12.5,coverage>=0.3"
    none = parse(PromoteSettings, {"thresholds": "none"})
    assert (none.thresholds, as_typed(none)["thresholds"]) == ((), "none")
    assert parse(PromoteSettings, {str(k): str(v) for k, v in as_typed(settings).items()}) == settings


@pytest.mark.parametrize(
    "text", ["fid>=3", "coverage<=0.3", "fid_ratio=3", "beauty>=1", "fid<=nan", "fid<=", "fid<=3,"]
)
def test_a_threshold_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^thresholds=.* is not possible: give bounds as in fid_ratio<=20,"):
        parse(PromoteSettings, {"thresholds": text})
