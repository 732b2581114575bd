"""Answers as the gate hands them on: what is not an image is one sentence in JSON, whoever in the server wrote it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]  # of ASGI: names in lower case

PATH, METHOD = "/invocations", "POST"
EXAMPLE = '{"dataframe_records": [{"seed": 0}]} with Content-Type: application/json'
CODES = {
    400: "BAD_REQUEST",
    404: "ENDPOINT_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
MAX_SENTENCE = 4000  # characters; our own name some classes and a value, and MLflow's hold the whole request

logger = logging.getLogger(f"mlflow.{__name__}")  # a child of MLflow's logger, so that its server prints the messages


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


def refusal(status: int, sentence: str, headers: Headers | None = None) -> Answer:
    """Return an answer that says in one sentence why there are no images; ``status`` is one of ``CODES``."""
    body = json.dumps({"error_code": CODES[status], "message": sentence}).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return Answer(status, [*own, *(headers or [])], body)


def wrong_method() -> Answer:
    """Return the answer to another method than ``METHOD`` at ``PATH``."""
    return refusal(405, f"{PATH} takes {METHOD} requests only.", [(b"allow", METHOD.encode())])


def nowhere() -> Answer:
    """Return the answer where there is nothing, redirections of MLflow's server included."""
    return refusal(404, f"There is nothing at this address: send {METHOD} requests to {PATH}.")


def failure() -> Answer:
    """Return the answer for a failure whose cause is none of the client's business."""
    return refusal(500, "The server failed to answer this request: its log says why.")


def in_one_sentence(answer: Answer) -> Answer:
    """Return an answer of MLflow's server, or what takes its place where it has no images and is not one sentence.

    MLflow and the libraries below it answer with stack traces, with a dump of the request, in plain text, or with
    redirections. The log keeps what a client does not get of a failure.
    """
    if answer.status < 300:
        return answer
    if answer.status < 400 or answer.status == 404:
        return nowhere()
    if answer.status == 405:
        allowed = [header for header in answer.headers if header[0] == b"allow"]
        return refusal(405, "This address takes no requests with this method.", allowed)
    if answer.status == 504:  # MLflow's own limit
        return refusal(503, "The request took longer than the server's limit: ask for fewer images.", retry_after(1))
    if answer.status == 503 and _is_one_sentence(answer.body):  # of a request that would take too much beside others
        return Answer(503, [*answer.headers, *retry_after(1)], answer.body)
    return answer if answer.status in CODES and _is_one_sentence(answer.body) else _unreadable(answer)


def _unreadable(answer: Answer) -> Answer:
    """Return what takes the place of an answer with a stack trace or with many lines."""
    if answer.status >= 500 or b'"stack_trace"' in answer.body:
        logger.error("A request failed: %s", answer.body[:100_000].decode("utf-8", "replace"))
        return failure()
    return refusal(400, f"The request is none that this server can read: send JSON like {EXAMPLE}.")


def retry_after(seconds: int) -> Headers:
    """Return the header that says when to try again."""
    return [(b"retry-after", str(seconds).encode())]


def _is_one_sentence(body: bytes) -> bool:
    try:
        content = json.loads(body)
    except ValueError:
        return False
    message = content.get("message") if isinstance(content, dict) else None
    if not isinstance(message, str) or "stack_trace" in content:
        return False
    return len(message) <= MAX_SENTENCE and "\n" not in message and message.endswith(".")
