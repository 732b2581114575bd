"""Send random requests to a server, most of them broken in some way, and look at every answer.

    python benchmarks/reliability/random_requests.py [--requests 50000] [--seed 0] [--clients 8]

A request starts as one that works. Then its JSON, its bytes, its head or its framing is changed at random, or all of
it is noise. Whatever comes, an answer must have one of the statuses that the reference names, and what is not 200 must
be one sentence, without a stack trace and without a path of the server's. The command fails at any other answer.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import gzip
import http.client
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from served import DIGITS, RESULTS, served, write_result

ALLOWED = {200, 400, 404, 405, 408, 413, 415, 503}
OF_THE_SERVER = (b"Traceback", b'File "', b"site-packages", b"/usr/", b"/home/", b"/tmp/", b".py")
PLAIN = (b"Invalid HTTP request received.", b"The head of the request is too long.")  # before there is a request
PATIENCE_S = 70  # for an answer to a request that is whole
SHORT_PATIENCE_S = 0.3  # where the server may wait for more
METHODS = ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "post", "FOO", ""]
PATHS = [
    "/",
    "/ping", "/health", "/version", "/invocations/", "//invocations", "/invocations?a=b", "/INVOCATIONS", "/docs",
    "/openapi.json", "/redoc", "/..%2f..%2fetc/passwd", "/%ff%fe", "/invocations%00", "/a" * 2000, "*", "",
    "invocations",
    "http://example.com/invocations", "/ü", "/?" + "x=1&" * 500, "/ping/", "/static/app.js", "/invocations#f",
]  # fmt: skip
TYPES = [
    "text/csv", "application/vnd.apache.parquet", "application/json; charset=latin-1",
    "application/json; charset=utf-8",
    "Application/JSON", 'application/json; charset="UTF-8"', "application/json; version=2", "text/plain", "", ";;;",
    "application/json; charset=", "application/json;=;=", "multipart/form-data; boundary=x", "ä/ö", "*/*",
    "application/x-www-form-urlencoded",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**53, 2**63, 2**64, 10**400, -(10**30), 1e308, float("nan"), float("inf"),
    float("-inf"), "", "7", "x" * 5000, "\ud800", "\x00", "\n", "é", [], {}, [[]], [None], {"seed": 1}, [1, 2, 3],
    ["a"], "png", "array", "webp", 1025,
]  # fmt: skip
NAMES = ["seed", "to_seed", "position", "z", "label", "truncation", "params", "format", "grid", "columns", "data",
         "index", "dataframe_records", "dataframe_split", "instances", "inputs", "signature_name", "messages", "prompt",
         "input", "", "\ud800", "a\nb", "x" * 300, "__proto__"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """The bytes of a request."""

    kind: str
    data: bytes
    method: str = "POST"
    is_whole: bool = True  # or the server may wait for more of it


# ---- requests --------------------------------------------------------------------------------------------------------


def content(rng: random.Random) -> dict[str, Any]:
    """Return a request that works, in one of the forms."""
    rows = []
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        row: dict[str, Any] = {"seed": rng.randrange(2**53)}
        if rng.random() < 0.2:
            row = {"z": [rng.gauss(0, 1) for _ in range(64)], "label": rng.randrange(10)}
        elif rng.random() < 0.3:
            row |= {"to_seed": rng.randrange(2**53), "position": rng.random()}
        elif rng.random() < 0.3:
            row |= {"truncation": 0.1 + rng.random(), "label": str(rng.randrange(10))}
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    form = rng.choice(["dataframe_records", "dataframe_split", "instances", "inputs", "columns"])
    if form == "dataframe_split":
        body: dict[str, Any] = {form: {"columns": names, "data": [list(row) for row in zip(*columns.values())]}}
    else:
        body = {"inputs": columns} if form == "columns" else {form: rows}
    if rng.random() < 0.3:
        body["params"] = {"format": rng.choice(["png", "webp", "array"]), "grid": rng.randrange(4)}
    return body


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a JSON value with each of its keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from places(node[key])


def change_json(rng: random.Random) -> bytes:
    body = content(rng)
    for _ in range(rng.choice([1, 1, 2, 4])):
        container, key = rng.choice(list(places(body)) or [(body, None)])
        value = copy.deepcopy(rng.choice(VALUES))
        action = rng.random()
        if key is not None and action < 0.5:
            container[key] = value
        elif key is not None and action < 0.6:
            del container[key]
        elif isinstance(container, dict):
            container[rng.choice(NAMES)] = value if key is None or action < 0.8 else copy.deepcopy(container[key])
        else:
            container.insert(key, value)
    return json.dumps(body, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")


def odd_json(rng: random.Random) -> bytes:
    """Return JSON that is large or strange as a whole."""
    size = rng.choice([10, 1000, 20_000, 200_000])
    records = '{"dataframe_records": [%s]}'
    texts: list[Callable[[], str]] = [
        lambda: "[" * size,
        lambda: "[" * size + "]" * size,
        lambda: '{"a":' * size + "1" + "}" * size,
        lambda: records % ('{"z": ' + "[" * 900 + "]" * 900 + "}"),
        lambda: json.dumps({"inputs": {"seed": [1]}, "params": {"grid": json.loads("[" * 400 + "]" * 400)}}),
        lambda: records % ('{"seed": ' + "1" * size + "}"),
        lambda: records % ('{"seed": 1e' + "9" * 20 + "}"),
        lambda: records % ("{" + ",".join(f'"c{i}": 1' for i in range(size)) + "}"),
        lambda: json.dumps({"dataframe_split": {"columns": [f"c{i}" for i in range(size)], "data": [[1] * size]}}),
        lambda: json.dumps({"dataframe_split": {"columns": ["seed"] * 3, "data": [[1, 2, 3]]}}),
        lambda: records % ",".join('{"seed": 1}' for _ in range(size)),
        lambda: json.dumps({"inputs": {"seed": [1] * size, "label": 1}}),
        lambda: '{"inputs": {"seed": [1]}, "inputs": {"seed": [2]}, "params": {"grid": 1, "grid": 2}}',
        lambda: rng.choice(
            ["null", "1", '"x"', "[]", "{}", "true", "NaN", "", " ", "\ufeff{}", "{", '{"inputs"', "[1,]"]
        ),
        lambda: '{"inputs": {"seed": [' + " " * size + "1]}}",
        lambda: json.dumps({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}),
    ]
    text = rng.choice(texts)()
    return text.encode(rng.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"]), "replace")


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])):
        at = rng.randrange(len(changed) + 1)
        action = rng.random()
        if action < 0.4 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif action < 0.6:
            changed[at:at] = rng.randbytes(rng.choice([1, 2, 50]))
        elif action < 0.8:
            del changed[at : at + rng.choice([1, 3, 100])]
        else:
            changed[at:at] = rng.choice([b"\x00", b"\xff", b"\xed\xa0\x80", b"\r\n", b"NaN", b"[", b"}", b'"', b"\\u"])
    return bytes(changed)


def head(method: str, path: str, fields: list[tuple[str, str]], version: str = "HTTP/1.1") -> bytes:
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogatepass")


def request(body: bytes, *, method: str = "POST", path: str = "/invocations", kind: str = "application/json") -> bytes:
    return head(method, path, [("host", "x"), ("content-type", kind), ("content-length", str(len(body)))]) + body


def odd_framing(rng: random.Random) -> Case:
    """Return a request whose head is strange, or does not agree with its body."""
    body = json.dumps(content(rng)).encode()
    usual = [("host", "x"), ("content-type", "application/json")]
    length = ("content-length", str(len(body)))
    lie = str(rng.choice([len(body) + 5, max(0, len(body) - 5), -1, 2**31, 2**70, 10**12]))
    cut = rng.randrange(len(body))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part) + b"0\r\n\r\n"
    many = [(f"x-{i}", "y" * 20) for i in range(rng.choice([10, 500, 5000]))]
    variants: list[tuple[list[tuple[str, str]], bytes]] = [
        ([*usual, ("content-length", lie)], body),
        ([*usual, ("content-length", "x" + lie)], body),
        ([*usual, length, ("content-length", lie)], body),
        (usual, body),
        ([*usual, ("transfer-encoding", "chunked")], chunks),
        ([*usual, ("transfer-encoding", "chunked"), length], chunks),
        ([*usual, ("transfer-encoding", "gzip, chunked")], chunks),
        ([*usual, ("transfer-encoding", "chunked")], change_bytes(rng, chunks)),
        ([*usual, ("transfer-encoding", "identity")], body),
        ([*usual, length, ("expect", "100-continue")], body),
        ([*usual, length, ("expect", "200-ok")], body),
        ([*usual, ("content-length", "99999999999"), ("expect", "100-continue")], b""),
        ([*usual, length, ("connection", "upgrade"), ("upgrade", rng.choice(["websocket", "h2c", "x"]))], body),
        ([*usual, length, ("connection", rng.choice(["close", "keep-alive", "x", ""]))], body),
        ([*usual, length, ("content-encoding", "gzip")], gzip.compress(body)[: len(body)].ljust(len(body))),
        ([*usual, length, *many], body),
        ([*usual, length, ("x", "y" * rng.choice([1000, 100_000]))], body),
        ([*usual, length, ("content-type", "text/csv")], body),
        (
            [*usual, length, (rng.choice(["x y", "x\x00", "ä", "(x)", ""]), rng.choice(["y", "\x00", "ü", "\x7f"]))],
            body,
        ),
        ([length], body),
    ]
    fields, data = rng.choice(variants)
    version = rng.choice(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "http/1.1", ""])
    return Case("head and framing", head("POST", "/invocations", fields, version) + data, is_whole=False)


def noise(rng: random.Random) -> Case:
    """Return what is no HTTP at all, or HTTP that was damaged on its way."""
    complete = request(json.dumps(content(rng)).encode())
    data = rng.choice(
        [
            rng.randbytes(rng.choice([1, 10, 1000, 100_000])),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(300),  # a greeting in TLS
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(30),
            b"\r\n" * 50 + complete,
            complete.replace(b"\r\n", b"\n"),
            change_bytes(rng, complete),
            change_bytes(rng, complete),
            complete[: rng.randrange(len(complete))],
            complete * 3,
        ]
    )
    return Case("noise", data, is_whole=False)


def odd_type(rng: random.Random) -> Case:
    return Case("content type", request(json.dumps(content(rng)).encode(), kind=rng.choice(TYPES)))


def odd_address(rng: random.Random) -> Case:
    method = rng.choice(["POST", "GET", rng.choice(METHODS)])
    path = rng.choice([*PATHS, "/invocations"])
    body = json.dumps(content(rng)).encode() if rng.random() < 0.5 else b""
    is_whole = method in ("POST", "GET") and path[:1] == "/"
    return Case("method and path", request(body, method=method, path=path), method, is_whole=is_whole)


KINDS: list[tuple[float, Callable[[random.Random], Case]]] = [
    (0.10, lambda rng: Case("as it should be", request(json.dumps(content(rng)).encode()))),
    (0.30, lambda rng: Case("other JSON", request(change_json(rng)))),
    (0.10, lambda rng: Case("odd JSON", request(odd_json(rng)))),
    (0.15, lambda rng: Case("other bytes", request(change_bytes(rng, json.dumps(content(rng)).encode())))),
    (0.07, odd_type),
    (0.10, odd_address),
    (0.10, odd_framing),
    (0.08, noise),
]  # with the share of each


def make_case(number: int, seed: int) -> Case:
    """Return the request with a number, always the same for one seed."""
    rng = random.Random(f"{seed}/{number}")
    shares, makers = zip(*KINDS)
    case: Case = rng.choices(makers, shares)[0](rng)
    return case


# ---- answers ---------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was answered, by kind of request."""

    statuses: dict[str, collections.Counter[str]] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    wrong: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, number: int, case: Case, answer: tuple[int, bytes] | None) -> None:
        problem = complaint(case, answer)
        with self.lock:
            self.statuses[case.kind][str(answer[0]) if answer else "none"] += 1
            if problem is not None:
                text = answer[1][:300].decode("utf-8", "replace") if answer else ""
                self.wrong.append({"number": number, "kind": case.kind, "problem": problem, "answer": text})


