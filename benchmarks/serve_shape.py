"""The sizes of the work in ``serve_load``: how many clients, how often, with which model and which precision."""

from dataclasses import dataclass

from benchmarks.decode_shape import SHAPES, Shape

PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Load:
    """What one turn of a contender is.

    Attributes:
        clients: requests that begin together.
        waves: how often; each begins when all texts of the one before have ended.
    """

    clients: int
    waves: int

    @property
    def texts(self) -> int:
        """Of a turn."""
        return self.clients * self.waves


@dataclass(frozen=True)
class Flood:
    """Requests that come at once, more than a server takes.

    Attributes:
        requests: that come together.
        new_tokens: of each text.
    """

    requests: int
    new_tokens: int


@dataclass(frozen=True)
class Soak:
    """Short requests, one after another, to see whether memory grows.

    Attributes:
        requests: in all, the warm-up's not counted.
        at_once: how many are open at any time.
        warm_up: requests before the first look at memory.
        new_tokens: of each text.
    """

    requests: int
    at_once: int
    warm_up: int
    new_tokens: int


@dataclass(frozen=True)
class Plan:
    """A run: with what it is done, and how much of it.

    Attributes:
        shape: of the model and its texts.
        loads: by the number of clients.
        max_rows: texts that an engine writes side by side, over HTTP and offline.
        max_queue: texts that may wait in the service.
        trial_tokens: of the texts of soak and flood, at most.
        warm_up: requests before a soak.
    """

    shape: Shape
    loads: dict[int, Load]
    max_rows: int
    max_queue: int
    trial_tokens: int
    warm_up: int

    @property
    def flood(self) -> Flood:
        """Ten times as much as there is room for."""
        return Flood(10 * (self.max_rows + self.max_queue), self.trial_tokens)

    def soak(self, requests: int) -> Soak:
        """Two requests at once for each row, as far as there is room for them."""
        return Soak(requests, self.max_rows + min(self.max_rows, self.max_queue), self.warm_up, self.trial_tokens // 2)


# few clients send more often, so that each load sees enough first tokens
FULL = Plan(
    SHAPES["train_speed"],
    {1: Load(1, 8), 4: Load(4, 4), 16: Load(16, 2)},
    max_rows=16,
    max_queue=128,
    trial_tokens=16,
    warm_up=500,
)
# a byte-level vocabulary has 259 tokens at least
QUICK = Plan(
    Shape(2, 32, 4, 2, 48, 300, tied=True, prompt_len=4, new_tokens=6),
    {clients: Load(clients, 2) for clients in FULL.loads},
    max_rows=16,
    max_queue=4,
    trial_tokens=4,
    warm_up=20,
)
