"""Training by several processes, which torchrun starts: one a GPU, or several on a CPU.

Rank 0 decides, logs, evaluates and writes; the others compute. There is one flat all-reduce of the gradients for each
update of a network, between the gradients and its optimizer. PyTorch's DistributedDataParallel would leave gradients as
they are, without a word, where they are taken by ``torch.autograd.grad``, as penalties on gradients need it.
"""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

from gan_plugin.errors import UserError, first_line

# A process that has ended is noticed at once by those that are connected with it. These are for one that never came,
# and for a machine that vanishes from the network.
STEP_TIMEOUT = timedelta(minutes=30)  # PyTorch's own; of an average, to which all come at about the same time
DECISION_TIMEOUT = timedelta(hours=24)  # longer than anything for which all others wait for rank 0
CHUNK_BYTES = 2**26  # of a file that is sent

T = TypeVar("T")


class RankLost(RuntimeError):
    """Another process of this training has ended, or cannot be reached."""


class Question(NamedTuple):
    """What rank 0 asks the others while they wait for its decision."""

    content: Any


class Failure(NamedTuple):
    """What came of a question in a process that could not answer it: the trace of its error."""

    trace: str


def portable(error: Exception) -> Exception:
    """Return an error, or where it cannot be pickled and read again one with its message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(first_line(error))
    return error


def unasked(question: object) -> object:
    """Answer where no question is expected."""
    raise RuntimeError(f"There is no answer to {question!r}.")


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, as one of them sees them. A single one needs no process group.

    Attributes:
        rank: the number of this process, from 0.
        world_size: how many there are.
        local_rank: the number of this process among those of its machine.
        decision_group: connects them while they wait for what one of them does; None is PyTorch's default group.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    decision_group: distributed.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that decides, logs, evaluates and writes."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the mean over all processes of each tensor: float32, dense, and laid out alike in all of them."""
        if self.world_size == 1:
            return list(tensors)
        flat = torch.cat([tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors])  # as they lie in memory
        with lost_rank_named():
            distributed.all_reduce(flat)
        flat /= self.world_size
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.as_strided(tensor.shape, tensor.stride()) for part, tensor in zip(parts, tensors)]

    def maximum(self, numbers: Sequence[float]) -> list[float]:
        """Return the largest of each number over all processes; on the host, where it waits for no GPU."""
        if self.world_size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        with lost_rank_named():
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor.tolist()

    def decide(self, decision: Callable[[], T], answer: Callable[[Any], object] = unasked) -> T:
        """Return in every process what rank 0 decides, or raise what is raised there; others do not call it.

        Args:
            decision: of rank 0, which may :meth:`ask` the others.
            answer: of the others to each of its questions.
        """
        if self.world_size == 1:
            return decision()
        outcome: Any = None, None
        if self.is_main:
            try:
                outcome = decision(), None
            except Exception as error:
                outcome = None, portable(error)
        while isinstance(received := self.broadcast(outcome), Question):
            self.gather(attempt(answer, received.content))
        value, raised = received
        if raised is not None:
            raise raised
        return value  # type: ignore[no-any-return]  # as it was sent

    def ask(self, question: object, own: Callable[[], T]) -> list[T]:
        """Return the answers of all processes to a question, by their ranks; for rank 0, within a decision.

        Args:
            question: for the others, who wait for the decision; can be pickled, and so can their answers.
            own: gives the answer of rank 0, while the others give theirs.

        Raises:
            RuntimeError: one of the others cannot answer; with its trace.
        """
        if self.world_size == 1:
            return [own()]
        self.broadcast(Question(question))
        try:
            answer = own()
        finally:
            answers: list[Any] = self.gather(None)  # of the others, for whom an error here is none
        for rank, other in enumerate(answers):
            if isinstance(other, Failure):
                raise RuntimeError(f"Process {rank} could not do its share:\n{other.trace}")
        return [answer, *answers[1:]]

    def check(self, check: Callable[[], T]) -> T:
        """Run a check in every process; what it raises in one is raised in all, that of the lowest rank."""
        if self.world_size == 1:
            return check()
        value, own = None, None
        try:
            value = check()
        except Exception as error:
            own = portable(error)
        for raised in self.gather(own):
            if raised is not None:
                raise raised
        return value  # type: ignore[return-value]  # None only where the check's is

    def broadcast(self, value: T) -> T:
        """Return rank 0's value, which can be pickled, in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        with lost_rank_named():
            distributed.broadcast_object_list(values, group=self.decision_group, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, which can be pickled, in each of them, by their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with lost_rank_named():
            distributed.all_gather_object(values, value, group=self.decision_group)
        return values

    def check_equal(self, values: Sequence[float], what: str) -> None:
        """Refuse numbers that are not the same in all processes.

        Raises:
            RuntimeError: names what differs, and in which process.
        """
        for rank, others in enumerate(self.gather(list(values))):
            if others != list(values):
                raise RuntimeError(f"The {what} of rank {rank} are not those of rank {self.rank}.")

    @contextmanager
    def file(self, path: Path | None) -> Iterator[Path]:
        """Give every process a file of rank 0's machine: rank 0 the file itself, the others a copy while they need it.

        Args:
            path: in rank 0; what others give is ignored.
        """
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "file"
            if self.is_main:
                assert path is not None
                place = path
            size = self.broadcast(place.stat().st_size if self.is_main else 0) if self.world_size > 1 else 0
            with open(place, "rb" if self.is_main else "wb") as stream, lost_rank_named():
                for start in range(0, size, CHUNK_BYTES):
                    count = min(CHUNK_BYTES, size - start)
                    data = bytearray(stream.read(count)) if self.is_main else bytearray(count)
                    distributed.broadcast(torch.frombuffer(data, dtype=torch.uint8), 0)
                    if not self.is_main:
                        stream.write(data)
            yield place


ALONE = Ranks()


def attempt(answer: Callable[[Any], T], question: Any) -> T | Failure:
    """Return an answer, or what went wrong, in words: not every exception can be pickled."""
    try:
        return answer(question)
    except Exception:
        return Failure(traceback.format_exc())


@contextmanager
def lost_rank_named() -> Iterator[None]:
    """Raise :class:`RankLost` in place of what PyTorch raises where another process does not answer."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # of this process's own GPU
    except RuntimeError as error:
        raise RankLost(f"Another process of this training has ended: {first_line(error)}") from error


