"""What must hold of training on a GPU, as functions of the device, so that a CPU rehearses each.

Called by tests/test_gpu.py, and by benchmarks/gpu.py, where neither MLflow nor pytest need be installed. Each raises
``AssertionError`` with the numbers where it does not hold, and returns what it measured.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from gan_plugin.augment import adaptive_augment
from gan_plugin.config.recipe import Recipe, load_recipe, override
from gan_plugin.data import Dataset
from gan_plugin.data.ahead import AheadBatches
from gan_plugin.data.dataset import make_dataset
from gan_plugin.data.loader import BatchLoader
from gan_plugin.export import TOLERANCES, export_generator
from gan_plugin.features.network import exact_float32
from gan_plugin.media.image import normalize
from gan_plugin.serving.description import Description
from gan_plugin.serving.generator import OnnxGenerator
from gan_plugin.tracking.tracker import Silent
from gan_plugin.training.ada import ADJUST_EVERY, MAX_P, RAMP_IMAGES, AdaController
from gan_plugin.training.capture import WARM_UP_CALLS, Capture, as_it_is, clone, make_capture
from gan_plugin.training.checkpoint import random_states
from gan_plugin.training.errors import Interrupted
from gan_plugin.training.gan import needs_two_batches, work_cycle
from gan_plugin.training.loop import train
from gan_plugin.training.plan import TrainingPlan, spec_of
from gan_plugin.training.samples import exported_generator
from gan_plugin.training.state import TrainingState, new_state
from gan_plugin.training.steps import new_step

CPU = torch.device("cpu")
SIDE, CLASSES, BATCH = 16, ("a", "b", "c"), 8
COMPARED_STEPS = 3
# Small, or trainings that differ by rounding alone move apart: Adam moves a weight by the sign of what may be rounding.
RATES = {"generator_lr": 1e-5, "discriminator_lr": 1e-5}
# Differences of losses as a share of one more than their size, and of weights as a share of how far they have moved, in
# float32 without TF32. On a CPU other algorithms make up to 3e-5 and .012 in 48 steps, another seed .007 and .15.
LOSSES_WITHIN, WEIGHTS_WITHIN = 1e-3, 0.05
GRADIENTS_WITHIN = 1e-3  # of the third step, as a share of their length; there 2e-6, and latents 1 % larger .005
COUNTS = ("logit/rank_accuracy", "augment/overfitting")  # of images, which jump

Metrics = list[dict[str, float]]


def small(name: str, **values: object) -> Recipe:
    """Return a recipe of small networks and batches."""
    recipe = load_recipe(name)
    width = {"width": 32, "full_stages": 4, "blocks": 1} if recipe.family == "r3gan" else {}
    return override(recipe, **{"batch_size": BATCH, "latent_size": 16, **width, **values})


def noise_data(count: int = 16 * BATCH, *, side: int = SIDE, channels: int = 3) -> Dataset:
    """Return images of noise, in three classes."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % len(CLASSES)
    return make_dataset(samples, labels, CLASSES, name="noise", source="noise", split="train", notes=())


def overwrite(place: object) -> None:
    """Fill a tensor with what nobody takes for a result."""
    if isinstance(place, Tensor):
        place.fill_(math.nan)


class Replay:
    """Stands on a CPU where CUDA would capture: after some calls, each overwrites what the one before returned.

    It leaves nothing in what others returned, with which it shares its memory.
    """

    def __init__(self, function: Callable[[Any], Any], others: list[Replay]) -> None:
        self.function, self.others, self.calls, self.outputs = function, [*others], 0, None
        for other in others:
            other.others.append(self)
        others.append(self)

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        outputs = self.function(inputs)
        if self.calls <= WARM_UP_CALLS:
            return outputs
        if self.outputs is None:
            self.outputs = pytree.tree_map(clone, outputs)  # which may be inputs
        else:
            pytree.tree_map_(lambda place, value: place.copy_(value), self.outputs, outputs)
        for other in self.others:
            pytree.tree_map_(overwrite, other.outputs)
        return self.outputs


def capture_on(device: torch.device) -> Capture:
    """Return CUDA's capture, or on a CPU what stands for it."""
    return make_capture(device) if device.type == "cuda" else partial(Replay, others=[])


