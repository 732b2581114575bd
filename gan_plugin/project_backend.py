"""Training by several processes of one machine, from one command: MLflow's project backend ``torchrun``.

    mlflow run . -b torchrun --backend-config '{"nproc_per_node": 8}'

The backend runs a project as MLflow's own does, in any environment, with one variable more, for
:mod:`~gan_plugin.launch`: ``gan-plugin train`` becomes torchrun, which runs it in every process. Imports no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from mlflow.exceptions import ExecutionException
from mlflow.projects import utils
from mlflow.projects.backend.local import LocalBackend
from mlflow.projects.submitted_run import SubmittedRun

from gan_plugin.launch import VARIABLE

OPTIONS = ("nproc_per_node", "max_restarts", "monitor_interval", "shutdown_timeout", "log_dir", "redirects", "tee")
EXAMPLE = '{"nproc_per_node": 8}'
OF_MLFLOW = (  # what MLflow adds to the configuration
    utils.PROJECT_BUILD_IMAGE,
    utils.PROJECT_DOCKER_ARGS,
    utils.PROJECT_DOCKER_AUTH,
    utils.PROJECT_ENV_MANAGER,
    utils.PROJECT_STORAGE_DIR,
    utils.PROJECT_SYNCHRONOUS,
)


class TorchrunBackend(LocalBackend):
    """MLflow's project backend ``torchrun``."""

    def run(self, project_uri: str, entry_point: str, params: Any, *others: Any) -> SubmittedRun:
        """Run an entry point that trains, and wait for its end; arguments as those of MLflow's backends.

        Raises:
            ExecutionException: the configuration is wrong, or the run fails.
        """
        version, config, *rest = others
        os.environ[VARIABLE] = json.dumps(check_options({k: v for k, v in config.items() if k not in OF_MLFLOW}))
        try:
            config = {**config, utils.PROJECT_SYNCHRONOUS: True}
            submitted: SubmittedRun = LocalBackend.run(self, project_uri, entry_point, params, version, config, *rest)
            wait_for(submitted)
        finally:
            del os.environ[VARIABLE]
        return submitted


def check_options(options: Mapping[str, object]) -> Mapping[str, object]:
    """Return the options of torchrun that a backend's configuration has.

    Raises:
        ExecutionException: there are others, or the number of processes is missing or no number.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ExecutionException(
            f"The backend torchrun has no option {unknown[0]}: give {', '.join(OPTIONS)}. For several machines run "
            "torchrun itself on each."
        )
    if "nproc_per_node" not in options:
        raise ExecutionException(
            f"The backend torchrun needs the number of processes: give --backend-config '{EXAMPLE}'."
        )
    count = options["nproc_per_node"]
    if count not in ("gpu", "cpu", "auto") and not (type(count) is int and count > 0):
        raise ExecutionException(
            f"nproc_per_node={count!r} is not possible: give a whole number of at least 1, or gpu, cpu or auto."
        )
    return options


def wait_for(submitted: SubmittedRun) -> None:
    """Wait for a run as ``mlflow run`` does for its own backend, Ctrl-C included, and report its status."""
    from mlflow.projects import _wait_for  # which imports every backend

    _wait_for(submitted)
