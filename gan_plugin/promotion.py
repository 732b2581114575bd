"""Promotion: a candidate gets the alias ``champion`` only where the figures say that it is better."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from gan_plugin.config.settings import BOUNDED, PromoteSettings, as_typed
from gan_plugin.data import check_data_argument
from gan_plugin.datasets import SampleDataset
from gan_plugin.errors import UserError
from gan_plugin.evaluation.reference import has_classes
from gan_plugin.evaluator import check_fit, generator_of
from gan_plugin.jobs import evaluate_model, import_evaluators, load_pyfunc, reference_of, used_for_evaluation
from gan_plugin.registry import ALIAS, annotate_version, champion_of, find_version, roll_back, set_champion
from gan_plugin.tracking import log_parameters, project_run

NEED_LABELS = ("modes", "label_kl", "cas")
NEED_HELD_OUT = ("fid_ratio",)


class Refused(RuntimeError):
    """The candidate misses a threshold, or is not better than the champion; the message has the numbers."""


@dataclass(frozen=True)
class Judged:
    """One version and what its evaluation found."""

    version: str
    result: EvaluationResult
    run_id: str

    def figure(self, name: str) -> float | None:
        """A figure by its short name, such as "fid"."""
        value: float | None = self.result.metrics.get(self.metric(name))
        return value

    def metric(self, name: str) -> str:
        """The full name of a figure, such as "fid/classifier"."""
        found: dict[str, Any] = self.result.artifacts["figures"].content
        networks = {figure["name"]: figure["network"] or found["network"] for figure in found["figures"]}
        return f"{name}/{networks.get(name, found['network'])}"


def run_promotion(settings: PromoteSettings) -> str:
    """Judge the candidate and the champion alike, and move the alias where the candidate passes; returns its URI.

    Both are judged in this process, in a nested run each: same data, seeds, count and features. Who becomes champion
    in the meantime is judged, too.

    Raises:
        UserError: something asked for does not exist or cannot be measured, before anything is judged.
        Refused: the candidate did not pass; the alias is where it was.
    """
    if settings.rollback:
        return rollback_champion(settings)
    check_data_argument(settings.data, settings.split)
    import_evaluators()
    with project_run() as run:
        client, name = MlflowClient(), settings.model_name
        version, champion_version = find_version(client, name, settings.version), champion_of(client, name)
        if champion_version == version:
            raise UserError(f"{name} version {version} is the champion already: give another version.")
        dataset = reference_of(settings)
        log_parameters(run.info.run_id, {**used_for_evaluation(settings, dataset), "version": version})
        check_measurable(settings, dataset)
        for each in filter(None, (version, champion_version)):
            check_loads_and_fits(settings, each, dataset)
        candidate = judge(settings, dataset, version, "candidate")
        log_parameters(run.info.run_id, {"features": candidate.result.artifacts["figures"].content["network"]})
        champion: Judged | None = None
        while True:
            if champion_version is not None and (champion is None or champion.version != champion_version):
                champion = judge(settings, dataset, champion_version, ALIAS)
            against = None if champion_version is None else champion
            decide(settings, candidate, against)
            if set_champion(client, name, version, champion_version, run.info.run_id):
                return announce(settings, candidate, against)
            champion_version = champion_of(client, name)
            if champion_version == version:
                raise UserError(f"{name} version {version} became the champion while it was judged here.")
            print(f"{name} has another champion than a moment ago: comparing with that one.")


def check_measurable(settings: PromoteSettings, dataset: SampleDataset) -> None:
    """Refuse figures that these images cannot give, before anything is judged."""
    asked = {settings.metric, *(threshold.metric for threshold in settings.thresholds)}
    if dataset.held_out is None and (figures := sorted(asked.intersection(NEED_HELD_OUT))):
        raise UserError(
            f"{', '.join(figures)} needs held-out images and data={settings.data!r} has no split for them: name one "
            "with held_out, add a split test to the data, or leave the figure out of thresholds."
        )
    if not has_classes(dataset.reference) and (figures := sorted(asked.intersection(NEED_LABELS))):
        raise UserError(
            f"{', '.join(figures)} needs images of several classes and data={settings.data!r} has none: leave it out "
            "of metric and thresholds."
        )


def check_loads_and_fits(settings: PromoteSettings, version: str, dataset: SampleDataset) -> None:
    """Refuse a version whose files are gone, or whose images are not the data's, before any is judged."""
    generator = generator_of(load_pyfunc(uri_of(settings, version), settings.device))
    try:
        check_fit(generator.description, dataset.reference)
    except UserError as error:
        raise UserError(
            f"{settings.model_name} version {version} cannot be compared on this data. {error} Versions with other "
            "images than the champion's belong under another model_name."
        ) from None


def judge(settings: PromoteSettings, dataset: SampleDataset, version: str, role: str) -> Judged:
    """One version's evaluation, in a run of its own inside the promotion's."""
    uri = uri_of(settings, version)
    print(f"\n{uri}, the {role}:")
    model = load_pyfunc(uri, settings.device)
    with mlflow.start_run(run_name=f"{role} {settings.model_name} {version}", nested=True) as run:
        mlflow.set_tags({"gan.role": role, "gan.model": uri})
        return Judged(version, evaluate_model(model, dataset, settings), run.info.run_id)


