"""Run the command line as one of the processes that torchrun starts, one of which breaks.

argv: its rank, where it breaks: in its ``share`` of an evaluation, in a ``step`` of the training, or once in its
``weights``, and a command.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from typing import NoReturn

from gan_plugin.cli import main
from gan_plugin.evaluation.quick import QuickFeatures
from gan_plugin.training.gan import GanStep
from gan_plugin.training.gradients import Gradients


def broken(*_: object) -> NoReturn:
    raise MemoryError("no memory is left for this")


def lose_weights() -> None:
    """Have a weight that is no number after the 24th step, the last of the second epoch."""
    move, moves = GanStep.move, itertools.count(1)

    def losing(self: GanStep, gradients: Gradients) -> None:
        move(self, gradients)
        if next(moves) == 2 * 24:
            self.weights["generator"][0].data.view(-1)[0] = math.nan

    GanStep.move = losing  # type: ignore[method-assign]  # as below


if __name__ == "__main__":
    rank, where = sys.argv.pop(1), sys.argv.pop(1)
    if os.environ["RANK"] == rank:
        if where == "share":
            QuickFeatures.share = broken  # type: ignore[method-assign]  # which is broken
        elif where == "weights":
            lose_weights()
        else:
            GanStep.move = broken  # type: ignore[method-assign]  # as above
    main()
