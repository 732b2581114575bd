"""Refuse requests that would wait too long, in front of MLflow's scoring server, and add headers to its answers.

The server hands every request to a pool of threads whose queue has no bound. Under overload each client waits longer
than the one before, until MLflow's own limit of a minute ends them all; a client that is refused at once can try
elsewhere.
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
App = Callable[[Message, Receive, Send], Awaitable[None]]

SERVER = "mlflow.pyfunc.scoring_server.app"  # the module whose app uvicorn serves
SERVING_MODEL = "__pyfunc_model_path__"  # the environment variable by which the server knows what to load
PATH = "/invocations"
SMOOTHING = 0.9  # weight of the earlier answers in the average time between two


class Gate:
    """ASGI middleware: 503 with ``Retry-After`` for a request that would have to wait too long.

    Args:
        app: the application behind the gate.
        max_requests: requests that may be inside at one time, those being answered included.
        patience_s: how long the server gives a request before it ends it; if those inside will take longer, another
            one is refused.
        headers: added to every answer about images, for example ``{"x-gan-device": "cpu"}``.
        threads: how many requests the server works at together; None leaves that to it.
    """

    def __init__(
        self,
        app: App,
        *,
        max_requests: int,
        patience_s: float,
        headers: dict[str, str],
        threads: int | None = None,
    ) -> None:
        self.app, self.max_requests, self.patience_s, self.threads = app, max_requests, patience_s, threads
        self.headers = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        self.inside = 0
        self.interval = AnswerInterval()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and self.threads is not None:  # the first call, before any request
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.threads, "gan-requests"))
        if scope["type"] != "http" or scope["path"] != PATH:
            await self.app(scope, receive, send)
        elif self.inside >= self.max_requests or self.interval.seconds_for(self.inside) > self.patience_s:
            await self._refuse(send)
        else:
            await self._admit(scope, receive, send)

    async def _admit(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        start = time.monotonic()
        self.inside += 1
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            self.inside -= 1
            self.interval.add_answer(start, time.monotonic())

    async def _refuse(self, send: Send) -> None:
        seconds = max(1, math.ceil(self.interval.seconds_for(self.inside)))
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


class AnswerInterval:
    """The average time between two answers, not counting times without a request."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.last = -math.inf

    def add_answer(self, start: float, now: float) -> None:
        """Count a request that was admitted at ``start`` and answered at ``now``, in seconds of one clock."""
        gap = now - max(self.last, start)
        self.seconds = gap if self.seconds is None else SMOOTHING * self.seconds + (1 - SMOOTHING) * gap
        self.last = now

    def seconds_for(self, requests: int) -> float:
        """Return the time in which ``requests`` will have been answered; 0 before the first answer."""
        return requests * (self.seconds or 0.0)


def is_loading(path: str) -> bool:
    """Return whether MLflow's scoring server is loading the model at ``path`` to serve it, not as a part of another."""
    uri, module = os.environ.get(SERVING_MODEL), sys.modules.get(SERVER)
    if uri is None or module is None or "app" in vars(module):
        return False
    folder = url2pathname(urlsplit(uri).path) if uri.startswith("file:") else uri
    return Path(folder).resolve() == Path(path).resolve()


def put_before_server(
    *, max_requests: int, patience_s: float, headers: dict[str, str], threads: int | None = None
) -> None:
    """Put a :class:`Gate` in front of MLflow's scoring server, which is loading the model that it will serve.

    The server's module is being imported at that time: its ``app`` will be defined later in it, and looked up by
    uvicorn afterwards. MLflow has no hook between the two, but Python has: a module may be given another class.

    Call it only if :func:`is_loading` returns true.
    """

    class Gated(ModuleType):
        @property
        def app(self) -> App:
            own = vars(self)
            if "gate" not in own:
                own["gate"] = Gate(
                    own["app"], max_requests=max_requests, patience_s=patience_s, headers=headers, threads=threads
                )
            gate: App = own["gate"]
            return gate

    sys.modules[SERVER].__class__ = Gated
