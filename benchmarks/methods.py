"""Methods to try that are not in the library, each of them in the place of a part of it during one training.

    python benchmarks/levers.py run fashion method=san method=muon,generator_lr=2e-3..2e-4 --epochs 4

:mod:`levers` trains with ``method=NAME`` as with a changed hyperparameter, and tables both alike.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin import cli
from gan_plugin.config.recipe import Recipe
from gan_plugin.data.loader import Batch
from gan_plugin.device import MEMORY_FORMAT, autocast
from gan_plugin.media.image import CHANNELS_FIRST, CHANNELS_LAST
from gan_plugin.networks import FAMILIES, subpixel
from gan_plugin.networks.dcgan import feature_map_sizes
from gan_plugin.networks.projection import ProjectionDiscriminator
from gan_plugin.spec import SampleSpec
from gan_plugin.training import steps
from gan_plugin.training.gan import GanStep
from gan_plugin.training.gradients import Gradients
from gan_plugin.training.state import TrainingState

SIGMA = 0.01  # of finite differences, where images are −1…1

# ---- penalties and losses --------------------------------------------------------------------------------------------


class FiniteDifferences(GanStep):
    """R1 without a second derivative, on a quarter of the batch.

    As in arXiv:2511.22475, with ``penalty_every=1``, and in float32 since it is a difference.
    """

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        self.penalty = lambda inputs: inputs.real_logits.new_zeros(())  # in place of the library's

    def discriminator_loss(self, real: Tensor, fake: Tensor, *, labels: Tensor | None, **rest: Any) -> Tensor:
        loss = super().discriminator_loss(real, fake, labels=labels, **rest)
        if not rest["penalized"]:
            return loss
        n = max(1, len(real) // 4)
        penalty = finite_difference(self.state, self.augment(real[:n]), None if labels is None else labels[:n])
        return loss + self.penalty_weight * penalty


def finite_difference(state: TrainingState, x: Tensor, labels: Tensor | None) -> Tensor:
    """Return ½E((D(x + σn) − D(x)) / σ)², n ~ N(0, I); the expectation over n is ½E‖∇D(x)‖² for a small σ."""
    both = torch.cat([x, x + SIGMA * torch.randn_like(x)])
    at_x, beside = state.discriminator(both, None if labels is None else labels.repeat(2)).chunk(2, 1)
    return cast(Tensor, 0.5 * ((beside - at_x) / SIGMA).square().mean())


class BalancedConsistency(GanStep):
    """(D(x) − D(T(x)))² of real images and of fakes, T a shift: Zhao et al. 2020, arXiv:2002.04724, section 3.1.

    x are the images as the discriminator has just seen them, augmented. For alternating updates.
    """

    WEIGHT = 10.0
    SHIFT = 0.1  # of the shorter side, at most

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        self.seen: list[Tensor] = []  # fakes come first, in one pass or two

    def of_discriminator_on(self, batch: Batch, fake: Tensor, z: Tensor, *, penalized: bool) -> Gradients:
        self.seen.clear()
        return super().of_discriminator_on(batch, fake, z, penalized=penalized)

    def augment(self, samples: Tensor) -> Tensor:
        self.seen.append(super().augment(samples))
        return self.seen[-1]

    def discriminator_loss(self, real: Tensor, fake: Tensor, *, labels: Tensor | None, **rest: Any) -> Tensor:
        loss = super().discriminator_loss(real, fake, labels=labels, **rest)
        shifted = self.shift(torch.cat(self.seen).detach())
        with autocast(self.device, self.precision):
            beside = self.state.discriminator(shifted, None if labels is None else labels.repeat(2))
        before = torch.cat([rest["fake_logits"], rest["real_logits"]], 1)
        return loss + 2 * self.WEIGHT * (before - beside).square().mean()  # the sum of two means

    def shift(self, x: Tensor) -> Tensor:
        """Move each image by up to SHIFT along both axes; what comes in repeats the border."""
        height, width = x.shape[2:]
        far = max(1, int(self.SHIFT * min(height, width)))
        padded = F.pad(x, (far, far, far, far), mode="replicate")
        corners = torch.randint(2 * far + 1, (len(x), 2)).tolist()
        return torch.stack([image[:, t : t + height, s : s + width] for image, (t, s) in zip(padded, corners)])


class San(GanStep):
    """A last layer of unit length whose direction learns by itself: Takida et al. 2024, arXiv:2301.12811.

    Features learn by the objective along the direction, the direction by the difference of means along itself. For
    alternating updates, with a penalty at the images themselves.
    """

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        for member in state_members(state):
            member.__class__ = type("San", (SanHead, type(member)), {})
            member.along_direction = []
        state.optimizers["discriminator"].register_step_post_hook(lambda *_: self.shorten())

    @torch.no_grad()
    def shorten(self) -> None:
        """Divide weights by the length of those of the logit: ever longer ones would turn ever less."""
        for member in state_members(self.state):
            length = member.logit.weight.norm()
            for layer in (member.logit, member.label):
                if layer is not None:
                    layer.weight.div_(length)

    def discriminator_loss(self, real: Tensor, fake: Tensor, *, labels: Tensor | None, **rest: Any) -> Tensor:
        loss = super().discriminator_loss(real, fake, labels=labels, **rest)
        for member in state_members(self.state):
            fakes, reals = torch.cat(member.along_direction).chunk(2)  # fakes come first, in one pass or two
            loss = loss + fakes.mean() - reals.mean()
        return loss

    def of_discriminator_on(self, batch: Batch, fake: Tensor, z: Tensor, *, penalized: bool) -> Gradients:
        for member in state_members(self.state):
            member.along_direction = []
        return super().of_discriminator_on(batch, fake, z, penalized=penalized)


class SanHead(ProjectionDiscriminator):
    """A discriminator's head whose weights, with those of the class, are a direction; without packs."""

    along_direction: list[Tensor]  # since it was last emptied

    def score(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        weight = self.logit.weight
        if self.label is not None and label is not None:
            weight = weight + self.label(label[:, 0])  # [B, F]
        direction = F.normalize(weight, dim=1)
        self.along_direction.append((features.detach() * direction).sum(1))
        return (features * direction.detach()).sum(1) + self.logit.bias


def state_members(state: TrainingState) -> Iterable[Any]:
    return cast(Iterable[Any], state.discriminator.members)


class ReconstructingDiscriminator(GanStep):
    """Maps of real images must be enough to paint these small: Liu et al. 2021, arXiv:2101.04775, section 3.2.

    By L1 in place of a distance in the features of a network that was trained on other data.
    """

    SIDE = 16

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        self.height, self.width = feature_map_sizes(state.spec.size)[-1]
        maps = cast(int, state.discriminator.members[0].feature_size) // (self.height * self.width)
        self.decoder = nn.Sequential(
            nn.Upsample(size=self.SIDE // 2),
            nn.Conv2d(maps, 32, 3, padding=1),
            nn.LeakyReLU(subpixel.SLOPE),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, state.spec.channels, 3, padding=1),
            nn.Tanh(),
        ).to(self.device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]  # torch's stubs lack the pair
        weights = list(self.decoder.parameters())
        state.optimizers["discriminator"].add_param_group({"params": weights})
        self.weights["discriminator"] += weights

    def discriminator_loss(self, real: Tensor, fake: Tensor, *, labels: Tensor | None, **rest: Any) -> Tensor:
        loss = super().discriminator_loss(real, fake, labels=labels, **rest)
        seen = self.augment(real.detach())
        with autocast(self.device, self.precision):
            features = cast(Any, self.state.discriminator.members[0]).embed(seen)
            maps = features.view(len(seen), self.height, self.width, -1).permute(CHANNELS_FIRST)
            painted = self.decoder(maps).float()
        return loss + (painted - F.adaptive_avg_pool2d(seen, self.SIDE)).abs().mean()


# ---- weights and how they move ---------------------------------------------------------------------------------------


class UnitWeights(GanStep):
    """Each output's weights keep the length that they began with: Karras et al. 2024, arXiv:2312.02696, section 2.3.

    So a rate turns weights by the same angle from the first step to the last. Weights that begin at 0 and those of both
    networks' last layers are free.
    """

    LAST = ("to_image", "logit", "label")

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        for name in ("generator", "discriminator"):
            weights = [
                w for n, w in state.networks[name].named_parameters() if not any(last in n for last in self.LAST)
            ]
            kept = [(w, norms(w)) for w in weights if w.dim() > 1 and bool(norms(w).all())]
            state.optimizers[name].register_step_post_hook(lambda *_, kept=kept: restore(kept))


def norms(weight: Tensor) -> Tensor:
    """Return the length of each output's weights, to be broadcast."""
    return weight.detach().flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))


