"""The process: where it listens, what it refuses to start with, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serving_setup import PATIENCE, request_bytes, until

ROOT = Path(__file__).parents[2]
LONG = {"prompt": "the cat", "max_tokens": 96, "min_tokens": 80, "seed": 1, "stream": True, "n": 8, "logprobs": 20}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "serve.py"), "http", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if key != "XLAB_API_KEY"}, **variables}


@contextmanager
def process(*arguments: object, **variables: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of its own, and the port that it took."""
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, env=environment(**variables)) as ran:
        try:
            assert ran.stderr is not None
            line = ran.stderr.readline()
            address = json.loads(line)["address"] if line.startswith("{") else pytest.fail(line + ran.stderr.read())
            yield ran, int(address.rpartition(":")[2])
        finally:
            ran.kill()


def connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    return sock


def read_to_end(sock: socket.socket) -> str:
    parts = []
    while part := sock.recv(2**16):
        parts.append(part)
    return b"".join(parts).decode()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=PATIENCE).status_code == 200
    except httpx.TransportError:
        return False


def test_a_life(checkpoint: Path) -> None:
    """SIGTERM in the middle of a stream lets it end; the process ends with 0, and another takes its address."""
    with process(checkpoint, "--port", 0, "--max-rows", 8) as (ran, port):
        until(lambda: is_ready(port))
        again = subprocess.run(command(checkpoint, "--port", port), capture_output=True, text=True, env=environment())
        assert again.returncode == 2
        assert again.stderr == (
            f"serve.py http: error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port\n"
        )
        with connected(port) as sock:
            sock.sendall(request_bytes(LONG))
            assert sock.recv(16) == b"HTTP/1.1 200 OK\r"
            ran.send_signal(signal.SIGTERM)
            text = read_to_end(sock)
        assert "data: [DONE]" in text
        assert ran.wait(PATIENCE) == 0
        assert ran.stderr is not None
        logged = [json.loads(line) for line in ran.stderr.read().splitlines()]
        assert [line["message"] for line in logged][-1] == "ended"
        (line,) = [line for line in logged if line.get("completion_tokens")]
        assert line["completion_tokens"] >= 8 * 80
    with process(checkpoint, "--port", port) as (ran, _):
        until(lambda: is_ready(port))
        ran.send_signal(signal.SIGKILL)
        assert ran.wait(PATIENCE) == -signal.SIGKILL
        with process(checkpoint, "--port", port) as (after, _):
            until(lambda: is_ready(port))
            after.send_signal(signal.SIGINT)
            assert after.wait(PATIENCE) == 0


def test_the_drain_has_an_end(checkpoint: Path, tmp_path: Path) -> None:
    """Texts that are not done at the drain's deadline end with an error in words."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from xlab.inference import Engine\n"
        "step = Engine.step\n"
        "def slow(self):\n"
        "    time.sleep(0.02)\n"
        "    return step(self)\n"
        "Engine.step = slow\n"
        "from xlab.commands.serve import main\n"
        "main()\n"
    )
    arguments = [sys.executable, str(script), "http", str(checkpoint), "--port", "0", "--drain", "0.2"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment(PYTHONPATH=str(ROOT))) as ran:
        assert ran.stderr is not None
        port = int(json.loads(ran.stderr.readline())["address"].rpartition(":")[2])
        until(lambda: is_ready(port))
        with connected(port) as streamed, connected(port) as plain, connected(port) as idle:
            streamed.sendall(request_bytes({**LONG, "n": 1}))
            assert streamed.recv(16) == b"HTTP/1.1 200 OK\r"
            plain.sendall(request_bytes({**LONG, "n": 1, "stream": False}))
            idle.sendall(b"POST /v1/compl")
            metrics = f"http://127.0.0.1:{port}/metrics"
            until(lambda: "xlab_texts 2.0" in httpx.get(metrics).text)
            ran.send_signal(signal.SIGTERM)
            told = [read_to_end(streamed), read_to_end(plain)]
        assert ran.wait(PATIENCE) == 0
    assert "shut down before the text ended" in told[0]
    assert "[DONE]" not in told[0]
    assert told[1].startswith("HTTP/1.1 503")
    assert json.loads(told[1].partition("\r\n\r\n")[2])["error"]["code"] == "unavailable"


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["--host", "0.0.0.0"], {}, "would open the model to everyone"),
        (["--no-auth"], {"XLAB_API_KEY": "a-key-of-tests"}, "contradict"),
        (["--api-key-file", "/no/such/file"], {}, "cannot read the keys"),
        ([], {"XLAB_API_KEY": "short"}, "visible ASCII"),
        (["--cors", "example.org"], {}, "--cors takes an origin"),
        (["--drain", "inf"], {}, "--drain must be a number of seconds, got inf"),
        (["--deadline", "nan"], {}, "--deadline must be a number of seconds, got nan"),
        (["--int8", "--bf16"], {}, "two ways to hold"),
        (["--name", "a/b"], {}, "--name must be of letters"),
        (["--host", "no.such.host.invalid"], {}, "is no address"),
        (["--device", "abacus"], {}, "'abacus' is not to be had"),
    ],
)
def test_what_cannot_be_is_one_line(
    checkpoint: Path, arguments: list[str], variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from xlab.commands.serve import main

    monkeypatch.delenv("XLAB_API_KEY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["http", str(checkpoint), "--port", "0", *arguments])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert says in result.stderr
