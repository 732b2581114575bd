"""A second feature network beside the main one, and what is said where training chose the generator by one of them."""

from __future__ import annotations

import dataclasses

import pytest
from evaluation_helpers import CPU
from generators import open_bank

from gan_plugin.data import Dataset
from gan_plugin.evaluation.evaluate import evaluate_generator
from gan_plugin.evaluation.reference import Reference, prepare_reference
from gan_plugin.evaluation.results import Evaluation
from gan_plugin.evaluation.verdict import factor
from gan_plugin.serving.generator import OnnxGenerator

SENTENCE = "Training chose the generator by these features."
pytestmark = pytest.mark.usefixtures("short_cas")

BOTH = ["fid", "fid_ratio", "kid", "precision", "recall", "density", "coverage", "authenticity"]


@pytest.fixture(scope="module")
def bank(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> OnnxGenerator:
    """A generator of noisy training images."""
    return open_bank(digits, tmp_path_factory.mktemp("bank") / "g.onnx", noise=0.1)


def evaluated_after(*seen: str, bank: OnnxGenerator, reference: Reference) -> Evaluation:
    """Evaluate the generator as if training had chosen it by the networks of these digests."""
    bank.description = dataclasses.replace(bank.description, seen_features=seen)
    return evaluate_generator(bank, reference, count=200, first_seed=0, device=CPU)


def notes_with_sentence(evaluation: Evaluation) -> list[tuple[str, str]]:
    return [(m.name, m.network or evaluation.network) for m in evaluation.measurements if SENTENCE in m.note]


def test_labeled_data_is_compared_in_two_networks(copies: Evaluation) -> None:
    names = [measurement.name for measurement in copies.measurements if measurement.network == "self-supervised"]
    assert names == BOTH
    metrics = copies.metrics()
    for name in BOTH:
        assert {f"{name}/classifier", f"{name}/self-supervised"} <= metrics.keys()
        assert (f"{name}_real/self-supervised" in metrics) == (name != "fid_ratio")
    assert metrics["precision/self-supervised"] == 1.0
    assert metrics["authenticity/self-supervised"] == 0.0
    assert metrics["fid/self-supervised"] < metrics["fid_real/self-supervised"]
    assert copies.network == "classifier"
    assert copies.protocol["second features"].startswith("self-supervised, 64 dimensions, digest ")


def test_the_second_network_is_the_one_that_it_is_alone(
    digits: Dataset, held_out: Dataset, reference: Reference, bank: OnnxGenerator
) -> None:
    """Named, it is the only one, and its numbers are the same."""
    alone = prepare_reference(digits, held_out, "self-supervised", device=CPU)
    assert alone.second is None
    second = evaluated_after(bank=bank, reference=reference).metrics()
    values = evaluated_after(bank=bank, reference=alone).metrics()
    for name in BOTH:
        assert values[f"{name}/self-supervised"] == second[f"{name}/self-supervised"]
    assert f"fid/{reference.network.name}" not in values
    assert prepare_reference(digits, held_out, "classifier", device=CPU).second is None


def test_unlabeled_data_is_compared_in_features_without_labels(digits: Dataset) -> None:
    unlabeled = dataclasses.replace(digits, labels=None, spec=digits.spec.unlabeled())
    reference = prepare_reference(unlabeled, None, None, device=CPU)
    assert (reference.network.name, reference.second, reference.classifier) == ("self-supervised", None, None)


def test_the_network_that_chose_the_generator_is_named(reference: Reference, bank: OnnxGenerator) -> None:
    assert reference.second is not None
    chose, other = reference.network.digest, reference.second.digest
    for seen, name, independent in ((chose, "classifier", "self-supervised"), (other, "self-supervised", "classifier")):
        evaluation = evaluated_after(seen, "0" * 32, bank=bank, reference=reference)
        assert notes_with_sentence(evaluation) == [("fid", name)]
        sentence = (
            f"Training chose the generator by the features of {name}: the numbers in those of {independent} are "
            "independent of that choice."
        )
        assert sentence in evaluation.notes
        assert evaluation.protocol["chosen in training by"] == name
        assert evaluation.protocol["independent of that choice"] == independent
        ratios = {m.network or evaluation.network: m.value for m in evaluation.measurements if m.name == "fid_ratio"}
        assert f"id is {factor(ratios[independent])} times" in evaluation.verdict


def test_where_every_network_chose_nothing_is_independent(reference: Reference, bank: OnnxGenerator) -> None:
    alone = dataclasses.replace(reference, second=None)
    evaluation = evaluated_after(reference.network.digest, bank=bank, reference=alone)
    assert notes_with_sentence(evaluation) == [("fid", "classifier")]
    assert "so no number here is independent of that choice" in " ".join(evaluation.notes)
    assert evaluation.protocol["independent of that choice"] == "none of these"


@pytest.mark.parametrize("seen", [(), ("0" * 32,)])
def test_nothing_is_said_of_networks_that_chose_nothing(
    seen: tuple[str, ...], reference: Reference, bank: OnnxGenerator
) -> None:
    evaluation = evaluated_after(*seen, bank=bank, reference=reference)
    assert notes_with_sentence(evaluation) == []
    assert "Training chose" not in " ".join(evaluation.notes)
    assert evaluation.protocol["independent of that choice"] == "classifier, self-supervised"