@torch.no_grad()
def restore(kept: Iterable[tuple[Tensor, Tensor]]) -> None:
    for weight, length in kept:
        weight.mul_(length / norms(weight))


class Muon(GanStep):
    """Muon for kernels, Adam for all other weights: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/."""

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        for name, network in (("generator", state.generator), ("discriminator", state.discriminator)):
            state.optimizers[name] = MuonAndAdam(network, state.optimizers[name])


class Soap(GanStep):
    """SOAP for kernels, Adam for all other weights: Vyas et al. 2024, arXiv:2409.11321."""

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        for name, network in (("generator", state.generator), ("discriminator", state.discriminator)):
            state.optimizers[name] = SoapAndAdam(network, state.optimizers[name])


class KernelsAndAdam(torch.optim.Adam):
    """Adam but for the kernels [O, I, H, W], which move by ``update`` of their gradients as matrices [O, I·H·W].

    Those that make images are Adam's, too.
    """

    def __init__(self, network: nn.Module, adam: torch.optim.Optimizer) -> None:
        named = list(network.named_parameters())
        self.kernels = [w for name, w in named if w.dim() == 4 and "to_image" not in name]
        self.memories: list[dict[str, Tensor]] = [{} for _ in self.kernels]
        self.steps = 0
        group, kernels = adam.param_groups[0], {id(w) for w in self.kernels}
        others = [w for _name, w in named if id(w) not in kernels]
        super().__init__(others, group["lr"], betas=group["betas"], fused=True)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for kernel in self.kernels:
            kernel.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.steps += 1
        for kernel, memory in zip(self.kernels, self.memories):
            assert kernel.grad is not None
            update = self.update(kernel.grad.flatten(1), memory)
            kernel.add_(update.view(kernel.shape), alpha=-self.param_groups[0]["lr"])
        return loss

    def update(self, gradient: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Return what a rate of 1 subtracts, and keep in ``memory`` what the next step needs of this one."""
        raise NotImplementedError


class MuonAndAdam(KernelsAndAdam):
    """Kernels move by their gradient with Nesterov's momentum, made orthogonal.

    An update is a fifth as long as Adam's longest, as in Liu et al. 2025, arXiv:2502.16982, where Adam has momentum.
    """

    MOMENTUM = 0.95

    def update(self, gradient: Tensor, memory: dict[str, Tensor]) -> Tensor:
        average = memory.setdefault("average", torch.zeros_like(gradient)).lerp_(gradient, 1 - self.MOMENTUM)
        return 0.2 * math.sqrt(max(gradient.shape)) * orthogonal(gradient.lerp(average, self.MOMENTUM))


class SoapAndAdam(KernelsAndAdam):
    """Kernels move by Adam without momentum in the eigenvectors of E[g gᵀ], one side of Shampoo's preconditioner."""

    EVERY = 10  # steps that eigenvectors are kept for
    MIN_BETA = 0.95  # of E[g gᵀ]

    def update(self, gradient: Tensor, memory: dict[str, Tensor]) -> Tensor:
        beta = self.param_groups[0]["betas"][1]
        products = gradient @ gradient.mT
        if not memory:
            memory |= {"products": products, "basis": eigenvectors(products), "squares": torch.zeros_like(gradient)}
        basis = memory["basis"]
        rotated = basis.mT @ gradient
        squares = memory["squares"].lerp_(rotated.square(), 1 - beta)
        update = basis @ (rotated / ((squares / (1 - beta**self.steps)).sqrt() + 1e-8))
        memory["products"].lerp_(products, 1 - max(beta, self.MIN_BETA))
        if self.steps % self.EVERY == 0:
            memory["basis"] = eigenvectors(memory["products"])
            memory["squares"] = (memory["basis"].mT @ basis).square() @ squares
        return update


def eigenvectors(matrix: Tensor) -> Tensor:
    """Return those of a symmetric matrix as columns."""
    return torch.linalg.eigh(matrix).eigenvectors


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Return about U Vᵀ of a matrix U S Vᵀ, by Newton and Schulz's iteration with Jordan's coefficients."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    wide = x if x.shape[0] <= x.shape[1] else x.mT
    for _ in range(iterations):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.mT


# ---- speed -----------------------------------------------------------------------------------------------------------


class Compiled(GanStep):
    """Networks by torch.compile, which fuses what is elementwise; where a penalty is due, as PyTorch runs them.

    A second derivative of what it compiles is refused.
    """

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        generator = cast(Any, state.generator)
        generator.forward = torch.compile(generator.forward, dynamic=False)
        for member in state_members(state):
            member.embed = torch.compile(member.embed, dynamic=False)

    def __call__(self, batch: Batch, generator_batch: Batch) -> dict[str, Tensor]:
        with torch.compiler.set_stance("force_eager" if self.penalty_is_due() else "default"):
            return super().__call__(batch, generator_batch)


# ---- resolution ------------------------------------------------------------------------------------------------------


class Growing(GanStep):
    """Images of half each side until progress UNTIL: Karras et al. 2018, arXiv:1710.10196.

    The stages of ``subpixel`` work at that size and below: two convolutions stand in for its layers beyond them, and
    hand what they have learned to these. For even sides, without packs, codes and further discriminators.
    """

    UNTIL = 0.3

    def __init__(self, state: TrainingState, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__(state, recipe, precision)
        width = cast(Any, state.generator).blocks[-1][0].conv.out_channels
        self.to_small = subpixel.conv(width, state.spec.channels, gain=1).to(self.device)
        self.from_small = subpixel.conv(state.spec.channels, width).to(self.device)
        self.was_small = False
        self.large, self.small = self.weights, {}
        beyond = {"generator": ("subpixel", "to_image"), "discriminator": ("from_image",)}
        for name, layer in (("generator", self.to_small), ("discriminator", self.from_small)):
            state.optimizers[name].add_param_group({"params": list(layer.parameters())})
            named = state.networks[name].named_parameters()
            stages = [weight for path, weight in named if not set(path.split(".")) & set(beyond[name])]
            self.small[name] = [*stages, *layer.parameters()]

    def __call__(self, batch: Batch, generator_batch: Batch) -> dict[str, Tensor]:
        if self.was_small and not self.is_small:
            self.hand_over()
        self.was_small = self.is_small
        self.weights = self.small if self.is_small else self.large
        return super().__call__(batch, generator_batch)

    @torch.no_grad()
    def hand_over(self) -> None:
        """Let the library's layers begin with images that are the small ones enlarged, and logits of these reduced."""
        discriminator = cast(Any, self.state.discriminator.members[0])
        discriminator.from_image.weight.copy_(self.from_small.weight.repeat_interleave(4, 1) / 4)
        discriminator.from_image.bias.copy_(self.from_small.bias)
        for network in (self.state.generator, self.state.ema):
            generator = cast(Any, network)
            generator.to_image.weight.zero_()
            generator.to_image.bias.zero_()
            for channel in range(self.state.spec.channels):  # x = (f(x) − f(−x)) / (1 + SLOPE), f leaky ReLU
                for map_, sign in ((2 * channel, 1), (2 * channel + 1, -1)):
                    generator.subpixel.weight[4 * map_ : 4 * map_ + 4] = sign * self.to_small.weight[channel]
                    generator.subpixel.bias[4 * map_ : 4 * map_ + 4] = sign * self.to_small.bias[channel]
                    generator.to_image.weight[channel, map_, 1, 1] = sign / (1 + subpixel.SLOPE)

    def discriminator_loss(self, real: Tensor, fake: Tensor, *, labels: Tensor | None, **rest: Any) -> Tensor:
        # ‖∇D‖² with respect to a mean of four pixels is four times that with respect to them
        weight = self.penalty_weight
        self.penalty_weight = weight / 4 if self.is_small else weight
        loss = super().discriminator_loss(real, fake, labels=labels, **rest)
        self.penalty_weight = weight
        return loss

    @property
    def is_small(self) -> bool:
        return self.state.progress < self.UNTIL

    def real_samples(self, batch: Batch) -> Tensor:
        real = super().real_samples(batch)
        return F.avg_pool2d(real, 2) if self.is_small else real

    def generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        if not self.is_small:
            return super().generate(z, labels)
        generator = cast(Any, self.state.generator)
        with autocast(self.device, self.precision):
            x = generator.dense(z).view(-1, *generator.start).permute(CHANNELS_FIRST)
            x = generator.dense_norm(x, z, labels)
            for i, (size, stage) in enumerate(zip(generator.sizes, generator.blocks)):
                if i:
                    x = generator.blurs[i - 1](F.interpolate(x, size))
                    x = generator.transitions[i - 1](x, z, labels)
                x = stage(x, z, labels)
            image = subpixel.OVERSHOOT * torch.tanh(self.to_small(x))
            return subpixel.straight_through_clamp(image).float()

    def run_discriminator(self, samples: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not self.is_small:
            return super().run_discriminator(samples, labels)
        member = cast(Any, self.state.discriminator.members[0])
        with autocast(self.device, self.precision):
            x = self.from_small(self.augment(samples))
            for i, stage in enumerate(member.blocks):
                x = stage(x if i == 0 else member.transitions[i - 1](x))
            features = F.leaky_relu(x, subpixel.SLOPE).permute(CHANNELS_LAST).flatten(1)
            logits = member.score(features, None if labels is None else labels[:, None])
            return logits[None].float(), None


# ---- generators ------------------------------------------------------------------------------------------------------


def excited(recipe: Recipe, spec: SampleSpec) -> nn.Module:
    """Return that of ``subpixel`` whose coarsest maps gate the finer ones: Liu et al. 2021, arXiv:2101.04775."""
    generator = cast(Any, subpixel.build_generator(recipe, spec))
    coarsest, *finer = generator.blocks
    widths = [stage[0].conv.out_channels for stage in generator.blocks]
    seen: dict[str, Tensor] = {}

    def remember(_module: nn.Module, _inputs: Any, x: Tensor) -> None:
        seen["x"] = x

    def multiplied(stage: Any, _inputs: Any, x: Tensor) -> Tensor:
        return cast(Tensor, x * stage.__dict__["gate"](seen["x"]))

    coarsest.register_forward_hook(remember)
    generator.gates = nn.ModuleList([gate(widths[0], width) for width in widths[1:]])
    for stage, its_gate in zip(finer, generator.gates):
        stage.__dict__["gate"] = its_gate  # not as one of the layers of a stage; a copy's are those of the copy
        stage.register_forward_hook(multiplied)
    return cast(nn.Module, generator)


def gate(before: int, after: int) -> nn.Module:
    """Return a module from maps [B, before, 4n, 4n] to factors [B, after, 1, 1] in 0…1."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4),
        nn.Conv2d(before, after, 4),
        nn.LeakyReLU(0.1),
        nn.Conv2d(after, after, 1),
        nn.Sigmoid(),
    )


# ---- the list --------------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """What a training has in place of the library's own."""

    step: type[GanStep] = GanStep
    generator: Callable[[Recipe, SampleSpec], nn.Module] = subpixel.build_generator


METHODS = {
    "finite-differences": Method(FiniteDifferences),
    "balanced-consistency": Method(BalancedConsistency),
    "san": Method(San),
    "reconstruction": Method(ReconstructingDiscriminator),
    "unit-weights": Method(UnitWeights),
    "muon": Method(Muon),
    "soap": Method(Soap),
    "compiled": Method(Compiled),
    "growing": Method(Growing),
    "skip-excitation": Method(generator=excited),
}


@contextmanager
def in_place(name: str) -> Iterator[None]:
    """Have a method in its place."""
    method, family, step = METHODS[name], FAMILIES["subpixel"], steps.GanStep
    steps.GanStep = method.step  # type: ignore[misc]  # a class in a class's place
    FAMILIES["subpixel"] = family._replace(generator=method.generator)
    try:
        yield
    finally:
        steps.GanStep = step  # type: ignore[misc]  # as above
        FAMILIES["subpixel"] = family


if __name__ == "__main__":
    with in_place(sys.argv.pop(1)):
        cli.main()
