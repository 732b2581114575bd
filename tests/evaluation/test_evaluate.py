"""Metrics move as their definitions demand, on real images, and every doubt about them is a sentence."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_helpers import COUNT, CPU, Brightness, measurements_of, values_of
from generators import open_bank
from torch import nn

from gan_plugin.config.fitting import fit_batch
from gan_plugin.config.recipe import load_recipe
from gan_plugin.data import Dataset
from gan_plugin.data.dataset import make_dataset
from gan_plugin.data.held_out import divide
from gan_plugin.device import choose_precision
from gan_plugin.evaluation.context import evaluation_notes
from gan_plugin.evaluation.evaluate import evaluate_generator
from gan_plugin.evaluation.generated import Generated
from gan_plugin.evaluation.reference import Reference
from gan_plugin.evaluation.results import Evaluation
from gan_plugin.export import export_generator
from gan_plugin.features import Outputs
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import image_spec
from gan_plugin.training.loop import TrainingPlan, train

pytestmark = pytest.mark.usefixtures("short_metrics")


def test_copies_of_training_images_are_perfect_and_memorized(copies: Evaluation) -> None:
    values = values_of(copies)
    assert values["precision"] == 1.0
    assert values["authenticity"] == 0.0
    assert measurements_of(copies)["authenticity"].real > 0.4  # real images that were not trained on
    assert values["fid"] < 1
    assert abs(values["kid"]) < 0.01
    assert values["modes"] == 10
    assert values["cas"] > 0.95
    assert np.array_equal(copies.neighbors.generated, copies.neighbors.nearest)
    assert np.allclose(copies.neighbors.distances, 0)


def test_held_out_images_reach_the_real_data_baseline(
    digits: Dataset, held_out: Dataset, reference: Reference, tmp_path: Path
) -> None:
    """The baseline is what a generator of such images would reach, but for its own choice among them."""
    bank = open_bank(digits, tmp_path / "g.onnx", images=held_out.samples)
    evaluation = evaluate_generator(bank, reference, count=3000, first_seed=0, device=CPU)
    measurements = measurements_of(evaluation)
    for name in ("precision", "density", "authenticity"):
        assert measurements[name].value == pytest.approx(measurements[name].real, abs=0.1)
    # 359 of 3,000 drawn with replacement from 359 are about 226 different ones, and further away for that
    assert 1 < measurements["fid_ratio"].value < 3
    assert measurements["fid"].value == pytest.approx(measurements["fid"].real, abs=0.5)


def test_a_missing_class_is_measured(digits: Dataset, reference: Reference, copies: Evaluation, tmp_path: Path) -> None:
    assert digits.labels is not None
    bank = open_bank(digits, tmp_path / "g.onnx", images=digits.samples[digits.labels != 4])
    evaluation = evaluate_generator(bank, reference, count=COUNT, first_seed=0, device=CPU)
    values, complete = values_of(evaluation), values_of(copies)
    assert values["modes"] == 9
    assert "1 of 10 classes were never generated." in evaluation.notes
    assert values["label_kl"] > complete["label_kl"] + 0.05
    assert values["precision"] == 1.0
    assert values["recall"] < complete["recall"] - 0.03
    assert values["coverage"] < complete["coverage"] - 0.03
    assert values["fid"] > 2 * complete["fid"]
    assert values["cas"] < complete["cas"] - 0.05
    (row,) = [row for row in evaluation.classes if row.name == "4"]
    assert (row.generated, row.fid, row.note) == (0.0, None, "too few: 0 generated")
    assert "fid_of_class/classifier/4" not in evaluation.metrics()
    assert evaluation.metrics()["fid_of_class/classifier/3"] < 3
    assert evaluation.classes[3].note == "singular in 64 features: 29 held-out"


@pytest.mark.usefixtures("short_cas")
def test_one_image_again_and_again_is_a_collapse_without_a_nan(
    digits: Dataset, reference: Reference, copies: Evaluation, tmp_path: Path
) -> None:
    bank = open_bank(digits, tmp_path / "g.onnx", images=digits.samples[:1])
    evaluation = evaluate_generator(bank, reference, count=200, first_seed=0, device=CPU)
    values = values_of(evaluation)
    assert all(math.isfinite(value) for value in evaluation.metrics().values())
    assert (values["modes"], values["precision"]) == (1, 1.0)
    assert values["coverage"] < 0.02
    assert values["recall"] < 0.02
    assert values["fid"] > 20 * values_of(copies)["fid"]
    assert values["inception_score"] == pytest.approx(1)
    assert "singular" in measurements_of(evaluation)["fid"].note
    assert "cas" not in values
    assert "From images of a single class no classifier can be learned, so there is no cas." in evaluation.notes


@pytest.mark.usefixtures("short_cas")
def test_recall_is_from_no_more_images_than_there_are_real_ones(
    digits: Dataset, reference: Reference, tmp_path: Path
) -> None:
    """More of them make the balls around them smaller, so that a good generator would have no recall."""
    bank = open_bank(digits, tmp_path / "g.onnx", images=digits.samples[:700])
    count = len(digits)
    as_many, more = (
        evaluate_generator(bank, reference, count=images, first_seed=0, device=CPU) for images in (count, 2 * count)
    )
    assert values_of(more)["recall"] == values_of(as_many)["recall"]
    assert measurements_of(more)["recall"].note == f"From {count:,} generated images, as many as real ones."
    assert values_of(more)["coverage"] > values_of(as_many)["coverage"]


def test_doubts_are_noted_beside_the_number(copies: Evaluation) -> None:
    measurements = measurements_of(copies)
    counts = "The baseline is from 359 images, the value from 1,000"
    assert measurements["fid_ratio"].note == "Both from 359 images."
    assert measurements["fid"].note == f"{counts}: see fid_ratio."
    assert measurements["coverage"].note == f"{counts}: it grows with them."
    assert measurements["label_kl"].note == f"{counts}."
    assert measurements["precision"].note == measurements["recall"].note == measurements["kid"].note == ""
    assert measurements["cas"].note == (
        "Learned from 1,000 images; the baseline, from 1,438 real ones. "
        "The data's classifier labeled the generated ones."
    )
    assert copies.protocol["generated"] == "1,000 images of the seeds 0 to 999"
    assert copies.protocol["held out"].startswith("digits, split test, 359 images, digest ")
    assert copies.protocol["features"].startswith("classifier, 64 dimensions, digest ")


def test_a_singular_reference_is_noted(digits: Dataset, reference: Reference, tmp_path: Path) -> None:
    assert digits.labels is not None
    names = digits.spec.class_names
    small = make_dataset(
        digits.samples[:40], digits.labels[:40], names, name="small", source="", split="train", notes=[]
    )
    bank = open_bank(digits, tmp_path / "g.onnx")
    with_small = dataclasses.replace(reference, dataset=small)
    fid = measurements_of(evaluate_generator(bank, with_small, count=100, first_seed=0, device=CPU))["fid"]
    assert "The covariance of 40 real images in 64 features is singular" in fid.note


def test_notes_compare_the_digest_of_the_training_images(
    digits: Dataset, held_out: Dataset, reference: Reference
) -> None:
    def notes_for(digest: str, reference: Reference = reference) -> str:
        generated = Generated(
            Outputs(torch.zeros(1, 1), None),
            None,
            requested=None,
            pixels=np.zeros((1, 16, 16, 1), np.uint8),
            first_seed=0,
        )
        return " ".join(
            evaluation_notes(Description(16, image_spec(16, 16, 1), data_digest=digest), generated, reference)
        )

    assert notes_for(digits.digest) == ""
    assert notes_for(held_out.digest).startswith(
        "The model was trained on the held-out images, so its real-data baselines"
    )
    assert notes_for("other").startswith("The model was not trained on the reference images, or does not record it: ")
    division = divide(digits)
    divided = dataclasses.replace(reference, dataset=division.dataset, held_out=division.drawn)
    assert notes_for(division.dataset.digest, divided) == ""
    assert notes_for(digits.digest, divided).startswith(
        "The model was trained on the held-out images as well, as with "
    )
    undivided = dataclasses.replace(reference, held_out=None)
    assert "is to be evaluated with that one" in notes_for(division.dataset.digest, undivided)


@pytest.mark.usefixtures("short_cas")
def test_equal_seeds_give_equal_metrics_and_leave_the_random_state(
    digits: Dataset, reference: Reference, tmp_path: Path
) -> None:
    bank = open_bank(digits, tmp_path / "g.onnx", noise=0.1)

    def metrics(first_seed: int) -> dict[str, float]:
        return evaluate_generator(bank, reference, count=200, first_seed=first_seed, device=CPU).metrics()

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = metrics(7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert metrics(7) == first
    assert metrics(8) != first


# ---- the order on real data ------------------------------------------------------------------------------------------


class Recorder:
    """An evaluator that keeps the generator of the first epoch and of the last."""

    metric, digest, seconds = "none", "", 0.0

    def __init__(self) -> None:
        self.first: nn.Module | None = None
        self.last: nn.Module | None = None

    def __call__(self, generator: nn.Module) -> float:
        self.first, self.last = self.first or generator, generator
        return 0.0


class Silent:
    def metrics(self, *arguments: object) -> None: ...

    def image(self, *arguments: object) -> None: ...

    def file(self, *arguments: object) -> None: ...

    def note(self, *arguments: object) -> None: ...


EPOCHS = 12


def test_more_training_is_better_and_real_is_best(
    digits: Dataset, held_out: Dataset, reference: Reference, tmp_path: Path
) -> None:
    """Noise < an early checkpoint < a trained model < held-out real images, by every metric that can tell."""
    recipe = fit_batch(load_recipe("dcgan"), len(digits), EPOCHS * len(digits))
    recorder = Recorder()
    plan = TrainingPlan(
        recipe,
        epochs=EPOCHS,
        seed=0,
        device=CPU,
        precision=choose_precision("auto", CPU),
        samples_every=100,
        checkpoint_every=100,
        evaluation_budget=0.999,
    )
    train(digits, plan, Silent(), folder=tmp_path, evaluator=recorder)  # type: ignore[arg-type]  # Silent takes anything
    description = Description(recipe.latent_size, image_spec(16, 16, 1))
    generators = {}
    for name, network in (("early", recorder.first), ("trained", recorder.last)):
        assert network is not None
        export_generator(network, description, tmp_path / f"{name}.onnx")
        generators[name] = OnnxGenerator(tmp_path / f"{name}.onnx", device="cpu")
    static = torch.randint(0, 256, (500, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    generators["noise"] = open_bank(digits, tmp_path / "noise.onnx", images=static)
    generators["real"] = open_bank(digits, tmp_path / "real.onnx", images=held_out.samples)
    values = {
        name: values_of(evaluate_generator(generator, reference, count=COUNT, first_seed=0, device=CPU))
        for name, generator in generators.items()
    }
    for metric in ("fid", "fid_ratio", "kid"):
        order = [values[name][metric] for name in ("real", "trained", "early", "noise")]
        assert order == sorted(order), (metric, values)
    for metric in ("recall", "coverage"):
        order = [values[name][metric] for name in ("noise", "early", "trained", "real")]
        assert order == sorted(order), (metric, values)
    # the few blots of an early generator may all lie near some real image, and are all of one class
    for metric in ("precision", "density", "inception_score"):
        assert values["noise"][metric] < values["trained"][metric] < values["real"][metric], (metric, values)
    # nothing is learned from noise or from blots, and chance decides which of them looks better
    chance = max(values["noise"]["cas"], values["early"]["cas"])
    assert chance < values["trained"]["cas"] < values["real"]["cas"], values
    assert values["trained"]["modes"] == 10


@pytest.mark.usefixtures("short_cas")
def test_without_held_out_images_there_is_no_baseline_and_a_note(
    digits: Dataset, reference: Reference, tmp_path: Path
) -> None:
    alone = dataclasses.replace(reference, held_out=None)
    bank = open_bank(digits, tmp_path / "g.onnx")
    evaluation = evaluate_generator(bank, alone, count=200, first_seed=0, device=CPU)
    start = "Nothing of digits is held out here, so there is no real-data baseline: "
    assert any(note.startswith(start) for note in evaluation.notes)
    assert {measurement.real for measurement in evaluation.measurements} == {None}
    assert "On the reference, since nothing was held out." in measurements_of(evaluation)["cas"].note
    assert "fid_ratio" not in values_of(evaluation)
    assert not [name for name in evaluation.metrics() if "_real/" in name]


def test_unlabeled_data_has_no_metrics_of_classes(
    digits: Dataset, held_out: Dataset, reference: Reference, tmp_path: Path
) -> None:
    unlabeled = [
        dataclasses.replace(images, labels=None, spec=images.spec.unlabeled()) for images in (digits, held_out)
    ]
    bare = Reference(unlabeled[0], held_out=unlabeled[1], network=Brightness(), classifier=None)
    bank = open_bank(digits, tmp_path / "g.onnx")
    evaluation = evaluate_generator(bank, bare, count=200, first_seed=0, device=CPU)
    assert evaluation.classes == ()
    names = set(values_of(evaluation))
    of_features = {"fid", "fid_ratio", "kid", "precision", "recall", "density", "coverage", "authenticity"}
    assert names == of_features | {
        "critic_auroc",
        "spectrum_distance",
        "high_frequencies",
        "checkerboard",
        "sharpness",
    }
