"""Stand in front of MLflow's scoring server: receive bodies, refuse what would wait too long, and speak in sentences.

The server hands every request to a pool of threads whose queue has no bound. Under overload each client waits longer
than the one before, until MLflow's own limit of a minute ends them all; a client that is refused at once can try
elsewhere. What is counted and timed is the server's work alone: a request is inside from the time when all of its
body has come until its answer is ready, however slowly the client sends the one and takes the other.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gan_plugin.serving.answers import (
    METHOD,
    PATH,
    Answer,
    Headers,
    failure,
    in_one_sentence,
    nowhere,
    refusal,
    retry_after,
    wrong_method,
)
from gan_plugin.serving.bodies import Bodies, Limits, Message, Receive, RefusedBody
from gan_plugin.serving.payload import CONTENT_TYPE, is_json

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SERVER = "mlflow.pyfunc.scoring_server.app"  # the module whose app uvicorn serves
SERVING_MODEL = "__pyfunc_model_path__"  # the environment variable by which the server knows what to load
SMOOTHING = 0.9  # weight of the earlier answers in the average time between two

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that its server prints the messages


class Gate:
    """ASGI middleware: a bound for everything, and 503 with ``Retry-After`` for a request that would wait too long.

    Args:
        app: the application behind the gate.
        limits: what a request may be.
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
        limits: Limits,
        max_requests: int,
        patience_s: float,
        headers: dict[str, str],
        threads: int | None = None,
    ) -> None:
        self.app, self.max_requests, self.patience_s, self.threads = app, max_requests, patience_s, threads
        self.headers = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        self.bodies = Bodies(limits)
        self.inside = 0
        self.interval = AnswerInterval()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # the first call, before any request
            if self.threads is not None:
                asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.threads, "gan-requests"))
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await _send(nowhere(), send, "websocket.http.response")
        elif scope["path"] != PATH:
            await _send(await self._ask_app(scope, receive), send)
        elif (answer := await self._answer(scope, receive)) is not None:
            answer.headers.extend(self.headers)
            await _send(answer, send)

    async def _answer(self, scope: Message, receive: Receive) -> Answer | None:
        """Return the answer to a request for images; None if the client has gone."""
        if scope["method"] != METHOD:
            return wrong_method()
        try:
            body = await self.bodies.receive(scope["headers"], receive)
        except RefusedBody as refused:
            return refused.answer
        if body is None:
            return None
        try:
            if not is_json(_content_type(scope["headers"])):
                return refusal(415, f"The server takes JSON in UTF-8 only: send it with Content-Type: {CONTENT_TYPE}.")
            if self.inside >= self.max_requests or self.interval.seconds_for(self.inside) > self.patience_s:
                return self._too_many()
            return await self._work(scope, body, receive)
        finally:
            self.bodies.release(len(body))

    async def _work(self, scope: Message, body: bytes, receive: Receive) -> Answer:
        start = time.monotonic()
        self.inside += 1
        try:
            return await self._ask_app(scope, _replay(body, receive))
        finally:
            self.inside -= 1
            self.interval.add_answer(start, time.monotonic())

    async def _ask_app(self, scope: Message, receive: Receive) -> Answer:
        """Return the whole answer of the application; a client that takes it slowly keeps nobody waiting."""
        start: Message = {"status": 500}
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body" and message.get("body"):
                parts.append(message["body"])

        try:
            await self.app(scope, receive, collect)
        except Exception:  # of any kind: the server would answer with words of its own
            logger.exception("The server failed at a request.")
            return failure()
        return in_one_sentence(Answer(start["status"], list(start.get("headers", ())), b"".join(parts)))

    def _too_many(self) -> Answer:
        seconds = max(1, math.ceil(self.interval.seconds_for(self.inside)))
        sentence = f"The server has {self.inside} requests to answer and takes no more: try again in {seconds} s."
        return refusal(503, sentence, retry_after(seconds))


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return what gives the application the body that has come, and after that what the server says."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def _send(answer: Answer, send: Send, kind: str = "http.response") -> None:
    try:
        await send({"type": f"{kind}.start", "status": answer.status, "headers": answer.headers})
        await send({"type": f"{kind}.body", "body": answer.body})
    except (OSError, RuntimeError) as error:  # uvicorn hangs up at once on a client that sends noise after its request
        logger.info("An answer was not sent: %s.", error)


def _content_type(headers: Headers) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == b"content-type"), "")


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


def put_before_server(**options: Any) -> None:
    """Put a :class:`Gate` with ``options`` in front of MLflow's scoring server, which is loading what it will serve.

    The server's module is being imported at that time: its ``app`` will be defined later in it, and looked up by
    uvicorn afterwards. MLflow has no hook between the two, but Python has: a module may be given another class.

    Call it only if :func:`is_loading` returns true.
    """

    class Gated(ModuleType):
        @property
        def app(self) -> App:
            own = vars(self)
            if "gate" not in own:
                own["gate"] = Gate(own["app"], **options)
            gate: App = own["gate"]
            return gate

    sys.modules[SERVER].__class__ = Gated
