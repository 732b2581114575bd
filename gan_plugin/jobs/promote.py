"""Promotion: a candidate gets the alias ``champion`` only where its metrics are better than the champion's."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from gan_plugin.config.parsing import as_texts
from gan_plugin.config.settings import PromoteSettings
from gan_plugin.connection import connected
from gan_plugin.data import check_data_argument
from gan_plugin.datasets import SampleDataset
from gan_plugin.device import choose_device
from gan_plugin.errors import UserError
from gan_plugin.evaluation.context import WAYS_TO_HOLD_OUT
from gan_plugin.evaluation.reference import has_classes
from gan_plugin.evaluator import check_fit, generator_of, results_of
from gan_plugin.jobs.compare import Named, Opened, log_comparison, open_model
from gan_plugin.jobs.evaluate import evaluate_model, import_evaluators, load_pyfunc, reference_of, used_parameters
from gan_plugin.metrics.catalog import NEED_HELD_OUT, NEED_LABELS, higher_is_better
from gan_plugin.process import this_process
from gan_plugin.registry import (
    ALIAS,
    annotate_version,
    champion_of,
    find_version,
    prepare_promotion,
    roll_back,
    set_champion,
)
from gan_plugin.tracking.run import PROCESS, log_parameters, project_run

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that jobs print its messages


class Refused(RuntimeError):
    """The candidate misses a threshold, or is not better than the champion; the message has the numbers."""


@dataclass(frozen=True)
class EvaluatedVersion:
    """A version of the model and the result of its evaluation."""

    version: str
    result: EvaluationResult
    run_id: str
    opened: Opened

    def value(self, metric: str) -> float | None:
        """Return the value of a metric by its short name, such as "fid"; None where it was not measured."""
        value: float | None = self.result.metrics.get(self.logged_name(metric))
        return value

    def logged_name(self, metric: str) -> str:
        """Return the full name of a metric, such as "fid/classifier"; of one by several networks, the first.

        Of the critics that is the one which sees the images in full size.
        """
        results = results_of(self.result)
        networks = {measurement["name"]: measurement["network"] for measurement in reversed(results["measurements"])}
        return f"{metric}/{networks.get(metric) or results['network']}"


def run_promotion(settings: PromoteSettings) -> str:
    """Evaluate candidate and champion alike, and move the alias where the candidate passes; returns its URI.

    Both are evaluated in this process, in a nested run each: same data, seeds, count and features. A version that
    becomes champion in the meantime is evaluated, too.

    Raises:
        UserError: a model, a version or the data does not exist, or a metric cannot be measured, before any evaluation;
            or MLflow does not answer.
        Locked: another process holds the model's lock and does not end; also before any evaluation.
        Refused: the candidate did not pass; the champion stays as it was.
    """
    if not settings.rollback:  # refused before there is a run, like the version
        check_data_argument(settings.data, settings.split, settings.held_out)
        choose_device(settings.device)
    with connected():
        return rollback_champion(settings) if settings.rollback else promote_version(settings)


def promote_version(settings: PromoteSettings) -> str:
    """Evaluate candidate and champion and move the alias, as :func:`run_promotion` says."""
    client, name = MlflowClient(), settings.model_name
    version = find_version(client, name, settings.version)
    prepare_promotion(client, name)
    champion_version = champion_of(client, name)
    if champion_version == version:
        raise UserError(f"{name} version {version} is the champion already: give another version.")
    import_evaluators()
    with project_run(f"promote-{name}") as run:
        dataset = reference_of(settings)
        log_parameters(run.info.run_id, used_parameters(settings, dataset) | {"version": version})
        check_metrics(settings, dataset)
        for checked in filter(None, (version, champion_version)):
            check_compatible(settings, checked, dataset)
        candidate = evaluate_version(settings, dataset, version=version, role="candidate")
        champion: EvaluatedVersion | None = None
        while True:
            if champion_version is not None and (champion is None or champion.version != champion_version):
                champion = evaluate_version(settings, dataset, version=champion_version, role=ALIAS)
                compare_with_champion(candidate, champion, dataset)
            against = None if champion_version is None else champion
            decide(settings, candidate, against)
            if set_champion(client, name, version, expected=champion_version, holder=run.info.run_id):
                return announce(settings, candidate, against)
            champion_version = champion_of(client, name)
            if champion_version == version:
                raise UserError(f"{name} version {version} became the champion while it was evaluated here.")
            print(f"{name} has another champion than a moment ago: comparing with that one.")


def check_metrics(settings: PromoteSettings, dataset: SampleDataset) -> None:
    """Check that the metrics of the settings can be measured on these images.

    Raises:
        UserError: one of them cannot.
    """
    metrics = required_metrics(settings)
    if dataset.held_out is None and (missing := metrics.intersection(NEED_HELD_OUT)):
        raise UserError(
            f"{', '.join(sorted(missing))} needs held-out images, and nothing of data={settings.data!r} is held out "
            f"here: {WAYS_TO_HOLD_OUT}; or leave the metric out of thresholds."
        )
    if not has_classes(dataset.reference) and (missing := metrics.intersection(NEED_LABELS)):
        raise UserError(
            f"{', '.join(sorted(missing))} needs images of several classes and data={settings.data!r} has none: "
            "leave it out of metric and thresholds."
        )


def required_metrics(settings: PromoteSettings) -> set[str]:
    """Return the names of the metrics that decide."""
    return {settings.metric, *(metric for metric, _ in settings.thresholds)}


def check_compatible(settings: PromoteSettings, version: str, dataset: SampleDataset) -> None:
    """Check that a version can be loaded and makes images like the data's.

    Raises:
        UserError: its files are gone, or its images are others.
    """
    generator = generator_of(load_pyfunc(uri_of(settings, version), settings.device))
    try:
        check_fit(generator.description, dataset.reference)
    except UserError as error:
        raise UserError(
            f"{settings.model_name} version {version} cannot be compared on this data. {error} Versions with other "
            "images than the champion's belong under another model_name."
        ) from None


def evaluate_version(settings: PromoteSettings, dataset: SampleDataset, *, version: str, role: str) -> EvaluatedVersion:
    """Evaluate one version in a run of its own inside the promotion's."""
    uri = uri_of(settings, version)
    print(f"\n{uri}, the {role}:")
    opened = open_model(Named(f"{settings.model_name} version {version}, the {role}", uri, None), settings.device)
    with mlflow.start_run(run_name=f"{role} {settings.model_name} {version}", nested=True) as run:
        mlflow.set_tags({PROCESS: this_process().to_json(), "gan.role": role, "gan.model": uri})
        mlflow.log_param("model", uri)  # as a run of evaluate has it
        result = evaluate_model(opened.model, dataset, settings, uri=uri)
        return EvaluatedVersion(version, result, run.info.run_id, opened)


