"""A real server and clients that send broken requests, bodies that do not come, and connections that say nothing."""

from __future__ import annotations

import socket
import sys
import time
from types import ModuleType

import pytest
from helpers import ROOT, Server, load_script

SCRIPTS = ROOT / "benchmarks" / "reliability"
SHARE = 0.99  # of ordinary requests, which must be answered meanwhile


@pytest.fixture(scope="module")
def random_requests() -> ModuleType:
    load_script(SCRIPTS / "served.py")  # which the others import
    return load_script(SCRIPTS / "random_requests.py")


@pytest.fixture(scope="module")
def clients(random_requests: ModuleType) -> ModuleType:
    return load_script(SCRIPTS / "clients.py")


def test_the_folder_of_the_scripts_hides_no_package() -> None:
    """Python looks for modules beside a script first."""
    names = {path.stem for path in SCRIPTS.glob("*.py")}
    assert not names & (set(sys.stdlib_module_names) | {"requests", "mlflow", "torch", "gan_plugin"})


def test_whatever_comes_is_answered_in_one_sentence(random_requests: ModuleType, server: Server) -> None:
    before = server.records({"seed": 11}).text
    traces = server.log.read_text().count("Traceback")
    tally = random_requests.attack(server.port, requests=400, seed=5, clients=8)
    assert tally.wrong == []
    assert sum(tally.statuses["other JSON"].values()) > 50
    assert {status for counts in tally.statuses.values() for status in counts} >= {"200", "400", "404", "405", "415"}
    assert server.log.read_text().count("Traceback") == traces
    assert server.records({"seed": 11}).text == before


def test_the_check_of_answers_can_fail(random_requests: ModuleType) -> None:
    case = random_requests.make_case(0, 0)
    case = random_requests.Case("noise", case.data)
    answers = {
        (500, b"{}"): "status 500",
        (400, b'{"message": "see /usr/lib/x."}'): "a stack trace or a path",
        (400, b"Oh."): "no sentence",
        (400, b'{"message": "two\\nlines."}'): "no sentence",
        (400, b'{"message": "One."}'): None,
        None: "no answer",
    }
    assert {answer: random_requests.complaint(case, answer) for answer in answers} == answers


def test_bodies_that_do_not_come_and_silent_connections_keep_nobody_out(clients: ModuleType, server: Server) -> None:
    silent = clients.connect(server.port, 300)
    with clients.ordinary_clients(server.port, 2, 0.01) as ordinary:
        seen = clients.one_byte_each(server.port, 3)
    clients.hang_up(silent)
    assert seen == {"open": 300}
    assert ordinary.share >= SHARE
    assert len(ordinary.latencies) > 10


def test_the_time_of_a_slow_upload_is_not_taken_for_the_servers(server: Server) -> None:
    """It was, so that an idle server refused whoever came next."""
    body = b'{"inputs": {"seed": [1]}}'
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        head = f"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        connection.sendall(f"{head}\r\n\r\n".encode() + body[:-1])
        time.sleep(2)
        assert server.records({"seed": 2}).status == 200
        connection.sendall(body[-1:])
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert server.records({"seed": 2}).status == 200


@pytest.mark.parametrize("start", [b"POST /invocations HTTP/1.1\r\nx: ", b"GET /"])
def test_a_head_without_an_end_is_refused(server: Server, start: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(start + b"y" * 66_000)
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_many_requests_at_once_on_a_connection_are_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n" * 500)
        answers = b""
        while part := connection.recv(10_000):
            answers += part
    assert b"HTTP/1.1 400" in answers
    assert answers.count(b"HTTP/1.1 200") < 100


def test_a_body_longer_than_any_request_is_refused(server: Server) -> None:
    reply = server.post(" " * 8_000_000 + "{}")  # 1,024 rows with 100 numbers in z, or 16 with an image, take less
    assert reply.status == 413
    assert reply.body["message"].startswith("The body of the request is longer than 7,388,848 bytes: ")
    rows = [{"z": [-0.12345678901234567] * 100} for _ in range(1024)]
    assert server.post({"dataframe_records": rows}).status == 200
