"""Feature networks that are trained on the data itself: what they share, whatever they learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from gan_plugin.device import tuned
from gan_plugin.errors import UserError
from gan_plugin.features.network import (
    Outputs,
    as_tensor,
    batch_size,
    batches,
    check_images,
    concatenate,
    exact_float32,
)
from gan_plugin.media.image import ImageRows, normalize
from gan_plugin.spec import SampleSpec, shape_text

if TYPE_CHECKING:
    from typing import Self  # which Python 3.10 lacks

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class TrainedNetwork(Generic[Module]):
    """A trained network; a ``FeatureNetwork`` for images of the shape that it was trained on.

    Attributes:
        network: with its weights, on ``device``.
        spec: shape of the images, and one name per class, or none where the training got no names.
        device: where it runs.
        data_digest: digest of the dataset that it was trained on, or "".
        name: the last part of the name of every metric in these features.
        version: of network and training together: another version makes other features of the same data.
    """

    network: Module
    spec: SampleSpec
    device: torch.device
    _: KW_ONLY
    data_digest: str = ""

    name: ClassVar[str]
    version: ClassVar[int]
    resize: ClassVar[str] = "none"

    @classmethod
    def untrained(cls, spec: SampleSpec, facts: Mapping[str, Any], device: torch.device) -> Self:
        """Return one for images of this shape, in training mode, into which weights can be loaded.

        Args:
            spec: shape and class names.
            facts: what :attr:`facts` of the trained one were.
            device: where it is to run.
        """
        raise NotImplementedError

    @property
    def facts(self) -> dict[str, Any]:
        """What besides the images' shape decides the layers; JSON-serializable."""
        return {}

    def outputs(self, images: Tensor) -> Outputs:
        """Compute the outputs for one batch, uint8 [B, C, H, W] on ``device``."""
        raise NotImplementedError

    @cached_property
    def digest(self) -> str:
        """The first 32 hexadecimal characters of a SHA-256 over names and bytes of the weights."""
        hasher = hashlib.sha256(f"{self.name} {self.version}".encode())
        for key, value in sorted(self.network.state_dict().items()):
            hasher.update(f"{key} {list(value.shape)}".encode())
            hasher.update(value.cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()[:32]

    def __call__(self, images: ImageRows) -> Outputs:
        """Compute the outputs for images uint8 [N, H, W, C], N ≥ 1.

        Raises:
            UserError: the images have another shape than the ones trained on.
        """
        check_images(images)
        if images.shape[1:] != self.spec.shape:
            raise UserError(
                f"features={self.name} was trained on images of {self.spec} and cannot take images "
                f"of {shape_text(images.shape[1:])}: give reference data of that size."
            )
        with torch.inference_mode(), exact_float32(self.device):
            count = batch_size(self.spec.height, self.spec.width, self.device)
            return concatenate(
                [
                    self.outputs(as_tensor(batch, self.device))
                    for batch in tuned(batches(images, count), f"features of {min(count, len(images))} images")
                ]
            )


def signed(images: Tensor) -> Tensor:
    """Map uint8 [B, C, H, W] to float32 −1…1, laid out like the networks' weights."""
    return normalize(images.float()).contiguous(memory_format=torch.channels_last)
