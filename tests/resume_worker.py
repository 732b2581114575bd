"""Train to the end, and again with a stop in between, as one of the processes that torchrun starts; save the weights.

argv: a folder.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from training_helpers import CPU, Memory, plan

from gan_plugin.data import load_dataset
from gan_plugin.distributed import joined, ranks_of_environment
from gan_plugin.training.checkpoint import FILE_NAME
from gan_plugin.training.errors import Interrupted
from gan_plugin.training.loop import train
from gan_plugin.training.state import TrainingState

BATCH, STOPPED_AFTER = 256, 7  # steps, of two epochs of five


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dataset, counter = load_dataset("digits", image_size=16), itertools.count(1)
    with joined(ranks_of_environment(), CPU) as ranks:
        unstopped = train(dataset, plan(batch_size=BATCH), Memory(), folder=folder / "unstopped", ranks=ranks)
        resumed = folder / "resumed"
        with suppress(Interrupted):
            train(
                dataset,
                plan(batch_size=BATCH),
                Memory(),
                folder=resumed,
                stop_requested=lambda: ranks.rank == 1 and next(counter) == STOPPED_AFTER,
                ranks=ranks,
            )
        torch.manual_seed(ranks.rank)  # as in a process that has just begun: the state is that of the checkpoint
        checkpoint = resumed / FILE_NAME if ranks.is_main else None
        again = train(dataset, plan(batch_size=BATCH), Memory(), folder=resumed, resume=checkpoint, ranks=ranks)
    torch.save([weights(unstopped), weights(again)], folder / f"{ranks.rank}.pt")


def weights(state: TrainingState) -> dict[str, Tensor]:
    """The weights alone: batch norm's statistics are of a process's own share, and no checkpoint has those of all."""
    return {
        f"{name}.{key}": weight.detach()
        for name, network in state.networks.items()
        for key, weight in network.named_parameters()
    }


if __name__ == "__main__":
    main()
