"""What the project backend torchrun refuses before there is a run."""

from __future__ import annotations

import pytest
from mlflow.exceptions import ExecutionException

from gan_plugin.project_backend import check_options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"nprocs": 2}, "The backend torchrun has no option nprocs: give nproc_per_node, "),
        ({}, "The backend torchrun needs the number of processes: give --backend-config "),
        ({"nproc_per_node": 0}, "nproc_per_node=0 is not possible: give a whole number of at least 1, "),
        ({"nproc_per_node": "many"}, "nproc_per_node='many' is not possible: give a whole number of at least 1, "),
        ({"nproc_per_node": True}, "nproc_per_node=True is not possible: give a whole number of at least 1, "),
    ],
)
def test_wrong_options_get_one_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ExecutionException) as caught:
        check_options(options)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("count", [1, 8, "gpu"])
def test_a_number_of_processes_is_taken(count: object) -> None:
    options = {"nproc_per_node": count, "max_restarts": 1}
    assert check_options(options) == options
