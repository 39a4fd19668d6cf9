"""What the scripts have in common: errors in one line, status 2, and a traceback only on request."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from xlab.errors import XLabError

DEBUG_OPTION = "--debug"
INTERRUPTED = 130  # what a shell reports of a program that SIGINT ended
TERMINATED = 143  # … and SIGTERM
PIPE_CLOSED = 141  # … and SIGPIPE


@contextmanager
def one_line_errors(program: str, *, debug: bool = False) -> Iterator[None]:
    """Print what a user can mend as one line and exit with status 2; ``debug`` adds the traceback."""
    if sys.path[-1] != os.getcwd():
        sys.path.append(os.getcwd())  # a user's own classes are found beside where they work
    try:
        yield
    except (XLabError, OSError) as error:  # of the system: a full disk, a folder that cannot be written
        if debug:
            traceback.print_exc()
        message = " ".join(str(error).split())
        print(f"{program}: error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
