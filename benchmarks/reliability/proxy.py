"""A proxy in front of a tracking server, which behaves as networks and servers do on bad days."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Literal

Mode = Literal["pass", "freeze", "refuse", "500"]


class Proxy:
    """Forward TCP connections to a server, or not, as ``mode`` says at that moment.

    Modes: ``pass`` forwards; ``freeze`` accepts, and never answers; ``refuse`` closes each connection at once; ``500``
    answers every other request with a server error, and forwards the rest one request a connection.
    """

    def __init__(self, server_port: int, mode: Mode = "pass") -> None:
        self.server_port, self.mode = server_port, mode
        self.requests = 0
        self.followed: Callable[[float], Mode] | None = None
        self.open: set[socket.socket] = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        """The address to give to MLflow."""
        return f"http://127.0.0.1:{self.port}"

    def set_mode(self, mode: Mode) -> None:
        """Change the mode, also for connections that are open: they are cut where that is ``refuse``."""
        self.mode = mode
        if mode == "refuse":
            for connection in list(self.open):
                close(connection)

    def follow(self, mode_at: Callable[[float], Mode]) -> None:
        """Change the mode as a function of the seconds from now says, until another is to be followed."""
        start = time.monotonic()
        self.followed = mode_at

        def work() -> None:
            while self.followed is mode_at:
                mode = mode_at(time.monotonic() - start)
                if mode != self.mode:
                    self.set_mode(mode)
                time.sleep(0.05)

        threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.open.add(client)
        try:
            if self.mode == "refuse":
                return
            if self.mode == "500" and self._is_every_other():
                read_request(client)
                client.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self.server_port)) as server:
                self.open.add(server)
                self._forward(client, server)
        except (OSError, ValueError):  # another thread closed one of them
            pass
        finally:
            close(client)
            self.open.discard(client)

    def _is_every_other(self) -> bool:
        self.requests += 1
        return self.requests % 2 == 1

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """Pass bytes on in both directions, until one side closes; in mode ``500`` until the server has answered."""
        answered = False
        while True:
            readable, _, _ = select.select([client, server], [], [], 0.2)
            if self.mode == "freeze":
                time.sleep(0.2)
                continue
            for source, target in ((client, server), (server, client)):
                if source in readable:
                    if source is client and answered and self.mode == "500":
                        return  # the next request comes by a connection of its own, and may meet an error
                    content = source.recv(65536)
                    if not content:
                        return
                    answered = answered or source is server
                    target.sendall(content)

    def close(self) -> None:
        """Accept no more connections, and cut those that are open."""
        close(self.listener)
        self.set_mode("refuse")


def close(connection: socket.socket) -> None:
    """Close a socket that another thread may be using."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def read_request(client: socket.socket) -> None:
    """Read an HTTP request with its body, so that the client gets to see the answer."""
    content = b""
    while b"\r\n\r\n" not in content:
        more = client.recv(65536)
        if not more:
            return
        content += more
    head, _, body = content.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        more = client.recv(65536)
        if not more:
            return
        body += more
