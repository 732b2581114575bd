"""A generator with classes, the digits of the examples, behind a server with two workers: what can be asked for."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import psutil
import pytest
from helpers import PATIENCE_S, ROOT, Answer, Project, Server, refusal, serving, wait_for
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from PIL import Image

from gan_plugin import flavor
from gan_plugin.media.image import image_grid
from gan_plugin.seeds import between, latents
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.options import ServingOptions, check_config
from gan_plugin.spec import MAX_SEED

IMAGE = npt.NDArray[np.uint8]
ONNX_FILE = ROOT / "examples" / "digits.onnx"
WORKERS = 2


@pytest.fixture(scope="module")
def project(make_project: Callable[[], Project]) -> Project:
    project = make_project()
    flavor.save_model(ONNX_FILE, project.folder / "model")
    return project


@pytest.fixture(scope="module", params=["off", "on"])
def digits(project: Project, request: pytest.FixtureRequest) -> Iterator[Server]:
    """On the CPU, where images are equal to the bit, with and without the micro-batcher."""
    config = json.dumps({"device": "cpu", "batching": request.param})
    patient = {"UVICORN_TIMEOUT_KEEP_ALIVE": str(PATIENCE_S)}  # a slow machine must not lose the connection to a worker
    with serving(project, "model", workers=WORKERS, SERVING_MODEL_CONFIG=config, **patient) as running:
        yield running


@pytest.fixture(scope="module")
def generator() -> OnnxGenerator:
    return OnnxGenerator(ONNX_FILE, device="cpu")


def decode(image: str) -> IMAGE:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))


def images_of(server: Server, *rows: dict[str, object], **params: object) -> list[IMAGE]:
    reply = server.records(*rows, **params)
    assert reply.status == 200, reply.text
    return [decode(row["image"]) for row in reply.body["predictions"]]


# ---- what a request can ask for --------------------------------------------------------------------------------------


def test_the_vectors_that_every_program_must_make(digits: Server) -> None:
    vectors = json.loads((ROOT / "examples" / "vectors.json").read_text())["images"]
    rows = [
        {name: vector[name] for name in vector if name != "image" and vector[name] is not None} for vector in vectors
    ]
    expected = [np.frombuffer(base64.b64decode(vector["image"]), np.uint8).reshape(28, 28) for vector in vectors]
    for image, vector in zip(images_of(digits, *rows), expected, strict=True):
        assert np.abs(image.astype(int) - vector).max() <= 1
    assert len({vector.tobytes() for vector in expected}) == len(expected)  # each vector is another image


def test_an_image_between_two_seeds(digits: Server, generator: OnnxGenerator) -> None:
    def between_seeds(position: float) -> dict[str, object]:
        return {"seed": 4, "to_seed": 9, "position": position}

    start, near, middle, end, four, nine = images_of(
        digits,
        between_seeds(0),
        between_seeds(0.1),
        between_seeds(0.5),
        between_seeds(1),
        {"seed": 4},
        {"seed": 9, "label": 4},
    )
    np.testing.assert_array_equal(start, four)
    np.testing.assert_array_equal(end, nine)  # the class stays that of seed 4
    z = between(latents(4, 64), latents(9, 64), [0.5])
    np.testing.assert_array_equal(middle, generator.generate(z, np.array([4]))[0, :, :, 0])
    steps = [np.abs(image.astype(int) - start).sum() for image in (near, middle, end)]
    assert 0 < steps[0] < steps[1]


def test_label_and_truncation_hold_between_two_seeds(digits: Server, generator: OnnxGenerator) -> None:
    (image,) = images_of(digits, {"seed": 4, "to_seed": 9, "position": 0.3, "label": "7", "truncation": 0.5})
    z = between(latents(4, 64, 0.5), latents(9, 64, 0.5), [0.3])
    np.testing.assert_array_equal(image, generator.generate(z, np.array([7]))[0, :, :, 0])


def test_rows_of_every_kind_in_one_request(digits: Server, generator: OnnxGenerator) -> None:
    z = latents(5, 64)[0].tolist()
    rows: list[dict[str, object]] = [
        {"seed": 1},
        {"z": z, "label": 5},
        {"seed": 2, "to_seed": 3, "position": 1},
        {"seed": 4},
    ]
    images = images_of(digits, *rows)
    for image, row in zip(images, rows, strict=True):
        np.testing.assert_array_equal(image, images_of(digits, row)[0])
    np.testing.assert_array_equal(images[1], generator.sample([5])[0, :, :, 0])


def test_webp_and_array_are_the_same_image_as_png(digits: Server) -> None:
    rows = [{"seed": seed} for seed in range(3)]
    png, webp = images_of(digits, *rows), images_of(digits, *rows, format="webp")
    for one, other in zip(png, webp, strict=True):
        np.testing.assert_array_equal(one, other[..., 0] if other.ndim == 3 else other)  # WebP has no gray
    files = digits.records(*rows, format="webp").body["predictions"]
    assert all(base64.b64decode(row["image"])[8:12] == b"WEBP" for row in files)
    arrays = digits.records(*rows, format="array").body["predictions"]
    np.testing.assert_array_equal(np.array([row["image"] for row in arrays])[..., 0], np.stack(png))


def test_a_grid_is_one_image_with_all(digits: Server, generator: OnnxGenerator) -> None:
    reply = digits.records(*({"seed": seed} for seed in range(7)), grid=3)
    (row,) = reply.body["predictions"]
    assert row["seed"] is None
    np.testing.assert_array_equal(decode(row["image"]), image_grid(generator.sample(range(7)), 3)[:, :, 0])
    (row,) = digits.records({"seed": 1}, {"seed": 2}, grid=100, format="array").body["predictions"]
    assert np.shape(row["image"]) == (32, 62, 1)  # no wider than its images need


def test_the_signature_has_all_columns_and_parameters(project: Project) -> None:
    signature = mlflow.models.get_model_info(str(project.folder / "model")).signature
    assert signature.inputs.input_names() == [
        "seed",
        "to_seed",
        "position",
        "z",
        "label",
        "truncation",
        "image",
        "edit",
    ]
    assert {param.name: param.default for param in signature.params} == {"format": "png", "grid": 0}


SEED_RANGE = "a seed is a whole number from 0 to 9007199254740991."
GRID = "give how many images stand in a row of one large image, at most 1024, or 0 for separate images."


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"seed": 1, "to_seed": 2}, "Row 0 has to_seed and no position: an image between two seeds needs both."),
        ({"seed": 1, "position": 0.5}, "Row 0 has position and no to_seed: an image between two seeds needs both."),
        ({"seed": 1, "to_seed": -2, "position": 0}, f"Row 0 has to_seed=-2: {SEED_RANGE}"),
        (
            {"seed": 1, "to_seed": 2, "position": 1.01},
            "Row 0 has position=1.01: give a number from 0 (seed) to 1 (to_seed).",
        ),
        (
            {"seed": 1, "to_seed": 2, "position": "0.5"},
            "Row 0 has position='0.5': give a number from 0 (seed) to 1 (to_seed).",
        ),
        (
            {"z": [0.0] * 64, "label": 1, "to_seed": 2, "position": 0},
            "Row 0 has both z and to_seed: the way to a seed starts from a seed or an image.",
        ),
        (
            {"seed": 1, "label": "ten"},
            "Row 0 has label='ten': give a class, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, or its index from 0.",
        ),
    ],
)
def test_an_interpolation_that_is_not_possible(digits: Server, row: dict[str, object], sentence: str) -> None:
    reply = digits.records(row)
    assert (reply.status, reply.body["message"]) == (400, sentence)


@pytest.mark.parametrize("grid", ["x", 1.5, -1, 1025, True])
def test_a_grid_that_is_not_possible(digits: Server, grid: object) -> None:
    reply = digits.records({"seed": 1}, grid=grid)
    assert (reply.status, reply.body["message"]) == (400, f"grid={grid!r} is not possible: {GRID}")


def test_a_grid_too_large_for_webp(digits: Server) -> None:
    reply = digits.records(*({"seed": seed} for seed in range(600)), grid=600, format="webp")
    assert (reply.status, reply.body["message"]) == (
        400,
        "An image of 18002×32 pixels is too large for WebP, whose sides have at most 16,383: ask for format=png, or "
        "for fewer images.",
    )


# ---- one seed, one image -------------------------------------------------------------------------------------------


def connections(server: Server) -> dict[int, http.client.HTTPConnection]:
    """A connection to each worker, by the worker's process; the last of them may not have begun yet."""
    connections: dict[int, http.client.HTTPConnection] = {}

    def complete() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        connection.request("GET", "/ping")
        connection.getresponse().read()
        mine = connection.sock.getsockname()[1]
        for process in psutil.Process(server.pid).children(recursive=True):
            if any(c.raddr and c.raddr.port == mine for c in process.net_connections()):
                connections.setdefault(process.pid, connection)
        return len(connections) == WORKERS

    wait_for(complete)
    return connections


