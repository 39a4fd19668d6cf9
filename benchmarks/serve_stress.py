"""What a service must live through: very many requests with memory flat, and far more at once than it takes."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import cycle, islice
from typing import Any

from benchmarks.serve_clients import Exchange, Reply, exchange, raise_file_limit, reply_of
from benchmarks.serve_dialects import DIALECTS, AnswerError
from benchmarks.serve_servers import Server
from benchmarks.serve_shape import Flood, Soak

Expected = Sequence[dict[str, Any]]  # prompt, ids and text, as serve_models wrote them

PATIENCE = 600.0  # seconds in which a quarter of the soak, or the flood, must be over
XLAB = DIALECTS["xlab"]


def soak(server: Server, plan: Soak, expected: Expected) -> dict[str, Any]:
    """Send short requests, every second a stream, and look at the server's memory before and after each quarter.

    Their texts are the beginnings of those that are ``expected``.
    """
    first = [{**answer, "ids": answer["ids"][: plan.new_tokens]} for answer in expected]
    _send(server, first, plan.warm_up, plan)
    memory, outcomes, seconds = [server.resident_mib()], Counter[str](), 0.0
    for quarter in _quarters(plan.requests):
        exchanges, asked = _send(server, first, quarter, plan)
        memory.append(server.resident_mib())
        outcomes += Counter(_outcome(one, answer, by_ids=True) for one, answer in zip(exchanges, asked, strict=True))
        seconds += max(one.ended or one.started for one in exchanges) - exchanges[0].started
    return {
        **asdict(plan),
        "outcomes": dict(outcomes),
        "resident_mib": memory,
        "growth_mib": memory[-1] - memory[0],
        "requests_per_second": plan.requests / seconds,
    }


def flood(server: Server, plan: Flood, expected: Expected) -> dict[str, Any]:
    """Send far more requests at once than the server takes, and hold each answer against what is right."""
    raise_file_limit(plan.requests)
    asked, requests = _requests(expected, plan.requests, plan.new_tokens)
    before = server.resident_mib()
    exchanges = exchange(server.address, requests, at_once=plan.requests, seconds=PATIENCE)
    outcomes = Counter(_outcome(one, answer) for one, answer in zip(exchanges, asked, strict=True))
    # it has come through when it is ready, holds nothing any more, and still gets things right
    is_ready, texts = server.is_ready(), _texts_held(server)
    (one,) = exchange(server.address, requests[:1], at_once=1, seconds=PATIENCE)
    return {
        **asdict(plan),
        "outcomes": dict(outcomes),
        "seconds": max(one.ended or one.started for one in exchanges) - exchanges[0].started,
        "ready_afterwards": is_ready,
        "texts_held_afterwards": texts,
        "right_afterwards": _outcome(one, asked[0]) == "right",
        "resident_mib": [before, server.resident_mib()],
    }


def _requests(expected: Expected, n: int, new_tokens: int) -> tuple[list[dict[str, Any]], list[bytes]]:
    """``n`` questions, and their requests, every second a stream."""
    asked = list(islice(cycle(expected), n))
    return asked, [
        XLAB.request({"ids": answer["prompt"]}, new_tokens=new_tokens, streams=bool(number % 2))
        for number, answer in enumerate(asked)
    ]


def _send(server: Server, expected: Expected, n: int, plan: Soak) -> tuple[list[Exchange], list[dict[str, Any]]]:
    asked, requests = _requests(expected, n, plan.new_tokens)
    return exchange(server.address, requests, at_once=plan.at_once, seconds=PATIENCE), asked


def _quarters(n: int) -> Iterator[int]:
    for quarter in range(4):
        yield n * (quarter + 1) // 4 - n * quarter // 4


def _outcome(one: Exchange, answer: dict[str, Any], *, by_ids: bool = False) -> str:
    """What became of a request, in a word or two."""
    reply = reply_of(one)
    if reply.status in (429, 503) and reply.fault is None:
        return f"refused with {reply.status}" if _says_when(reply) else f"{reply.status} without Retry-After"
    try:
        written = XLAB.read(reply)
    except AnswerError as error:
        return str(error)
    is_right = written.ids == tuple(answer["ids"]) and (by_ids or written.text == answer["text"])
    return "right" if is_right else "wrong text"


def _says_when(reply: Reply) -> bool:
    return reply.headers.get("retry-after", "").isdigit()


def _texts_held(server: Server) -> int:
    """How many texts the server says that it writes or keeps waiting."""
    found = re.search(r"^xlab_texts (\S+)$", server.get("/metrics").body.decode(), re.MULTILINE)
    return -1 if found is None else int(float(found[1]))
