"""An autoencoder from the command line: trained, registered with its encoder, and evaluated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import Project
from PIL import Image

from gan_plugin import flavor
from gan_plugin.data import load_dataset


@pytest.fixture(scope="module")
def project(make_project: Callable[[], Project]) -> Project:
    project = make_project()
    project.learn_shortly()
    return project


def test_a_variational_autoencoder_is_trained_evaluated_and_registered(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = project.mlflow_run(
        recipe="vae", data="digits", image_size=16, width=16, latent_size=9, epochs=4, model_name="vae", device="cpu"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = project.runs()
    assert run.data.params["method"] == "vae"
    assert "discriminator_lr" not in done.stdout
    assert run.data.metrics["loss/reconstruction"] < 0.2
    assert run.data.metrics["loss/kl"] > 0
    assert run.data.metrics["reconstruction_psnr/pixels"] > 10
    assert run.data.metrics["export/largest_difference_encoder"] <= 1

    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    generator = flavor.load_model("models:/vae/1", device="cpu")
    assert generator.description.recipe == "vae"
    assert generator.encoder is not None
    description = generator.encoder.description
    assert description.active_units in range(1, 9)
    assert description.low_psnr is not None
    assert description.low_psnr < run.data.metrics["reconstruction_psnr/pixels"]
    assert description.high_anomaly is not None

    done = project.mlflow_run("evaluate", model="models:/vae/1", data="digits", image_size=16, images=500, device="cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = project.runs()[0].data.metrics
    assert metrics["reconstruction_psnr/pixels"] == pytest.approx(run.data.metrics["reconstruction_psnr/pixels"])
    assert metrics["active_units/encoder"] == description.active_units
    assert metrics["fid_normal/classifier"] > metrics["fid/classifier"]  # the mixture is nearer to the codes
    assert metrics["sharpness_real/pixels"] == pytest.approx(1, abs=0.1)


def test_what_belongs_to_adversarial_training_is_refused(project: Project) -> None:
    done = project.mlflow_run(recipe="vae", data="digits", penalty="r1", penalty_weight=1)
    assert done.returncode != 0
    assert (
        "penalty changes nothing without method=gan: give that, too, or leave penalty out." in done.stdout + done.stderr
    )


def test_an_encoder_is_trained_after_a_gan(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    done = project.mlflow_run(
        recipe="subpixel",
        data="digits",
        image_size=16,
        width=16,
        epochs=4,
        model_name="gan",
        device="cpu",
        encoder=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "An encoder learns to find the z of an image." in done.stdout
    run = project.runs()[0]
    losses = {name: run.data.metrics[f"loss/encoder_{name}"] for name in ("z", "real", "label")}
    assert losses["z"] < 1  # what it would be if nothing could be seen
    assert run.data.metrics["reconstruction_psnr/pixels"] > 10

    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    generator = flavor.load_model("models:/gan/1", device="cpu")
    assert generator.encoder is not None
    assert generator.encoder.description.active_units is None
    assert generator.encoder.description.low_psnr is not None


def test_attributes_beside_the_images_become_directions(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of digits with a table that says how bright each is: a step along the direction makes images brighter."""
    digits = load_dataset("digits", image_size=16)
    folder = project.folder / "with_table"
    folder.mkdir()
    lines = ["file_name,brightness"]
    for i, image in enumerate(digits.samples[torch.arange(600)].numpy()):
        Image.fromarray(image[0]).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{image.mean():.2f}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    done = project.mlflow_run(
        recipe="autoencoder", data=folder, width=16, latent_size=9, epochs=6, model_name="edited", device="cpu"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Attributes of the images: brightness." in done.stdout

    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    generator = flavor.load_model("models:/edited/1", device="cpu")
    names = [direction.name for direction in generator.description.directions]
    assert names == ["brightness", *map(str, range(1, 9))]
    direction = generator.description.directions[0]
    assert direction.accuracy is not None
    assert direction.accuracy > 0.3
    levels = [
        generator.sample(range(64), edit={"brightness": step}).mean()
        for step in (0.6 * direction.low, 0.0, 0.6 * direction.high)
    ]
    assert levels[0] < levels[1] - 2
    assert levels[1] < levels[2] - 2