def compare_with_champion(candidate: EvaluatedVersion, champion: EvaluatedVersion, dataset: SampleDataset) -> None:
    """Log a page with both versions side by side; where that fails, the promotion goes on without it."""
    try:
        log_comparison([(one.opened, results_of(one.result)) for one in (candidate, champion)], dataset)
    except Exception:  # of any kind: the page decides nothing
        logger.warning("The comparison with the champion cannot be shown.", exc_info=True)


def decide(settings: PromoteSettings, candidate: EvaluatedVersion, champion: EvaluatedVersion | None) -> None:
    """Check the candidate's metrics by MLflow's validation.

    Thresholds are for the candidate alone and so are validated without the champion. A champion that lacks the metric
    to improve on, such as a collapsed one without cas, is beaten by a candidate that has it.

    Raises:
        Refused: the validation fails.
    """
    try:
        if settings.thresholds:
            mlflow.validate_evaluation_results(thresholds_of(settings, candidate), candidate.result)
        has_no_value = champion is not None and champion.value(settings.metric) is None
        if champion is not None and not (has_no_value and candidate.value(settings.metric) is not None):
            mlflow.validate_evaluation_results(improvement_of(settings, candidate), candidate.result, champion.result)
    except ModelValidationFailedException as failure:
        sentence = f"{name_of(settings, candidate)} is not promoted: {' '.join(failure.message.split())}"
        record(settings, candidate, champion, status="refused", sentence=sentence)
        raise Refused(sentence) from None


def thresholds_of(settings: PromoteSettings, candidate: EvaluatedVersion) -> dict[str, MetricThreshold]:
    """Return the bounds that every champion must meet, for MLflow."""
    return {
        candidate.logged_name(metric): MetricThreshold(threshold=bound, greater_is_better=higher_is_better(metric))
        for metric, bound in settings.thresholds
    }


