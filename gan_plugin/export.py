"""Export a generator to one ONNX file that describes itself, and prove the file equal to the generator.

The file: opset 18, weights inside, no random operators, symbolic batch. Inputs ``z`` float32 [batch, latent_size] and,
for a conditional generator, ``label`` int64 [batch]. One output, named by the kind of sample: ``image`` uint8 [batch,
height, width, channels]. ``metadata_props`` hold a :class:`~gan_plugin.serving.generator.Description`.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from gan_plugin.media.image import Images
from gan_plugin.networks.wrappers import Quantized, QuantizedEncoder
from gan_plugin.seeds import default_labels, latents
from gan_plugin.serving.description import Description, EncoderDescription
from gan_plugin.serving.encoder import OnnxEncoder
from gan_plugin.serving.generator import BUCKETS, OnnxGenerator
from gan_plugin.spec import MAX_SEED

OPSET = 18
PARITY_BATCHES = (1, 2, 7, BUCKETS[-1])
PARITY_SEEDS = (0, 1, MAX_SEED)  # where each comparison's run of consecutive seeds begins or ends


class Tolerance(NamedTuple):
    """The largest difference allowed between a file's images and the generator's."""

    levels: int  # gray levels, in any value
    fraction: float  # of the values that may differ at all


# Rounding to 256 levels turns a difference of 1e-6 into one level where it meets the boundary. In half precision a
# value near 1 has steps of 1/2048, a sixteenth of a gray level, and several layers add up theirs.
TOLERANCES = {torch.float32: Tolerance(1, 1e-3), torch.float16: Tolerance(2, 0.1)}


MAX_UNDECIDED = 0.05  # share of the images of which an encoder's file may choose another class


class ExportError(RuntimeError):
    """The exported file breaks its contract or is not the generator; the message has the numbers."""


class ParityError(ExportError):
    """ONNX Runtime's images differ from PyTorch's by more than is allowed."""

    def __init__(self, parity: Parity, allowed: Tolerance) -> None:
        super().__init__(
            f"The ONNX file and the PyTorch generator differ by up to {parity.largest_difference} gray levels in "
            f"{parity.differing_pixels:.3%} of the values of {parity.images} images; allowed are "
            f"{allowed.levels} in {allowed.fraction:.1%}, so the model is not logged."
        )
        self.parity = parity


@dataclass(frozen=True)
class Parity:
    """The difference between ONNX Runtime's images and PyTorch's, over every seed and batch size compared."""

    largest_difference: int  # gray levels
    differing_pixels: float  # share of all values, 0…1
    images: int


def export_generator(
    generator: nn.Module, description: Description, path: Path, *, dtype: torch.dtype = torch.float32
) -> Parity:
    """Write ``generator`` (float32, −1…1 images from z [B, latent_size]) to ``path`` and prove the file equal to it.

    With ``dtype`` float16 the file has half the size, for GPUs with fast half precision; it is compared with the
    generator in float32, too. The generator itself is not changed, nor moved from its device.

    Raises:
        ParityError: the file's images are not the generator's.
        ExportError: the file breaks its contract.
    """
    exact = Quantized(copy.deepcopy(generator).to("cpu", torch.float32)).eval()
    write_onnx(Quantized(copy.deepcopy(generator).to("cpu", torch.float32), dtype).eval(), description, path)
    check_contract(path, description)
    parity = measure_parity(exact, path, description)
    allowed = TOLERANCES[dtype]
    if parity.largest_difference > allowed.levels or parity.differing_pixels > allowed.fraction:
        raise ParityError(parity, allowed)
    return parity


def export_encoder(
    encoder: QuantizedEncoder, description: EncoderDescription, path: Path, *, generator: OnnxGenerator, images: Images
) -> Parity:
    """Write the encoder of an exported generator to ``path`` and prove the file equal to it.

    What is compared are the images that the generator makes of the encoder's z, in place of z itself: where it hardly
    matters for an image, it need not be equal.

    Args:
        encoder: float32, on any device; it is not changed.
        description: of the file.
        generator: read from its file.
        images: uint8 [N, H, W, C], N ≥ 2, to be encoded.

    Raises:
        ParityError: the file's z are not the encoder's.
    """
    exact = copy.deepcopy(encoder).to("cpu", torch.float32).eval()
    has_labels = bool(generator.description.spec.classes)
    outputs = ["z", "features", *(["class_logits"] if has_labels else [])]
    examples = {"image": torch.from_numpy(images[:2])}
    write_module(exact, path, inputs=examples, outputs=outputs, metadata=description.to_metadata())
    onnx.checker.check_model(path, full_check=True)
    with torch.no_grad():
        z, _, *logits = (values.numpy() for values in exact(torch.from_numpy(images)))
    labels = logits[0].argmax(1) if logits else None
    expected = generator.generate(z, labels).astype(np.int16)
    encoded = OnnxEncoder(path, device="cpu").encode(images)
    difference = np.abs(generator.generate(encoded.z, encoded.labels) - expected)
    if labels is not None and encoded.labels is not None:  # of two classes alike, rounding decides, and z is another
        alike = labels == encoded.labels
        difference = difference[alike] if alike.mean() >= 1 - MAX_UNDECIDED else difference
    parity = Parity(int(difference.max()), float((difference > 0).mean()), len(difference))
    allowed = TOLERANCES[torch.float32]
    if parity.largest_difference > allowed.levels or parity.differing_pixels > allowed.fraction:
        raise ParityError(parity, allowed)
    return parity


def describe_encoder(path: Path, description: EncoderDescription) -> None:
    """Give an encoder's file another description."""
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, description.to_metadata())
    onnx.save_model(model, path, save_as_external_data=False)


