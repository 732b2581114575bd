"""The head of a discriminator: a logit from features and, with labels, a projection on the class's embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionDiscriminator(nn.Module):
    """What discriminators with a linear logit of their features share; a subclass makes the features.

    With labels the logit gains the inner product of the features with an embedding of the class: Miyato & Koyama 2018,
    arXiv:1802.05637.
    """

    feature_size: int
    logit: nn.Linear
    label: nn.Embedding | None
    first_row: Tensor
    head = ("logit", "label")  # what only ``score`` needs

    def add_head(self, feature_size: int, *, classes: int, pack: int) -> None:
        """Add the layers behind the features: at the end of a subclass's ``__init__``.

        Args:
            feature_size: number of features.
            classes: of the labels; 0 for none.
            pack: images that are classified together; an embedding is that of a class at a place in a pack.
        """
        self.feature_size = feature_size
        self.logit = nn.Linear(feature_size, 1)
        self.label = nn.Embedding(classes * pack, feature_size) if classes else None
        self.register_buffer("first_row", torch.arange(pack) * classes, persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features [B, feature_size] of images [B, pack·channels, H, W]."""
        raise NotImplementedError

    def score(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the logits [B] of features, with labels int64 [B, pack]."""
        logit: Tensor = self.logit(features).squeeze(1)
        if self.label is None or label is None:
            return logit
        products = F.linear(features, self.label.weight)  # [B, classes·pack]: one matrix product costs least
        return logit + products.gather(1, label + self.first_row).sum(1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        return self.score(self.embed(x), label)
