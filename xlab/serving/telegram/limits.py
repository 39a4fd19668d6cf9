"""How much one user may ask for, in maps that never grow past a bound."""

from collections import OrderedDict, deque
from collections.abc import Hashable

from xlab.serving.telegram.clock import Clock

USERS_KEPT = 10_000  # beyond it, whoever was seen least recently is forgotten


class RateLimit:
    """At most so many events of a user in any window of time.

    Args:
        events: at least 1.
        window: seconds.
        users_kept: how many users are remembered.
    """

    def __init__(self, events: int, window: float, clock: Clock, *, users_kept: int = USERS_KEPT) -> None:
        self._events = events
        self._window = window
        self._clock = clock
        self._users_kept = users_kept
        self._times: OrderedDict[int, deque[float]] = OrderedDict()

    def wait(self, user: int) -> float:
        """Count an event and return 0; or, if it is one too many, count nothing and return the seconds to wait."""
        times = self._times.setdefault(user, deque())
        self._times.move_to_end(user)
        if len(self._times) > self._users_kept:
            self._times.popitem(last=False)
        now = self._clock.now()
        while times and times[0] <= now - self._window:
            times.popleft()
        if len(times) >= self._events:
            return times[0] + self._window - now
        times.append(now)
        return 0.0

    def __len__(self) -> int:
        return len(self._times)


class Seldom:
    """Say the same thing to the same user only once in a while.

    Args:
        pause: seconds.
        kept: how many things said are remembered.
    """

    def __init__(self, pause: float, clock: Clock, *, kept: int = USERS_KEPT) -> None:
        self._pause = pause
        self._clock = clock
        self._kept = kept
        self._said: OrderedDict[Hashable, float] = OrderedDict()

    def due(self, what: Hashable) -> bool:
        """Whether it has not been said for the pause; if so, it counts as said now."""
        now = self._clock.now()
        if self._said.get(what, float("-inf")) > now - self._pause:
            return False
        self._said[what] = now
        self._said.move_to_end(what)
        if len(self._said) > self._kept:
            self._said.popitem(last=False)
        return True

    def __len__(self) -> int:
        return len(self._said)
