"""A command that goes on as torchrun, where the project backend that has started it says so. Imports no MLflow."""

from __future__ import annotations

import json
import os
import sys

from gan_plugin.errors import UserError

VARIABLE = "GAN_PLUGIN_TORCHRUN"  # options of torchrun as JSON


def become_torchrun() -> None:
    """Replace this process by torchrun, which runs this command in several, where the backend asks for it."""
    options = os.environ.pop(VARIABLE, None)
    if options is None:
        return
    words = [f"--{name.replace('_', '-')}={value}" for name, value in json.loads(options).items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
    sys.stdout.flush()
    os.execv(sys.executable, [*torchrun, "-m", "gan_plugin", *sys.argv[1:]])


def check_alone(command: str) -> None:
    """Refuse a command that only one process can run, where torchrun has started several or the backend would.

    Raises:
        UserError: names the command.
    """
    if VARIABLE in os.environ:
        raise UserError(
            f"The backend torchrun runs train, and {command} is done by one process: leave out -b torchrun."
        )
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") != "1":
        raise UserError(f"{command} is done by one process, and torchrun has started several: leave out torchrun.")
