"""How much one request may ask for."""

from dataclasses import dataclass

# of every server; what a model or its operator decides is in Limits
MOST_STOPS = 16
MOST_STOP_CHARACTERS = 256
MOST_LOGPROBS = 20
MOST_BIASES = 1024
MOST_PROMPTS = 1024
MOST_MESSAGES = 1024
MOST_TEXTS = 1024  # of one prompt: an upper bound for the documentation; Limits.texts is a server's own
MOST_TOKENS = 1_000_000  # likewise
MOST_BYTES = 2 * 2**20  # of a body


@dataclass(frozen=True)
class Limits:
    """What this server allows.

    Attributes:
        max_tokens: new tokens of a text.
        texts: texts side by side: n, best_of, and the width of a beam search.
        seconds: from a request's arrival to its answer's end.
        body: bytes of a request.
    """

    max_tokens: int
    texts: int
    seconds: float = 300.0
    body: int = MOST_BYTES
