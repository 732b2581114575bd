"""Autoencoders and encoders from end to end: trained, registered, loaded and evaluated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import Project, refusal
from PIL import Image

import gan_plugin
from gan_plugin import flavor
from gan_plugin.data import load_dataset
from gan_plugin.training import encoder

pytestmark = pytest.mark.usefixtures("short_cas")
SMALL = {"image_size": 16, "width": 16, "latent_size": 9, "device": "cpu"}
UNWATCHED = {**SMALL, "evaluation_budget": 0}  # or the classifier would have to learn other images


@pytest.fixture
def project(make_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    """This process works in the project's folder, on the project's store."""
    project = make_project()
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    return project


def test_a_variational_autoencoder_is_trained_evaluated_and_registered(project: Project) -> None:
    done = project.mlflow_run(recipe="vae", data="digits", epochs=4, model_name="vae", **SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = project.runs()
    assert run.data.params["method"] == "vae"
    assert run.data.metrics["loss/reconstruction"] < 0.2
    assert run.data.metrics["loss/kl"] > 0
    assert run.data.metrics["reconstruction_psnr/pixels"] > 10
    assert run.data.metrics["export/largest_difference_encoder"] <= 1

    generator = flavor.load_model("models:/vae/1", device="cpu")
    assert generator.description.recipe == "vae"
    assert generator.encoder is not None
    description = generator.encoder.description
    assert description.active_units in range(1, 9)
    assert description.low_psnr is not None
    assert description.low_psnr < run.data.metrics["reconstruction_psnr/pixels"]
    assert description.high_anomaly is not None

    metrics = gan_plugin.evaluate(model="models:/vae/1", data="digits", image_size=16, images=500, device="cpu")
    assert metrics["reconstruction_psnr/pixels"] == pytest.approx(run.data.metrics["reconstruction_psnr/pixels"])
    assert metrics["active_units/encoder"] == description.active_units
    for network in ("classifier", "self-supervised"):  # the mixture is nearer to the codes
        assert metrics[f"fid_normal/{network}"] > metrics[f"fid/{network}"]
    assert metrics["sharpness_real/pixels"] == pytest.approx(1, abs=0.1)


def test_what_belongs_to_adversarial_training_is_refused(project: Project) -> None:
    sentence = refusal(lambda: gan_plugin.train(recipe="vae", data="digits", penalty="r1", penalty_weight=1))
    assert sentence == "penalty changes nothing without method=gan: give that, too, or leave penalty out."
    assert project.runs() == []


def test_an_encoder_is_trained_after_a_gan(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "EPOCHS", 6)
    uri = gan_plugin.train(recipe="subpixel", data="digits", epochs=3, encoder=True, **UNWATCHED)
    assert "An encoder learns to find the z of an image." in capsys.readouterr().out
    (run,) = project.runs()
    losses = {name: run.data.metrics[f"loss/encoder_{name}"] for name in ("z", "real", "label")}
    assert losses["z"] < 1  # what it would be if nothing could be seen
    assert run.data.metrics["reconstruction_psnr/pixels"] > 10

    generator = flavor.load_model(uri, device="cpu")
    assert generator.encoder is not None
    assert generator.encoder.description.active_units is None
    assert generator.encoder.description.low_psnr is not None


def test_attributes_beside_the_images_become_directions(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Of digits with a table that says how bright each is: a step along the direction makes images brighter."""
    digits = load_dataset("digits", image_size=16)
    folder = project.folder / "with_table"
    folder.mkdir()
    lines = ["file_name,brightness"]
    for i, image in enumerate(digits.samples[torch.arange(600)].numpy()):
        Image.fromarray(image[0]).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{image.mean():.2f}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    uri = gan_plugin.train(recipe="autoencoder", data=folder, epochs=6, **UNWATCHED)
    assert "Attributes of the images: brightness." in capsys.readouterr().out

    generator = flavor.load_model(uri, device="cpu")
    names = [direction.name for direction in generator.description.directions]
    assert names == ["brightness", *(f"direction {i}" for i in range(1, 9))]
    direction = generator.description.directions[0]
    assert direction.accuracy is not None
    assert direction.accuracy > 0.3
    steps = (0.6 * direction.low, 0.0, 0.6 * direction.high)
    levels = [generator.sample(range(64), edit={"brightness": step}).mean() for step in steps]
    assert levels[0] < levels[1] - 2
    assert levels[1] < levels[2] - 2