def ask(connection: http.client.HTTPConnection, seeds: list[int]) -> dict[int, str]:
    body = json.dumps({"dataframe_records": [{"seed": seed} for seed in seeds]})
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    return {row["seed"]: row["image"] for row in json.loads(connection.getresponse().read())["predictions"]}


def test_a_seeds_image_is_the_same_alone_in_any_batch_order_and_at_any_concurrency_on_every_worker(
    digits: Server,
) -> None:
    random = np.random.default_rng(1)
    seeds = [0, 2**32 - 1, 2**32, MAX_SEED, *random.integers(0, MAX_SEED, 66).tolist()]
    workers = connections(digits)
    alone = [{seed: ask(connection, [seed])[seed] for seed in seeds} for connection in workers.values()]
    assert alone[0] == alone[1]
    assert len(set(alone[0].values())) == len(seeds)
    batches = [random.permutation(seeds)[:count].tolist() for count in (1, 1, 2, 3, 7, 64, 65, 70) * 3]
    with ThreadPoolExecutor(8) as pool:  # each on a connection of its own, to whichever worker
        replies = list(pool.map(lambda batch: digits.records(*({"seed": seed} for seed in batch)), batches))
    for batch, reply in zip(batches, replies, strict=True):
        answered = {row["seed"]: row["image"] for row in reply.body["predictions"]}
        assert answered == {seed: alone[0][seed] for seed in batch}
    for connection in workers.values():
        assert ask(connection, seeds[::-1]) == alone[0]