class Course:
    """A training from a seed on, in float32, of which the test takes the steps."""

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        *,
        capture: Capture = as_it_is,
        precision: torch.dtype = torch.float32,
        dataset: Dataset | None = None,
    ) -> None:
        torch.manual_seed(0)  # weights are drawn on the CPU, and so the same ones for every device
        dataset = dataset or noise_data()
        self.recipe, self.device = recipe, device
        self.state = new_state(recipe, spec_of(dataset, recipe), device)
        self.loader = BatchLoader(
            dataset,
            recipe.batch_size,
            device,
            seed=0,
            labeled=recipe.conditional,
            paired=needs_two_batches(recipe),
        )
        self.orders = self.loader.orders(0)
        self.step = new_step(self.state, recipe, precision, capture=capture)

    def run(self, steps: int) -> dict[str, Tensor]:
        """Take steps, each with other values of the ramps, and return the last one's metrics on the device."""
        for _ in range(steps):
            self.state.progress = min(1.0, self.state.steps / 100)
            index = self.state.steps % self.loader.steps_per_epoch
            metrics = self.step(*self.loader.batches(self.orders, index))
        return metrics

    def read(self, steps: int) -> Metrics:
        """Take steps and return the metrics of each, but for those that count."""
        return [{name: value.item() for name, value in self.run(1).items() if name not in COUNTS} for _ in range(steps)]


def steps_until_replayed(recipe: Recipe) -> int:
    """Return the number of steps after which each captured function has been recorded, and replayed twice more."""
    return (WARM_UP_CALLS + 3) * work_cycle(recipe)


# ---- steps -----------------------------------------------------------------------------------------------------------


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Raise an error within it where the host would wait for a GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_no_waiting(name: str, device: torch.device, *, captured: bool) -> dict[str, Any]:
    """Take steps of a recipe in which the host must not wait for the device."""
    recipe = small(name)
    course = Course(recipe, device, capture=capture_on(device) if captured else as_it_is)
    course.run(steps_until_replayed(recipe) if captured else work_cycle(recipe))
    with no_waiting(device):
        course.orders = course.loader.orders(1)  # of another epoch
        metrics = course.run(work_cycle(recipe))
    values = {name: value.item() for name, value in metrics.items()}
    assert all(math.isfinite(value) for value in values.values()), values
    return {"steps": course.state.steps}


OTHER_RANDOM_FUNCTIONS = {
    *(torch.bernoulli, torch.multinomial, torch.normal, torch.poisson, torch.randint_like, torch.randn_like),
    *(torch.randperm, Tensor.bernoulli_, Tensor.exponential_, Tensor.normal_, Tensor.random_, Tensor.uniform_),
}


class HostRandomness(TorchFunctionMode):
    """Within it random numbers are drawn on the CPU, whatever the device, from its random state."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        assert func not in OTHER_RANDOM_FUNCTIONS, f"{func} would draw on the device: draw it on the CPU here"
        if func in (torch.rand, torch.randint, torch.randn):
            device = kwargs.pop("device", None) or CPU
            return func(*args, **kwargs).to(device)
        if func is torch.rand_like:
            return torch.rand(args[0].shape, dtype=args[0].dtype).to(args[0].device)
        return func(*args, **kwargs)


def check_against_cpu(name: str, device: torch.device) -> dict[str, Any]:
    """Compare losses and gradients of the first steps with a CPU's, from equal weights, latents and random numbers.

    Without dropout, which draws in another way on each.
    """
    recipe = small(name, dropout=0.0, **RATES)
    results, gradients = [], []
    for where in (device, CPU):
        with exact_float32(where):
            course = Course(recipe, where)
            with HostRandomness():
                results.append(course.read(COMPARED_STEPS))
            gradients.append(gradients_of(course.state))
    (of_device, expected), apart = gradients, {}
    for network, gradient in expected.items():
        difference = (of_device[network] - gradient).norm() / gradient.norm()
        apart[network] = within(GRADIENTS_WITHIN, f"gradients of the {network}", difference.item())
    return {"losses": within(LOSSES_WITHIN, "losses", largest_difference(*results)), "gradients": apart}


def check_captured(name: str, device: torch.device) -> dict[str, Any]:
    """Compare steps that are captured, recorded and replayed with eager ones, from equal weights and seeds.

    Metrics of every step, weights after the last, and exactly the state of the random numbers.
    """
    recipe = small(name, **RATES)
    steps = steps_until_replayed(recipe)
    with exact_float32(device), reproducible():
        captured, eager = Course(recipe, device, capture=capture_on(device)), Course(recipe, device)
        before = weights_of(eager.state)
        results, randoms = [], []
        for course in (captured, eager):
            torch.manual_seed(1)
            results.append(course.read(steps))
            randoms.append(random_states(course.state))
    check_random_states(*randoms)
    return {
        "steps": steps,
        "losses": within(LOSSES_WITHIN, "losses", largest_difference(*results)),
        "weights": within(WEIGHTS_WITHIN, "weights", moved_apart(before, captured.state, eager.state)),
    }


def check_memory(name: str, device: torch.device, *, steps: int = 50) -> dict[str, Any]:
    """Take captured steps, after which as much of the device's memory must be in use as before them."""
    recipe = small(name)
    course = Course(recipe, device, capture=capture_on(device))
    course.run(steps_until_replayed(recipe))
    before = memory_of(device)
    course.run(steps)
    growth = [after - former for after, former in zip(memory_of(device), before)]
    assert max(growth) <= 2**20, f"memory has grown by {growth} bytes, allocated and reserved, in {steps} steps"
    return {"mib": before[0] / 2**20, "growth": growth}


