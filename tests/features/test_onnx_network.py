"""Feature networks in ONNX files: layout, size, batch, digest, and files that are refused."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from features_helpers import CPU, noise, noisy_dataset, pixels
from helpers import refusal
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from gan_plugin.features import load_network, onnx_network
from gan_plugin.features.onnx_network import OnnxNetwork, load_onnx_network
from gan_plugin.media.image import Images


def onnx_file(
    path: Path,
    shape: tuple[int | str, ...] = ("n", 3, "h", "w"),
    *,
    dtype: int = TensorProto.FLOAT,
    logits: bool = False,
    keep: int = 0,
) -> Path:
    """A network whose features are each channel's mean and mean square, and whose logits are their doubles."""
    axes = [1, 2] if shape[3] in (1, 3) else [2, 3]
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=axes),
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "x"], ["xx"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=keep),
        helper.make_node("ReduceMean", ["xx", "axes"], ["square"], keepdims=keep),
        helper.make_node("Concat", ["mean", "square"], ["features"], axis=1),
        helper.make_node("Mul", ["features", "two"], ["logits"]),
    ]
    dimensions = [shape[0], "d", *[1, 1][: 2 * keep]]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dimensions) for name in ("features", "logits")]
    constants = [numpy_helper.from_array(np.array(2, np.float32), "two")]
    entry = helper.make_tensor_value_info("images", dtype, shape)
    graph = helper.make_graph(nodes, "features", [entry], outputs[: 1 + logits], constants)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def expected_features(images: Images, divisor: int = 255) -> np.ndarray:
    x = images.astype(np.float64) / divisor
    return np.concatenate([x.mean((1, 2)), (x * x).mean((1, 2))], 1)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.UINT8])
@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), ("n", "h", "w", 3), ("n", 1, "h", "w"), ("n", 8, 9, 3)])
def test_layout_and_type_follow_the_file(tmp_path: Path, shape: tuple[int | str, ...], dtype: int) -> None:
    network = OnnxNetwork(onnx_file(tmp_path / "f.onnx", shape, dtype=dtype), CPU)
    channels = 1 if 1 in shape else 3
    images = noise(5, 8, 9, channels)
    features, logits = network(images)
    assert features.dtype == torch.float32
    assert logits is None
    assert np.allclose(features, expected_features(images, 255 if dtype == TensorProto.FLOAT else 1), rtol=1e-5)
    if channels == 3:
        gray = network(images[..., :1])
        repeated = network(images[..., :1].repeat(3, 3))
        assert torch.equal(gray.features, repeated.features)
    else:
        assert "takes gray images" in refusal(lambda: network(noise(5, 8, 9, 3)))


def test_images_are_resized_to_a_fixed_size_with_antialiasing(tmp_path: Path) -> None:
    fixed = OnnxNetwork(onnx_file(tmp_path / "fixed.onnx", ("n", 3, 8, 12)), CPU)
    any_size = OnnxNetwork(onnx_file(tmp_path / "any_size.onnx"), CPU)
    images = noise(3, 32, 32, 3)
    small = np.stack([np.asarray(Image.fromarray(image).resize((12, 8), Image.Resampling.BICUBIC)) for image in images])
    assert torch.equal(fixed(images).features, any_size(small).features)
    chessboard = (np.indices((1, 32, 32, 1)).sum(0) % 2 * 255).astype(np.uint8)
    mean, square = fixed(chessboard).features[0, [0, 3]].tolist()
    assert square - mean**2 < 0.01  # a chessboard becomes uniform gray; without antialiasing squares would remain
    assert "bicubic" in fixed.resize
    assert "8x12" in fixed.resize
    assert any_size.resize == "none"
    assert np.allclose(fixed(chessboard[..., :1]).features, fixed(chessboard.repeat(3, 3)).features)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    graph = onnx.load(onnx_file(tmp_path / "f.onnx"))
    for node in graph.graph.node:
        if node.op_type == "Mul" and node.output[0] == "xx":
            node.op_type = "Div"  # 0/0 where an image is black
    onnx.save(graph, tmp_path / "f.onnx")
    network = OnnxNetwork(tmp_path / "f.onnx", CPU)
    assert network(noise(2, 8, 8, 3) | 1).features.isfinite().all()
    message = refusal(lambda: network(np.zeros((2, 8, 8, 3), np.uint8)))
    assert "gives features that are infinite or not a number" in message