def ranks_of_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return what torchrun says of this process; a single one where torchrun has not started it."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return Ranks()
    rank, world_size, local_rank = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Ranks(rank, world_size, local_rank)


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[Ranks]:
    """Connect the processes within a block, each with a GPU of its own where ``device`` is CUDA; gives them connected.

    Raises:
        UserError: this machine has fewer GPUs than processes.
        RankLost: they have not found each other.
    """
    if device.type == "cuda" and ranks.world_size > 1:
        if ranks.local_rank >= (count := torch.cuda.device_count()):
            raise UserError(
                f"{os.environ.get('LOCAL_WORLD_SIZE')} processes are more than the {count} GPUs of "
                f"{socket.gethostname()}: give torchrun --nproc-per-node={count}, or device=cpu."
            )
        torch.cuda.set_device(ranks.local_rank)  # what "cuda" means from here on
    if ranks.world_size == 1:
        yield ranks
        return
    yield replace(ranks, decision_group=connect("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"))
    distributed.destroy_process_group()  # after an error it could wait for others; that of this process tells them


def connect(backend: str) -> distributed.ProcessGroup:
    """Make PyTorch's default group of the processes that torchrun has started; returns the one for decisions.

    Raises:
        RankLost: they have not found each other.
    """
    try:
        places = distributed.rendezvous("env://", timeout=STEP_TIMEOUT)  # type: ignore[attr-defined]  # not in __all__
        store, rank, world_size = next(places)
        if os.environ.get("GROUP_WORLD_SIZE") == "1":  # only then do all count torchrun's restarts alike
            # or processes that torchrun starts again would look for those before them: pytorch issue 135712
            prefix = f"restart_{os.environ['TORCHELASTIC_RESTART_COUNT']}"
            store = distributed.PrefixStore(prefix, store)  # type: ignore[attr-defined]  # not in __all__
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=STEP_TIMEOUT)
        group: distributed.ProcessGroup = distributed.new_group(backend="gloo", timeout=DECISION_TIMEOUT)
    except RuntimeError as error:
        raise RankLost(f"The processes of this training have not found each other: {first_line(error)}") from error
    return group


def seed_of_rank(seed: int, rank: int) -> int:
    """Return the seed of what a process draws: that of the training for rank 0, others for the rest.

    Within 32 bits, because PyTorch's generator on the CPU looks at no others.

    >>> [seed_of_rank(7, rank) for rank in range(3)]
    [7, 2246822526, 198677749]
    """
    return (seed + rank * 2_246_822_519) % 2**32
