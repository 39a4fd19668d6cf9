"""The servers of ``serve_load``, each a process: started on a free port of this machine, ended with the block."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serve_clients import Address, Reply, exchange, get, reply_of

START = 180.0  # seconds in which a server must be ready
END = 15.0  # seconds between SIGTERM and SIGKILL


class ServerError(RuntimeError):
    """A server that did not start; the message is the last line of what it said."""


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        process: the one that was started; some start others.
        address: where it listens.
        health: the path that answers 200 while it takes requests.
    """

    process: subprocess.Popen[bytes]
    address: Address
    health: str

    def resident_mib(self) -> float:
        """Memory that the process holds, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status")
        if status.exists():
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
            return int(line.split()[1]) / 1024
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True)
        return int(told.stdout) / 1024

    def sleep(self) -> None:
        """Stop it and all that it started, for some wait by asking again and again; ``awake`` lets it work."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let it work for as long as the block lasts."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.sleep()

    def is_ready(self, seconds: float = 5.0) -> bool:
        """Whether it says that it takes requests."""
        return self.get(self.health, seconds=seconds).status == 200

    def get(self, path: str, *, seconds: float = 10.0) -> Reply:
        """What it answers to a GET."""
        (one,) = exchange(self.address, [get(path)], at_once=1, seconds=seconds)
        return reply_of(one)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@contextlib.contextmanager
def running(command: list[str], *, port: int, health: str, cwd: Path, env: Mapping[str, str]) -> Iterator[Server]:
    """Start a server, and end it with all that it started.

    Args:
        command: starts it on ``port``.
        port: of 127.0.0.1.
        health: the path that answers 200 when it is ready.
        cwd: where it starts.
        env: added to this process's environment.

    Raises:
        ServerError: when it ends before it is ready, or takes too long.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "XLAB_API_KEY"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**inherited, **env},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to end those too that it started
        )
        server = Server(process, ("127.0.0.1", port), health)
        try:
            deadline = time.monotonic() + START
            while not server.is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise ServerError(_last_words(said.read().decode(errors="replace"), process.poll()))
                time.sleep(0.05)
            yield server
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, which may tidy up; then SIGKILL to whatever is left of its group."""
    process.terminate()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)  # one that sleeps hears nothing
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(said: str, status: int | None) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    how = f"not ready after {START:g} s" if status is None else f"exit status {status}"
    return f"{how}: {lines[-1]}" if lines else f"{how}, without a word"
