"""Run the command line as one of the processes that torchrun starts, one of which cannot do its share of evaluations.

argv: that one's rank, and a command.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from torch import nn

from gan_plugin.cli import main
from gan_plugin.evaluation.quick import QuickFeatures


def broken(features: QuickFeatures, generator: nn.Module) -> NoReturn:
    raise MemoryError("no memory is left for this")


if __name__ == "__main__":
    if os.environ["RANK"] == sys.argv.pop(1):
        QuickFeatures.share = broken  # type: ignore[assignment, method-assign]  # which is broken
    main()
