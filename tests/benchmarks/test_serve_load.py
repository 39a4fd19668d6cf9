"""The benchmark runs, its clients read HTTP however it is cut, and a wrong answer never counts as a right one."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.serve_clients import Address, Exchange, Reply, exchange, get, reply_of
from benchmarks.serve_dialects import DIALECTS, AnswerError
from benchmarks.serve_load import main
from benchmarks.serve_report import (
    NOT_MEASURED,
    as_markdown,
    as_text,
    figures,
    first_token_limit,
    is_sound,
    quantile,
)
from benchmarks.serve_servers import Server, ServerError, free_port, running
from benchmarks.serve_shape import QUICK, Flood, Soak
from benchmarks.serve_stress import flood, soak

PATIENCE = 20.0  # seconds after which a test has failed


def test_a_quick_run_measures_both_and_says_what_it_could_not_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "figures" / "serve_load.json"
    run = ["--quick", "--threads=1", "--rounds=2", "--peers-python=/no/such/python", "--precisions", "fp32"]
    assert main([*run, "--clients", "4", "--soak=40", "--flood", "--json", str(written)]) == 0
    report = json.loads(written.read_text())
    (match,) = report["matches"]
    assert list(match["contenders"]) == ["xlab-offline", "xlab-http", "litgpt-serve"]
    for name in ("xlab-offline", "xlab-http"):
        entry = match["contenders"][name]
        assert len(entry["seconds"]) == 2
        assert 0 < entry["lowest"] <= entry["tokens_per_second"] <= entry["highest"]
        assert entry["first_token"]["n"] == 2 * 2 * 4  # rounds, waves, clients
        assert 0 < entry["first_token"]["p50"] <= entry["first_token"]["p95"]
    assert set(match["contenders"]["litgpt-serve"]) == {NOT_MEASURED}
    assert report["soak"]["outcomes"] == {"right": 40}
    assert len(report["soak"]["resident_mib"]) == 5
    assert sum(report["flood"]["outcomes"].values()) == 10 * (QUICK.max_rows + QUICK.max_queue)
    assert report["flood"]["outcomes"]["right"] >= QUICK.max_rows
    assert is_sound(report)
    table = capsys.readouterr().out
    assert "litgpt-serve: not measured (there is no /no/such/python; `make bench-env` makes it)." in table
    assert main(["--markdown", str(written)]) == 0
    speed = match["contenders"]["xlab-http"]["tokens_per_second"]
    assert f"| xlab-http | {speed:.1f} |" in capsys.readouterr().out


def test_trials_without_the_service_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "xlab-offline", "--flood"]) == 1
    assert "--soak and --flood are for xlab-http" in capsys.readouterr().err


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\nRetry-After: 2\r\n\r\nfull"


def exchanged(*pieces: bytes) -> Exchange:
    """An exchange whose answer came in these pieces, at 1, 2, 3 …"""
    return Exchange(b"", arrivals=[(float(number), piece) for number, piece in enumerate(pieces, 1)], ended=9.0)


@pytest.mark.parametrize(("raw", "parts"), [(CHUNKED, [b"first", b"second"]), (SIZED, [b"full"])])
def test_an_answer_is_the_same_wherever_it_is_cut(raw: bytes, parts: list[bytes]) -> None:
    for cut in range(1, len(raw)):
        reply = reply_of(exchanged(raw[:cut], raw[cut:]))
        assert (reply.fault, [part for _, part in reply.parts]) == (None, parts)
        # a part has the time at which its last byte came
        ends = [raw.index(part) + len(part) for part in parts]
        assert [time for time, _ in reply.parts] == [1.0 if end <= cut else 2.0 for end in ends]


@pytest.mark.parametrize("raw", [CHUNKED, SIZED])
def test_an_answer_that_was_cut_short_is_not_whole(raw: bytes) -> None:
    start = raw.index(b"\r\n\r\n") + 4
    for end in range(start, len(raw) - len(b"\r\n\r\n") * (raw is CHUNKED)):
        assert reply_of(exchanged(raw[:end])).fault == "the answer was cut short"
    assert reply_of(exchanged()).fault == "the connection was closed without an answer"


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[Address]:
    """A server that does one thing with each connection, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


