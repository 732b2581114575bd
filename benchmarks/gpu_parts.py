"""The parts of benchmarks/gpu.py that measure kernels and steps; its table says with which limits of time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from gpu import Case, LeftOut, Setup, Values
from gpu_timing import kernels_of, seconds_a_call, top
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gan_plugin.config.recipe import Recipe, load_recipe, override, recipe_names
from gan_plugin.data.loader import Batch
from gan_plugin.features.network import exact_float32
from gan_plugin.networks import new_discriminators, new_generator
from gan_plugin.serving.cuda import find_driver, installed_runtimes, why_cuda_cannot_load
from gan_plugin.spec import SampleSpec, image_spec
from gan_plugin.training.capture import WARM_UP_CALLS, Capture, as_it_is, make_capture
from gan_plugin.training.gan import work_cycle
from gan_plugin.training.state import new_state
from gan_plugin.training.steps import new_step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import gpu_checks  # the path comes first

CALLS, STEPS = 10, 200  # of a round
TOP_KERNELS = 15
CIFAR = image_spec(32, 32, 3, class_names=[str(label) for label in range(10)])
FASHION = image_spec(28, 28, 1, class_names=[str(label) for label in range(10)])


# ---- the card --------------------------------------------------------------------------------------------------------


def card(setup: Setup) -> Iterator[Case]:
    """Say what this machine is."""
    yield "machine", partial(machine, setup)


def machine(setup: Setup) -> Values:
    why, driver = why_cuda_cannot_load(), find_driver()
    about: Values = {
        "cpus": os.cpu_count(),
        "driver": None if driver is None else {"cuda": driver.cuda, "gpus": driver.gpus},
        "onnxruntime": installed_runtimes(),
        "onnxruntime_cuda": "usable" if why is None else str(why),
    }
    if setup.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about |= {
            "capability": [properties.major, properties.minor],
            "multiprocessors": properties.multi_processor_count,
            "gib": properties.total_memory / 2**30,
            "nccl": torch.cuda.nccl.version(),
        }
    return about


# ---- what the card can reach -----------------------------------------------------------------------------------------


def ceilings(setup: Setup) -> Iterator[Case]:
    """Measure the most that any kernel may hope for: copies of memory, and products of matrices."""
    yield "copy", partial(copy, setup)
    for name, dtype in {"bf16": torch.bfloat16, "float32": torch.float32}.items():
        yield f"matmul {name}", partial(matmul, setup, dtype)


def copy(setup: Setup) -> Values:
    count = 2**16 if setup.quick else 2**32
    source = torch.zeros(count, dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds, _ = seconds_a_call(lambda: target.copy_(source), setup, calls=CALLS)
    return {"bytes": count, "gb_s": 2 * count / seconds / 1e9, "counted": "read and written"}


def matmul(setup: Setup, dtype: torch.dtype) -> Values:
    size = 64 if setup.quick else 8192
    a, b = torch.randn(2, size, size, device=setup.device).to(dtype).unbind()
    torch.mm(a, b)
    seconds, _ = seconds_a_call(lambda: torch.mm(a, b), setup, calls=CALLS)
    return {"size": size, "ms": 1e3 * seconds, "tflop_s": 2 * size**3 / seconds / 1e12}


def convolutions(setup: Setup) -> Iterator[Case]:
    """Measure R3GAN's convolutions in each direction: 3×3 in groups of 16 channels, and 1×1, which are the rest."""
    torch.backends.cudnn.benchmark = True
    layouts = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
    for layout, memory_format in layouts.items():
        for side in (4,) if setup.quick else (4, 8, 16, 32):
            for kernel in (3, 1):
                for direction in ("forward", "input", "weight"):
                    sizes = {"side": side, "kernel": kernel, "direction": direction}
                    measured = partial(convolution, setup, **sizes, memory_format=memory_format)
                    yield f"{kernel}×{kernel} {direction}, {side} px, {layout}", measured


