"""When checkpoints are written, and which of them the guard goes back to."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from gan_plugin.distributed import ALONE, Ranks
from gan_plugin.errors import UserError, first_line
from gan_plugin.tracking.tracker import Tracker
from gan_plugin.training.checkpoint import FILE_NAME, GOOD_NAME, link, random_states, read_header, save_checkpoint
from gan_plugin.training.state import TrainingState

MIN_INTERVAL = 100  # times what a checkpoint takes: those that time demands cost less than one second in a hundred

logger = logging.getLogger(__name__)


class Checkpoints:
    """Save the checkpoints of one run.

    Those at the ends of epochs depend on nothing but the settings, and the last of them is where the guard goes back
    to. Those that time demands in between serve a killed run only, or results would depend on the machine's speed.

    Args:
        folder: of the run.
        identity: what a resumed run must agree on.
        tracker: gets a copy of each.
        interval_s: the most seconds from one to the next.
        resume: the checkpoint that the run goes on from, or None.
        ranks: the processes of the training, all of which save together; rank 0 writes.

    Attributes:
        newest: the file to go on from, in rank 0; None before there is one.
        last_good: the file that the guard goes back to, likewise; None before there is one.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        tracker: Tracker,
        *,
        interval_s: float,
        resume: Path | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.path, self.identity, self.tracker, self.interval_s = folder / FILE_NAME, identity, tracker, interval_s
        self.ranks = ranks
        self.newest = self.last_good = resume
        if ranks.is_main:
            for leftover in [*folder.glob("*.new"), *folder.glob("*.link")]:  # of a killed process
                leftover.unlink(missing_ok=True)
            if resume is not None:
                self.last_good = self._keep_good(resume)
        self.saved_at, self.cost_s = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Return whether so much time has passed that there is more to lose than a checkpoint costs."""
        interval = max(self.interval_s, MIN_INTERVAL * self.cost_s)
        return self.ranks.decide(lambda: time.monotonic() - self.saved_at >= interval)

    def has_good(self) -> bool:
        """Return whether there is a checkpoint that the guard may go back to."""
        return self.ranks.decide(lambda: self.last_good is not None)

    def save(self, state: TrainingState) -> bool:
        """Write a checkpoint; False, with a warning, where the disk does not take it: the one before it stays."""
        randoms = self.ranks.gather(random_states(state))
        return self.ranks.decide(lambda: self._write(state, randoms))

    def _write(self, state: TrainingState, randoms: list[dict[str, Tensor]]) -> bool:
        start = time.monotonic()
        try:
            save_checkpoint(self.path, state, self.identity, randoms=randoms)
        except OSError as error:
            logger.warning(
                "The checkpoint of step %d cannot be written to %s (%s): training goes on, and tries again.",
                state.steps,
                self.path,
                error.strerror or first_line(error),
            )
            return False
        finally:
            self.saved_at = time.monotonic()
            self.cost_s = self.saved_at - start
        self.newest = self.path
        self.tracker.file(self.path, "checkpoint")
        return True

    def save_good(self, state: TrainingState) -> None:
        """Write a checkpoint that the guard may go back to."""
        if self.save(state) and self.ranks.is_main:
            try:
                link(self.path, self._good)
            except OSError as error:  # a disk without hard links, and no room for a copy
                logger.warning("%s cannot be written (%s): the guard keeps the one before.", self._good, error.strerror)
            else:
                self.last_good = self._good

    @property
    def _good(self) -> Path:
        return self.path.with_name(GOOD_NAME)

    def _keep_good(self, resume: Path) -> Path:
        """Return what the guard would have gone back to at ``resume``, in this run's folder, where that is known."""
        good = self._good
        try:
            header, resumed = read_header(good), read_header(resume)
            if header["identity"] == resumed["identity"] and header["steps"] <= resumed["steps"]:
                return good
        except UserError:
            pass  # there is none, or none to go back to
        try:
            good.parent.mkdir(parents=True, exist_ok=True)
            link(resume, good)
        except OSError:
            return resume
        return good
