"""The digits at 16 pixels, real images to compare with, and an evaluation of a generator that copies them."""

from __future__ import annotations

import pytest
from evaluation_helpers import COUNT, CPU
from generators import open_bank

from gan_plugin.data import Dataset, load_dataset
from gan_plugin.evaluation.evaluate import evaluate_generator
from gan_plugin.evaluation.reference import Reference, prepare_reference
from gan_plugin.evaluation.results import Evaluation


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits", image_size=16)


@pytest.fixture(scope="session")
def held_out() -> Dataset:
    return load_dataset("digits", split="test", image_size=16)


@pytest.fixture(scope="session")
def reference(digits: Dataset, held_out: Dataset) -> Reference:
    return prepare_reference(digits, held_out, None, device=CPU)


@pytest.fixture(scope="session")
def copies(digits: Dataset, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Of a generator that returns training images."""
    bank = open_bank(digits, tmp_path_factory.mktemp("copies") / "g.onnx")
    return evaluate_generator(bank, reference, count=COUNT, first_seed=0, device=CPU)