def test_a_fixed_batch_is_padded(tmp_path: Path) -> None:
    network = OnnxNetwork(onnx_file(tmp_path / "f.onnx", (4, 3, "h", "w"), logits=True), CPU)
    images = noise(6, 8, 8, 3)
    features, logits = network(images)
    assert np.allclose(features, expected_features(images), rtol=1e-5)
    assert logits is not None
    assert torch.equal(logits, 2 * features)


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_plugin.features.network.PIXELS_AT_ONCE", 2 * 64)
    network = OnnxNetwork(onnx_file(tmp_path / "f.onnx"), CPU)
    sizes, session = [], network.session

    class Counting:
        def run(self, names: list[str], feeds: dict[str, np.ndarray], options: object) -> list[np.ndarray]:
            sizes.append(len(feeds["images"]))
            return list(session.run(names, feeds))

    network.session = Counting()
    assert network(noise(5, 8, 8, 3)).features.shape == (5, 6)
    assert sizes == [2, 2, 1]


def test_name_and_digest_follow_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = onnx_file(tmp_path / "my features (v2).onnx")
    network = OnnxNetwork(file, CPU)
    assert network.name == f"onnx-my_features__v2_-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    assert len(bytes.fromhex(network.digest)) == 16
    other = OnnxNetwork(onnx_file(tmp_path / "other.onnx", logits=True), CPU)
    assert other.digest != network.digest
    moved = OnnxNetwork(onnx_file(tmp_path / "elsewhere/renamed.onnx"), CPU)
    assert moved.digest == network.digest
    monkeypatch.setattr(OnnxNetwork, "resize", "another resize")
    assert OnnxNetwork(file, CPU).digest != network.digest


def test_the_digest_covers_weights_beside_the_file(tmp_path: Path) -> None:
    """torch.onnx.export writes large networks in this form."""
    model = onnx.load(onnx_file(tmp_path / "one.onnx", logits=True))
    file = tmp_path / "beside/f.onnx"
    file.parent.mkdir()
    onnx.save(model, file, save_as_external_data=True, location="f.onnx.data", size_threshold=0)
    before = OnnxNetwork(file, CPU)
    data = file.with_name("f.onnx.data")
    content = data.read_bytes()
    data.unlink()  # ONNX Runtime maps it; another file takes its place
    two = np.array(2, np.float32).tobytes()
    assert content.count(two) == 1
    data.write_bytes(content.replace(two, np.array(3, np.float32).tobytes()))
    after = OnnxNetwork(file, CPU)
    logits = [network(noise(1, 8, 8, 3)).logits for network in (before, after)]
    assert torch.allclose(1.5 * logits[0], logits[1])
    assert before.digest != after.digest
    assert before.name != after.name
    data.unlink()
    assert "f.onnx.data" in refusal(lambda: OnnxNetwork(file, CPU))


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "three dimensions": ({"shape": ("n", "h", "w")}, "['n', 'h', 'w']"),
    "no channels": ({"shape": ("n", 4, "h", "w")}, "['n', 4, 'h', 'w']"),
    "channels unknown": ({"shape": ("n", "c", "h", "w")}, "['n', 'c', 'h', 'w']"),
    "either layout": ({"shape": ("n", 3, 8, 3)}, "[N, C, H, W] or [N, H, W, C]"),
    "half a size": ({"shape": ("n", 3, 8, "w")}, "both height and width, or neither"),
    "integers": ({"dtype": TensorProto.INT64}, "tensor(int64)"),
    "halves": ({"dtype": TensorProto.FLOAT16}, "tensor(float16)"),
    "feature maps": ({"keep": 1}, "['n', 6, 1, 1]"),
}


