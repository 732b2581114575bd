"""How close reconstructed images are to the images that they were made from.

Each metric compares pairs: image i of one array with image i of the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from gan_plugin.media.image import CHANNELS_FIRST, WHITE, Images

BLOCK = 256  # pairs at a time


def ssim(images: Images, reconstructions: Images, device: torch.device) -> npt.NDArray[np.float64]:
    """Return the structural similarity of N pairs, float64 [N], 1 for equal ones: Wang et al. 2004.

    With the paper's constants and its window, a Gaussian of σ = 1.5 over 11 pixels: doi:10.1109/TIP.2003.819861.
    """
    values = []
    for first in range(0, len(images), BLOCK):
        rows = slice(first, first + BLOCK)
        generated, real = (
            torch.from_numpy(x[rows]).permute(CHANNELS_FIRST).to(device) for x in (reconstructions, images)
        )
        similarity = structural_similarity_index_measure(
            generated.double(), real.double(), data_range=float(WHITE), reduction="none"
        )
        assert isinstance(similarity, torch.Tensor)
        values.append(similarity.reshape(-1).cpu().numpy())  # of one pair torchmetrics returns a scalar
    return np.concatenate(values)
