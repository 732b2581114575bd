"""The catalog of metrics: complete, derived from once, and free of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gan_plugin.config.parsing import parse
from gan_plugin.config.settings import PromoteSettings
from gan_plugin.errors import UserError
from gan_plugin.evaluation.results import Measurement
from gan_plugin.metrics.catalog import BOUNDED, CATALOG, METRICS, PROMOTION_METRICS, higher_is_better
from gan_plugin.report.tables import measurement_row


def test_names_are_unique_and_every_metric_has_a_sentence() -> None:
    assert len(METRICS) == len(CATALOG)
    assert all(metric.description.endswith(".") for metric in CATALOG)
    assert all(bool(metric.paper) == bool(metric.url) for metric in CATALOG)


def test_thresholds_take_every_metric_of_the_catalog_that_any_generator_has() -> None:
    for name, sign in BOUNDED.items():
        settings = parse(PromoteSettings, {"thresholds": f"{name}{sign}1"})
        assert [str(threshold) for threshold in settings.thresholds] == [f"{name}{sign}1"]
        with pytest.raises(UserError, match="is not possible: give bounds as in"):
            parse(PromoteSettings, {"thresholds": f"{name}{'<=' if sign == '>=' else '>='}1"})
        assert higher_is_better(name) == (sign == ">=")
    distances = {"fid", "fid_ratio", "kid", "label_kl", "critic_auroc", "spectrum_distance", "checkerboard"}
    assert {name for name, sign in BOUNDED.items() if sign == "<="} == distances
    assert "accuracy" not in BOUNDED  # only a conditional generator has it
    assert "high_frequencies" not in BOUNDED  # too many are as bad as too few
    for name in PROMOTION_METRICS:
        assert parse(PromoteSettings, {"metric": name}).metric == name


def test_the_report_takes_direction_and_explanation_from_the_catalog() -> None:
    for name, metric in METRICS.items():
        row = measurement_row(Measurement(name, 0.5))
        assert row["explanation"] == metric.description
        assert row["better"] == {"lower": "↓ lower", "higher": "↑ higher", "real": ""}[metric.direction]


def test_the_catalog_imports_no_torch() -> None:
    code = "import sys, gan_plugin.metrics.catalog; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
