"""Clients for benchmarks/serving.py, in a process of their own: each sends its next request after its last answer.

Each line of input is a JSON object: port, clients, seconds, rows (of a request) and params. Each line of output is
another: the seconds that it took, the latency of each request in seconds, and the bytes of the last answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any


async def client(port: int, request: bytes, *, until: float, latencies: list[float]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    size = 0
    while (start := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ", 2)[1]
        length = int(next(line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")))
        body = await reader.readexactly(length)
        if status != b"200":
            raise SystemExit(f"HTTP {status.decode()}: {body[:300].decode()}")
        size = length
        latencies.append(time.perf_counter() - start)
    writer.close()
    return size


async def load(task: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"dataframe_records": task["rows"], "params": task["params"]}).encode()
    lines = ["POST /invocations HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}"]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    latencies: list[float] = []
    start = time.perf_counter()
    until = start + task["seconds"]
    clients = (client(task["port"], request, until=until, latencies=latencies) for _ in range(task["clients"]))
    sizes = await asyncio.gather(*clients)
    return {"seconds": time.perf_counter() - start, "latencies": latencies, "bytes": sizes[0]}


def main() -> None:
    import uvloop

    for line in sys.stdin:
        print(json.dumps(uvloop.run(load(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
