"""Run the service on a socket: from loading the checkpoint to the last answer after SIGTERM."""

import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import torch
import uvicorn

from xlab import checkpoints
from xlab.inference import Engine
from xlab.inference.weights import Precision
from xlab.serving.app import make_app
from xlab.serving.chat_template import template_of
from xlab.serving.connections import Connection
from xlab.serving.errors import RequestError, ServingError
from xlab.serving.keys import Keys
from xlab.serving.limits import Limits
from xlab.serving.metrics import Metrics
from xlab.serving.model import served
from xlab.serving.runner import Runner
from xlab.serving.service import Service

logger = logging.getLogger("xlab.serving")
LAST_WORDS = 5.0  # seconds after the drain's deadline in which clients are told of it


@dataclass(frozen=True)
class Settings:
    """How a service is run.

    Attributes:
        name: of the model; None makes one of the checkpoint's.
        device: as torch names it.
        precision: "keep", "bf16" or "int8".
        compile: compile the step of decoding.
        max_rows: texts that are written side by side.
        max_queue: texts that may wait.
        max_tokens: new tokens of a text at most; None is the model's context.
        deadline: seconds that a request may take.
        drain: seconds after SIGTERM in which texts may end.
        origins: other sites whose pages may use the service.
        log_prompts: whether prompts may be logged.
    """

    name: str | None = None
    device: str = "cpu"
    precision: Precision = "keep"
    compile: bool = False
    max_rows: int = 16
    max_queue: int = 128
    max_tokens: int | None = None
    deadline: float = 300.0
    drain: float = 30.0
    origins: tuple[str, ...] = ()
    log_prompts: bool = False


def load(checkpoint: str, settings: Settings) -> Service:
    """Read a checkpoint and put an engine behind it.

    Raises:
        CheckpointError: if it cannot be read.
        GenerationError: if the engine cannot be had so.
    """
    # OpenMP keeps a pool for each thread that calculates, and with more threads than cores none of them waits
    # actively: a step of decoding, which is short, then takes twice as long. So only the engine's thread gets a pool.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    read = checkpoints.read(checkpoint, map_location=settings.device)
    decoder = checkpoints.restore_decoder(read).to(settings.device).eval().requires_grad_(False)
    model = served(read, decoder, name=settings.name, precision=settings.precision)
    engine = Engine(
        decoder, model.tokenizer, max_rows=settings.max_rows, dtype=settings.precision, compile=settings.compile
    )
    metrics = Metrics()
    runner = Runner(engine, max_queue=settings.max_queue, threads=threads, on_end=metrics.note_end)
    metrics.watch(runner)
    max_tokens = model.max_len if settings.max_tokens is None else settings.max_tokens
    limits = Limits(max_tokens=max_tokens, texts=settings.max_rows, seconds=settings.deadline)
    template = template_of(model.chat_template, model.tokenizer)
    return Service(model, runner, limits, metrics, template, log_prompts=settings.log_prompts)


def listen(host: str, port: int) -> socket.socket:
    """Take the address, before anything is loaded for it; clients that come meanwhile wait.

    Raises:
        ServingError: if it is taken, or none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ServingError(f"--host {host} is no address of this machine: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ServingError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    return listener


class Server(uvicorn.Server):
    """uvicorn's, which after SIGTERM lets texts end until a deadline, and whose process then ends with status 0."""

    def __init__(self, config: uvicorn.Config, service: Service, *, drain: float) -> None:
        super().__init__(config)
        self.service, self.drain = service, drain

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal is not raised once more at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.runner.is_draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        import asyncio

        self.service.runner.is_draining = True
        logger.info("draining", extra={"fields": {"texts": self.service.runner.texts, "seconds": self.drain}})
        ending = RequestError(
            "the server was shut down before the text ended; ask another", status=503, code="unavailable"
        )
        timer = asyncio.get_running_loop().call_later(self.drain, self.service.runner.abort, ending)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()
            logger.info("ended")


def serve(
    service: Service,
    listener: socket.socket,
    *,
    keys: Keys,
    origins: tuple[str, ...],
    is_local: bool,
    drain: float,
) -> None:
    """Answer on ``listener`` until SIGTERM or SIGINT."""
    _raise_file_limit()
    server = make_server(service, keys=keys, origins=origins, is_local=is_local, drain=drain)
    host, port, *_ = listener.getsockname()
    fields = {"address": f"http://{f'[{host}]' if ':' in host else host}:{port}", "model": service.model.name}
    logger.info("serving", extra={"fields": fields})
    gc.collect()
    gc.freeze()  # what stays until the end need not be looked through again, which would hold up every text
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # a second Ctrl-C
        sys.exit(130)


def make_server(
    service: Service, *, keys: Keys, origins: tuple[str, ...] = (), is_local: bool = False, drain: float = 30.0
) -> Server:
    """A server of one process and one event loop."""
    config = uvicorn.Config(
        make_app(service, keys=keys, origins=origins, is_local=is_local),
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        timeout_graceful_shutdown=int(drain + LAST_WORDS) + 1,
    )
    return Server(config, service, drain=drain)


def _raise_file_limit() -> None:
    """Let every connection that may come have its descriptor; 1024 are fewer than a full queue's refusals."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
