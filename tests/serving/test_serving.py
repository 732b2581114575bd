"""``mlflow models serve`` over loopback, and the same model in process: the contract, and every refusal."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from helpers import Server, Trained, refusal, serving
from mlflow.exceptions import MlflowException
from PIL import Image

from gan_plugin import flavor
from gan_plugin.seeds import latents
from gan_plugin.serving.description import Description
from gan_plugin.serving.requests import read_request
from gan_plugin.spec import image_spec

IMAGE = npt.NDArray[np.uint8]


def decode(image: str) -> IMAGE:
    assert "\n" not in image
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))


# ---- what is answered ------------------------------------------------------------------------------------------------


def test_each_row_of_an_answer_is_an_image(server: Server, store: Trained) -> None:
    reply = server.records({"seed": 1}, {"seed": 2})
    assert reply.status == 200
    rows = reply.body["predictions"]
    assert [row["seed"] for row in rows] == [1, 2]
    images = np.stack([decode(row["image"]) for row in rows])
    expected = flavor.load_model(store.model_uri).sample([1, 2])[:, :, :, 0]
    np.testing.assert_array_equal(images, expected)
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["seed"], "data": [[1], [2]]}},
        {"inputs": {"seed": [1, 2]}},
        {"inputs": [{"seed": 1}, {"seed": 2}]},
        {"instances": [{"seed": 1}, {"seed": 2}]},
    ],
)
def test_every_json_form_of_mlflow_gives_the_same(server: Server, body: dict[str, object]) -> None:
    reply = server.post(body)
    assert reply.status == 200, reply.text
    assert reply.body == server.records({"seed": 1}, {"seed": 2}).body


def test_array_is_the_same_image_in_gray_levels(server: Server) -> None:
    array = server.records({"seed": 7}, format="array").body["predictions"][0]["image"]
    assert np.shape(array) == (16, 16, 1)
    np.testing.assert_array_equal(
        np.array(array)[:, :, 0], decode(server.records({"seed": 7}).body["predictions"][0]["image"])
    )


def test_the_z_of_a_seed_gives_the_seeds_image(server: Server) -> None:
    by_z, by_seed = server.records({"z": latents(3, 100)[0].tolist()}, {"seed": 3}).body["predictions"]
    assert by_z["image"] == by_seed["image"]
    assert (by_z["seed"], by_seed["seed"]) == (None, 3)


def test_truncation_is_applied_row_by_row(server: Server, store: Trained) -> None:
    rows = server.records({"seed": 3}, {"seed": 3, "truncation": 0.4}, {"seed": 3, "truncation": 9}).body["predictions"]
    free, cut, loose = (row["image"] for row in rows)
    assert free == loose != cut
    expected = flavor.load_model(store.model_uri).sample([3], truncation=0.4)[0, :, :, 0]
    np.testing.assert_array_equal(decode(cut), expected)


def test_a_seeds_image_is_the_same_alone_in_any_batch_order_and_at_any_concurrency(server: Server) -> None:
    seeds = [int(seed) for seed in np.random.default_rng(0).integers(0, 2**53 - 1, 70)]
    alone = {seed: server.records({"seed": seed}).body["predictions"][0]["image"] for seed in seeds}
    shuffled = [
        np.random.default_rng(i).permutation(seeds)[:count].tolist() for i, count in enumerate([2, 3, 7, 64, 65, 70])
    ]
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda batch: server.records(*({"seed": seed} for seed in batch)), shuffled))
    for batch, reply in zip(shuffled, replies, strict=True):
        assert {row["seed"]: row["image"] for row in reply.body["predictions"]} == {seed: alone[seed] for seed in batch}


# ---- what is refused -------------------------------------------------------------------------------------------------

SEED = "a seed is a whole number from 0 to 9007199254740991."
COLUMNS = "a row may have seed, to_seed, position, z, label, truncation, image, edit"
Z = "this generator takes a list of 100 finite numbers."
REFUSALS = [
    ([{"seed": 1.5}], f"Row 0 has seed=1.5: {SEED}"),
    ([{"seed": 0}, {"seed": -3}], f"Row 1 has seed=-3: {SEED}"),
    ([{"seed": 2**53}], f"Row 0 has seed=9007199254740992: {SEED}"),
    ([{"seed": 2**63}], f"Row 0 has seed=9223372036854775808: {SEED}"),
    ([{"seed": 10**30}], f"Row 0 has seed=1000000000000000000000000000000: {SEED}"),
    ([{"seed": "7"}], f"Row 0 has seed='7': {SEED}"),
    ([{"seed": True}], f"Row 0 has seed=True: {SEED}"),
    ([{"seed": None}], "Row 0 has none of seed, z and image: give one of them."),
    ([{"truncation": 1}], "Row 0 has none of seed, z and image: give one of them."),
    ([{"seed": 1, "z": [0.0] * 100}], "Row 0 has both seed and z: give one of them."),
    ([{"seed": 1}, {"z": [0.0] * 99}], f"Row 1 has a z that does not fit: {Z}"),
    ([{"z": ["a"] * 100}], f"Row 0 has a z that does not fit: {Z}"),
    ([{"z": [[0.0] * 100]}], f"Row 0 has a z that does not fit: {Z}"),
    ([{"z": [0.0] * 100, "truncation": 1}], "Row 0 has both z and truncation: truncation applies to seeds only."),
    (
        [{"seed": 1, "truncation": 0}],
        "Row 0 has truncation=0: truncation is a number of at least 0.1, in standard deviations.",
    ),
    ([{"seed": 1, "label": "cat"}], "This generator was trained without classes: leave out the column label."),
    ([{"sede": 1}], f"Unknown column sede: {COLUMNS}."),
    ([{"seed": 1, "lable": 3}], f"Unknown column lable: {COLUMNS}."),
    ([], "The request has no rows: send one row with a seed for each image."),
    (
        [{"seed": seed} for seed in range(10_000)],
        "The request has 10000 rows and 1024 is the limit: send several smaller requests.",
    ),
]


@pytest.mark.parametrize(("rows", "sentence"), REFUSALS, ids=[sentence[:40] for _, sentence in REFUSALS])
def test_a_request_that_cannot_be_honored_gets_400_and_one_sentence(
    server: Server, rows: list[dict[str, object]], sentence: str
) -> None:
    reply = server.records(*rows)
    assert (reply.status, reply.body["message"]) == (400, sentence)
    assert "Traceback" not in reply.text
    assert len(reply.text) < 400


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"format": "gif"}, "format='gif' is unknown: give one of png, webp, array."),
        ({"fromat": "png"}, "Unknown parameter fromat: there is format, grid."),
    ],
)
def test_wrong_parameters(server: Server, params: dict[str, str], sentence: str) -> None:
    reply = server.records({"seed": 1}, **params)
    assert (reply.status, reply.body["message"]) == (400, sentence)


def test_the_server_goes_on_after_refusals(server: Server) -> None:
    before = server.records({"seed": 11}).text
    for rows, _ in REFUSALS:
        server.records(*rows)
    assert server.records({"seed": 11}).text == before


def labels_of_rows(class_names: Sequence[str], *rows: dict[str, object]) -> list[int]:
    description = Description(4, image_spec(16, 16, 1, class_names=class_names))
    request = read_request(pd.DataFrame(rows), description, max_rows=10)
    labels = request.label_array()
    assert labels is not None
    return [int(label) for label in labels]


def test_classes_by_name_and_by_index() -> None:
    labels = functools.partial(labels_of_rows, ("cat", "dog", "2"))
    assert labels({"seed": 0, "label": "dog"}, {"seed": 1, "label": 0}, {"seed": 2, "label": "2"}) == [1, 0, 2]
    assert labels({"seed": 4}, {"seed": 5}) == [1, 2]  # seed mod classes
    for wrong in ("cow", 3, -1, 0.5):
        sentence = f"Row 0 has label={wrong!r}: give a class, cat, dog, 2, or its index from 0."
        assert refusal(lambda wrong=wrong: labels({"seed": 0, "label": wrong})) == sentence
    assert refusal(lambda: labels({"z": [0.0] * 4})).startswith("Row 0 has z and no label: give a class")


def test_a_thousand_classes_with_long_names() -> None:
    names = [f"{i}_".ljust(200, "x") for i in range(1000)]
    labels = functools.partial(labels_of_rows, names)
    assert labels({"seed": 0, "label": names[700]}, {"seed": 1, "label": 999}, {"seed": 2998}) == [700, 999, 998]
    for wrong in ("y" * 300, 1000):
        sentence = refusal(lambda wrong=wrong: labels({"seed": 0, "label": wrong}))
        assert sentence.endswith("… (1,000 in all), or its index from 0.")
        assert names[0][:40] in sentence
        assert len(sentence) < 1100


# ---- in process ------------------------------------------------------------------------------------------------------


def test_pyfunc_takes_frames_dicts_and_lists(store: Trained) -> None:
    model = mlflow.pyfunc.load_model(store.model_uri)
    frame = model.predict(pd.DataFrame({"seed": [5, 6]}))
    assert list(frame.columns) == ["seed", "image"]
    assert frame["seed"].tolist() == [5, 6]
    for same in ({"seed": [5, 6]}, [{"seed": 5}, {"seed": 6}], pd.DataFrame({"seed": np.array([5, 6], np.int32)})):
        pd.testing.assert_frame_equal(model.predict(same), frame)
    array = model.predict(pd.DataFrame({"seed": [5]}), params={"format": "array"})["image"][0]
    np.testing.assert_array_equal(np.array(array)[:, :, 0], decode(frame["image"][0]))


def test_pyfunc_refuses_like_the_server(store: Trained) -> None:
    model = mlflow.pyfunc.load_model(store.model_uri)
    for data in ({"sede": [1]}, [{"sede": 1}], pd.DataFrame({"sede": [1]})):
        with pytest.raises(
            MlflowException, match=r"^Unknown column sede: a row may have seed, to_seed, position, z, label, trunc"
        ):
            model.predict(data)
    with pytest.raises(MlflowException, match=r"^Row 0 has seed=0\.5"):
        model.predict(pd.DataFrame({"seed": [0.5]}))


def columns_seen(model_input: pd.DataFrame) -> list[str]:
    return list(model_input.columns)


def test_other_models_keep_mlflows_own_checks(store: Trained, tmp_path: Path) -> None:
    """Unknown columns are refused for generators only; another model in the same process ignores them as always."""
    mlflow.pyfunc.load_model(store.model_uri)
    only_a = mlflow.models.ModelSignature(mlflow.types.Schema([mlflow.types.ColSpec("long", "a")]))
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=columns_seen, signature=only_a, pip_requirements=[])
    other = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    assert other.predict(pd.DataFrame({"a": [1], "b": [2]})) == ["a"]


def test_the_limit_and_the_device_are_configurable(store: Trained) -> None:
    model = mlflow.pyfunc.load_model(store.model_uri, model_config={"max_rows": 2})
    assert len(model.predict(pd.DataFrame({"seed": [1, 2]}))) == 2
    with pytest.raises(MlflowException, match=r"3 rows and 2 is the limit"):
        model.predict(pd.DataFrame({"seed": [1, 2, 3]}))
    with pytest.raises(
        MlflowException, match=r"^max_rows='9' is not possible: give a whole number from 1 to 16,384\.$"
    ):
        mlflow.pyfunc.load_model(store.model_uri, model_config={"max_rows": "9"})
    with pytest.raises(MlflowException, match=r"^device='gpu' is unknown: give one of auto, cuda, cpu\.$"):
        mlflow.pyfunc.load_model(store.model_uri, model_config={"device": "gpu"})


def test_cuda_that_cannot_be_used_is_refused_with_the_cause(store: Trained) -> None:
    generator = flavor.load_model(store.model_uri)
    if generator.provider == "CUDAExecutionProvider":
        pytest.skip("there is a GPU")
    with pytest.raises(
        MlflowException, match=r"^device=cuda was demanded but CUDA cannot be used: .*(driver|onnxruntime)"
    ):
        mlflow.pyfunc.load_model(store.model_uri, model_config={"device": "cuda"})


def test_the_log_of_the_server_has_the_device_and_the_limits(server: Server) -> None:
    log = server.log.read_text()
    assert "The generator runs on C" in log  # CPUExecutionProvider or CUDAExecutionProvider
    assert "a request may have 1024 rows and 16 images, and a server 256 requests" in log


# ---- a fresh environment ---------------------------------------------------------------------------------------------


def test_serving_from_a_fresh_environment(trained: Trained, server: Server, store: Trained) -> None:
    """uv installs the model's own requirements: no torch, and no gan_plugin but the one that the model carries."""
    model_uri = f"models:/{trained.run.outputs.model_outputs[0].model_id}"
    requirements = mlflow.pyfunc.get_model_dependencies(model_uri)
    lines = Path(requirements).read_text().splitlines()
    names = {line.split("=")[0].split(";")[0].strip() for line in lines}
    assert names == {
        "mlflow-skinny", "numpy", "pandas", "pillow", "onnxruntime-gpu", "onnxruntime", "uvloop", "httptools",
    }  # fmt: skip
    with serving(trained.project, trained.model_uri, env_manager="uv") as fresh:
        assert fresh.records({"seed": 5}).body == server.records({"seed": 5}).body
        refused = fresh.records({"sede": 5})
        assert (refused.status, refused.body["message"].split(":")[0]) == (400, "Unknown column sede")