def decide(settings: PromoteSettings, candidate: Judged, champion: Judged | None) -> None:
    """Raises :class:`Refused` unless MLflow's validation of the figures passes.

    Thresholds are for the candidate alone and so are validated without the champion. A champion that lacks the figure
    to improve on, such as a collapsed one without cas, is beaten by a candidate that has it.
    """
    try:
        if settings.thresholds:
            mlflow.validate_evaluation_results(thresholds_of(settings, candidate), candidate.result)
        lacks = champion is not None and champion.figure(settings.metric) is None
        if champion is not None and not (lacks and candidate.figure(settings.metric) is not None):
            mlflow.validate_evaluation_results(improvement_of(settings, candidate), candidate.result, champion.result)
    except ModelValidationFailedException as failure:
        sentence = f"{name_of(settings, candidate)} is not promoted: {' '.join(failure.message.split())}"
        record(settings, candidate, champion, "refused", sentence)
        raise Refused(sentence) from None


def thresholds_of(settings: PromoteSettings, candidate: Judged) -> dict[str, MetricThreshold]:
    return {
        candidate.metric(figure): MetricThreshold(threshold=bound, greater_is_better=higher_is_better(figure))
        for figure, bound in settings.thresholds
    }


def improvement_of(settings: PromoteSettings, candidate: Judged) -> dict[str, MetricThreshold]:
    least = MetricThreshold(
        min_relative_change=settings.least_improvement, greater_is_better=higher_is_better(settings.metric)
    )
    return {candidate.metric(settings.metric): least}


def higher_is_better(figure: str) -> bool:
    return BOUNDED[figure] == ">="


def announce(settings: PromoteSettings, candidate: Judged, champion: Judged | None) -> str:
    """Say, in the run, on the version and on the terminal, that the candidate is champion now; returns its URI."""
    name = name_of(settings, candidate)
    if champion is None:
        bounds = as_typed(settings)["thresholds"]
        sentence = f"{name} is the first champion; thresholds: {bounds}."
    else:
        now, before = (shown(judged.figure(settings.metric)) for judged in (candidate, champion))
        metric = candidate.metric(settings.metric)
        sentence = f"{name} is the champion now: its {metric} is {now}, version {champion.version} had {before}."
    record(settings, candidate, champion, "promoted", sentence)
    print(f"\n{sentence}\nmodels:/{settings.model_name}@{ALIAS} names it.", flush=True)
    return uri_of(settings, candidate.version)


def shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def uri_of(settings: PromoteSettings, version: str) -> str:
    return f"models:/{settings.model_name}/{version}"


def name_of(settings: PromoteSettings, judged: Judged) -> str:
    return f"{settings.model_name} version {judged.version}"


def record(settings: PromoteSettings, candidate: Judged, champion: Judged | None, outcome: str, sentence: str) -> None:
    """What was compared and why it ended as it did: in the promotion's run, and on the candidate's version."""
    client = MlflowClient()
    sides = {"candidate": candidate} | ({} if champion is None else {ALIAS: champion})
    mlflow.log_metrics({f"{role}/{k}": v for role, side in sides.items() for k, v in side.result.metrics.items()})
    mlflow.set_tags({"gan.outcome": outcome, "gan.reason": sentence})
    asked = {settings.metric, *(threshold.metric for threshold in settings.thresholds)}
    figures = {
        role: {"version": side.version, **{side.metric(figure): side.figure(figure) for figure in sorted(asked)}}
        for role, side in sides.items()
    }
    protocol = candidate.result.artifacts["figures"].content["protocol"]
    run = mlflow.active_run()
    tags = {
        "gan.promotion": outcome,
        "gan.promotion.run": "" if run is None else run.info.run_id,
        "gan.promotion.figures": json.dumps(figures),
        "gan.promotion.protocol": json.dumps(protocol),
    }
    annotate_version(client, client.get_model_version(settings.model_name, candidate.version), tags, sentence)


def rollback_champion(settings: PromoteSettings) -> str:
    """Give the alias back to the champion before; returns its URI.

    Raises:
        UserError: there is no such model, or no earlier champion.
    """
    with project_run() as run:
        client, name = MlflowClient(), settings.model_name
        find_version(client, name, None)
        log_parameters(run.info.run_id, {"model_name": name, "rollback": True})
        left, back = roll_back(client, name, run.info.run_id)
        instead = "nobody" if left is None else f"version {left}"
        sentence = f"{name} version {back} is the champion again, instead of {instead}."
        mlflow.set_tags({"gan.outcome": "rolled back", "gan.reason": sentence})
        annotate_version(client, client.get_model_version(name, back), {"gan.promotion": "restored"}, sentence)
        if left is not None:
            annotate_version(client, client.get_model_version(name, left), {"gan.promotion": "rolled back"}, sentence)
        print(sentence, flush=True)
        return f"models:/{name}/{back}"
