"""Let some clients behave badly, and see whether others are answered meanwhile; then serve for a long time.

    python benchmarks/reliability/clients.py [--seconds 65] [--soak 600]

Each kind of bad client has ``--seconds`` on a server of its own, beside four clients that send ordinary requests, of
which 99 % must be answered. Then eight clients ask without a pause for ``--soak`` seconds, from first to last fifth of
which neither the server's memory nor the slowest answers may grow. ``--soak 0`` leaves that out.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from served import HEADERS, RESULTS, Served, served, write_result

ENOUGH = 0.99  # of the ordinary requests
GROWTH_MIB, GROWTH_P99 = 32, 2.0  # in a soak, on a machine that may have something else to do
ROWS = 1024  # the most that a server takes by itself
HEAD = "POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"


@dataclass
class Ordinary:
    """What became of ordinary requests."""

    latencies: list[tuple[float, float]] = field(default_factory=list)  # time of the answer and seconds, of each 200
    others: list[str] = field(default_factory=list)  # statuses and errors

    @property
    def share(self) -> float:
        return len(self.latencies) / max(1, len(self.latencies) + len(self.others))

    def p99_ms(self, since: float = 0.0, until: float = float("inf")) -> float:
        latencies = sorted(seconds for at, seconds in self.latencies if since <= at <= until)
        return 1e3 * latencies[int(0.99 * len(latencies))] if latencies else float("nan")


@contextmanager
def ordinary_clients(port: int, count: int, pause_s: float) -> Iterator[Ordinary]:
    """Send ordinary requests from ``count`` clients until the block ends."""
    result, stop = Ordinary(), threading.Event()

    def work(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        seeds = random.Random(number)
        while not stop.is_set():
            body = json.dumps({"dataframe_records": [{"seed": seeds.randrange(2**53)}]})
            start = time.monotonic()
            try:
                connection.request("POST", "/invocations", body, HEADERS)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                result.others.append(type(error).__name__)
                stop.wait(0.1)
                continue
            now = time.monotonic()
            if answer.status == 200:
                result.latencies.append((now, now - start))
            else:
                result.others.append(str(answer.status))
            stop.wait(pause_s)
        connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# ---- clients that behave badly; each returns what it has seen ------------------------------------------------------


def connect(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]


def hang_up(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()


def endings(connections: list[socket.socket]) -> dict[str, int]:
    """Return how many connections have got which status, were ended without one, or are open still."""
    counts: dict[str, int] = {}
    for connection in connections:
        connection.settimeout(0.01)
        try:
            words = connection.recv(1000).split(b" ")
            end = words[1].decode() if len(words) > 1 else "ended"
        except TimeoutError:
            end = "open"
        except OSError:
            end = "ended"
        counts[end] = counts.get(end, 0) + 1
    return counts


def one_byte_each(port: int, seconds: float) -> dict[str, int]:
    """300 clients send the head of a request and one byte of its body."""
    connections = connect(port, 300)
    for connection in connections:
        connection.sendall(HEAD.format(1000).encode() + b"{")
    time.sleep(seconds)
    result = endings(connections)
    hang_up(connections)
    return result


def idle(port: int, seconds: float) -> dict[str, int]:
    """2,000 clients connect; half of them send nothing, the others a part of a head."""
    connections = connect(port, 2000)
    for connection in connections[::2]:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nhost:")
    time.sleep(seconds)
    result = endings(connections)
    hang_up(connections)
    return result


def one_slow_upload(port: int, seconds: float) -> dict[str, int]:
    """One client after the other sends its request within ten seconds; each must get its image."""
    body = json.dumps({"dataframe_records": [{"seed": 1}]}).encode()
    counts: dict[str, int] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connections = connect(port, 1)
        connections[0].sendall(HEAD.format(len(body)).encode())
        for i in range(len(body)):
            connections[0].sendall(body[i : i + 1])
            time.sleep(min(10, seconds) / len(body))
        connections[0].settimeout(60)
        status = connections[0].recv(1000).split(b" ")[1].decode()
        counts[status] = counts.get(status, 0) + 1
        hang_up(connections)
    return counts


def large_uploads(port: int, seconds: float) -> dict[str, int]:
    """100 clients send 4 MB of a body each, and never the rest."""
    connections = connect(port, 100)
    part = b"[" + b" " * 2**16
    until = time.monotonic() + seconds

    def send(connection: socket.socket) -> None:
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            connection.sendall(HEAD.format(4_100_000).encode())
            for _ in range(60):
                connection.sendall(part)

    threads = [threading.Thread(target=send, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(max(0.0, until - time.monotonic()))
    result = endings(connections)
    hang_up(connections)
    return result


def endless_heads(port: int, seconds: float) -> dict[str, int]:
    """20 clients send heads that do not end."""
    connections = connect(port, 20)
    until = time.monotonic() + seconds
    for connection in connections:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nx: ")
    sent = 0
    while time.monotonic() < until:
        for connection in connections:
            with contextlib.suppress(OSError):
                sent += connection.send(b"y" * 10_000)
        time.sleep(0.05)
    hang_up(connections)
    return {"MB sent": sent // 10**6}


BAD_CLIENTS: dict[str, Callable[[int, float], dict[str, int]]] = {
    "one byte each": one_byte_each,
    "idle": idle,
    "one slow upload": one_slow_upload,
    "large uploads": large_uploads,
    "endless heads": endless_heads,
}


# ---- measurements ----------------------------------------------------------------------------------------------------


class Memory:
    """The largest memory of a server in the block, looked at twice a second."""

    def __init__(self, server: Served) -> None:
        self.server, self.start, self.most = server, server.memory_mib(), 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._look)

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.stop.wait(0.5):
            self.most = max(self.most, self.server.memory_mib())


def beside(name: str, seconds: float, clients: int = 4) -> dict[str, Any]:
    """Return what became of ordinary requests beside clients that behave badly."""
    with served() as server:
        with ordinary_clients(server.port, clients, 0.05) as alone:
            time.sleep(5)
        with Memory(server) as memory, ordinary_clients(server.port, clients, 0.05) as ordinary:
            seen = BAD_CLIENTS[name](server.port, seconds)
        with ordinary_clients(server.port, clients, 0.05) as after:
            time.sleep(2)
    return {
        "requests": len(ordinary.latencies) + len(ordinary.others),
        "answered": ordinary.share,
        "others": sorted(set(ordinary.others)),
        "answered_after": after.share,
        "p99_ms": round(ordinary.p99_ms(), 1),
        "p99_ms_alone": round(alone.p99_ms(), 1),
        "memory_mib": [round(memory.start), round(memory.most)],
        "bad_clients": seen,
    }


def soak(seconds: float, clients: int = 8) -> dict[str, Any]:
    """Return the memory and the slowest answers at the start and at the end of a long time."""
    with served() as server, ordinary_clients(server.port, clients, 0.0) as ordinary:
        time.sleep(seconds / 20)  # the first answers take memory that stays
        start, samples = time.monotonic(), []
        while (now := time.monotonic()) < start + seconds:
            samples.append((now - start, server.memory_mib()))
            time.sleep(min(1, seconds / 100))
        end = time.monotonic()
    fifth = (end - start) / 5
    early = [memory for at, memory in samples if at < fifth]
    late = [memory for at, memory in samples if at > 4 * fifth]

    def usual_p99(since: float) -> float:
        """Return the median of ten short spans: a few seconds of another program's work are not the server's."""
        spans = [(since + fifth * i / 10, since + fifth * (i + 1) / 10) for i in range(10)]
        return round(statistics.median(ordinary.p99_ms(*span) for span in spans), 1)

    return {
        "seconds": seconds,
        "clients": clients,
        "requests": len(ordinary.latencies) + len(ordinary.others),
        "answered": ordinary.share,
        "others": sorted(set(ordinary.others)),
        "memory_mib": [round(statistics.median(early), 1), round(statistics.median(late), 1)],
        "p99_ms": [usual_p99(start), usual_p99(end - fifth)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds",
        type=float,
        default=65,
        help="of each kind of bad client; a body has 30, and an idle connection up to 60",
    )
    parser.add_argument("--soak", type=float, default=600, help="seconds")
    parser.add_argument("--only", choices=BAD_CLIENTS, action="append", help="this kind of bad client; may be repeated")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for the result")
    options = parser.parse_args()
    result: dict[str, Any] = {"seconds": options.seconds}
    broken = []
    print(f"{'':18}{'requests':>9}{'answered':>10}{'p99, ms':>9}{'alone':>8}{'MiB':>6}{'most':>6}  the bad clients got")
    for name in options.only or BAD_CLIENTS:
        row = result[name] = beside(name, options.seconds)
        print(
            f"{name:18}{row['requests']:9,}{row['answered']:10.2%}{row['p99_ms']:9.1f}{row['p99_ms_alone']:8.1f}"
            f"{row['memory_mib'][0]:6}{row['memory_mib'][1]:6}  {row['bad_clients']} {row['others'] or ''}",
            flush=True,
        )
        if min(row["answered"], row["answered_after"]) < ENOUGH:
            broken.append(name)
    if options.soak:
        row = result["soak"] = soak(options.soak)
        (early, late), (first, last) = row["memory_mib"], row["p99_ms"]
        print(f"soak of {options.soak:g} s with {row['clients']} clients: {row['requests']:,} requests, ", end="")
        print(f"{row['answered']:.2%} answered; {early} MiB at first, {late} at last; p99 {first} ms, {last} ms")
        if row["answered"] < ENOUGH or late > early + GROWTH_MIB or last > GROWTH_P99 * first:
            broken.append("soak")
    write_result("clients", result, options.results)
    if broken:
        raise SystemExit(f"Ordinary requests were held up, or the server grew: {', '.join(broken)}.")


if __name__ == "__main__":
    main()