# ---- where it ran, and too many at once ------------------------------------------------------------------------------


def test_one_request_too_many_is_refused_at_once_and_the_others_are_answered(project: Project) -> None:
    many: list[dict[str, object]] = [{"seed": seed} for seed in range(1024)]
    with serving(project, "model", SERVING_MODEL_CONFIG='{"max_waiting": 2}') as server:
        assert "and a server 2 requests." in server.log.read_text()

        replies: list[Answer] = []

        def some_are_refused() -> bool:  # once they meet at the server
            with ThreadPoolExecutor(8) as pool:
                replies.extend(pool.map(lambda _: server.records(*many, grid=32), range(8)))
            return 503 in [reply.status for reply in replies]

        wait_for(some_are_refused)
        refused = [reply for reply in replies if reply.status != 200]
        assert len(replies) - len(refused) >= 2
        for reply in refused:
            assert reply.status == 503
            # two are being answered at that moment
            assert reply.body["message"] == (
                f"The server has 2 requests to answer and takes no more: try again in {reply.headers['retry-after']} s."
            )
        # and every answer says where it was made
        log = server.log.read_text()
        for reply in (server.records({"seed": 1}), server.records({"sede": 1}), refused[0]):
            assert reply.headers["x-gan-device"] in ("cpu", "cuda")
            if reply.headers["x-gan-device"] == "cpu":  # device=auto, on a machine without a GPU
                assert f"CUDA cannot be used: {reply.headers['x-gan-fallback']}." in log


def test_the_device_of_an_answer_in_process(project: Project) -> None:
    on_cpu = mlflow.pyfunc.load_model(str(project.folder / "model"), model_config={"device": "cpu"})
    assert on_cpu.predict(pd.DataFrame({"seed": [1]})).attrs == {"x-gan-device": "cpu"}  # asked for: no fallback


AROUND = """
import mlflow

class Around(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.generator = mlflow.pyfunc.load_model(context.artifacts["generator"], model_config={"device": "cpu"})

    def predict(self, context, model_input, params=None):
        return self.generator.predict(model_input)["image"]

mlflow.models.set_model(Around())
"""  # a model of somebody's that uses a generator


def test_a_generator_inside_another_model_answers_as_in_a_notebook(project: Project) -> None:
    path, code = project.folder / "around", project.folder / "around.py"
    code.write_text(AROUND)
    artifacts = {"generator": str(project.folder / "model")}
    mlflow.pyfunc.save_model(path, python_model=str(code), artifacts=artifacts, pip_requirements=[])
    with serving(project, "around") as server:
        reply = server.records({"seed": 3})
        assert reply.status == 200, reply.text
        np.testing.assert_array_equal(
            decode(reply.body["predictions"][0]["image"]),
            OnnxGenerator(ONNX_FILE, device="cpu").sample([3])[0, :, :, 0],
        )
        assert "x-gan-device" not in reply.headers


