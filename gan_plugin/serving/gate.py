"""A bound for requests that wait, in front of MLflow's scoring server, and what each answer says of where it was made.

The server hands every request to a pool of threads whose queue has no end: under overload each client waits longer than
the one before, until MLflow's own limit of a minute ends them all. One who is refused at once can go elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

SERVER = "mlflow.pyfunc.scoring_server.app"  # the module whose app uvicorn serves
SERVED_MODEL = "__pyfunc_model_path__"  # the environment variable by which the server knows what to load
PATH = "/invocations"
MEMORY = 0.9  # weight of what went before in the average time between two answers


class Gate:
    """ASGI middleware: 503 with ``Retry-After`` for a request that would have to wait too long.

    Args:
        app: the application behind the gate.
        most: requests that may be on their way at one time, those being answered included.
        patience_s: how long the server gives a request before it ends it; where those that are on their way will take
            longer, another one is not let in.
        headers: added to every answer about images, for example ``{"x-gan-device": "cpu"}``.
        threads: how many requests the server works at together; None leaves that to it.
    """

    def __init__(
        self, app: Application, most: int, patience_s: float, headers: dict[str, str], threads: int | None = None
    ) -> None:
        self.app, self.most, self.patience_s, self.threads = app, most, patience_s, threads
        self.headers = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        self.inside = 0
        self.pace = Pace()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and self.threads is not None:  # the first call, before any request
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.threads, "gan-requests"))
        if scope["type"] != "http" or scope["path"] != PATH:
            await self.app(scope, receive, send)
        elif self.inside >= self.most or self.pace.seconds_for(self.inside) > self.patience_s:
            await self._refuse(send)
        else:
            await self._let_in(scope, receive, send)

    async def _let_in(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        admitted = time.monotonic()
        self.inside += 1
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            self.inside -= 1
            self.pace.answered(admitted, time.monotonic())

    async def _refuse(self, send: Send) -> None:
        seconds = max(1, math.ceil(self.pace.seconds_for(self.inside)))
        sentence = f"The server has {self.inside} requests to answer and takes no more: try again in {seconds} s."
        body = json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": sentence}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", str(seconds).encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Pace:
    """The average time between two answers, in which times without a request do not count."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.last = -math.inf

    def answered(self, admitted: float, now: float) -> None:
        """A request was answered ``now`` that had come at ``admitted``, both by one clock, in seconds."""
        gap = now - max(self.last, admitted)
        self.seconds = gap if self.seconds is None else MEMORY * self.seconds + (1 - MEMORY) * gap
        self.last = now

    def seconds_for(self, requests: int) -> float:
        """The time in which so many requests will have been answered; 0 as long as nothing is known."""
        return requests * (self.seconds or 0.0)


def is_loading(path: str) -> bool:
    """Whether MLflow's scoring server is loading the model at ``path`` to serve it, and not as a part of another."""
    served, module = os.environ.get(SERVED_MODEL), sys.modules.get(SERVER)
    if served is None or module is None or "app" in vars(module):
        return False
    folder = url2pathname(urlsplit(served).path) if served.startswith("file:") else served
    return Path(folder).resolve() == Path(path).resolve()


def put_before_server(most: int, patience_s: float, headers: dict[str, str], threads: int | None = None) -> None:
    """Put a :class:`Gate` in front of MLflow's scoring server, which is loading the model that it will serve.

    It does so while the module is being imported whose ``app`` it is about to define and uvicorn to look up. MLflow has
    no hook between the two; Python has one: a module may be given another class.

    Only to be called where :func:`is_loading` says so.
    """

    class Gated(ModuleType):
        @property
        def app(self) -> Application:
            own = vars(self)
            if "gate" not in own:
                own["gate"] = Gate(own["app"], most, patience_s, headers, threads)
            gate: Application = own["gate"]
            return gate

    sys.modules[SERVER].__class__ = Gated
