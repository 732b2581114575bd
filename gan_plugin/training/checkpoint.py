"""All state of a training run in one file, written atomically: weights, optimizers, random states, position.

The file is safetensors; its header holds the rest as JSON. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gan_plugin.errors import UserError
from gan_plugin.training.guard import GuardState
from gan_plugin.training.state import Best, TrainingState

FILE_NAME = "checkpoint.safetensors"
VERSION = 4


def save_checkpoint(path: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Write the state to ``path``; a reader sees the old file or the new one, never a part.

    ``identity`` is what a resumed run must agree on (recipe, seed, data digest, …), JSON-serializable.
    """
    tensors: dict[str, Tensor] = {"random.cpu": torch.get_rng_state()}
    if on_cuda(state):
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for name, network in state.networks.items():
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in network.state_dict().items()}
    for name, optimizer in state.optimizers.items():
        for i, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{i}.{key}": value.contiguous() for key, value in values.items()}
    tensors |= {f"ada.{key}": value for key, value in state.ada.state().items()}
    header: dict[str, Any] = {"version": VERSION, "steps": state.steps, "identity": identity}
    header |= {"rollbacks": state.rollbacks, "guard": vars(state.guard)}
    if state.best is not None:
        tensors |= {f"best.{key}": value.contiguous() for key, value in state.best.weights.items()}
        header["best"] = {k: v for k, v in vars(state.best).items() if k != "weights"}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"gan_plugin": json.dumps(header)})
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Put the state of ``path`` into ``state`` and torch's random generators.

    Raises:
        UserError: the file is no checkpoint, or belongs to a run with another identity; each difference is named.
    """
    header = check_identity(path, identity)
    tensors = load_file(path)
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
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and on_cuda(state):
        torch.cuda.set_rng_state(tensors["random.cuda"])
    state.ada.load(_under(tensors, "ada"))
    state.steps, state.rollbacks, state.guard = header["steps"], header["rollbacks"], GuardState(**header["guard"])
    if "best" in header:
        device = next(state.ema.parameters()).device
        weights = {key: value.to(device) for key, value in _under(tensors, "best").items()}
        state.best = Best(**header["best"], weights=weights)


def check_identity(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the header of a checkpoint that a run with this identity may go on from.

    Raises:
        UserError: as ``load_checkpoint``.
    """
    header = read_header(path)
    if changed := differences(header["identity"], identity):
        raise UserError(f"resume is not possible with other settings than the run began with: {'; '.join(changed)}.")
    return header


def on_cuda(state: TrainingState) -> bool:
    """Return whether the state's networks are on a CUDA device."""
    return next(state.generator.parameters()).is_cuda


def read_header(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says beside its tensors.

    Raises:
        UserError: the file is no checkpoint, or one of another version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})["gan_plugin"])
    except (OSError, KeyError, safetensors.SafetensorError):
        raise UserError(f"resume={str(path)!r} is not a checkpoint: give a {FILE_NAME} that training wrote.") from None
    if header["version"] != VERSION:
        raise UserError(
            f"The checkpoint {path} has version {header['version']}; this gan_plugin reads version {VERSION}."
        )
    return header


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a phrase for each entry in which two identities differ."""
    names = [*then, *(name for name in now if name not in then)]
    return [f"{k} was {then.get(k)!r} and is {now.get(k)!r}" for k in names if then.get(k) != now.get(k)]


def _under(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
