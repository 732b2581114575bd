"""A generator with classes, the digits of the examples, behind a server with two workers: what can be asked for."""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import psutil
import pytest
from conftest import ROOT, Project, Server, serving
from mlflow.exceptions import MlflowException
from PIL import Image

from gan_plugin import flavor
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.serving.latents import LARGEST_SEED, between, latents
from gan_plugin.serving.options import ServingOptions
from gan_plugin.serving.pictures import contact_sheet

PICTURE = npt.NDArray[np.uint8]
ONNX_FILE = ROOT / "examples" / "digits.onnx"
WORKERS = 2


@pytest.fixture(scope="module")
def project(make_project: Callable[[], Project]) -> Project:
    made = make_project()
    flavor.save_model(ONNX_FILE, made.folder / "model")
    return made


@pytest.fixture(scope="module")
def digits(project: Project) -> Iterator[Server]:
    with serving(project, "model", "local", wait_s=120, workers=WORKERS) as running:
        yield running


@pytest.fixture(scope="module")
def generator() -> OnnxGenerator:
    return OnnxGenerator(ONNX_FILE, "cpu")


def decode(image: str) -> PICTURE:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))


def pictures_of(server: Server, *rows: dict[str, object], **params: object) -> list[PICTURE]:
    reply = server.records(*rows, **params)
    assert reply.status == 200, reply.text
    return [decode(row["image"]) for row in reply.body["predictions"]]


# ---- what a request can ask for --------------------------------------------------------------------------------------


def test_the_vectors_that_every_program_must_make(digits: Server) -> None:
    vectors = json.loads((ROOT / "examples" / "vectors.json").read_text())["pictures"]
    rows = [
        {name: vector[name] for name in vector if name != "image" and vector[name] is not None} for vector in vectors
    ]
    expected = [np.frombuffer(base64.b64decode(vector["image"]), np.uint8).reshape(28, 28) for vector in vectors]
    for picture, wanted in zip(pictures_of(digits, *rows), expected, strict=True):
        assert np.abs(picture.astype(int) - wanted).max() <= 1
    assert len({wanted.tobytes() for wanted in expected}) == len(expected)  # each vector is another picture


def test_a_picture_between_two_seeds(digits: Server, generator: OnnxGenerator) -> None:
    def way(position: float) -> dict[str, object]:
        return {"seed": 4, "to_seed": 9, "position": position}

    start, near, middle, end, four, nine = pictures_of(
        digits, way(0), way(0.1), way(0.5), way(1), {"seed": 4}, {"seed": 9, "label": 4}
    )
    np.testing.assert_array_equal(start, four)
    np.testing.assert_array_equal(end, nine)  # the class stays that of seed 4
    z = between(latents(4, 64), latents(9, 64), [0.5])
    np.testing.assert_array_equal(middle, generator.generate(z, np.array([4]))[0, :, :, 0])
    steps = [np.abs(picture.astype(int) - start).sum() for picture in (near, middle, end)]
    assert 0 < steps[0] < steps[1]


def test_label_and_truncation_hold_on_the_way(digits: Server, generator: OnnxGenerator) -> None:
    (picture,) = pictures_of(digits, {"seed": 4, "to_seed": 9, "position": 0.3, "label": "7", "truncation": 0.5})
    z = between(latents(4, 64, 0.5), latents(9, 64, 0.5), [0.3])
    np.testing.assert_array_equal(picture, generator.generate(z, np.array([7]))[0, :, :, 0])


def test_rows_of_every_kind_in_one_request(digits: Server, generator: OnnxGenerator) -> None:
    z = latents(5, 64)[0].tolist()
    rows: list[dict[str, object]] = [
        {"seed": 1},
        {"z": z, "label": 5},
        {"seed": 2, "to_seed": 3, "position": 1},
        {"seed": 4},
    ]
    mixed = pictures_of(digits, *rows)
    for picture, row in zip(mixed, rows, strict=True):
        np.testing.assert_array_equal(picture, pictures_of(digits, row)[0])
    np.testing.assert_array_equal(mixed[1], generator.sample([5])[0, :, :, 0])


def test_webp_and_array_are_the_same_picture_as_png(digits: Server) -> None:
    rows = [{"seed": seed} for seed in range(3)]
    png, webp = pictures_of(digits, *rows), pictures_of(digits, *rows, format="webp")
    for one, other in zip(png, webp, strict=True):
        np.testing.assert_array_equal(one, other[..., 0] if other.ndim == 3 else other)  # WebP has no grey
    files = digits.records(*rows, format="webp").body["predictions"]
    assert all(base64.b64decode(row["image"])[8:12] == b"WEBP" for row in files)
    arrays = digits.records(*rows, format="array").body["predictions"]
    np.testing.assert_array_equal(np.array([row["image"] for row in arrays])[..., 0], np.stack(png))


