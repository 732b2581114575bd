"""Export: the file keeps its contract, equals the generator, and is refused when it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from generators import TALL, Corners, assert_corners
from torch import Tensor, nn

from gan_plugin import export
from gan_plugin.config.recipe import load_recipe, override, recipe_names
from gan_plugin.export import ExportError, ParityError, check_contract, export_generator
from gan_plugin.networks import dcgan, new_generator
from gan_plugin.networks.wrappers import Quantized
from gan_plugin.seeds import latents
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.spec import image_spec


def lively(generator: nn.Module, latent_size: int) -> nn.Module:
    """Running statistics and weights as after training: far from their initial values."""
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(30):
            generator(torch.randn(32, latent_size))
        for module in generator.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return generator


def awake(generator: nn.Module) -> nn.Module:
    """With no weights that are all zero, as R3GAN's blocks begin."""
    with torch.no_grad():
        for weight in generator.parameters():
            if not weight.any():
                weight.normal_(std=0.02)
    return generator


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (36, 3), (64, 3)])
def test_every_size_passes_the_gate(size: int, channels: int, tmp_path: Path) -> None:
    generator = lively(dcgan.Generator(20, image_spec(size, size, channels)), 20).train()
    description = Description(20, image_spec(size, size, channels), recipe="r", run_id="i", data="d", data_digest="0")
    parity = export_generator(generator, description, tmp_path / "g.onnx")
    assert parity.images == 3 * (1 + 2 + 7 + 64)
    assert parity.largest_difference <= 1
    assert generator.training  # the generator is left as it was
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]  # one file, weights inside
    assert not [node.name for node in onnx.load(tmp_path / "g.onnx").graph.node if node.metadata_props]  # nor traces
    assert b"/gan_plugin/" not in (tmp_path / "g.onnx").read_bytes()  # of the machine that it was exported on


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate compares few images where a single one takes long."""
    monkeypatch.setattr(export, "PARITY_BATCHES", (1, 3))


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("name", ["dcgan", "r3gan", "subpixel"])
def test_large_images_pass_the_gate(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    torch.manual_seed(0)
    generator = awake(new_generator(recipe, image_spec(256, 256, 3)).eval())
    description = Description(recipe.latent_size, image_spec(256, 256, 3), recipe=name)
    assert export_generator(generator, description, tmp_path / "g.onnx").largest_difference <= 1


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipes_generator_passes_the_gate_and_depends_on_labels(name: str, tmp_path: Path) -> None:
    """With labels, since those without are a part of it; at the smallest size, where a network has all its layers."""
    recipe = load_recipe(name)
    torch.manual_seed(0)
    generator = awake(new_generator(recipe, image_spec(16, 16, 1, class_names="abc")).eval())
    description = Description(recipe.latent_size, image_spec(16, 16, 1, class_names=("a", "b", "c")), recipe=name)
    parity = export_generator(generator, description, tmp_path / "g.onnx")
    assert parity.largest_difference <= 1
    exported = OnnxGenerator(tmp_path / "g.onnx", device="cpu")
    a, b = (exported.sample([5], np.array([label])) for label in (0, 1))
    assert (a != b).any()
    near, far = (exported.sample([5], np.array([0]), truncation) for truncation in (0.1, 2.0))
    assert (near != far).any()


def test_the_metadata_describe_the_generator(tmp_path: Path) -> None:
    generator = dcgan.Generator(20, image_spec(28, 28, 1))
    description = Description(20, image_spec(28, 28, 1), recipe="dcgan", run_id="abc", data="digits", data_digest="1f")
    export_generator(generator, description, tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    assert {p.key: p.value for p in model.metadata_props} == {
        "gan.contract": "4",
        "gan.directions": "[]",
        "gan.kind": "image",
        "gan.layout": "HWC",
        "gan.range": "0..255",
        "gan.latent_size": "20",
        "gan.height": "28",
        "gan.width": "28",
        "gan.channels": "1",
        "gan.class_names": "[]",
        "gan.recipe": "dcgan",
        "gan.run_id": "abc",
        "gan.data": "digits",
        "gan.data_digest": "1f",
        "gan.seen_features": "[]",
    }
    assert {o.domain: o.version for o in model.opset_import}[""] == 18
    (z,), (image,) = model.graph.input, model.graph.output
    assert (z.name, image.name) == ("z", "image")
    assert z.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_any_batch_and_all_gray_levels(tmp_path: Path) -> None:
    """ONNX Runtime alone: no code of ours between the file and the image."""
    generator = lively(dcgan.Generator(20, image_spec(28, 28, 1)), 20)
    export_generator(generator, Description(20, image_spec(28, 28, 1)), tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    z = latents(np.arange(200), 20)
    image = session.run(None, {"z": z})[0]
    assert image.shape == (200, 28, 28, 1)
    with torch.no_grad():
        x = generator.eval()(torch.from_numpy(z)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(image, (x + 1) * 127.5, atol=0.51)
    assert image.max() - image.min() > 200  # the whole range is used, nothing is folded to 0 and 1


def test_images_higher_than_wide(tmp_path: Path) -> None:
    parity = export_generator(Corners(), Description(4, TALL), tmp_path / "g.onnx")
    assert parity.largest_difference <= 1
    assert [d.dim_value for d in onnx.load(tmp_path / "g.onnx").graph.output[0].type.tensor_type.shape.dim[1:]] == [
        48,
        32,
        3,
    ]
    assert_corners(OnnxGenerator(tmp_path / "g.onnx", device="cpu").sample([0])[0])
    wide = image_spec(32, 48, 3)
    with pytest.raises(ExportError, match=r"image has the shape \['batch', 48, 32, 3\], not \['batch', 32, 48, 3\]"):
        export_generator(Corners(), Description(4, wide), tmp_path / "g.onnx")


class Conditional(nn.Module):
    """The smallest generator that uses a label: class k makes images of gray level 100 k."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Embedding(3, 1)
        self.level.weight.data = torch.tensor([[0.0], [100.0], [200.0]]) / 127.5 - 1

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        noise = z[:, :1, None, None] * 1e-4
        return (self.level(label)[:, :, None, None] + noise).expand(-1, 1, 16, 16)