@pytest.mark.parametrize(("options", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_does_not_meet_the_requirements_is_refused(
    tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    if len(options.get("shape", ())) == 3:  # onnx_file's means need four dimensions
        file = three_dimensions(tmp_path / "f.onnx")
    else:
        file = onnx_file(tmp_path / "f.onnx", **options)
    message = refusal(lambda: OnnxNetwork(file, CPU))
    assert "f.onnx" in message
    assert expected in message


def three_dimensions(path: Path) -> Path:
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", "h", "w"))
    node = helper.make_node("Identity", ["images"], ["features"])
    return save_graph(path, [node], inputs=[entry], dtype=TensorProto.FLOAT)


def save_graph(path: Path, nodes: list[Any], *, inputs: list[Any], dtype: int) -> Path:
    output = helper.make_tensor_value_info("features", dtype, None)
    graph = helper.make_graph(nodes, "features", inputs, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 3, "h", "w")) for name in ("images", "masks")
    ]
    file = save_graph(
        tmp_path / "f.onnx",
        [helper.make_node("Add", ["images", "masks"], ["features"])],
        inputs=inputs,
        dtype=TensorProto.FLOAT,
    )
    assert "has 2 inputs (images, masks)" in refusal(lambda: OnnxNetwork(file, CPU))


def test_features_that_are_integers_are_refused(tmp_path: Path) -> None:
    entry = helper.make_tensor_value_info("images", TensorProto.UINT8, ("n", 3, "h", "w"))
    node = helper.make_node("Identity", ["images"], ["features"])
    file = save_graph(tmp_path / "f.onnx", [node], inputs=[entry], dtype=TensorProto.UINT8)
    assert "tensor(uint8)" in refusal(lambda: OnnxNetwork(file, CPU))


def test_features_of_another_number_of_rows_are_refused_when_it_is_loaded(tmp_path: Path) -> None:
    file = reshaping(tmp_path / "f.onnx", [-1, 16])
    message = refusal(lambda: load_network(f"onnx:{file}", noisy_dataset(), CPU))
    assert "[48, 16] for a batch of 1" in message


def reshaping(path: Path, shape: list[int]) -> Path:
    """A network whose features are the pixels, [N, 3, H, W] in another shape."""
    entry = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("n", 3, "h", "w"))
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=shape),
        helper.make_node("Reshape", ["images", "shape"], ["features"]),
    ]
    return save_graph(path, nodes, inputs=[entry], dtype=TensorProto.FLOAT)


def test_images_that_the_network_cannot_compute_are_refused_when_it_is_loaded(tmp_path: Path) -> None:
    rgb = replace(noisy_dataset(), samples=torch.from_numpy(noise(12, 3, 16, 16)))
    gray = onnx_file(tmp_path / "gray.onnx", ("n", 1, "h", "w"))
    assert "takes gray images" in refusal(lambda: load_network(f"onnx:{gray}", rgb, CPU))
    file = reshaping(tmp_path / "f.onnx", [-1, 7])
    assert "f.onnx cannot compute images of 16x16x1" in refusal(
        lambda: load_network(f"onnx:{file}", noisy_dataset(), CPU)
    )


def endless(path: Path) -> Path:
    """A network with a loop whose condition stays true."""
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["condition"], ["again"]), helper.make_node("Add", ["x", "one"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            condition,
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0, axes=[2, 3]),
            helper.make_node("Loop", ["", "true", "mean"], ["features"], body=body),
        ],
        "endless",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 3])],
        [
            helper.make_tensor("true", TensorProto.BOOL, [], [True]),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_network_that_never_ends_is_stopped_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_network, "SECONDS_PER_IMAGE", 0.3)
    path = endless(tmp_path / "endless.onnx")
    assert refusal(lambda: load_network(f"onnx:{path}", noisy_dataset(), CPU)) == (
        "endless.onnx takes more than 0.3 seconds for 1 images and was stopped: give a network that is faster."
    )


def test_weights_in_a_pipe_are_refused(tmp_path: Path) -> None:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "piped",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [tensor],
    )
    (tmp_path / "x.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    os.mkfifo(tmp_path / "weights.bin")
    message = refusal(lambda: load_onnx_network(str(tmp_path / "x.onnx"), CPU))
    assert message.endswith(f"has weights in {tmp_path}/weights.bin, which is not a regular file.")


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.onnx").write_text("not a network")
    assert "not an ONNX file" in refusal(lambda: load_onnx_network(str(tmp_path / "f.onnx"), CPU))


def test_a_path_a_folder_and_a_uri_are_the_same_network(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "model/f.onnx")
    (file.parent / "MLmodel").write_text("flavors: {}")
    names = {
        load_onnx_network(text, CPU).name for text in (str(file), str(file.parent), file.as_uri(), file.parent.as_uri())
    }
    assert len(names) == 1
    network = load_network(f"onnx:{file.as_uri()}", noisy_dataset(), CPU)
    assert network(pixels(noisy_dataset())).features.shape == (12, 6)
    onnx_file(tmp_path / "model/g.onnx")
    assert "2 ONNX files (f.onnx, g.onnx)" in refusal(lambda: load_onnx_network(file.parent.as_uri(), CPU))


def test_a_uri_that_cannot_be_fetched_is_one_sentence(tmp_path: Path) -> None:
    uri = (tmp_path / "nothing.onnx").as_uri()
    assert f"onnx:{uri} cannot be fetched" in refusal(lambda: load_onnx_network(uri, CPU))
