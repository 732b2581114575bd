"""How a served generator runs: what MLmodel's ``model_config`` holds and ``SERVING_MODEL_CONFIG`` overrides."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from gan_plugin.errors import UserError
from gan_plugin.serving.projection import EVALUATIONS, MIN_EVALUATIONS
from gan_plugin.serving.session import DEVICES

BATCHING = ("auto", "on", "off")
# far beyond what anyone serves, and within what the answer's memory, the queue and ONNX Runtime can bear
MOST = {
    "max_rows": 2**14,
    "max_waiting": 2**16,
    "threads": 1024,
    "gpu_memory_mb": 2**20,
    "max_images": 2**10,
    "project_evaluations": 2**17,
}
LEAST = {"project_evaluations": MIN_EVALUATIONS}


@dataclass(frozen=True)
class ServingOptions:
    """Options of a served generator.

    Attributes:
        device: ``auto``, ``cuda`` or ``cpu``.
        max_rows: the most images of a request, at most 16,384.
        max_waiting: the most requests that a worker answers at one time; one more is refused with 503.
        batching: whether waiting requests run together: ``on``, ``off``, or ``auto`` for on with CUDA.
        max_images: the most images that a request may bring, whose z is searched.
        project_evaluations: images that the generator makes in search of each, at least 64.
        threads: CPU threads for one image; without it one, or all where an image takes long.
        gpu_memory_mb: the most GPU memory for tensors, in MiB; without it there is no limit.

    Raises:
        UserError: a value is not possible; the message says what would be.
    """

    device: str = "auto"
    _: KW_ONLY
    max_rows: int = 1024
    max_waiting: int = 256
    batching: str = "auto"
    max_images: int = 16
    project_evaluations: int = EVALUATIONS
    threads: int | None = None
    gpu_memory_mb: int | None = None

    def __post_init__(self) -> None:
        _check_choice("device", self.device, DEVICES)
        _check_choice("batching", self.batching, BATCHING)
        for name, most in MOST.items():
            value = getattr(self, name)
            is_optional = name in ("threads", "gpu_memory_mb")
            if value is None and is_optional:
                continue
            least = LEAST.get(name, 1)
            if type(value) is not int or not least <= value <= most:
                bounds = f"from {least} to {most:,}{', or null' if is_optional else ''}"
                raise UserError(f"{name}={value!r} is not possible: give a whole number {bounds}.")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ServingOptions:
        """Return the options of a mapping, with defaults for those that it lacks.

        Raises:
            UserError: a name is unknown or a value is not possible.
        """
        check_names(config)
        return cls(**config)


def check_config(text: str) -> None:
    """Check what ``SERVING_MODEL_CONFIG`` says: a JSON object whose names are options.

    Raises:
        UserError: it is not.
    """
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f'The serving options are {text[:100]!r}: give a JSON object like {{"device": "cpu"}}.')
    check_names(config)


def check_names(names: Iterable[str]) -> None:
    """Check that each name is an option.

    Raises:
        UserError: one is not; the message lists the options.
    """
    known = [field.name for field in fields(ServingOptions)]
    if unknown := sorted(set(names) - set(known)):
        raise UserError(f"Unknown option {', '.join(unknown)}: there are {', '.join(known)}.")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r} is unknown: give one of {', '.join(choices)}.")
