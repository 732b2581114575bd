"""Whether the weights of a training are finite, and the same in every process."""

from __future__ import annotations

import torch

from gan_plugin.training.guard import GuardError
from gan_plugin.training.state import TrainingState


@torch.no_grad()
def check_weights(state: TrainingState) -> None:
    """Raise an error for a weight that is not finite; a loss shows that only one step later.

    One value is read on the host, unless there is something to find.

    Raises:
        GuardError: names the weight.
    """
    named = [(f"{name}.{k}", v) for name, network in state.networks.items() for k, v in network.state_dict().items()]
    norms = torch._foreach_norm([value for _, value in named if value.is_floating_point()])
    if torch.stack(norms).isfinite().all():
        return
    for name, value in named:  # the norm of large values may be infinite
        if not value.isfinite().all():
            raise GuardError(f"{name} became {value[~value.isfinite()][0].item()}")


def parameter_sums(state: TrainingState) -> list[int]:
    """Return a number for each network that tells other weights apart: of their bits, whose sum has no order."""
    bits = [[weight.detach().view(torch.int32) for weight in n.parameters()] for n in state.networks.values()]
    sums = [torch.stack([weight.sum(dtype=torch.int64) for weight in of_network]).sum() for of_network in bits]
    return torch.stack(sums).tolist()
