"""All state of a training run in one file, written atomically: weights, optimizers, random states, position.

A run's folder holds the newest checkpoint, the one before it, and the last that the guard found good. Each also holds
the best generator so far.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_plugin.distributed import ALONE, Ranks, seed_of_rank
from gan_plugin.errors import UserError
from gan_plugin.storage import DamagedFileError, load_tensors, save_tensors
from gan_plugin.training.guard import GuardState
from gan_plugin.training.state import Best, TrainingState

FILE_NAME = "checkpoint.safetensors"
PREVIOUS_NAME = "checkpoint.previous.safetensors"
GOOD_NAME = "checkpoint.good.safetensors"
VERSION = 10


def random_states(state: TrainingState) -> dict[str, Tensor]:
    """Return the states of this process's random generators, by device."""
    return {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state()} if on_cuda(state) else {})


def save_checkpoint(
    path: Path, state: TrainingState, identity: dict[str, Any], *, randoms: Sequence[dict[str, Tensor]] | None = None
) -> None:
    """Write the state to ``path`` and keep what was there under PREVIOUS_NAME; a reader sees whole files at any moment.

    Args:
        path: of the file.
        state: of the training.
        identity: what a resumed run must agree on (recipe, seed, data digest, …), JSON-serializable.
        randoms: what ``random_states`` returns in each of the training's processes; None for this one alone.

    Raises:
        OSError: it cannot be written; the files are as they were.
    """
    randoms = [random_states(state)] if randoms is None else randoms
    tensors = {f"random.{rank}.{device}": value for rank, own in enumerate(randoms) for device, value in own.items()}
    for name, network in state.networks.items():
        tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    for name, optimizer in state.optimizers.items():
        for i, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{i}.{key}": value for key, value in values.items()}
    tensors |= {f"ada.{key}": value for key, value in state.ada.state().items()}
    header: dict[str, Any] = {"version": VERSION, "steps": state.steps, "identity": identity}
    header |= {"progress": state.progress, "seconds": state.seconds, "world_size": len(randoms)}
    header |= {"rollbacks": state.rollbacks, "guard": vars(state.guard)}
    if state.best is not None:
        tensors |= {f"best.{key}": value for key, value in state.best.weights.items()}
        header["best"] = {k: v for k, v in vars(state.best).items() if k != "weights"}
    newer = path.with_name(f"{path.name}.new")
    try:
        save_tensors(newer, tensors, header)
        if path.exists():
            link(path, path.with_name(PREVIOUS_NAME))
        os.replace(newer, path)
    finally:
        newer.unlink(missing_ok=True)


def link(path: Path, other: Path) -> None:
    """Let ``other`` name the file at ``path``, too, atomically; where there are no hard links, name a copy of it."""
    temporary = other.with_name(f"{other.name}.link")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, other)
    finally:
        temporary.unlink(missing_ok=True)  # rename leaves two names of one file as they are


def load_checkpoint(
    path: Path, state: TrainingState, identity: dict[str, Any], *, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Put the state of ``path`` into ``state`` and torch's random generators; return the header.

    Of another number of processes the order of the data goes on as it was, but each draws anew: with a seed of its own.

    Raises:
        UserError: the file is no checkpoint, or belongs to a run with another identity; each difference is named.
    """
    tensors, header = read_checkpoint(path)
    check_identity(header, identity)
    for name, network in state.networks.items():
        network.load_state_dict(_under(tensors, name))
    for name, optimizer in state.optimizers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"optimizer.{name}").items():
            index, _, field = key.partition(".")
            moments.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        for weight, values in optimizer.state.items():  # laid out like their weights, as the fused optimizer needs it
            for field in [name for name, value in values.items() if value.shape == weight.shape and value.dim()]:
                values[field] = torch.empty_like(weight).copy_(values[field])
    randoms = _under(tensors, f"random.{ranks.rank}") if header["world_size"] == ranks.world_size else {}
    if "cpu" in randoms:
        torch.set_rng_state(randoms["cpu"])
    else:
        torch.manual_seed(seed_of_rank(header["identity"]["seed"] + header["steps"], ranks.rank))
    if "cuda" in randoms and on_cuda(state):
        torch.cuda.set_rng_state(randoms["cuda"])
    state.ada.load(_under(tensors, "ada"))
    state.steps, state.progress, state.seconds = header["steps"], header["progress"], header["seconds"]
    state.rollbacks, state.guard = header["rollbacks"], GuardState(**header["guard"])
    if "best" in header:
        device = next(state.ema.parameters()).device
        weights = {key: value.to(device) for key, value in _under(tensors, "best").items()}
        state.best = Best(**header["best"], weights=weights)
    return header


def check_identity(header: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse a checkpoint that a run with this identity may not go on from.

    Raises:
        UserError: names each difference.
    """
    if changed := differences(header["identity"], identity):
        raise UserError(f"resume is not possible with other settings than the run began with: {'; '.join(changed)}.")


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint and what it says beside them, once its digest holds.

    Raises:
        UserError: the file is no checkpoint, is damaged, or is of another version; the sentence offers the one before.
    """
    try:
        tensors, header = load_tensors(path)
    except (DamagedFileError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"resume={str(path)!r} is not a checkpoint, or is damaged ({reason}): give {_alternative(path)}."
        ) from None
    if header.get("version") != VERSION:
        raise UserError(
            f"The checkpoint {path} has version {header.get('version')}; this gan_plugin reads version {VERSION}."
        )
    return tensors, header


def read_header(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says beside its tensors; raises as :func:`read_checkpoint`."""
    return read_checkpoint(path)[1]


def _alternative(path: Path) -> str:
    """Return what can be resumed from in place of a damaged file."""
    for name in (PREVIOUS_NAME, GOOD_NAME):
        other = path.with_name(name)
        if other != path and other.exists():
            with suppress(DamagedFileError, OSError):
                _, header = load_tensors(other)
                return f"resume={str(other)!r}, which is whole, from step {header['steps']:,}"
    return f"a {FILE_NAME} that training wrote"


def on_cuda(state: TrainingState) -> bool:
    """Return whether the state's networks are on a CUDA device."""
    return next(state.generator.parameters()).is_cuda


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a phrase for each entry in which two identities differ."""
    names = [*then, *(name for name in now if name not in then)]
    remarks = {"data": " (digests of the images to train on, which held_out decides, too)"}
    return [
        f"{k} was {then.get(k)!r} and is {now.get(k)!r}{remarks.get(k, '')}" for k in names if then.get(k) != now.get(k)
    ]


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