def complaint(case: Case, answer: tuple[int, bytes] | None) -> str | None:
    """Return what is wrong with an answer, or None."""
    if answer is None:
        return "no answer" if case.is_whole else None
    status, body = answer
    if status not in ALLOWED:
        return f"status {status}"
    if status == 200 or case.method == "HEAD" or (status == 400 and body in PLAIN):
        return None
    if any(word in body for word in OF_THE_SERVER):
        return "a stack trace or a path"
    return None if is_one_sentence(body) else "no sentence"


def is_one_sentence(body: bytes) -> bool:
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(message, str) and "\n" not in message and message.endswith(".")


def ask(port: int, case: Case) -> tuple[int, bytes] | None:
    """Send a request on a connection of its own; return the status and the body, or None without an answer."""
    patience = PATIENCE_S if case.is_whole else SHORT_PATIENCE_S
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        with contextlib.suppress(OSError):  # the server may have seen enough, and its answer is there
            connection.sendall(case.data)
        connection.settimeout(patience)
        answer = http.client.HTTPResponse(connection, method=case.method)
        try:
            answer.begin()
            connection.settimeout(PATIENCE_S)
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None


def attack(port: int, *, requests: int, seed: int, clients: int) -> Tally:
    """Send the requests and return what was answered."""
    tally = Tally()

    def one(number: int) -> None:
        case = make_case(number, seed)
        tally.add(number, case, ask(port, case))

    with ThreadPoolExecutor(clients) as pool:
        for _ in pool.map(one, range(requests)):
            pass
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--onnx", type=Path, default=DIGITS, help="a generator with 10 classes and 64 numbers in z")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for the result")
    options = parser.parse_args()
    with served(options.onnx) as server:
        start, before = time.monotonic(), server.memory_mib()
        tally = attack(server.port, requests=options.requests, seed=options.seed, clients=options.clients)
        seconds, after = time.monotonic() - start, server.memory_mib()
        is_alive = server.answers()
        traces = server.log.read_text("utf-8", "replace").count("Traceback (most recent call last)")
    statuses = sorted({status for counts in tally.statuses.values() for status in counts})
    print(f"{'':20}" + "".join(f"{status:>9}" for status in statuses))
    total: collections.Counter[str] = collections.Counter()
    for kind, counts in sorted(tally.statuses.items()):
        total += counts
        print(f"{kind:20}" + "".join(f"{counts[status]:9,}" for status in statuses))
    print(f"{'all':20}" + "".join(f"{total[status]:9,}" for status in statuses))
    print(
        f"{options.requests:,} requests in {seconds:.0f} s; the server had {before:.0f} MiB, and has {after:.0f} MiB;"
    )
    print(f"answers that are not allowed: {len(tally.wrong)}; stack traces in the server's log: {traces}")
    for wrong in tally.wrong[:20]:
        print(json.dumps(wrong)[:500])
    write_result(
        "random_requests",
        {
            "requests": options.requests, "seed": options.seed, "clients": options.clients,
            "seconds": round(seconds, 1),
            "statuses": {kind: dict(counts) for kind, counts in tally.statuses.items()}, "wrong": tally.wrong[:100],
            "not_allowed": len(tally.wrong), "traces_in_log": traces, "memory_mib": [round(before), round(after)],
        },
        options.results,
    )  # fmt: skip
    if tally.wrong or not is_alive or traces:
        raise SystemExit("The server broke its promise." if is_alive else "The server answers no more.")


if __name__ == "__main__":
    main()
