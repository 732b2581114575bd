"""Names under which MLflow gets metrics, and the numbers of many classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from gan_plugin.evaluation.reference import Reference
from gan_plugin.evaluation.results import (
    MAX_CLASS_METRICS,
    ClassRow,
    Evaluation,
    Measurement,
    Neighbors,
    Projection,
    metric_names,
)
from gan_plugin.metrics.catalog import EVALUATION_METRICS, OF_SOME_GENERATORS


def test_logged_names_end_in_the_network(copies: Evaluation, reference: Reference) -> None:
    metrics = copies.metrics()
    names = ("fid", "fid_real", "fid_ratio", "kid", "kid_std", "kid_real", "inception_score", "precision", "recall")
    names = (*names, "density", "coverage", "coverage_real", "authenticity", "cas", "cas_real", "modes", "label_kl")
    assert {f"{name}/classifier" for name in names} <= set(metrics)
    assert metrics["brightness_reference/pixels"] == pytest.approx(reference.dataset.samples.double().mean().item())


def test_names_of_classes_become_names_that_mlflow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["T-shirt/top", "größe 3", "a!b", "a?b", "", "..", "x" * 300, "日本", "a'b\"c"]
    safe = metric_names(names)
    assert safe[:4] == ["T-shirt_top", "größe 3", "a_b class 2", "a_b class 3"]
    assert len(set(safe)) == len(names)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run("0").info.run_id
    client.log_batch(run, [Metric(f"fid_of_class/onnx-a-long-name-12345678/{name}", 1.0, 0, 0) for name in safe])
    assert len(client.get_run(run).data.metrics) == len(names)


def evaluation_of_classes(count: int) -> Evaluation:
    image = np.zeros((1, 16, 16, 1), np.uint8)
    points, mask = np.zeros((1, 2)), np.ones(1, bool)
    return Evaluation(
        network="classifier",
        protocol={},
        measurements=(Measurement("fid", 2.0, real=1.0), Measurement("kid", 0.5, std=0.1)),
        classes=tuple(
            ClassRow(f"class_{i:04}" * 10, generated=0.1, reference=0.1, fid=3.0, fid_real=1.0) for i in range(count)
        ),
        notes=(),
        samples=image,
        reference_samples=image,
        neighbors=Neighbors(image, image, np.zeros(1)),
        projection=Projection(reference=points, generated=points, covered=mask, inside=mask),
    )


def test_classes_are_logged_as_metrics_up_to_a_limit_and_are_all_in_the_json() -> None:
    logged = evaluation_of_classes(MAX_CLASS_METRICS).metrics()
    assert len([name for name in logged if name.startswith("fid_of_class/classifier/")]) == MAX_CLASS_METRICS
    many = evaluation_of_classes(1000)
    assert set(many.metrics()) == {"fid/classifier", "fid_real/classifier", "kid/classifier", "kid_std/classifier"}
    content = json.loads(json.dumps(many.as_json()))
    assert len(content["classes"]) == 1000
    assert content["classes"][999]["name"] == "class_0999" * 10
    expected = {"name": "fid", "value": 2.0, "real": 1.0, "std": None, "note": "", "network": ""}
    assert content["measurements"][0] == expected


def test_every_measurement_is_in_the_catalog(copies: Evaluation) -> None:
    of_every_generator = {
        name for name, metric in EVALUATION_METRICS.items() if not OF_SOME_GENERATORS.intersection(metric.needs)
    }
    assert {measurement.name for measurement in copies.measurements} == of_every_generator
