"""The largest batch that memory has room for: measured at a few sizes, extrapolated, and proved by training with it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xlab.errors import ConfigError
from xlab.lab.plan_time import MemoryShortageError

FIRST = (1, 2, 4)  # windows of the sizes that are measured in any case
MOST_PROOFS = 6


@dataclass(frozen=True)
class Attempt:
    """A batch size that was tried.

    Args:
        windows: of a micro-batch.
        n_bytes: that training with it took; None: more than there are.
    """

    windows: int
    n_bytes: int | None


@dataclass(frozen=True)
class Finding:
    """What came of a search.

    Args:
        largest: the most windows of a micro-batch whose training was seen to fit.
        batch_size: the most that also divide a step's windows.
        accumulate: micro-batches of a step then, so that it has as many tokens as before.
        attempts: in their order.
        limit: bytes that training may take.
    """

    largest: int
    batch_size: int
    accumulate: int
    attempts: Sequence[Attempt]
    limit: int


def find(try_out: Callable[[int], int], *, limit: int, windows_per_step: int) -> Finding:
    """Find the largest micro-batch whose training takes no more than ``limit`` bytes.

    Memory grows with the batch by as much for each window, but for what is the same for all; so a line through two
    sizes says which is the largest. It is tried, and so is what the line says then, until the next is too large.

    Args:
        try_out: trains with so many windows in a micro-batch, and gives the bytes that it took. Where they were more
            than there are it raises a MemoryShortageError.
        limit: bytes.
        windows_per_step: of a rank: micro-batch times accumulation, which the finding keeps.

    Raises:
        ConfigError: when one window is too many already.
    """
    attempts: list[Attempt] = []

    def fits(windows: int) -> bool:
        try:
            attempts.append(Attempt(windows, try_out(windows)))
        except MemoryShortageError:
            attempts.append(Attempt(windows, None))
        n_bytes = attempts[-1].n_bytes
        return n_bytes is not None and n_bytes <= limit

    fitting, beyond = 0, math.inf  # the largest that was seen to fit, and the smallest that was seen not to
    for windows in FIRST:
        if not fits(windows):
            beyond = windows
            break
        fitting = windows
    if not fitting:
        raise ConfigError(
            f"training with one window at a time takes {_told(attempts[0].n_bytes)}, and {_told(limit)} may be taken; "
            "lower data.seq_len or the model's sizes, or take conf/extra/activation_checkpointing.yaml"
        )
    for _ in range(MOST_PROOFS):
        guess = _next(attempts, limit, fitting, beyond)
        if guess is None:
            break
        if fits(guess):
            fitting = guess
        else:
            beyond = guess
    size = max(size for size in range(1, min(fitting, windows_per_step) + 1) if windows_per_step % size == 0)
    return Finding(fitting, size, windows_per_step // size, attempts, limit)


def _next(attempts: Sequence[Attempt], limit: int, fitting: int, beyond: float) -> int | None:
    """Give the size to try next: where the line through the two largest measured ones meets the limit."""
    if beyond - fitting <= max(1, 0.02 * fitting):  # two in a hundred more are not worth another try
        return None
    measured = sorted((one.windows, one.n_bytes) for one in attempts if one.n_bytes is not None)
    if len(measured) < 2:
        return None
    (fewer, small), (more, large) = measured[-2:]
    each = (large - small) / (more - fewer)
    if each <= 0:  # noise: the batch hardly matters yet
        guess = 4 * fitting
    else:
        guess = more + math.floor((limit - large) / each)
        guess = min(guess, 16 * fitting)  # no further than a line through small sizes can be trusted
    if not fitting < guess < beyond:  # what was seen is no line
        guess = (fitting + int(beyond)) // 2 if math.isfinite(beyond) else fitting
    return guess if guess > fitting else None


def _told(n_bytes: int | None) -> str:
    return "more than there is" if n_bytes is None else f"{n_bytes / 2**30:.2f} GiB"
