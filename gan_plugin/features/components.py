"""What feature maps measure, and principal components of that, scaled to about variance 1 over the training images.

So a Fréchet distance is in units of the data's own standard deviations along each of them. Features that all follow the
same thing, which in some data is how dark an image is, are one component then, and not nearly all of the distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gan_plugin.data.loader import gather
from gan_plugin.data.stored import Samples

MAX_FITTED = 10_000  # images that components are fitted to
FITTED_AT_ONCE = 256 * 32 * 32  # pixels
MIN_VARIANCE = 1e-4  # within a feature map: keeps the logarithm finite where a map is constant
REGULAR = 1e-3  # share of the largest variance that is added to each, or noise would become a feature


class Components(nn.Module):
    """Statistics [B, size] → their principal components [B, count]; what they are is settled after the training."""

    mean: Tensor  # [size]
    projection: Tensor  # [size, count]

    def __init__(self, size: int, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("projection", torch.zeros(size, count))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self.projection

    def fit(self, x: Tensor) -> None:
        """Settle the components from statistics [N, size] of N images."""
        mean, projection = principal_components(x, self.projection.shape[1])
        self.load_state_dict({"mean": mean, "projection": projection})


def texture(x: Tensor) -> Tensor:
    """Return mean and log standard deviation over positions, [B, 2·channels], of feature maps [B, channels, h, w]."""
    flat = x.flatten(2)
    return torch.cat([flat.mean(2), (flat.var(2, correction=0) + MIN_VARIANCE).log() / 2], 1)


def rows_to_fit(images: Samples) -> tuple[Tensor, ...]:
    """Return the rows of batches of images uint8 [N, C, H, W], at most MAX_FITTED of them in all, evenly spaced."""
    rows = torch.linspace(0, len(images) - 1, min(len(images), MAX_FITTED), dtype=torch.float64).round().long()
    size = max(1, FITTED_AT_ONCE // (images.shape[2] * images.shape[3]))
    batches: tuple[Tensor, ...] = rows.to(images.device).split(size)
    return batches


def principal_components(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean [size] of x float [N, size] and a projection [size, count] to components of variance 1.

    Each column of x is standardized first. Where x has fewer directions than ``count``, the others are 0. The matrix
    [size, size] is decomposed on the CPU, and that is where the results are.
    """
    x = x.double()
    mean, std = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    standard = (x - mean) / std
    variances, vectors = torch.linalg.eigh((standard.T @ standard / len(x)).cpu())  # ascending
    variances, vectors = variances[-count:].flip(0), vectors[:, -count:].flip(1)
    scale = (variances.clamp(min=0) + REGULAR * variances[0].clamp(min=1e-6)).sqrt()
    return mean.cpu(), vectors / scale / std.cpu()[:, None]


@torch.no_grad()
def fit_components(
    components: nn.ModuleList,
    statistics: Callable[[Tensor], Sequence[Tensor]],
    images: Samples,
    *,
    device: torch.device,
) -> None:
    """Settle components, one for each of the statistics on ``device``, from images uint8 [N, C, H, W] anywhere."""
    parts = [statistics(gather(images, rows, device)) for rows in rows_to_fit(images)]
    for component, values in zip(components, zip(*parts)):
        cast(Components, component).fit(torch.cat(values))
