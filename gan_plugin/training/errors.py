"""How a training ends that does not come to its end."""

from __future__ import annotations

from pathlib import Path

from gan_plugin.training.state import TrainingState


class Diverged(RuntimeError):
    """Training failed, and going back to the last good checkpoint did not help either.

    Attributes:
        state: as it was at its best, or in the last good checkpoint; None where there was nothing good.
    """

    def __init__(self, reason: str, state: TrainingState | None) -> None:
        super().__init__(reason)
        self.state = state


class Interrupted(RuntimeError):
    """Training was asked to stop and left a checkpoint behind; None where there was nothing that could be written."""

    def __init__(self, checkpoint: Path | None) -> None:
        where = "there is nothing to go on from" if checkpoint is None else f"go on with resume={checkpoint}"
        super().__init__(f"Training stopped as asked; {where}.")
