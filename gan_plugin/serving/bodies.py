"""Receive the bodies of requests, within bounds of size, time and memory, so that no client can hold up another.

A request whose body is still to come costs the server nothing but memory. So it is neither counted nor timed before
all of it is there, and when memory runs out, the body that has been arriving for the longest time gives way.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from gan_plugin.serving.answers import Answer, Headers, refusal, retry_after

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

BODY_SECONDS = 30  # in which the body of a request must have come
MIN_MEMORY = 64 * 2**20  # bytes for all bodies of a worker together
LONG_BODIES = 4  # that many of the longest always fit into memory
CLOSE: Headers = [(b"connection", b"close")]  # or the rest of a body that nobody reads would be taken for a request


@dataclass(frozen=True)
class Limits:
    """What a request for a generator may be: more than anything that it can ask for takes, as JSON with indentation.

    Attributes:
        rows: the most images.
        body_bytes: the longest body.
        values: the most values, with the lists and objects around them.
    """

    rows: int
    body_bytes: int
    values: int

    @classmethod
    def of(cls, rows: int, latent_size: int, image_bytes: int = 0) -> Limits:
        """Return the limits for ``rows`` images of a generator with ``latent_size`` numbers in z.

        ``image_bytes`` are those of the images that a request may bring.
        """
        body_bytes = rows * (1024 + 48 * latent_size) + image_bytes + 4096
        return cls(rows, body_bytes, rows * (32 + 2 * latent_size) + 256)

    @property
    def memory(self) -> int:
        """The bytes of all bodies together, those that wait for their answer included."""
        return max(MIN_MEMORY, LONG_BODIES * self.body_bytes)


class RefusedBody(Exception):
    """A body was not received; ``answer`` says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class Body:
    """A body that arrives, or has arrived and is held until its request is answered."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.content = bytearray()
        self.size = 0  # bytes that came; more than are held if it is too long
        self.refusal: Answer | None = None

    def refuse(self, answer: Answer) -> None:
        """Stop waiting for the rest."""
        if self.refusal is None:
            self.refusal = answer
            self.task.cancel()


class Bodies:
    """All bodies of a worker.

    Args:
        limits: of a request, and of all together.
        seconds: in which a body must have come.
    """

    def __init__(self, limits: Limits, seconds: float = BODY_SECONDS) -> None:
        self.limits, self.seconds = limits, seconds
        self.arriving: dict[Body, None] = {}  # the oldest first
        self.held = 0  # bytes

    async def receive(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return a whole body, for which :meth:`release` is to be called; None if the client has gone.

        Raises:
            RefusedBody: it is too long, did not come in time, or memory ran out.
        """
        named = dict(headers)
        if named.get(b"expect", b"").lower() == b"100-continue" and self._is_too_long(named.get(b"content-length")):
            raise RefusedBody(self._too_long())  # before it is sent
        task = asyncio.current_task()
        assert task is not None
        body = Body(task)
        late = refusal(408, f"The body of the request did not come within {self.seconds:g} s: send it faster.", CLOSE)
        timer = asyncio.get_running_loop().call_later(self.seconds, body.refuse, late)
        self.arriving[body] = None
        content: bytes | None = None
        try:
            content = await self._receive_all(body, receive)
        except asyncio.CancelledError:
            if body.refusal is None:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
        finally:
            timer.cancel()
            del self.arriving[body]
            if content is None:
                self.held -= len(body.content)
        if body.size > self.limits.body_bytes:
            raise RefusedBody(self._too_long())
        if body.refusal is not None:
            raise RefusedBody(body.refusal)
        return content

    def release(self, size: int) -> None:
        """Count a body of ``size`` bytes as gone."""
        self.held -= size

    async def _receive_all(self, body: Body, receive: Receive) -> bytes | None:
        """Return the content; None if the client has gone or the body is too long.

        A body that is too long is read to its end all the same, and thrown away: many clients look at an answer only
        after they have sent everything.
        """
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            part = message.get("body", b"")
            body.size += len(part)
            if body.size > self.limits.body_bytes:
                self.held -= len(body.content)
                body.content = bytearray()
            else:
                self._make_room(body, len(part))
                self.held += len(part)
                if not body.content and not message.get("more_body", False):  # most come in one part
                    return bytes(part)
                body.content += part
            if not message.get("more_body", False):
                return bytes(body.content) if body.size <= self.limits.body_bytes else None

    def _make_room(self, body: Body, size: int) -> None:
        """Let the oldest of the others give way until ``size`` bytes fit; RefusedBody if that is not enough."""
        missing = self.held + size - self.limits.memory
        if missing <= 0:
            return
        sentence = "The server has no memory for this body: try again in 1 s, or send several smaller requests."
        answer = refusal(503, sentence, [*retry_after(1), *CLOSE])
        for other in self.arriving:
            if missing <= 0:
                return
            if other is not body and other.refusal is None and other.content:
                missing -= len(other.content)
                self.held -= len(other.content)
                other.content = bytearray()
                other.refuse(answer)
        if missing > 0:
            raise RefusedBody(answer)

    def _is_too_long(self, length: bytes | None) -> bool:
        return length is not None and length.isdigit() and int(length[:20]) > self.limits.body_bytes

    def _too_long(self) -> Answer:
        sentence = f"The body of the request is longer than {self.limits.body_bytes:,} bytes: send several smaller"
        return refusal(413, f"{sentence} requests.", CLOSE)
