"""The metrics by name, and what follows from their entries. Imports no torch.

Bounds for ``promote``, the report's explanations and the tables of the documentation are derived from here.
"""

from __future__ import annotations

from gan_plugin.metrics.entries import CATALOG
from gan_plugin.metrics.metric import Need

__all__ = ["CATALOG", "METRICS"]

OF_SOME_GENERATORS = frozenset[Need](["conditional generator", "encoder", "autoencoder"])
METRICS = {metric.name: metric for metric in CATALOG}

EVALUATION_METRICS = {metric.name: metric for metric in CATALOG if metric.stage == "evaluation"}
PROMOTION_METRICS = tuple(metric.name for metric in CATALOG if metric.can_promote)
# What any generator has on the right data; a bound on another would refuse generators for what they are
BOUNDED = {
    metric.name: ">=" if metric.higher_is_better else "<="
    for metric in EVALUATION_METRICS.values()
    if not OF_SOME_GENERATORS.intersection(metric.needs) and metric.direction != "real"
}
NEED_LABELS = tuple(name for name, metric in EVALUATION_METRICS.items() if "labels" in metric.needs)
NEED_HELD_OUT = tuple(name for name, metric in EVALUATION_METRICS.items() if "held-out images" in metric.needs)
MAIN_METRICS = tuple(metric.name for metric in CATALOG if metric.main)


def higher_is_better(name: str) -> bool:
    """Return whether higher values of the metric ``name`` are better.

    Raises:
        KeyError: there is no such metric.

    >>> higher_is_better("precision"), higher_is_better("fid")
    (True, False)
    """
    return METRICS[name].higher_is_better