def test_no_more_connections_are_open_than_asked_for() -> None:
    lock, counts = threading.Lock(), {"open": 0, "most": 0}

    def answer(connection: socket.socket) -> None:
        with connection:
            with lock:
                counts["open"] += 1
                counts["most"] = max(counts["most"], counts["open"])
            connection.recv(1000)
            with lock:
                counts["open"] -= 1
            connection.sendall(SIZED)

    with listening(answer) as address:
        exchanges = exchange(address, [get("/")] * 20, at_once=3, seconds=PATIENCE)
    assert [reply_of(one).status for one in exchanges] == [429] * 20
    assert counts["most"] <= 3


def test_a_server_that_never_ends_is_given_up() -> None:
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.sendall(CHUNKED[:-5])
            over.wait(PATIENCE)

    with listening(answer) as address:
        (one,) = exchange(address, [get("/")], at_once=1, seconds=0.2)
        over.set()
    assert reply_of(one).fault == "no end of the answer within 0.2 s"


def test_a_server_that_is_not_there_is_a_fault() -> None:
    (one,) = exchange(("127.0.0.1", free_port()), [get("/")], at_once=1, seconds=PATIENCE)
    assert reply_of(one).fault == "the connection broke: Connection refused"


def streamed(*events: Any) -> Reply:
    """A stream whose parts each hold an event, at 0, 1, 2 …"""
    parts = [
        (float(time), f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n".encode())
        for time, e in enumerate(events)
    ]
    return Reply(200, {"content-type": "text/event-stream; charset=utf-8"}, parts, None)


def chunk(text: str, *ids: int) -> dict[str, Any]:
    return {"choices": [{"text": text, "token_ids": list(ids)}]}


def test_a_stream_is_read_token_by_token() -> None:
    written = DIALECTS["xlab"].read(streamed(chunk("a", 7), chunk("bc", 8, 9), "[DONE]"))
    assert (written.text, written.ids, written.times) == ("abc", (7, 8, 9), (0.0, 1.0, 1.0))
    lines = Reply(200, {}, [(1.0, b'{"output": " a"}\n'), (2.0, b'{"output": "b"}\n')], None)
    written = DIALECTS["litgpt"].read(lines)
    assert (written.text, written.ids, written.times) == (" ab", None, (1.0, 2.0))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (streamed(chunk("a", 7)), "without \\[DONE\\]"),
        (streamed(chunk("a", 7), {"error": {"message": "it broke"}}), "it broke"),
        (Reply(500, {}, [(0.0, b"oh")], None), "status 500: oh"),
        (Reply(200, {}, [], "the answer was cut short"), "cut short"),
    ],
)
def test_a_stream_that_fails_is_no_text(reply: Reply, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        DIALECTS["xlab"].read(reply)


class Scripted(BaseHTTPRequestHandler):
    """Answers as XLab's service would: right, wrong, refused, and refused without saying until when, in turn."""

    protocol_version = "HTTP/1.1"
    number = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        self._answer(200, b"xlab_texts 0.0\n")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            number, Scripted.number = self.number, self.number + 1
        body = {"choices": [{"text": "ab", "token_ids": [1, 2 + number % 4]}]}
        if number % 4 < 2:
            self._answer(200, json.dumps(body).encode())
        else:
            self._answer(429, b"{}", **({"Retry-After": "1"} if number % 4 == 2 else {}))

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Listener(ThreadingHTTPServer):
    request_queue_size = 64  # the library's 5 would let a flood's connections wait for a second


@pytest.fixture
def scripted() -> Iterator[Server]:
    Scripted.number = 0
    with Listener(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield Server(SimpleNamespace(pid=os.getpid()), ("127.0.0.1", server.server_port), "/health")  # type: ignore[arg-type]
        server.shutdown()
        thread.join(PATIENCE)


EXPECTED = [{"prompt": [5], "ids": [1, 2], "text": "ab"}]


def test_soak_and_flood_tell_right_from_wrong(scripted: Server) -> None:
    told = flood(scripted, Flood(8, 2), EXPECTED)
    outcomes = {"right": 2, "wrong text": 2, "refused with 429": 2, "429 without Retry-After": 2}
    assert told["outcomes"] == outcomes
    assert told["ready_afterwards"]
    assert told["right_afterwards"]
    assert told["texts_held_afterwards"] == 0
    Scripted.number = 0
    soaked = soak(scripted, Soak(10, at_once=2, warm_up=2, new_tokens=2), EXPECTED)
    assert sum(soaked["outcomes"].values()) == 10
    assert len(soaked["resident_mib"]) == 5
    assert min(soaked["resident_mib"]) > 1


def test_a_trial_is_sound_only_if_everything_was_right_or_refused() -> None:
    well = {"ready_afterwards": True, "right_afterwards": True, "texts_held_afterwards": 0}
    assert is_sound(
        {"flood": {"outcomes": {"right": 3, "refused with 429": 5}, **well}, "soak": {"outcomes": {"right": 9}}}
    )
    assert not is_sound({"flood": {"outcomes": {"right": 3, "wrong text": 1}, **well}})
    assert not is_sound({"flood": {"outcomes": {"right": 3}, **well, "texts_held_afterwards": 1}})
    assert not is_sound({"flood": {"outcomes": {"right": 3}, **well, "right_afterwards": False}})
    assert not is_sound({"soak": {"outcomes": {"right": 3, "refused with 429": 5}}})


def test_a_server_that_cannot_start_says_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('out of luck')"]
    with (
        pytest.raises(ServerError, match="exit status 1: out of luck"),
        running(command, port=free_port(), health="/", cwd=tmp_path, env={}),
    ):
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="groups are looked up in Linux's /proc")
def test_a_server_ends_with_all_that_it_started(tmp_path: Path) -> None:
    program = (
        "import http.server, os, sys, time\n"
        "if os.fork() == 0:\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()"
    )
    port = free_port()
    with running([sys.executable, "-c", program, str(port)], port=port, health="/", cwd=tmp_path, env={}) as server:
        group = server.process.pid
        assert server.resident_mib() > 1
    assert server.process.poll() is not None
    deadline = time.monotonic() + PATIENCE
    while alive(group):
        assert time.monotonic() < deadline, "a process of the server's is still there"
        time.sleep(0.01)


def alive(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, its_group, *_ = path.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def entry(tokens_per_second: float, **more: Any) -> dict[str, Any]:
    turn = {"seconds": 128 / tokens_per_second, "first": [0.02, 0.03], "per_token": [0.005, 0.005], **more}
    return figures([turn] * 3, tokens=128)


def report_of(**contenders: dict[str, Any]) -> dict[str, Any]:
    machine = {"processor": "abacus", "cores": 2, "memory_gib": 1, "system": "table", "load_before": 0}
    shape = {"n_layers": 1, "d_model": 2, "n_heads": 1, "n_kv_heads": 1, "d_ff": 4, "vocab_size": 9}
    about = {"date": "2026-01-01", "commit": "abc", "command": "it", "versions": [], "threads": 2, "quick": False}
    named = {name.replace("_", "-"): value for name, value in contenders.items()}
    match = {"precision": "fp32", "clients": 4, "waves": 2, "contenders": named}
    shape |= {"prompt_len": 32, "new_tokens": 128}
    return {**about, "rounds": 3, "machine": machine, "shape": shape, "matches": [match]}


def test_the_tables_show_shares_first_tokens_and_what_the_marks_ask() -> None:
    report = report_of(
        xlab_offline=entry(200.0, prefill=[0.004]),
        xlab_http=entry(180.0, client_seconds=0.064),
        litgpt_serve=entry(20.0, client_seconds=0.064),
    )
    assert first_token_limit(report["matches"][0]) == pytest.approx(4 * 0.004 + 2 * 0.005)
    text = as_text(report)
    assert "Over HTTP it is 0.90 × the engine offline (reaches the mark of 0.85)." in text
    assert (
        "First token, 95 %: 30.0 ms, where 4 prefills of 4.0 ms and two decode steps of 5.0 ms are 26.0 ms "
        "(misses the mark)." in text
    )
    assert "It is 9.00 × litgpt-serve, which writes one text after another." in text
    row = "| xlab-http | 180.0 | 180.0 – 180.0 | 0.90 | 20.0 ms | 30.0 ms | 5.00 | 9.0% |"
    assert row in as_markdown(report).splitlines()


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(20, 0, -1)]
    assert (quantile(values, 0.5), quantile(values, 0.95), quantile([3.0], 0.95)) == (10.0, 19.0, 3.0)
