"""Worker of training.py: argv = device, batch size, and ``plain``, ``float32`` or ``bf16``."""

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_plugin.config.recipe import load_recipe
from gan_plugin.data.loader import Batch
from gan_plugin.networks.dcgan import Discriminator, Dropout, Generator, StrideOneConvTranspose2d
from gan_plugin.spec import image_spec
from gan_plugin.training.gan import GanStep
from gan_plugin.training.state import new_state


def plain_step(device: torch.device) -> Callable[[Tensor], object]:
    """Train one step as a PyTorch tutorial does: the discriminator's on detached fakes, then the generator's."""
    generator, discriminator = Generator(100, image_spec(28, 28, 1)), Discriminator(image_spec(28, 28, 1), dropout=0.3)
    for i, layer in enumerate(generator.upsample):
        if isinstance(layer, StrideOneConvTranspose2d):
            generator.upsample[i] = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 5, 1, 2, bias=False)
    for i, layer in enumerate(discriminator.features):
        if isinstance(layer, Dropout):
            discriminator.features[i] = nn.Dropout(layer.probability)
    generator.to(device)
    discriminator.to(device)
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-4)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-4)

    def step(images: Tensor) -> None:
        real = images.float() / 127.5 - 1
        fake = generator(torch.randn(len(real), 100, device=device))
        d_loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake.detach())).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()
        g_loss = F.softplus(-discriminator(fake)).mean()
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()

    return step


def our_step(device: torch.device, precision: torch.dtype) -> Callable[[Tensor], object]:
    recipe = load_recipe("dcgan")
    torch.backends.cudnn.benchmark = True
    step = GanStep(new_state(recipe, image_spec(28, 28, 1), device), recipe, precision)
    return lambda images: step(Batch(images), Batch(images))


def finished(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    device, batch_size, kind = torch.device(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    precisions = {"float32": torch.float32, "bf16": torch.bfloat16}
    step = plain_step(device) if kind == "plain" else our_step(device, precisions[kind])
    images = torch.randint(0, 256, (batch_size, 1, 28, 28), dtype=torch.uint8, device=device)
    for _ in range(3):
        step(images)
    print(f"torch {torch.__version__}", flush=True)
    for line in sys.stdin:
        steps = int(line)
        start = finished(device)
        for _ in range(steps):
            step(images)
        print(steps * batch_size / (finished(device) - start), flush=True)


main()
