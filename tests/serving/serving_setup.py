"""A toy checkpoint, and servers over it: on a socket in a thread, or as an application that is called directly."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from xlab import checkpoint_writing, checkpoints
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.inference import Engine, Request, Result
from xlab.serving.keys import Keys
from xlab.serving.server import Server, Settings, listen, load, make_server
from xlab.serving.service import Service
from xlab.transformer import Decoder

TEXT = "the cat sees the old king, and the old king paints the cat. Zoë follows a dog — “who?” 🐈 naïve\n" * 3
SIZES = {"vocab_size": 290, "max_len": 96, "d_model": 16, "n_layers": 2, "n_heads": 2}
INFO = {"step": 7, "metrics": {"val/loss": 5.5, "lr": 0.1}, "precision": "32-true", "data_fingerprint": "abc"}
KEY = "a-key-of-tests"
POISON = 77  # a token whose mere sight makes an engine fail that was broken so
PATIENCE = 20.0  # seconds after which a test has failed


def write_checkpoint(folder: Path, *, meta: dict[str, Any] | None = None, **info: Any) -> Path:
    """Write the run of a model that was never trained, whose texts are long and varied."""
    torch.manual_seed(0)
    tokenizer = ByteLevelBPE().make(iter([TEXT]), SIZES["vocab_size"])
    if meta is not None:
        tokenizer = tokenizer.with_separator()
    sizes = {**SIZES, "vocab_size": len(tokenizer)}
    decoder = Decoder(**sizes)
    with torch.no_grad():
        decoder.embedding.weight.mul_(12)  # far from uniform
    head = checkpoints.header(
        model=sizes,
        data={"source": {"class_path": "xlab.data.sources.JsonLines", "init_args": {"paths": "/secret"}}, "meta": meta},
        tokenizer=tokenizer.to_json(),
        info={**INFO, **info},
    )
    weights = {checkpoints.DECODER_PREFIX + name: weight for name, weight in decoder.state_dict().items()}
    path = folder / "toy" / "checkpoints" / "best.ckpt"
    checkpoint_writing.write({"xlab": head, "state_dict": weights}, path)
    return path


@dataclass(frozen=True)
class Running:
    """A server on a socket of this machine."""

    url: str
    service: Service
    server: Server
    checkpoint: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def tokenizer(self) -> Tokenizer:
        return self.service.model.tokenizer

    def post(self, path: str = "/v1/completions", *, headers: dict[str, str] | None = None, **body: Any) -> Any:
        return httpx.post(self.url + path, json=body, headers=headers, timeout=PATIENCE)

    def complete(self, **body: Any) -> dict[str, Any]:
        answer = self.post(**body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def stream(self, path: str = "/v1/completions", **body: Any) -> list[dict[str, Any]]:
        """All events of a stream, [DONE] checked and left out."""
        answer = self.post(path, stream=True, **body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer.text)
        assert events.pop() == "[DONE]"
        return events

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """A bare connection."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def offline(self, request: Request) -> Result:
        """What an engine of its own gives for a request."""
        engine = Engine(*checkpoints.load(self.checkpoint), max_rows=max(4, request.n_rows))
        (result,) = engine.generate([request])
        assert result.error is None, result.error
        return result

    def is_free(self) -> bool:
        """Whether no row of the engine is taken and nothing waits."""
        return not self.service.runner.engine.rows.rows and not self.service.runner.texts


def events_of(text: str) -> list[Any]:
    """The events of a stream, decoded but for [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def request_bytes(body: dict[str, Any], *headers: str, path: str = "/v1/completions") -> bytes:
    """An HTTP request as it goes over a socket."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode() + content


@contextmanager
def running(
    checkpoint: Path,
    *,
    keys: Keys | None = None,
    prepare: Callable[[Service], None] | None = None,
    must_end: bool = True,
    **settings: Any,
) -> Iterator[Running]:
    """Serve in a thread, on a free port, until the block ends; with ``must_end`` it fails where the thread goes on."""
    drain = settings.pop("drain", 5.0)
    origins, is_local = settings.pop("origins", ()), settings.pop("is_local", False)
    service = load(str(checkpoint), Settings(**settings))
    if prepare is not None:
        prepare(service)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = make_server(service, keys=keys or Keys(), origins=origins, is_local=is_local, drain=drain)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield Running(url, service, server, checkpoint)
    finally:
        server.should_exit = True
        thread.join(PATIENCE if must_end else 1.0)
        listener.close()
    assert not (must_end and thread.is_alive())


def until(holds: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something holds; fail when it takes too long."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.005)


def break_on_poison(engine: Engine) -> None:
    """Let a step fail whenever a text holds the poison beyond its first three tokens."""
    feed = engine.rows.feed

    def poisoned() -> Any:
        if any(POISON in row.ids[3:] for row in engine.rows.rows):
            raise RuntimeError("a kernel failed")
        return feed()

    engine.rows.feed = poisoned  # type: ignore[method-assign]


class Slow:
    """Makes each step of an engine wait for a permit, so that a test decides how far texts get."""

    def __init__(self, service: Service) -> None:
        self.permits = threading.Semaphore(0)
        self.is_open = False
        engine = service.runner.engine
        step = engine.step

        def slow_step() -> Any:
            if not self.is_open:
                self.permits.acquire(timeout=PATIENCE)
            return step()

        engine.step = slow_step  # type: ignore[method-assign]

    def let(self, n_steps: int) -> None:
        if n_steps:
            self.permits.release(n_steps)

    def open(self) -> None:
        self.is_open = True
        self.permits.release(1000)