def test_a_grid_is_one_picture_with_all(digits: Server, generator: OnnxGenerator) -> None:
    reply = digits.records(*({"seed": seed} for seed in range(7)), grid=3)
    (row,) = reply.body["predictions"]
    assert row["seed"] is None
    np.testing.assert_array_equal(decode(row["image"]), contact_sheet(generator.sample(range(7)), 3)[:, :, 0])
    (row,) = digits.records({"seed": 1}, {"seed": 2}, grid=100, format="array").body["predictions"]
    assert np.shape(row["image"]) == (32, 62, 1)  # a line no longer than it has pictures


def test_the_signature_shows_everything(project: Project) -> None:
    signature = mlflow.models.get_model_info(str(project.folder / "model")).signature
    assert signature.inputs.input_names() == ["seed", "to_seed", "position", "z", "label", "truncation"]
    assert {param.name: param.default for param in signature.params} == {"format": "png", "grid": 0}


WHOLE = "a seed is a whole number from 0 to 9007199254740991."
GRID = "give how many pictures stand in a line of one large picture, at most 1024, or 0 for separate pictures."


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"seed": 1, "to_seed": 2}, "Row 0 has to_seed and no position: a picture between two seeds needs both."),
        ({"seed": 1, "position": 0.5}, "Row 0 has position and no to_seed: a picture between two seeds needs both."),
        ({"seed": 1, "to_seed": -2, "position": 0}, f"Row 0 has to_seed=-2: {WHOLE}"),
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
            "Row 0 has both z and to_seed: the way to another seed begins at a seed.",
        ),
        (
            {"seed": 1, "label": "ten"},
            "Row 0 has label='ten': give a class, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, or its index from 0.",
        ),
    ],
)
def test_a_way_that_cannot_be_gone(digits: Server, row: dict[str, object], sentence: str) -> None:
    reply = digits.records(row)
    assert (reply.status, reply.body["message"]) == (400, sentence)


@pytest.mark.parametrize("grid", ["x", 1.5, -1, 1025, True])
def test_a_grid_that_cannot_be_made(digits: Server, grid: object) -> None:
    reply = digits.records({"seed": 1}, grid=grid)
    assert (reply.status, reply.body["message"]) == (400, f"grid={grid!r} is not possible: {GRID}")


def test_a_grid_too_large_for_webp(digits: Server) -> None:
    reply = digits.records(*({"seed": seed} for seed in range(600)), grid=600, format="webp")
    assert (reply.status, reply.body["message"]) == (
        400,
        "A picture of 18002×32 pixels is too large for WebP, whose sides have at most 16,383: ask for format=png, or "
        "for fewer pictures.",
    )


# ---- one seed, one picture -------------------------------------------------------------------------------------------


def connections(server: Server) -> dict[int, http.client.HTTPConnection]:
    """A connection to each worker, by the worker's process."""
    found: dict[int, http.client.HTTPConnection] = {}
    for _ in range(200):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", "/ping")
        connection.getresponse().read()
        mine = connection.sock.getsockname()[1]
        for process in psutil.Process(server.pid).children(recursive=True):
            if any(c.raddr and c.raddr.port == mine for c in process.net_connections()):
                found.setdefault(process.pid, connection)
        if len(found) == WORKERS:
            return found
    raise AssertionError(f"only {len(found)} of {WORKERS} workers took a connection")


def ask(connection: http.client.HTTPConnection, seeds: list[int]) -> dict[int, str]:
    body = json.dumps({"dataframe_records": [{"seed": seed} for seed in seeds]})
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    return {row["seed"]: row["image"] for row in json.loads(connection.getresponse().read())["predictions"]}