def memory_of(device: torch.device) -> tuple[int, int]:
    """Return the bytes of a GPU that tensors take, and those that PyTorch holds."""
    if device.type != "cuda":
        return 0, 0
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()


# ---- a whole training ------------------------------------------------------------------------------------------------


def plan_of(recipe: Recipe, device: torch.device, epochs: int) -> TrainingPlan:
    """Return a training in float32, with graphs where the device has them."""
    return TrainingPlan(
        recipe,
        epochs=epochs,
        seed=0,
        device=device,
        precision=torch.float32,
        samples_every=epochs,
        checkpoint_every=epochs,
        guard=False,
    )


def check_resume(name: str, device: torch.device) -> dict[str, Any]:
    """Compare a training that is stopped in the midst of an epoch, and goes on from its file, with one that is not.

    Equal to the bit on a CPU; elsewhere random numbers are, and weights but for what is not reproducible.
    """
    recipe, dataset = small(name, **RATES), noise_data()
    stop_at, epoch_steps = steps_until_replayed(recipe) + 1, len(dataset) // BATCH
    assert stop_at % epoch_steps
    plan = plan_of(recipe, device, epochs=-(-2 * stop_at // epoch_steps))  # graphs are recorded and replayed twice
    steps = 0

    def is_time() -> bool:
        nonlocal steps
        steps += 1
        return steps >= stop_at

    with tempfile.TemporaryDirectory() as name_of_folder, exact_float32(device), reproducible():
        folder = Path(name_of_folder)
        (folder / "straight").mkdir()
        straight = train(dataset, plan, Silent(), folder=folder / "straight")
        randoms = random_states(straight)
        try:
            train(dataset, plan, Silent(), folder=folder, stop_requested=is_time)
        except Interrupted:
            pass
        else:
            raise AssertionError(f"the training was not stopped in {steps} steps")
        resumed = train(dataset, plan, Silent(), folder=folder, resume=folder / "checkpoint.safetensors")
        check_random_states(randoms, random_states(resumed))
    before = weights_of(Course(recipe, device, dataset=dataset).state)
    apart = moved_apart(before, resumed, straight)
    limit = WEIGHTS_WITHIN if device.type == "cuda" else 0.0
    return {"steps": straight.steps, "stopped": stop_at, "weights": within(limit, "weights", apart)}


def check_export(name: str, device: torch.device) -> dict[str, Any]:
    """Export a generator that has learned on the device; the export compares its images with the network's."""
    recipe, dataset = small(name), noise_data()
    course = Course(recipe, device, precision=torch.bfloat16)
    course.run(work_cycle(recipe))
    with tempfile.TemporaryDirectory() as folder:
        generator = exported_generator(course.state, recipe, dataset)
        description = Description(recipe.latent_size, spec_of(dataset, recipe))
        parity = export_generator(generator, description, Path(folder) / "generator.onnx")
    return dataclasses.asdict(parity)


def check_float16(name: str, provider: str) -> dict[str, Any]:
    """Compare a generator's file in float16, run on ONNX Runtime's ``cuda`` or ``cpu``, with float32 on a CPU."""
    recipe, dataset = small(name), noise_data()
    course = Course(recipe, CPU)
    course.run(work_cycle(recipe))
    description = Description(recipe.latent_size, spec_of(dataset, recipe))
    images = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype, device in ((torch.float32, "cpu"), (torch.float16, provider)):
            path = Path(folder) / f"{device}.{dtype}.onnx"
            export_generator(exported_generator(course.state, recipe, dataset), description, path, dtype=dtype)
            images[dtype] = OnnxGenerator(path, device=device).sample(range(100)).astype(int)
    levels = int(abs(images[torch.float16] - images[torch.float32]).max())
    assert levels <= TOLERANCES[torch.float16].levels, f"images differ by {levels} gray levels"
    return {"levels": levels}


# ---- data and augmentation -------------------------------------------------------------------------------------------


def check_batches_from_the_host(device: torch.device) -> None:
    """Load batches of data that is larger than half of a GPU's free memory, and so stays on the host."""
    dataset = noise_data()
    with mock.patch.object(torch.cuda, "mem_get_info", return_value=(dataset.samples.nbytes, 2**40)):
        loader = BatchLoader(dataset, BATCH, device, seed=0, labeled=True, paired=True)
    assert device == CPU or isinstance(loader.source, AheadBatches)
    orders = loader.orders(0)
    pairs = [loader.batches(orders, index) for index in range(loader.steps_per_epoch)]  # copied while others are read
    for index, pair in enumerate(pairs):
        for order, batch in zip(orders, pair, strict=True):
            rows = order[index * BATCH : (index + 1) * BATCH].cpu()
            assert batch.samples.device.type == device.type
            assert torch.equal(batch.samples.cpu(), dataset.samples[rows])
            assert batch.labels is not None
            assert dataset.labels is not None
            assert batch.labels.device.type == device.type
            assert torch.equal(batch.labels.cpu(), dataset.labels[rows])


def check_ada(device: torch.device) -> None:
    """Let the controller follow a discriminator without waiting, and a captured augmentation follow the controller."""
    controllers = [AdaController(device), AdaController(CPU)]
    values = torch.tensor([1.0] * 2 * ADJUST_EVERY + [-1.0] * ADJUST_EVERY)
    for controller in controllers:
        there = values.to(controller.p.device)
        with no_waiting(there.device):
            for value in there.unbind():
                controller.update(value, images=RAMP_IMAGES // 100, progress=0.0)
    p, expected = (controller.p.item() for controller in controllers)
    assert abs(p - expected) < 1e-6
    assert 0 < p < MAX_P
    controller, _ = controllers
    augment = capture_on(device)(lambda images: adaptive_augment(images, controller.p))
    images = normalize(noise_data().samples[:64].float()).to(device)
    controller.p.zero_()
    for _ in range(WARM_UP_CALLS + 2):
        assert (augment(images) - images).abs().max() < 1e-3
    controller.p.fill_(MAX_P)
    assert (augment(images) - images).abs().mean() > 0.1
    controller.p.zero_()
    assert (augment(images) - images).abs().max() < 1e-3


# ---- comparisons -----------------------------------------------------------------------------------------------------


@contextmanager
def reproducible() -> Iterator[None]:
    """Have cuDNN take algorithms that give the same result each time, where there is one."""
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic


def check_random_states(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Refuse random generators that are not where others are."""
    assert first.keys() == second.keys()
    for name, state in first.items():
        assert torch.equal(state, second[name]), f"the random state of {name} is another one"


def within(limit: float, what: str, difference: float) -> float:
    """Return a difference that is small enough."""
    assert difference <= limit, f"{what} differ by {difference:.3g}, and at most by {limit:g} were right"
    return difference


def largest_difference(first: Metrics, second: Metrics) -> float:
    """Return the largest difference of two courses of metrics, as a share of one more than their size."""
    pairs = [(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in b]
    differences = [abs(a - b) / (1 + abs(b)) for a, b in pairs]
    return float("nan") if any(math.isnan(difference) for difference in differences) else max(differences)


def weights_of(state: TrainingState) -> Tensor:
    """Return all weights of both networks, float32 [number of weights], as they are now."""
    networks = (state.generator, state.discriminator)
    return torch.cat([weight.detach().flatten() for network in networks for weight in network.parameters()])


def gradients_of(state: TrainingState) -> dict[str, Tensor]:
    """Return the latest gradients of each network that has been moved, float32 [number of weights] on the CPU."""
    weights = {name: list(state.networks[name].parameters()) for name in ("generator", "discriminator")}
    flat = {name: [w.grad.flatten().cpu() for w in of if w.grad is not None] for name, of in weights.items()}
    return {name: torch.cat(parts) for name, parts in flat.items() if parts}


def moved_apart(before: Tensor, state: TrainingState, other: TrainingState) -> float:
    """Return how far two trainings have moved apart, as a share of how far they have moved."""
    first, second = weights_of(state), weights_of(other)
    assert not torch.equal(second, before), "nothing has been learned"
    return ((first - second).norm() / (second - before).norm()).item()
