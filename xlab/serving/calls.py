"""What one HTTP request asks of the engine, as the event loop sees it: the pieces and answers come to it as news."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from xlab.inference import Handle, Request, Result
from xlab.inference.requests import Piece
from xlab.serving.errors import RequestError

UNREAD = 1024  # steps that a client may be behind before it is given up


@dataclass(frozen=True)
class News:
    """What the event loop is told of one request of a call.

    Attributes:
        index: which of the call's requests.
        pieces: what came, where the call is streamed.
        result: the answer, once there is one.
        error: why there will be none.
    """

    index: int
    pieces: Sequence[Piece] = ()
    result: Result | None = None
    error: RequestError | None = None

    @property
    def is_last(self) -> bool:
        return self.result is not None or self.error is not None


class Call:
    """What one HTTP request asks of the engine: several prompts, perhaps, that live and die together.

    Args:
        requests: one for each prompt.
        streams: whether pieces are wanted, or the results alone.
        deadline: when to give up, by ``time.monotonic``.
    """

    def __init__(self, requests: Sequence[Request], *, streams: bool, deadline: float) -> None:
        self.requests, self.streams, self.deadline = requests, streams, deadline
        self.n_open = len(requests)
        self.reason: RequestError | None = None
        self.is_cancelled = False
        self.prompts: dict[int, Handle] = {}  # what the engine made of each request, once it has taken it
        self.answers: dict[int, Result] = {}
        self._news: asyncio.Queue[News] = asyncio.Queue()

    def cancel(self, reason: RequestError | None = None) -> None:
        """End at the next step; ``reason`` is what the client is told, if it is still there."""
        self.reason = self.reason or reason
        self.is_cancelled = True

    async def next(self) -> News:
        """Wait for what comes next.

        Raises:
            RequestError: instead of news of an error; the call is then over.
        """
        news = await self._news.get()
        if news.error is not None:
            self.cancel()
            raise news.error
        return news

    async def results(self) -> list[Result]:
        """Wait for all answers, in the order of the requests.

        Raises:
            RequestError: if one of them fails.
        """
        while len(self.answers) < len(self.requests):
            await self.next()
        return [self.answers[index] for index in range(len(self.requests))]

    def take(self, news: News) -> None:
        """Keep news for ``next``, on the event loop; a client that does not read them is given up."""
        if news.result is not None:
            self.answers[news.index] = news.result
        self._news.put_nowait(news)
        if self.streams and self._news.qsize() > UNREAD:
            self.cancel(RequestError("the stream was not read", status=408, code="not_read"))