def test_a_model_that_knows_less_refuses_what_it_does_not_know(project: Project, tmp_path: Path) -> None:
    """Its signature tells, or MLflow would drop what that lacks, and the answer would be another image."""
    shutil.copytree(project.folder / "model", tmp_path / "old")
    old = mlflow.models.Model.load(str(tmp_path / "old"))
    old.signature = ModelSignature(
        Schema([ColSpec(AnyType(), name, required=False) for name in ("seed", "label")]),
        params=ParamSchema([ParamSpec("format", DataType.string, "png")]),
    )
    old.flavors["python_function"]["config"] = {"device": "cpu", "max_rows": 1024}
    old.save(str(tmp_path / "old" / "MLmodel"))
    model = mlflow.pyfunc.load_model(str(tmp_path / "old"))
    assert len(model.predict(pd.DataFrame({"seed": [1], "label": ["4"]}))) == 1
    with pytest.raises(MlflowException, match=r"^Unknown column to_seed, position: a row may have seed, label\.$"):
        model.predict(pd.DataFrame({"seed": [1], "to_seed": [2], "position": [0.5]}))
    with pytest.raises(MlflowException, match=r"^Unknown parameter grid: there is format\.$"):
        model.predict(pd.DataFrame({"seed": [1]}), params={"grid": 2})


def test_a_misspelt_option_does_not_start_a_server(project: Project) -> None:
    with (
        pytest.raises(AssertionError, match=r"Unknown option devise: there are device, max_rows"),
        serving(project, "model", SERVING_MODEL_CONFIG='{"devise": "cuda"}'),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('["device"]', """The serving options are '["device"]': give a JSON object like {"device": "cpu"}."""),
        ("null", 'The serving options are \'null\': give a JSON object like {"device": "cpu"}.'),
        ("device=cpu", 'The serving options are \'device=cpu\': give a JSON object like {"device": "cpu"}.'),
        ('{"devise": "cpu"}', "Unknown option devise: there are device, max_rows, max_waiting, batching, max_images, "),
    ],
)
def test_serving_options_that_are_no_object_of_options(text: str, sentence: str) -> None:
    assert refusal(lambda: check_config(text)).startswith(sentence)
    check_config('{"max_rows": 5}')


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"batching": "yes"}, "batching='yes' is unknown: give one of auto, on, off."),
        ({"max_waiting": 0}, "max_waiting=0 is not possible: give a whole number from 1 to 65,536."),
        ({"max_rows": 10**9}, "max_rows=1000000000 is not possible: give a whole number from 1 to 16,384."),
        ({"threads": 1.5}, "threads=1.5 is not possible: give a whole number from 1 to 1,024, or null."),
        (
            {"gpu_memory_mb": True},
            "gpu_memory_mb=True is not possible: give a whole number from 1 to 1,048,576, or null.",
        ),
    ],
)
def test_options_that_are_not_possible(project: Project, config: dict[str, object], sentence: str) -> None:
    with pytest.raises(MlflowException) as refused:
        mlflow.pyfunc.load_model(str(project.folder / "model"), model_config=config)
    assert str(refused.value) == sentence


def test_options_travel_with_the_model(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "device": "cpu", "max_rows": 3, "max_waiting": 9, "batching": "on", "max_images": 2,
        "project_evaluations": 64, "threads": 1, "gpu_memory_mb": 2048,
    }  # fmt: skip
    options = ServingOptions(**values)
    flavor.save_model(ONNX_FILE, tmp_path / "model", options=options)
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert model.model_config == values
    with pytest.raises(MlflowException, match="4 rows and 3 is the limit"):
        model.predict(pd.DataFrame({"seed": range(4)}))
    assert model.get_raw_model().batched


def test_cuda_libraries_are_required_where_cuda_is_demanded() -> None:
    plain, cuda = flavor.get_default_pip_requirements("cpu"), flavor.get_default_pip_requirements("cuda")
    changed = [(one, other) for one, other in zip(plain, cuda, strict=True) if one != other]
    ((one, other),) = changed
    assert one.replace("onnxruntime-gpu==", "onnxruntime-gpu[cuda,cudnn]==") == other
