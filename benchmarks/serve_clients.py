"""Many HTTP clients in one thread, cheap enough to leave the cores to the server that they measure.

Bare sockets under one selector. What comes is kept with the time that it came at, and read when all is over.
"""

import contextlib
import resource
import selectors
import socket
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

Address = tuple[str, int]
AT_ONCE = 65536  # bytes that are read at once


@dataclass
class Exchange:
    """One request on a connection of its own, and what came back.

    Attributes:
        request: as it is sent; it asks that the connection be closed.
        started: before the connection is made, by ``time.perf_counter``, as are all times.
        arrivals: when how much of the answer came.
        ended: when the other side closed the connection; None if it did not.
        fault: why there is no whole answer.
    """

    request: bytes
    started: float = 0.0
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Reply:
    """An answer, decoded as far as HTTP goes.

    Attributes:
        status: HTTP's; 0 if there is none.
        headers: by their names in lower case.
        parts: of the body, each with the time at which it had come whole; of a chunked body, its chunks.
        fault: why it is not whole; None if it is.
    """

    status: int
    headers: dict[str, str]
    parts: list[tuple[float, bytes]]
    fault: str | None

    @property
    def body(self) -> bytes:
        return b"".join(part for _, part in self.parts)


def post(path: str, body: bytes) -> bytes:
    """A POST of JSON as it goes over a socket."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def get(path: str) -> bytes:
    """A GET as it goes over a socket."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def exchange(address: Address, requests: Sequence[bytes], *, at_once: int, seconds: float) -> list[Exchange]:
    """Send requests and wait for their answers.

    Args:
        address: of the server.
        requests: each goes over a connection of its own, in their order.
        at_once: connections that may be open together.
        seconds: when to give up what has not been answered.

    Returns:
        An exchange for each request; those that were given up, or refused by the system, have a fault.
    """
    exchanges = [Exchange(request) for request in requests]
    waiting = deque(exchanges)
    deadline = time.perf_counter() + seconds
    with selectors.DefaultSelector() as selector:
        while waiting or selector.get_map():
            while waiting and len(selector.get_map()) < at_once:
                _begin(selector, address, waiting.popleft())
            left = deadline - time.perf_counter()
            if left <= 0:
                break
            for key, _ in selector.select(left):
                callback: Callable[[], bool] = key.data
                if callback():
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    for one in exchanges:
        if one.ended is None and one.fault is None:
            one.fault = f"no end of the answer within {seconds:g} s"
    return exchanges


def _begin(selector: selectors.BaseSelector, address: Address, one: Exchange) -> None:
    """Open a connection; once it stands its request is sent, and then its answer read."""
    one.started = time.perf_counter()
    try:
        sock = socket.socket()
    except OSError as error:
        one.fault = f"no socket: {error.strerror}"
        return
    sock.setblocking(False)
    sock.connect_ex(address)  # "in progress"; what goes wrong shows when it is written to
    left = memoryview(one.request)

    def write() -> bool:
        nonlocal left
        try:
            left = left[sock.send(left) :]
        except BlockingIOError:
            return False
        except OSError as error:
            return _broken(one, error)
        if not left:
            selector.modify(sock, selectors.EVENT_READ, read)
        return False

    def read() -> bool:
        try:
            data = sock.recv(AT_ONCE)
        except BlockingIOError:
            return False
        except OSError as error:
            return _broken(one, error)
        now = time.perf_counter()
        if data:
            one.arrivals.append((now, data))
        else:
            one.ended = now
        return not data

    selector.register(sock, selectors.EVENT_WRITE, write)


def _broken(one: Exchange, error: OSError) -> bool:
    one.fault = f"the connection broke: {error.strerror}"
    return True


def reply_of(one: Exchange) -> Reply:
    """Decode what came back."""
    raw = b"".join(data for _, data in one.arrivals)
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return Reply(0, {}, [], one.fault or "the connection was closed without an answer")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    # the time of a byte is that of the arrival that brought it
    ends = list(accumulate(len(data) for _, data in one.arrivals))

    def when(n_bytes: int) -> float:
        return one.arrivals[bisect_left(ends, n_bytes)][0]

    offset = len(raw) - len(body)
    if headers.get("transfer-encoding") == "chunked":
        parts, is_whole = _chunks(raw, offset)
    else:
        parts, is_whole = [(len(raw), body)], len(body) == int(headers.get("content-length", len(body)))
    fault = one.fault or (None if is_whole else "the answer was cut short")
    return Reply(int(words[1]), headers, [(when(end), part) for end, part in parts], fault)


def _chunks(raw: bytes, start: int) -> tuple[list[tuple[int, bytes]], bool]:
    """The chunks of a body, each with the place of its end, and whether the last was there."""
    parts: list[tuple[int, bytes]] = []
    while (end := raw.find(b"\r\n", start)) >= 0:
        size = int(raw[start:end].split(b";")[0], 16)
        if size == 0:
            return parts, True
        start, stop = end + 2, end + 2 + size
        if stop > len(raw):
            break
        parts.append((stop, raw[start:stop]))
        start = stop + 2
    return parts, False


def raise_file_limit(n: int) -> None:
    """Let this process open ``n`` sockets more, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
