"""Run the command line as one of the processes that torchrun starts, one of which breaks.

argv: its rank, where it breaks: in its ``share`` of an evaluation or in a ``step`` of the training, and a command.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from gan_plugin.cli import main
from gan_plugin.evaluation.quick import QuickFeatures
from gan_plugin.training.gan import GanStep


def broken(*_: object) -> NoReturn:
    raise MemoryError("no memory is left for this")


if __name__ == "__main__":
    rank, where = sys.argv.pop(1), sys.argv.pop(1)
    if os.environ["RANK"] == rank:
        if where == "share":
            QuickFeatures.share = broken  # type: ignore[method-assign]  # which is broken
        else:
            GanStep.move = broken  # type: ignore[method-assign]  # as above
    main()
