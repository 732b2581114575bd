"""The gate alone, in front of an application that takes its time: what it counts, what it bounds, and what it says."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Coroutine
from typing import Any

import pytest

from gan_plugin.serving.bodies import Bodies, Limits, Message, Receive
from gan_plugin.serving.connections import SLOWEST_READER, Watch
from gan_plugin.serving.gate import AnswerInterval, Gate, Send

LIMITS = Limits.of(rows=4, latent_size=8)
JSON = [(b"content-type", b"application/json")]
OK: Message = {"type": "http.response.start", "status": 200, "headers": []}


class Connection:
    """A client's side of one request: what it sends, and what it got."""

    def __init__(
        self, *parts: bytes, method: str = "POST", path: str = "/invocations", headers: list[tuple[bytes, bytes]] = JSON
    ) -> None:
        self.scope: Message = {"type": "http", "path": path, "method": method, "headers": headers}
        self.queue: asyncio.Queue[Message] = asyncio.Queue()
        for part in parts:
            self.send_part(part)
        self.got: list[Message] = []
        self.takes = asyncio.Event()
        self.takes.set()

    def send_part(self, part: bytes) -> None:
        """Send a part of the body; an empty one is the last."""
        self.queue.put_nowait({"type": "http.request", "body": part, "more_body": bool(part)})

    async def receive(self) -> Message:
        return await self.queue.get()

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        self.got.append(message)

    def through(self, gate: Gate) -> Coroutine[Any, Any, None]:
        return gate(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        return int(self.got[0]["status"])

    @property
    def message(self) -> str:
        return str(json.loads(self.got[1]["body"])["message"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.got[0]["headers"])


def gate_before(seconds: float = 0.0, *, patience_s: float = 60.0, max_requests: int = 100) -> Gate:
    """A gate in front of an application that answers with the body's length, ``seconds`` after it has come."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await asyncio.sleep(seconds)
        await send(OK)
        await send({"type": "http.response.body", "body": str(len(body)).encode()})

    return Gate(app, limits=LIMITS, max_requests=max_requests, patience_s=patience_s, headers={"x-gan-device": "cpu"})


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# ---- what is counted -------------------------------------------------------------------------------------------------


def test_when_a_refused_client_should_try_again() -> None:
    """Two requests at a time that take 3 s each: an answer every 1.5 s. A pause between requests is not work."""
    interval = AnswerInterval()
    assert interval.seconds_for(9) == 0  # nothing is known yet
    interval.add_answer(start=0, now=1.5)
    for answer in range(2, 20):
        interval.add_answer(start=1.5 * answer - 3, now=1.5 * answer)
    assert interval.seconds_for(4) == pytest.approx(6)
    interval.add_answer(start=1000, now=1001.5)
    assert interval.seconds_for(4) == pytest.approx(6)


def test_a_request_that_would_wait_longer_than_the_server_allows_is_refused() -> None:
    async def run() -> list[int]:
        gate = gate_before(0.2, patience_s=0.5)
        await Connection(b"").through(gate)  # it takes 0.2 s
        others = [Connection(b"") for _ in range(5)]  # of which three make 0.6 s
        await asyncio.gather(*(other.through(gate) for other in others))
        assert others[3].headers[b"retry-after"] == b"1"
        return [other.status for other in others]

    assert asyncio.run(run()) == [200, 200, 200, 503, 503]


def test_requests_whose_body_has_not_come_keep_nobody_out() -> None:
    async def run() -> None:
        gate = gate_before(max_requests=2)
        slow = [Connection(b"{") for _ in range(300)]
        tasks = [asyncio.create_task(connection.through(gate)) for connection in slow]
        await settle()
        assert gate.inside == 0
        ordinary = Connection(b"12345", b"")
        await ordinary.through(gate)
        assert (ordinary.status, ordinary.got[1]["body"]) == (200, b"5")
        slow[0].send_part(b"}")
        slow[0].send_part(b"")
        await tasks[0]
        assert (slow[0].status, slow[0].got[1]["body"]) == (200, b"2")
        slow[1].queue.put_nowait({"type": "http.disconnect"})
        await tasks[1]
        assert slow[1].got == []  # nobody is there
        for task in tasks[2:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.bodies.held, len(gate.bodies.arriving)) == (0, 0)

    asyncio.run(run())


def test_neither_a_slow_upload_nor_a_slow_reader_is_taken_for_work() -> None:
    async def run() -> None:
        gate = gate_before(0.01)
        upload = Connection(b"1")
        task = asyncio.create_task(upload.through(gate))
        await asyncio.sleep(0.3)
        upload.send_part(b"")
        upload.takes.clear()  # and then it takes nothing
        await asyncio.sleep(0.3)
        assert gate.inside == 0
        assert gate.bodies.held == 0
        assert gate.interval.seconds is not None
        assert gate.interval.seconds < 0.2
        upload.takes.set()
        await task
        assert upload.status == 200

    asyncio.run(run())


# ---- bounds of bodies ------------------------------------------------------------------------------------------------


def test_a_body_that_does_not_come_in_time_gets_408() -> None:
    async def run() -> None:
        gate = gate_before()
        gate.bodies = Bodies(LIMITS, seconds=0.05)
        connection = Connection(b"{")
        await connection.through(gate)
        assert (connection.status, connection.headers[b"connection"]) == (408, b"close")
        assert connection.message == "The body of the request did not come within 0.05 s: send it faster."
        assert gate.bodies.held == 0

    asyncio.run(run())


def test_a_body_that_is_too_long_gets_413_and_takes_no_memory() -> None:
    async def run() -> None:
        gate = gate_before()
        sentence = f"The body of the request is longer than {LIMITS.body_bytes:,} bytes: send several smaller requests."
        longest = Connection(b"x" * LIMITS.body_bytes, b"")
        await longest.through(gate)
        assert longest.status == 200
        part = b"x" * LIMITS.body_bytes
        long = Connection(*[part] * 500, b"")
        tracemalloc.start()
        await long.through(gate)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(part)
        tracemalloc.stop()
        assert (long.status, long.message) == (413, sentence)
        expecting = Connection(headers=[*JSON, (b"expect", b"100-continue"), (b"content-length", b"9" * 400)])
        await expecting.through(gate)  # nothing is received
        assert (expecting.status, expecting.message) == (413, sentence)
        assert gate.bodies.held == 0

    asyncio.run(run())


def test_when_memory_runs_out_the_body_that_arrives_for_the_longest_time_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gan_plugin.serving.bodies.MIN_MEMORY", 0)
    part = b"x" * (LIMITS.body_bytes // 2)

    async def run() -> None:
        gate = gate_before()
        slow = [Connection(part) for _ in range(8)]  # which fill the memory for four of the largest
        tasks = [asyncio.create_task(connection.through(gate)) for connection in slow]
        await settle()
        assert gate.bodies.held == 8 * len(part) <= LIMITS.memory
        ordinary = Connection(part, part, b"")
        await ordinary.through(gate)
        assert ordinary.status == 200
        await settle()
        assert [len(connection.got) for connection in slow] == [2, 2, 0, 0, 0, 0, 0, 0]
        assert (slow[0].status, slow[0].headers[b"retry-after"]) == (503, b"1")
        for connection in slow[2:]:
            connection.send_part(b"")
        await asyncio.gather(*tasks)
        assert [connection.status for connection in slow[2:]] == [200] * 6
        assert gate.bodies.held == 0

    asyncio.run(run())


# ---- what it says ----------------------------------------------------------------------------------------------------

TRACE = json.dumps({"error_code": "X", "message": "Oh.", "stack_trace": 'File "/usr/lib/x.py"'}).encode()
SENTENCE = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "Row 0 is no row."}).encode()
FAILED = "The server failed to answer this request: its log says why."


@pytest.mark.parametrize(
    ("status", "body", "expected", "message"),
    [
        (400, SENTENCE, 400, "Row 0 is no row."),
        (500, SENTENCE, 500, "Row 0 is no row."),
        (400, TRACE, 500, FAILED),
        (500, b"Internal Server Error", 500, FAILED),
        (400, b'{"message": "Failed to predict data\\nError"}', 400, "The request is none that this server can read: "),
        (422, b'{"detail": []}', 400, "The request is none that this server can read: "),
        (504, b"Request processing time exceeded limit", 503, "The request took longer than the server's limit: "),
        (307, b"", 404, "There is nothing at this address: send POST requests to /invocations."),
        (404, b'{"detail": "Not Found"}', 404, "There is nothing at this address: send POST requests to /invocations."),
    ],
)
def test_whatever_the_server_says_is_one_sentence(status: int, body: bytes, expected: int, message: str) -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    async def run() -> None:
        connection = Connection(b"{}", b"")
        await connection.through(
            Gate(app, limits=LIMITS, max_requests=9, patience_s=60, headers={"x-gan-device": "cpu"})
        )
        assert connection.status == expected
        assert connection.message.startswith(message)
        assert connection.headers[b"x-gan-device"] == b"cpu"

    asyncio.run(run())


def test_an_application_that_raises_is_answered_for() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        raise RecursionError("/usr/lib/python")

    connection = Connection(b"{}", b"")
    asyncio.run(connection.through(Gate(app, limits=LIMITS, max_requests=9, patience_s=60, headers={})))
    assert (connection.status, connection.message) == (500, FAILED)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ('Application/JSON; charset="UTF-8"', 200),
        ("application/json;charset=utf-8; x=y", 200),
        ("application/json; charset=latin-1", 415),
        ("text/csv", 415),
        ("", 415),
    ],
)
def test_what_the_content_type_must_be(content_type: str, status: int) -> None:
    connection = Connection(b"{}", b"", headers=[(b"content-type", content_type.encode())])
    asyncio.run(connection.through(gate_before()))
    assert connection.status == status


def test_other_methods_get_405() -> None:
    connection = Connection(b"", method="GET")
    asyncio.run(connection.through(gate_before()))
    assert (connection.status, connection.headers[b"allow"]) == (405, b"POST")


# ---- connections -----------------------------------------------------------------------------------------------------


class Line:
    """What the watch sees of a connection: its last request, and how much of the answer the client has not taken."""

    def __init__(self, to_send: int = 0, *, request: object = None) -> None:
        self.transport, self.cycle, self.to_send, self.is_open = self, request, to_send, True

    def get_write_buffer_size(self) -> int:
        return self.to_send

    def abort(self) -> None:
        self.is_open = False


class Cycle:
    def __init__(self, response_complete: bool) -> None:
        self.response_complete = response_complete


def test_connections_that_are_stuck_are_ended_and_no_others() -> None:
    silent, between = Line(), Line(request=Cycle(True))
    working, taking, not_taking = (
        Line(request=Cycle(False)), Line(10**6, request=Cycle(True)), Line(10**6, request=Cycle(False))
    )  # fmt: skip
    busy = Line(request=Cycle(True))
    lines = {silent, between, working, taking, not_taking, busy}

    async def run() -> None:
        watch = Watch(lines, seconds=30)
        watch.look()
        assert all(line.is_open for line in lines)
        taking.to_send -= 31 * SLOWEST_READER
        not_taking.to_send -= 29 * SLOWEST_READER
        busy.cycle = Cycle(True)  # another request since
        watch.look()

    asyncio.run(run())
    assert {line for line in lines if line.is_open} == {working, taking, busy}
