"""A bound for requests that wait, in front of MLflow's scoring server, and what each answer says of where it was made.

The server hands every request to a pool of threads whose queue has no end: under overload each client waits longer than
the one before, until MLflow's own limit of a minute ends them all. One who is refused at once can go elsewhere.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from types import ModuleType
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

SERVER = "mlflow.pyfunc.scoring_server.app"
PATH = "/invocations"
MEMORY = 0.9  # weight of what went before in the average time between two answers


class Gate:
    """ASGI middleware: at most ``most`` requests for pictures at one time, 503 with ``Retry-After`` for one more.

    Args:
        app: the application behind the gate.
        most: requests that may be on their way, those being answered included.
        headers: added to every answer about pictures, for example ``{"x-gan-device": "cpu"}``.
    """

    def __init__(self, app: Application, most: int, headers: dict[str, str]) -> None:
        self.app, self.most = app, most
        self.headers = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        self.inside = 0
        self.pace = _Pace()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self.app(scope, receive, send)
        elif self.inside >= self.most:
            await self._refuse(send)
        else:
            await self._let_in(scope, receive, send)

    async def _let_in(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        self.inside += 1
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            self.inside -= 1
            self.pace.answered(idle=self.inside == 0)

    async def _refuse(self, send: Send) -> None:
        seconds = self.pace.seconds_for(self.inside)
        sentence = f"{self.inside} requests are waiting already, which is the limit: try again in {seconds} s."
        body = json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": sentence}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", str(seconds).encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Pace:
    """The average time between two answers while requests are waiting."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.last: float | None = None

    def answered(self, idle: bool) -> None:
        now = time.monotonic()
        if self.last is not None:
            gap = now - self.last
            self.seconds = gap if self.seconds == 0 else MEMORY * self.seconds + (1 - MEMORY) * gap
        self.last = None if idle else now  # the time until the next request is nobody's waiting

    def seconds_for(self, requests: int) -> int:
        """Whole seconds in which so many requests will have been answered; at least 1."""
        return max(1, math.ceil(requests * self.seconds))


def put_before_server(most: int, headers: dict[str, str]) -> bool:
    """Put a gate in front of MLflow's scoring server, if that is what is loading the model; says whether it is.

    The server loads the model while the module is being imported whose ``app`` it is about to define and uvicorn to
    look up. MLflow has no hook between the two; Python has one: a module may be given another class.
    """
    module = sys.modules.get(SERVER)
    if module is None or "app" in vars(module):
        return False

    class Gated(ModuleType):
        @property
        def app(self) -> Application:
            gate: Application = vars(self).setdefault("gate", Gate(vars(self)["app"], most, headers))
            return gate

    module.__class__ = Gated
    return True