def write_onnx(quantized: nn.Module, description: Description, path: Path) -> None:
    """Write a module that returns uint8 [B, *shape] to ``path``, with the description as the file's metadata."""
    examples = {"z": torch.zeros(2, description.latent_size), "label": torch.zeros(2, dtype=torch.int64)}
    inputs = {name: examples[name] for name in description.spec.inputs}  # a batch of 1 would be frozen into the graph
    write_module(quantized, path, inputs=inputs, outputs=[description.spec.kind], metadata=description.to_metadata())


def write_module(
    module: nn.Module, path: Path, *, inputs: Mapping[str, Tensor], outputs: Sequence[str], metadata: Mapping[str, str]
) -> None:
    """Write a module to one ONNX file, whose batch is symbolic.

    Args:
        inputs: examples of a batch of 2 by the names of the inputs, in their order.
        outputs: names.
        metadata: of the file.
    """
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports that torchvision's operators are not installed
    with warnings.catch_warnings():  # about PyTorch's own deprecated calls, and about both inputs sharing one batch
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None  # the dynamo exporter always returns one
    model = program.model_proto
    remove_traces(model)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save_model(model, path, save_as_external_data=False)


def remove_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes from each node: half of a small file, and code with paths of this machine."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def check_contract(path: Path, description: Description) -> None:
    """Check the file against the contract.

    Raises:
        ExportError: it breaks the contract; the message names each point.
    """
    model = onnx.load(path, load_external_data=False)
    shape = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    expected = ["batch", *description.spec.shape]
    random = sorted(
        {node.op_type for node in model.graph.node if "Random" in node.op_type or node.op_type == "Bernoulli"}
    )
    opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    external = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    broken = [
        *([f"{description.spec.kind} has the shape {shape}, not {expected}"] if shape != expected else []),
        *([f"the opset is {opset.get('ai.onnx')}, not {OPSET}"] if opset.get("ai.onnx") != OPSET else []),
        *([f"it contains random operators: {', '.join(random)}"] if random else []),
        *([f"{len(external)} weights lie outside the file"] if external else []),
    ]
    if broken:
        raise ExportError(f"The exported file {path.name} breaks its contract: {'; '.join(broken)}.")
    onnx.checker.check_model(path, full_check=True)


def measure_parity(quantized: nn.Module, path: Path, description: Description) -> Parity:
    """Compare PyTorch and ONNX Runtime on the CPU over PARITY_BATCHES from each of PARITY_SEEDS on."""
    exported = OnnxGenerator(path, device="cpu")
    largest, differing, values, images = 0, 0, 0, 0
    for first in PARITY_SEEDS:
        for batch in PARITY_BATCHES:
            seeds = np.arange(batch) + min(first, MAX_SEED + 1 - batch)
            z = latents(seeds, description.latent_size)
            labels = default_labels(seeds, description.spec.classes) if description.spec.classes else None
            inputs = [torch.from_numpy(values) for values in (z, labels) if values is not None]
            with torch.no_grad():
                expected = quantized(*inputs).numpy().astype(np.int16)
            difference = np.abs(exported.run(z, labels) - expected)
            largest = max(largest, int(difference.max()))
            differing += int(np.count_nonzero(difference))
            values += difference.size
            images += batch
    return Parity(largest, differing / values, images)
