"""Clients that go away, stop reading, send half of a request, or no HTTP at all."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_setup import PATIENCE, Running, Slow, request_bytes, running, until

from xlab.serving.connections import Connection

LONG = {"prompt": "the cat", "max_tokens": 90, "min_tokens": 90, "seed": 1}


@pytest.fixture
def slow(checkpoint: Path) -> Iterator[tuple[Running, Slow]]:
    """A server whose engine steps when the test lets it."""
    found: list[Slow] = []
    with running(checkpoint, prepare=lambda service: found.append(Slow(service)), max_rows=4) as server:
        yield server, found[0]
        found[0].open()


def read_to_end(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(2**16):
        parts.append(part)
    return b"".join(parts)


def n_cancelled(server: Running) -> int:
    text = server.service.metrics.text().decode()
    return sum(
        int(float(line.split()[-1])) for line in text.splitlines() if line.startswith('xlab_ends_total{how="canc')
    )


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("n_steps", [0, 5])
def test_who_goes_away_frees_the_row_within_a_step(slow: tuple[Running, Slow], is_stream: bool, n_steps: int) -> None:
    server, engine = slow
    rows = server.service.runner.engine.rows
    with server.connect() as sock:
        sock.sendall(request_bytes({**LONG, "stream": is_stream, "n": 3}))
        until(lambda: server.service.runner.texts == 3)
        engine.let(n_steps)
        if n_steps:
            until(lambda: rows.decode_calls >= n_steps - 2)
        if is_stream and n_steps:
            assert sock.recv(64).startswith(b"HTTP/1.1 200")
        call = next(iter(server.service.runner._calls))
    until(lambda: call.is_cancelled)  # the connection's end is known
    engine.let(3)  # one that may have begun before, one to let go, one to spare
    until(server.is_free)
    assert rows.decode_calls <= n_steps + 2
    assert n_cancelled(server) == 1


def test_the_others_do_not_notice(slow: tuple[Running, Slow]) -> None:
    server, engine = slow
    engine.open()
    expected = server.complete(**LONG)["choices"][0]["text"]
    with server.connect() as leaving, server.connect() as staying:
        leaving.sendall(request_bytes({**LONG, "seed": 2, "stream": True}))
        assert leaving.recv(64)
        staying.sendall(request_bytes(LONG, "Connection: close"))
        leaving.close()
        answer = read_to_end(staying)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"] == expected
    until(server.is_free)


def test_who_stops_reading_is_let_go(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Connection.connection_made

    def made_narrow(self: Connection, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", made_narrow)
    monkeypatch.setattr(Connection, "stall", 0.1)
    with running(checkpoint, max_rows=8) as server, server.connect(receive_buffer=2048) as sock:
        # more than all buffers between the two hold
        sock.sendall(request_bytes({**LONG, "n": 8, "logprobs": 20, "return_token_ids": True, "stream": True}))
        gone = 'xlab_requests_total{method="POST",route="/v1/completions",status="499"} 1.0'
        until(lambda: gone in server.service.metrics.text().decode())
        until(server.is_free)
        until(lambda: not server.server.server_state.connections)


@pytest.mark.parametrize(
    "begun", [b"", b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n", request_bytes(LONG)[:-5]]
)
def test_half_a_request_is_not_waited_for(checkpoint: Path, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "arrival", 0.1)
    with running(checkpoint, max_rows=1) as server:
        with server.connect() as sock:
            sock.sendall(begun)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        until(lambda: not server.server.server_state.connections)
        assert server.is_free()


def test_a_request_that_came_whole_may_take_its_time(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "arrival", 0.3)
    found: list[Slow] = []
    with (
        running(checkpoint, prepare=lambda service: found.append(Slow(service)), max_rows=1) as server,
        server.connect() as sock,
    ):
        sock.sendall(request_bytes({**LONG, "max_tokens": 3, "min_tokens": 0}, "Connection: close"))
        until(lambda: server.service.runner.texts == 1)
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        found[0].open()
        sock.settimeout(PATIENCE)
        assert read_to_end(sock).startswith(b"HTTP/1.1 200")


def test_nonsense_after_an_early_answer_is_an_end(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """The answer has been given while the body came: there is none to give for a body that is wrong."""
    begun = request_bytes({}).replace(b"application/json", b"text/plain").partition(b"Content-Length")[0]
    with server.connect() as sock:
        sock.sendall(begun + b"Transfer-Encoding: chunked\r\n\r\n")
        answer = sock.recv(2**16)
        while not answer.endswith(b"}}"):
            answer += sock.recv(2**16)
        assert answer.startswith(b"HTTP/1.1 415")
        sock.sendall(b"nonsense\r\n")
        assert read_to_end(sock) == b""
    assert "Traceback" not in caplog.text


def test_one_connection_serves_many_requests(server: Running) -> None:
    with server.connect() as sock:
        for _ in range(3):
            sock.sendall(request_bytes({"prompt": "the", "max_tokens": 2}))
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(2**16)
            head, _, body = head.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            while len(body) < length:
                body += sock.recv(2**16)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\r\n b\r\n\r\n" + b"\x00" * 9 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\rSet-Cookie: b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=range(8),
)
def test_what_is_no_http_gets_an_answer_and_an_end(server: Running, sent: bytes) -> None:
    with server.connect() as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        try:
            answer = read_to_end(sock)
        except ConnectionResetError:
            answer = b""
    assert b"Set-Cookie" not in answer
    assert b" 500 " not in answer
    if b" 400 " in answer:
        assert b"error" in answer
    assert server.complete(prompt="the", max_tokens=1)
