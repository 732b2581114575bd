"""Bound what a connection may take of uvicorn, which waits for the head of a request without end, and keeps all of it.

MLflow starts uvicorn, which has no option for this and no hook, so its protocol classes are wrapped. Each connection
is looked at once a period. One that neither sent a request nor took as much of its answer as a slow line would is
ended. The head of a request, and whatever else of it is no body, is bounded in length.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

IDLE_SECONDS = 30  # or as long as uvicorn keeps a connection open between two requests, if that is longer
SLOWEST_READER = 1024  # bytes/s
MAX_HEAD = 2**16  # bytes; what uvicorn's other parser, h11, takes, too
MAX_PIPELINED = 32  # requests that wait on a connection for the answer to an earlier one
MAX_FILES = 8192  # open files of a worker, connections included; many systems allow 1,024 at first
HTTPTOOLS, H11 = "uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.http.h11_impl"

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that its server prints the messages


class Watch:
    """Look at all connections of a server once a period, and end those that are stuck.

    Args:
        connections: uvicorn's own set of the protocol objects of open connections.
        seconds: from one look to the next.
    """

    def __init__(self, connections: Iterable[Any], seconds: float) -> None:
        self.connections, self.seconds = connections, seconds
        self.seen: WeakKeyDictionary[Any, tuple[Any, int]] = WeakKeyDictionary()  # the request, and bytes to send

    def start(self) -> None:
        """Look for the first time after a period."""
        asyncio.get_running_loop().call_later(self.seconds, self.look)

    def look(self) -> None:
        """End the connections that have been stuck since the last look."""
        for protocol in list(self.connections):
            request, to_send = protocol.cycle, protocol.transport.get_write_buffer_size()
            before = self.seen.get(protocol)
            self.seen[protocol] = (request, to_send)
            if before is None or before[0] is not request:  # new, or has sent a request since
                continue
            if to_send > 0:
                is_stuck = to_send > before[1] - SLOWEST_READER * self.seconds
            else:
                is_stuck = request is None or request.response_complete
            if is_stuck:
                protocol.transport.abort()
        self.start()


def bound_connections(seconds: float = IDLE_SECONDS) -> None:
    """Bound the connections of the uvicorn in this process, which it has not started to accept yet."""
    raise_file_limit()
    for name, protocol in ((HTTPTOOLS, "HttpToolsProtocol"), (H11, "H11Protocol")):
        try:
            kind = getattr(importlib.import_module(name), protocol)
        except ImportError:  # httptools, which h11 stands in for, may be missing
            continue
        if getattr(kind, "is_bounded", False):
            continue
        kind.is_bounded = True
        _watch(kind, seconds)
        if name == HTTPTOOLS:
            _bound_head(kind)


def raise_file_limit() -> None:
    """Let this process have ``MAX_FILES`` open files, where the system's hard limit allows it."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # on Windows there is no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
        if soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _watch(kind: Any, seconds: float) -> None:
    connection_made = kind.connection_made
    watches: dict[int, Watch] = {}

    @functools.wraps(connection_made)
    def watched(protocol: Any, transport: Any) -> None:
        connection_made(protocol, transport)
        if id(protocol.connections) not in watches:  # the first connection of a server
            watch = Watch(protocol.connections, max(seconds, protocol.timeout_keep_alive))
            watches[id(protocol.connections)] = watch
            watch.start()

    kind.connection_made = watched


def _bound_head(kind: Any) -> None:
    """Count the bytes that came since the last head was complete or the last part of a body came."""
    data_received, on_headers_complete, on_body = kind.data_received, kind.on_headers_complete, kind.on_body
    kind.head_size = 0

    @functools.wraps(data_received)
    def bounded(protocol: Any, data: bytes) -> None:
        protocol.head_size += len(data)
        data_received(protocol, data)
        if protocol.head_size > MAX_HEAD and not protocol.transport.is_closing():
            message = "The head of the request is too long."
            logger.warning(message)
            protocol.send_400_response(message)

    @functools.wraps(on_headers_complete)
    def with_head(protocol: Any) -> None:
        protocol.head_size = 0
        if len(protocol.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")  # for which uvicorn answers 400, and hangs up
        on_headers_complete(protocol)

    @functools.wraps(on_body)
    def with_body(protocol: Any, body: bytes) -> None:
        protocol.head_size = 0
        on_body(protocol, body)

    kind.data_received, kind.on_headers_complete, kind.on_body = bounded, with_head, with_body