def test_a_seeds_picture_is_the_same_alone_in_any_batch_order_and_at_any_concurrency_on_every_worker(
    digits: Server,
) -> None:
    random = np.random.default_rng(1)
    seeds = [0, 2**32 - 1, 2**32, LARGEST_SEED, *random.integers(0, LARGEST_SEED, 66).tolist()]
    workers = connections(digits)
    alone = [{seed: ask(connection, [seed])[seed] for seed in seeds} for connection in workers.values()]
    assert alone[0] == alone[1]
    assert len(set(alone[0].values())) == len(seeds)
    batches = [random.permutation(seeds)[:count].tolist() for count in (1, 1, 2, 3, 7, 64, 65, 70) * 3]
    with ThreadPoolExecutor(8) as pool:  # each on a connection of its own, to whichever worker
        replies = list(pool.map(lambda batch: digits.records(*({"seed": seed} for seed in batch)), batches))
    for batch, reply in zip(batches, replies, strict=True):
        made = {row["seed"]: row["image"] for row in reply.body["predictions"]}
        assert made == {seed: alone[0][seed] for seed in batch}
    for connection in workers.values():
        assert ask(connection, seeds[::-1]) == alone[0]


# ---- where it ran, and too many at once ------------------------------------------------------------------------------


def test_every_answer_says_where_it_was_made(digits: Server, project: Project) -> None:
    for reply in (digits.records({"seed": 1}), digits.records({"sede": 1})):
        assert reply.headers["x-gan-device"] in ("cpu", "cuda")
        if reply.headers["x-gan-device"] == "cpu":
            assert (
                "NVIDIA driver" in reply.headers["x-gan-fallback"] or "onnxruntime" in reply.headers["x-gan-fallback"]
            )
            assert reply.headers["x-gan-fallback"] in digits.log.read_text()
    on_cpu = mlflow.pyfunc.load_model(str(project.folder / "model"), model_config={"device": "cpu"})
    assert on_cpu.predict(pd.DataFrame({"seed": [1]})).attrs == {"x-gan-device": "cpu"}  # asked for, so no fallback


def test_one_request_too_many_is_refused_at_once_and_the_others_are_answered(project: Project) -> None:
    config = json.dumps({"max_waiting": 2, "device": "cpu"})
    many: list[dict[str, object]] = [{"seed": seed} for seed in range(1024)]
    with serving(project, "model", "local", wait_s=120, SERVING_MODEL_CONFIG=config) as server:
        assert "and 2 requests may wait" in server.log.read_text()

        def timed(_: int) -> tuple[int, float, str | None, str]:
            start = time.monotonic()
            reply = server.records(*many, grid=32)
            return reply.status, time.monotonic() - start, reply.headers["retry-after"], reply.text

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(timed, range(8)))
        answered = [seconds for status, seconds, _, _ in replies if status == 200]
        refused = [(seconds, hint, text) for status, seconds, hint, text in replies if status == 503]
        assert len(answered) >= 2
        assert len(answered) + len(refused) == 8
        assert refused
        for seconds, hint, text in refused:
            assert seconds < min(answered)
            assert int(hint or 0) >= 1
            assert json.loads(text)["message"] == (
                f"2 requests are waiting already, which is the limit: try again in {hint} s."
            )
        assert server.records({"seed": 1}).status == 200


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"batching": "yes"}, "batching='yes' is unknown: give one of auto, on, off."),
        ({"max_waiting": 0}, "max_waiting=0 is not possible: give a whole number of at least 1."),
        ({"threads": 1.5}, "threads=1.5 is not possible: give a whole number of at least 1, or null."),
        ({"gpu_memory_mb": True}, "gpu_memory_mb=True is not possible: give a whole number of at least 1, or null."),
    ],
)
def test_options_that_are_not_possible(project: Project, config: dict[str, object], sentence: str) -> None:
    with pytest.raises(MlflowException) as refusal:
        mlflow.pyfunc.load_model(str(project.folder / "model"), model_config=config)
    assert str(refusal.value) == sentence


def test_options_travel_with_the_model(tmp_path: Path) -> None:
    options = ServingOptions(device="cpu", max_rows=3, max_waiting=9, batching="on", threads=1, gpu_memory_mb=2048)
    flavor.save_model(ONNX_FILE, tmp_path / "model", options=options)
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert model.model_config == {
        "device": "cpu", "max_rows": 3, "max_waiting": 9, "batching": "on", "threads": 1, "gpu_memory_mb": 2048,
    }  # fmt: skip
    with pytest.raises(MlflowException, match="4 rows and 3 is the limit"):
        model.predict(pd.DataFrame({"seed": range(4)}))
    assert model.get_raw_model().batched


def test_cuda_libraries_are_required_where_cuda_is_demanded() -> None:
    plain, cuda = flavor.get_default_pip_requirements("cpu"), flavor.get_default_pip_requirements("cuda")
    changed = [(one, other) for one, other in zip(plain, cuda, strict=True) if one != other]
    ((one, other),) = changed
    assert one.replace("onnxruntime-gpu==", "onnxruntime-gpu[cuda,cudnn]==") == other
