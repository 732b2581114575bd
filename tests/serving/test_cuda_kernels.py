"""Every file that this package exports runs on CUDA, each node of it: where ONNX Runtime itself would place them.

Without a GPU: the sessions are real, NVIDIA's libraries are stand-ins (tests/cuda_helpers.py).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from cuda_helpers import fake_gpu, need_cuda_build, need_no_cuda_libraries
from helpers import PATIENCE_S, ROOT
from onnx import TensorProto, helper

from gan_plugin.config.recipe import load_recipe, recipe_names
from gan_plugin.export import OPSET, write_onnx
from gan_plugin.networks import new_generator
from gan_plugin.networks.wrappers import Quantized
from gan_plugin.serving.description import Description
from gan_plugin.spec import image_spec

DIGITS = ROOT / "examples" / "digits.onnx"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
SPEC = image_spec(16, 16, 1, class_names="abc")
CUDA = "CUDAExecutionProvider"

# for each file: the provider of each of its nodes, by the node's name, and of each one that is left once ONNX Runtime
# has optimized the graph
PLACE = """
import json, sys
import onnxruntime
from gan_plugin.serving.session import CPU, CUDA, cuda_options

def placed(file, level):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [(CUDA, cuda_options(0, None)), CPU]
    session = onnxruntime.InferenceSession(file, options, providers=providers, enable_fallback=0)
    parts = session.get_provider_graph_assignment_info()
    return {node.name: part.ep_name for part in parts for node in part.get_nodes()}

levels = (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
print(json.dumps({file: [placed(file, level) for level in levels] for file in sys.argv[1:]}))
"""


def in_process(code: str, *words: str | Path, variables: dict[str, str]) -> str:
    """What a program prints in a process of its own: these libraries can't be loaded into this one, nor unloaded."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def off_cuda(files: list[Path], variables: dict[str, str]) -> dict[str, set[str]]:
    """The nodes of each file that CUDA does not run, as names and operators, but for those that compute shapes."""
    placements = json.loads(in_process(PLACE, *files, variables=variables))
    wrong: dict[str, set[str]] = {}
    for file in files:
        graph = onnx.load(file).graph
        exported, optimized = placements[str(file)]
        shapes = shape_nodes(graph)
        # a constant is no computation: ONNX Runtime takes it for a weight
        nodes = {node.name: node.op_type for node in graph.node if node.op_type != "Constant"}
        assert len(nodes) == sum(node.op_type != "Constant" for node in graph.node)  # each has a name of its own
        off = {name for name in nodes if exported.get(name) != CUDA} - shapes
        off |= {name for name, provider in optimized.items() if provider != CUDA} - shapes
        if off:
            wrong[file.name] = {f"{name}: {nodes.get(name, 'from the optimizer')}" for name in off}
    return wrong


def shape_nodes(graph: onnx.GraphProto) -> set[str]:
    """The names of the nodes that compute from shapes and weights alone.

    Shapes lie in the host's memory, and ONNX Runtime leaves such nodes to the CPU, whatever kernels there are.
    """
    constant = {weight.name for weight in graph.initializer}
    constant |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    shapes: set[str] = set()
    names: set[str] = set()
    for node in graph.node:  # in an order in which each comes after those that it depends on
        inputs = set(node.input)
        if node.op_type == "Shape" or (inputs & shapes and inputs <= shapes | constant):
            shapes |= set(node.output)
            names.add(node.name)
    return names


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    need_cuda_build()
    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} does not say where it places nodes")
    return fake_gpu(tmp_path_factory.mktemp("gpu"))


def test_every_node_of_every_recipes_file_runs_on_cuda(gpu: dict[str, str], tmp_path: Path) -> None:
    """In both precisions; with labels, since files without are a part of those; narrow and with one block a stage,
    since more blocks are the same nodes again. Recipes with the same generator share a file.
    """
    known: set[str] = set()
    files = [DIGITS]
    for recipe in map(load_recipe, recipe_names()):
        narrow = dataclasses.replace(recipe, width=32, blocks=1, full_stages=1)
        generator = new_generator(narrow, SPEC)
        if repr(generator) in known:
            continue
        known.add(repr(generator))
        for name, dtype in DTYPES.items():
            path = tmp_path / f"{recipe.name}-{name}.onnx"
            description = Description(recipe.latent_size, SPEC)
            write_onnx(Quantized(copy.deepcopy(generator), dtype).eval(), description, path)
            files.append(path)
    assert len(files) > 2 * 3  # more than one file for each family
    assert off_cuda(files, gpu) == {}


@pytest.mark.parametrize(
    ("operator", "kind"), [("Hardmax", TensorProto.FLOAT), ("Relu", TensorProto.INT32)], ids=["operator", "type"]
)
def test_an_operator_or_a_type_without_a_kernel_is_found(
    operator: str, kind: int, gpu: dict[str, str], tmp_path: Path
) -> None:
    """CUDA has no Hardmax, and a Relu of floating point only."""
    nodes = [
        helper.make_node("Cast", ["z"], ["x"], to=kind, name="before"),
        helper.make_node(operator, ["x"], ["y"], name="planted"),
        helper.make_node("Cast", ["y"], ["image"], to=TensorProto.UINT8, name="after"),
    ]
    values = (("z", TensorProto.FLOAT), ("image", TensorProto.UINT8))
    z, image = (helper.make_tensor_value_info(name, type, ["batch", 4]) for name, type in values)
    model = helper.make_model(
        helper.make_graph(nodes, "planted", [z], [image]), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
    )
    onnx.save_model(model, tmp_path / "planted.onnx")
    assert off_cuda([tmp_path / "planted.onnx"], gpu) == {"planted.onnx": {f"planted: {operator}"}}


def test_a_session_opens_on_cuda_with_the_options_that_serving_gives(gpu: dict[str, str]) -> None:
    """ONNX Runtime refuses one that it does not know."""
    need_no_cuda_libraries()
    code = "import sys; from gan_plugin.serving.session import open_session; print(open_session(*sys.argv[1:], "
    assert in_process(f"{code}gpu_memory_mb=512).provider)", DIGITS, "cuda", variables=gpu).strip() == CUDA
