"""What serve.py http does once its options are known."""

import contextlib
import math
import signal
import sys
from collections.abc import Iterator
from typing import Any

from xlab import checkpoints
from xlab.errors import GenerationError
from xlab.serving import logs
from xlab.serving.errors import ServingError
from xlab.serving.keys import check_exposure, read_keys
from xlab.serving.server import Settings, listen, load, serve


def start(checkpoint: str, options: dict[str, Any]) -> None:
    """Serve until SIGTERM.

    Raises:
        ServingError: for options that cannot be, and an address that is taken.
        CheckpointError: if the checkpoint cannot be read.
        GenerationError: if the engine cannot be had so.
    """
    if options["int8"] and options["bf16"]:
        raise GenerationError("--int8 and --bf16 are two ways to hold the weights; give one of them")
    for name in ("deadline", "drain"):
        if not math.isfinite(options[name]):
            raise ServingError(f"--{name} must be a number of seconds, got {options[name]}")
    for origin in options["origins"]:
        if origin != "*" and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
            raise ServingError(f"--cors takes an origin, such as https://example.org, got {origin!r}")
    keys = read_keys(options["api_key_file"])
    check_exposure(options["host"], keys, no_auth=options["no_auth"])
    for module in options["allow_module"]:
        checkpoints.allow_module(module)
    settings = Settings(
        precision="int8" if options["int8"] else "bf16" if options["bf16"] else "keep",
        **{name: options[name] for name in ("name", "device", "compile", "max_rows", "max_queue", "max_tokens")},
        **{name: options[name] for name in ("deadline", "drain", "origins", "log_prompts")},
    )
    logs.set_up()
    with listen(options["host"], options["port"]) as listener:
        with _ended_by_sigterm():  # afterwards the server ends by it in its own way
            service = load(checkpoint, settings)
        is_local = not keys and not options["no_auth"]
        serve(service, listener, keys=keys, origins=settings.origins, is_local=is_local, drain=settings.drain)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a start as it ends a server: with status 0."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