def test_a_conditional_generator_takes_labels(tmp_path: Path) -> None:
    description = Description(4, image_spec(16, 16, 1, class_names=("naught", "one", "große Zwei")))
    export_generator(Conditional(), description, tmp_path / "g.onnx")
    generator = OnnxGenerator(tmp_path / "g.onnx", device="cpu")
    assert generator.description == description
    images = generator.sample([5, 5, 5], labels=np.array([2, 0, 1]))
    assert images[:, 0, 0, 0].tolist() == [200, 0, 100]
    assert generator.sample([3, 4, 5])[:, 0, 0, 0].tolist() == [0, 100, 200]  # a seed's own class


class Drifting(nn.Module):
    """Exports as something other than it computes: what it adds is known only to PyTorch's eager mode."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.generator(z)
        return x if torch.compiler.is_exporting() else x + 0.05


def test_a_file_that_is_not_the_generator_is_refused_with_the_numbers(tmp_path: Path) -> None:
    generator = Drifting(lively(dcgan.Generator(8, image_spec(16, 16, 1)), 8))
    with pytest.raises(ParityError, match=r"differ by up to \d+ gray levels in \d+\.\d+% of the values of 222 images"):
        export_generator(generator, Description(8, image_spec(16, 16, 1)), tmp_path / "g.onnx")


def test_one_gray_level_in_many_places_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator = lively(dcgan.Generator(8, image_spec(16, 16, 1)), 8)
    path = tmp_path / "g.onnx"
    export_generator(generator, Description(8, image_spec(16, 16, 1)), path)
    original = Quantized.forward

    def one_level_off(self: Quantized, z: Tensor, label: Tensor | None = None) -> Tensor:
        image = original(self, z, label)
        return image if torch.compiler.is_exporting() else (image.int() + 1).clamp(max=255).to(torch.uint8)

    monkeypatch.setattr(Quantized, "forward", one_level_off)
    with pytest.raises(ParityError) as refusal:
        export_generator(generator, Description(8, image_spec(16, 16, 1)), path)
    assert refusal.value.parity.largest_difference == 1
    assert refusal.value.parity.differing_pixels > 0.5


@pytest.mark.parametrize("name", ["dcgan", "r3gan", "subpixel"])
def test_half_precision_halves_the_file_and_passes_its_own_gate(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = awake(
        new_generator(
            override(load_recipe(name), latent_size=64), image_spec(32, 32, 3, class_names="abcdefghij")
        ).eval()
    )
    description = Description(64, image_spec(32, 32, 3, class_names=tuple("0123456789")))
    exact, half = tmp_path / "exact.onnx", tmp_path / "half.onnx"
    export_generator(generator, description, exact)
    parity = export_generator(generator, description, half, dtype=torch.float16)
    assert 0 < parity.differing_pixels < 0.1
    assert parity.largest_difference <= 2
    assert half.stat().st_size < 0.55 * exact.stat().st_size
    assert next(generator.parameters()).dtype == torch.float32
    assert {i.name: i.type for i in OnnxGenerator(half, device="cpu").session.get_inputs()} == {
        "z": "tensor(float)", "label": "tensor(int64)",
    }  # fmt: skip


def test_half_precision_that_overflows_is_refused(tmp_path: Path) -> None:
    generator = lively(dcgan.Generator(8, image_spec(16, 16, 1)), 8)
    with torch.no_grad():
        next(generator.parameters()).mul_(1e6)  # batch norm takes the factor out again, unless it came to infinity
    with pytest.raises(ParityError, match=r"allowed are 2 in 10\.0%"):
        export_generator(generator, Description(8, image_spec(16, 16, 1)), tmp_path / "g.onnx", dtype=torch.float16)


class Noisy(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z[:, :1, None, None] + torch.randn(z.shape[0], 1, 16, 16))


def test_randomness_inside_the_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"g\.onnx breaks its contract: .*random operators: RandomNormal"):
        export_generator(Noisy(), Description(4, image_spec(16, 16, 1)), tmp_path / "g.onnx")


def test_another_shape_than_described_is_refused(tmp_path: Path) -> None:
    generator = dcgan.Generator(8, image_spec(16, 16, 1))
    with pytest.raises(ExportError, match=r"image has the shape \['batch', 16, 16, 1\], not \['batch', 28, 28, 1\]"):
        export_generator(generator, Description(8, image_spec(28, 28, 1)), tmp_path / "g.onnx")


def test_weights_outside_the_file_are_refused(tmp_path: Path) -> None:
    description = Description(8, image_spec(16, 16, 1))
    export_generator(dcgan.Generator(8, image_spec(16, 16, 1)), description, tmp_path / "g.onnx")
    model = onnx.load(tmp_path / "g.onnx")
    onnx.save_model(model, tmp_path / "split.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ExportError, match=r"\d+ weights lie outside the file"):
        check_contract(tmp_path / "split.onnx", description)
