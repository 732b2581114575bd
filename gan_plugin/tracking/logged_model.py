"""Log a generator as a LoggedModel of a run, in steps of which each may be done again after a try that was cut off.

``Model.log`` is no such thing: MLflow refuses the link from a run to its model a second time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.models import Model

from gan_plugin import flavor

EXPORT = "gan.export"  # the tag by which a second try finds what the first one made


def find_or_create(client: MlflowClient, run_id: str, *, key: str, params: Mapping[str, str]) -> LoggedModel:
    """Return the model that an earlier try made for this key, or a new one, whose files are still to come."""
    run = client.get_run(run_id)
    existing = client.search_logged_models([run.info.experiment_id], filter_string=f"tags.`{EXPORT}` = '{key}'")
    if existing:
        return existing[0]
    return client.create_logged_model(
        run.info.experiment_id,
        name="generator",
        source_run_id=run_id,
        tags={EXPORT: key},
        params={**params, **run.data.params},
    )


def complete(
    client: MlflowClient, model: LoggedModel, *, run_id: str, step: int, onnx_file: Path, encoder_file: Path | None
) -> None:
    """Link a model to its run and to the metrics of its step, upload its files, and say that it is ready."""
    run = client.get_run(run_id)
    if model.model_id not in {output.model_id for output in (run.outputs.model_outputs if run.outputs else ())}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
    link_metrics(client, model.model_id, run, step=step)
    entry = Model(
        artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        flavor.save_model(onnx_file, path, encoder_file=encoder_file, mlflow_model=entry)
        client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def link_metrics(client: MlflowClient, model_id: str, run: Run, *, step: int) -> None:
    """Let a run's metrics of one step be its model's, too."""
    run_id = run.info.run_id
    histories = [client.get_metric_history(run_id, name) for name in run.data.metrics]
    of_step = [
        Metric(metric.key, metric.value, metric.timestamp, metric.step, model_id=model_id, run_id=run_id)
        for history in histories
        for metric in history
        if metric.step == step and metric.model_id is None
    ]
    if of_step:
        client.log_batch(run_id, metrics=of_step)