def improvement_of(settings: PromoteSettings, candidate: EvaluatedVersion) -> dict[str, MetricThreshold]:
    """Return the improvement on the champion that is demanded, for MLflow."""
    improvement = MetricThreshold(
        min_relative_change=settings.min_improvement, greater_is_better=higher_is_better(settings.metric)
    )
    return {candidate.logged_name(settings.metric): improvement}


def announce(settings: PromoteSettings, candidate: EvaluatedVersion, champion: EvaluatedVersion | None) -> str:
    """Record in the run, on the version and on the terminal that the candidate is champion; returns its URI."""
    name = name_of(settings, candidate)
    if champion is None:
        bounds = as_texts(settings)["thresholds"]
        sentence = f"{name} is the first champion; thresholds: {bounds}."
    else:
        now, before = (formatted(version.value(settings.metric)) for version in (candidate, champion))
        metric = candidate.logged_name(settings.metric)
        sentence = f"{name} is the champion now: its {metric} is {now}, version {champion.version} had {before}."
    record(settings, candidate, champion, status="promoted", sentence=sentence)
    print(f"\n{sentence}\nmodels:/{settings.model_name}@{ALIAS} names it.", flush=True)
    return uri_of(settings, candidate.version)


def formatted(value: float | None) -> str:
    """Format a metric's value for a sentence."""
    return "none" if value is None else f"{value:.4g}"


def uri_of(settings: PromoteSettings, version: str) -> str:
    """Return the URI of a version of the model."""
    return f"models:/{settings.model_name}/{version}"


def name_of(settings: PromoteSettings, evaluated: EvaluatedVersion) -> str:
    """Return the name of a version in a sentence."""
    return f"{settings.model_name} version {evaluated.version}"


def record(
    settings: PromoteSettings,
    candidate: EvaluatedVersion,
    champion: EvaluatedVersion | None,
    *,
    status: str,
    sentence: str,
) -> None:
    """Record the comparison and its outcome in the promotion's run and on the candidate's version."""
    client = MlflowClient()
    versions = {"candidate": candidate} | ({} if champion is None else {ALIAS: champion})
    mlflow.log_metrics(
        {f"{role}/{k}": v for role, evaluated in versions.items() for k, v in evaluated.result.metrics.items()}
    )
    mlflow.set_tags({"gan.outcome": status, "gan.reason": sentence})
    metrics = {
        role: {
            "version": evaluated.version,
            **{evaluated.logged_name(name): evaluated.value(name) for name in sorted(required_metrics(settings))},
        }
        for role, evaluated in versions.items()
    }
    protocol = results_of(candidate.result)["protocol"]
    run = mlflow.active_run()
    tags = {
        "gan.promotion": status,
        "gan.promotion.run": "" if run is None else run.info.run_id,
        "gan.promotion.metrics": json.dumps(metrics),
        "gan.promotion.protocol": json.dumps(protocol),
    }
    annotate_version(
        client, client.get_model_version(settings.model_name, candidate.version), tags=tags, paragraph=sentence
    )


def rollback_champion(settings: PromoteSettings) -> str:
    """Give the alias back to the previous champion; returns its URI.

    Raises:
        UserError: there is no such model, or no earlier champion.
    """
    client, name = MlflowClient(), settings.model_name
    find_version(client, name, None)
    prepare_promotion(client, name)
    with project_run(f"promote-{name}") as run:
        log_parameters(run.info.run_id, {"model_name": name, "rollback": True})
        former, restored = roll_back(client, name, run.info.run_id)
        replaced = "none" if former is None else f"version {former}"
        sentence = f"{name} version {restored} is the champion again, instead of {replaced}."
        mlflow.set_tags({"gan.outcome": "rolled back", "gan.reason": sentence})
        annotate_version(
            client, client.get_model_version(name, restored), tags={"gan.promotion": "restored"}, paragraph=sentence
        )
        if former is not None:
            annotate_version(
                client,
                client.get_model_version(name, former),
                tags={"gan.promotion": "rolled back"},
                paragraph=sentence,
            )
        print(sentence, flush=True)
        return f"models:/{name}/{restored}"
