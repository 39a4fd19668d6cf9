"""What the scripts have in common: errors in one line, status 2, and a traceback only on request."""

import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from xlab.errors import XLabError

DEBUG_OPTION = "--debug"
INTERRUPTED = 130  # what a shell reports of a program that SIGINT ended
TERMINATED = 143  # … and SIGTERM
PIPE_CLOSED = 141  # … and SIGPIPE


@contextmanager
def one_line_errors(program: str, *, debug: bool = False) -> Iterator[None]:
    """Print what a user can mend as one line and exit with status 2; ``debug`` adds the traceback.

    A reader of standard output that has seen enough, such as ``head``, ends the program without a word.
    """
    if sys.path[-1] != os.getcwd():
        sys.path.append(os.getcwd())  # a user's own classes are found beside where they work
    try:
        yield
        if sys.stdout is not None:  # None where the program began with it closed
            sys.stdout.flush()  # what is still to be written fails here, and not at Python's end
    except (XLabError, OSError) as error:  # of the system: a full disk, a folder that cannot be written
        if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):  # never on Windows, which has no poll
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
            sys.exit(PIPE_CLOSED)
        if debug:
            traceback.print_exc()
        message = " ".join(str(error).split()) + _about_cache(error)
        print(f"{program}: error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End as at Ctrl-C, with all that was begun, when a terminal closes or a scheduler says so."""

    def end(*_: object) -> None:
        raise SystemExit(TERMINATED)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _about_cache(error: BaseException) -> str:
    """Say what to do where torch cannot make the folder of its compiled code, which it does when it is imported."""
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    name = getattr(error, "filename", None)  # of what could not be made: the folder, or one above it
    if not folder or not name or not f"{os.path.abspath(folder)}/".startswith(f"{name}/"):
        return ""
    return "; set TORCHINDUCTOR_CACHE_DIR to a folder that can be written"


def _is_closed(stream: TextIO) -> bool:
    """Whether nobody reads what is written to ``stream``: a pipe may also have broken elsewhere."""
    poll = select.poll()
    poll.register(stream, 0)  # an end that is closed is told even to who asks for nothing
    return bool(poll.poll(0))