def convolution(setup: Setup, *, side: int, kernel: int, direction: str, memory_format: torch.memory_format) -> Values:
    batch, channels = (4, 32) if setup.quick else (512, 1536)
    groups, inputs = (channels // 16, channels) if kernel == 3 else (1, channels // 2)
    options = {"device": setup.device, "dtype": torch.bfloat16}
    x = torch.randn(batch, inputs, side, side, **options).to(memory_format=memory_format)
    weight = torch.randn(channels, inputs // groups, kernel, kernel, **options).to(memory_format=memory_format)
    gradient = torch.randn(batch, channels, side, side, **options).to(memory_format=memory_format)
    padding = kernel // 2
    if direction == "forward":
        run = partial(F.conv2d, x, weight, None, 1, padding, 1, groups)
    else:
        mask = [direction == "input", direction == "weight", False]
        geometry = ([1, 1], [padding] * 2, [1, 1], False, [0, 0], groups)
        run = partial(torch.ops.aten.convolution_backward, gradient, x, weight, None, *geometry, mask)
    run()
    seconds, _ = seconds_a_call(run, setup, calls=CALLS)
    flops = 2 * gradient.numel() * kernel**2 * (inputs // groups)
    return {"groups": groups, "channels": channels, "ms": 1e3 * seconds, "tflop_s": flops / seconds / 1e12}


# ---- whether it is right ---------------------------------------------------------------------------------------------


def correctness(setup: Setup) -> Iterator[Case]:
    """Compare with a CPU, with eager steps, and with what was not stopped; see tests/gpu_checks.py."""
    device = torch.device(setup.device)
    short = ["dcgan"] if setup.quick else ["dcgan", "r1", "r3gan", "subpixel"]
    for name in ["dcgan", "r3gan"] if setup.quick else recipe_names():
        yield f"{name}: no waiting", partial(gpu_checks.check_no_waiting, name, device, captured=False)
    for name in short if setup.quick else recipe_names():
        yield f"{name}: no waiting, captured", partial(gpu_checks.check_no_waiting, name, device, captured=True)
        yield f"{name}: losses as on a CPU", partial(gpu_checks.check_against_cpu, name, device)
        yield f"{name}: captured as eager", partial(gpu_checks.check_captured, name, device)
    for name in short:
        yield f"{name}: resumed as not stopped", partial(gpu_checks.check_resume, name, device)
        yield f"{name}: memory", partial(gpu_checks.check_memory, name, device, steps=2 if setup.quick else 50)
        yield f"{name}: exported", partial(gpu_checks.check_export, name, device)


# ---- steps -----------------------------------------------------------------------------------------------------------


def steps(setup: Setup) -> Iterator[Case]:
    """Time the steps of small networks, 28×28×1, whose kernels are so short that launching them takes longer."""
    for way in ("eager", "captured"):
        for name in ("dcgan",) if setup.quick else ("dcgan", "r1", "subpixel", "r3gan"):
            for batch in (4,) if setup.quick else (64, 256):
                recipe = override(gpu_checks.small(name) if setup.quick else load_recipe(name), batch_size=batch)
                yield f"{name}, {way}, batch {batch}", partial(WAYS[way], setup, recipe, FASHION)


def r3gan_cifar10(setup: Setup) -> Iterator[Case]:
    """Time the steps of the published network of CIFAR-10 in bfloat16, and list what they are made of."""
    recipe = load_recipe("r3gan-cifar10")
    if setup.quick:
        recipe = override(recipe, width=16, full_stages=1, blocks=1, batch_size=2)
    plain = override(recipe, augment="none")
    for way, take in WAYS.items():
        yield way, partial(take, setup, recipe, CIFAR, kernels=TOP_KERNELS)
        yield f"{way}, no augmentation", partial(take, setup, plain, CIFAR, kernels=TOP_KERNELS)


def captured_step(setup: Setup, recipe: Recipe, spec: SampleSpec, *, kernels: int = 0) -> Values:
    """Time a recipe's step whose gradients are CUDA graphs."""
    if setup.device != "cuda":
        raise LeftOut("only CUDA captures")
    return step(setup, recipe, spec, capture=make_capture(torch.device("cuda")), kernels=kernels)


def step(setup: Setup, recipe: Recipe, spec: SampleSpec, *, capture: Capture = as_it_is, kernels: int = 0) -> Values:
    """Time a recipe's step in bfloat16, on one batch of noise that is on the device."""
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    take = ready_step(setup, recipe, spec, capture=capture)
    cycle = work_cycle(recipe)

    def take_cycle() -> None:
        for _ in range(cycle):
            take()

    seconds, calls = seconds_a_call(take, setup, calls=STEPS, unit=cycle)
    launched = kernels_of(take_cycle, setup.device)
    values = {
        "us": 1e6 * seconds,
        "images_s": recipe.batch_size / seconds,
        "steps": calls,
        "kernels": len(launched) / cycle,
        "busy": sum(kernel.us for kernel in launched) / cycle / (1e6 * seconds),
        **peak_memory(setup.device),
    }
    if recipe.family == "r3gan":
        flops = step_flops(recipe, spec)
        values |= {"tflop": flops / 1e12, "tflop_s": flops / seconds / 1e12}
    return values | ({"top": top(launched, kernels)} if kernels else {})


WAYS: dict[str, Callable[..., Values]] = {"eager": step, "captured": captured_step}


def peak_memory(device: str) -> Values:
    """Return the most that tensors have taken, and that PyTorch has held, which is where recorded kernels work."""
    if device != "cuda":
        return {}
    peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"allocated_gib": peaks[0] / 2**30, "reserved_gib": peaks[1] / 2**30}


def ready_step(setup: Setup, recipe: Recipe, spec: SampleSpec, *, capture: Capture) -> Callable[[], object]:
    """Return a recipe's step in bfloat16, warmed up, and recorded where it is captured."""
    device = torch.device(setup.device)
    torch.backends.cudnn.benchmark = True  # as in a training
    spec = spec if recipe.conditional else spec.unlabeled()
    step = new_step(new_state(recipe, spec, device), recipe, torch.bfloat16, capture=capture)
    step.state.progress = 0.5
    shape = (recipe.batch_size, spec.channels, spec.height, spec.width)
    labels = torch.randint(0, spec.classes, (recipe.batch_size,), device=device) if recipe.conditional else None
    batch = Batch(torch.randint(0, 256, shape, dtype=torch.uint8, device=device), labels)
    for _ in range(1 if setup.quick else (WARM_UP_CALLS + 2) * work_cycle(recipe)):
        step(batch, batch)
    return lambda: step(batch, batch)


def step_flops(recipe: Recipe, spec: SampleSpec) -> float:
    """Return the floating point operations of a step of R3GAN, by the shapes of its layers.

    2 for each product of a convolution or linear layer; what is done element by element does not count, nor does
    augmentation. With G and D those of one image forward, the discriminator's turn takes G without a graph; of two
    images D forward, D for the gradients at images, 2 D back through these, to features and weights, and 2 D back
    through the pass itself: 12 D. The generator's turn takes G forward and 2 G back, D forward of a fake and of a real
    image, and D back to the fake alone. Together 4 G + 15 D an image.
    """
    assert recipe.penalty == "r1+r2"
    assert recipe.objective == "relativistic"
    spec = spec if recipe.conditional else spec.unlabeled()
    with FakeTensorMode():  # of which nothing is computed but shapes
        labels = torch.zeros(1, dtype=torch.int64) if spec.classes else None
        image = torch.zeros(1, spec.channels, spec.height, spec.width)
        generator = forward_flops(new_generator(recipe, spec), torch.zeros(1, recipe.latent_size), labels)
        discriminator = forward_flops(new_discriminators(recipe, spec), image, labels)
    return recipe.batch_size * (4 * generator + 15 * discriminator)


def forward_flops(network: nn.Module, *inputs: Tensor | None) -> float:
    """Return the floating point operations of a network's convolutions and linear layers in a forward pass."""
    counts = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        weight: Any = layer.weight
        counts.append(2 * output.numel() * weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(*(value for value in inputs if value is not None))
    return float(sum(counts))


# ---- compiled --------------------------------------------------------------------------------------------------------


def compiled(setup: Setup) -> Iterator[Case]:
    """Time steps whose gradients Inductor has compiled, where they are equal to those that it has not."""
    for name in ("dcgan",) if setup.quick else ("dcgan", "r1", "r3gan"):
        # PyTorch cannot write down the draws of the dropout that a CPU has of its own
        recipe = gpu_checks.small(name, dropout=0.0) if setup.quick else override(load_recipe(name), batch_size=64)
        yield name, partial(compiled_step, setup, recipe)


def compiled_step(setup: Setup, recipe: Recipe) -> Values:
    device = torch.device(setup.device)
    capture = partial(Compiled, backend="aot_eager" if setup.quick else "inductor")
    dataset = gpu_checks.noise_data(4 * recipe.batch_size, side=28, channels=1)
    results = []
    for way in (capture, as_it_is):
        with exact_float32(device):
            course = gpu_checks.Course(override(recipe, **gpu_checks.RATES), device, capture=way, dataset=dataset)
            torch.manual_seed(1)
            results.append(course.read(gpu_checks.COMPARED_STEPS))
    difference = gpu_checks.largest_difference(*results)
    if not difference <= gpu_checks.LOSSES_WITHIN:
        raise LeftOut(f"losses in float32 differ by {difference:.3g} from those of eager steps: not timed")
    return {"losses": difference, **step(setup, recipe, FASHION, capture=capture)}


class Compiled:
    """A function that is traced and compiled at its first call; made like what CUDA captures."""

    def __init__(self, function: Callable[[Any], Any], backend: str) -> None:
        self.function, self.backend = function, backend
        self.run: Callable[[Any], Any] | None = None

    def __call__(self, inputs: Any) -> Any:
        if self.run is None:
            from torch._inductor import config
            from torch.fx.experimental.proxy_tensor import make_fx

            config.fallback_random = True  # or it would draw other numbers than eager steps
            randoms = torch.get_rng_state(), [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
            traced = make_fx(self.function)(inputs)
            torch.set_rng_state(randoms[0])
            if randoms[1]:
                torch.cuda.set_rng_state(randoms[1][0])
            self.run = torch.compile(traced, backend=self.backend, fullgraph=True)
        with torch.no_grad():  # the gradients are operations of the trace
            return self.run(inputs)
