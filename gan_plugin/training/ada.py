"""The controller of adaptive augmentation: how often what a discriminator sees is augmented, by how it overfits."""

from __future__ import annotations

import torch
from torch import Tensor

TARGET = 0.6  # of E sign(margin): where it is higher, the discriminator overfits
ADJUST_EVERY = 4  # batches from one adjustment of p to the next
RAMP_IMAGES = 500_000  # in which p goes from 0 to 1,
RAMP_SHARE = 0.2  # or in this share of the training, where that is sooner: a short one has to answer overfitting, too
# A generator can tell which way is up only while upright images are seen most often. Of quarter turns, upright ones
# are twice as frequent as any other at p = .8, and no more frequent at 1: above .8, turned images may be generated
# ("leak"). Karras et al. 2020, section 2.2
MAX_P = 0.8


def overfitting(margins: Tensor) -> Tensor:
    """Return E sign(margin), from −1 to 1, of margins of any shape: 1 where every real image is known for one.

    r_t of Karras et al. 2020, eq. 1. There may be more margins than images, from several discriminators, or fewer, from
    packs.
    """
    return margins.detach().sign().float().mean()


class AdaController:
    """Controller of p that keeps E sign(margin) over real images at TARGET.

    A margin is the logit of a real image above the objective's boundary: Karras et al. 2020, section 3.1. Where only
    differences of logits have a meaning, it is that above a fake's, with the same target, which a discriminator reaches
    sooner. The controller's values stay on the device, so that training need not wait for them.

    Attributes:
        p: the probability, a scalar float32 on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.p = torch.zeros((), device=device)
        self.signs = torch.zeros((), device=device)  # sum over the images since p was adjusted
        self.images = 0  # the number of those images
        self.batches = 0  # since the beginning
        self.progress = 0.0  # of the training, 0…1, when p was adjusted

    def update(self, overfitting: Tensor, *, images: int, progress: float) -> None:
        """Record E sign(margin) of a batch of real images; every ADJUST_EVERY batches p moves by what RAMP_IMAGES says.

        Args:
            overfitting: a scalar float32 on the device.
            images: of the batch.
            progress: of the training, 0…1.
        """
        self.signs += overfitting * images
        self.images += images
        self.batches += 1
        if self.batches % ADJUST_EVERY == 0:
            direction = (self.signs / self.images - TARGET).sign()
            step = max(self.images / RAMP_IMAGES, (progress - self.progress) / RAMP_SHARE)
            self.p.add_(direction * step).clamp_(0, MAX_P)  # in place: a captured step reads it where it is
            self.signs.zero_()
            self.images, self.progress = 0, progress

    def state(self) -> dict[str, Tensor]:
        """Return all state, for a checkpoint."""
        counts = torch.tensor([self.images, self.batches])
        progress = torch.tensor(self.progress, dtype=torch.float64)
        return {"p": self.p, "signs": self.signs, "counts": counts, "progress": progress}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        self.p.copy_(state["p"])
        self.signs.copy_(state["signs"])
        self.images, self.batches = (int(count) for count in state["counts"])
        self.progress = state["progress"].item()
