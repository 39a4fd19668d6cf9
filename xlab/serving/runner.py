"""The engine in a thread of its own: the event loop hands requests over, and gets the pieces of each as they come.

The thread alone touches the engine. It sleeps while there is nothing to do, and hands everything that a step brought
to the event loop in one call.
"""

import asyncio
import dataclasses
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from xlab.errors import GenerationError
from xlab.inference import Engine, Handle, Request, Result
from xlab.inference.requests import Piece
from xlab.serving.calls import Call, News
from xlab.serving.errors import RequestError, engine_failed

logger = logging.getLogger("xlab.serving")

GATHERING = 3  # turns of the event loop from bytes on a socket to a request in the queue
PATIENCE = 0.005  # seconds that the engine waits for the event loop
DIVERGED = "after a fault of the engine this text could not be continued as it had begun; ask again"


@dataclass(eq=False)
class Ticket:
    """One request of a call, as the engine's thread sees it.

    Attributes:
        handle: the engine's, while it has the request.
        sent: the tokens that were handed out of each text; None stands for an end without one.
        replayed: how many of them the engine has written again, after a fault.
        steps_left: how far the request had come when the engine failed, where it may have been the cause.
    """

    call: Call
    index: int
    request: Request
    handle: Handle | None = None
    sent: dict[int, list[int | None]] = field(default_factory=dict)
    replayed: dict[int, int] = field(default_factory=dict)
    steps_left: int | None = None


class Runner:
    """Steps an engine in a thread, and keeps its queue bounded.

    A fault inside a step may have left the engine's rows half written, and does not say whose it was. So everything is
    taken out and written anew from its seed, which gives the same texts again; those that were running come back one
    at a time, each on trial until it is past the step that failed. Who fails on trial is refused, the others finish.

    Args:
        engine: nobody else may use it any more.
        max_queue: texts that may wait for a row.
        threads: for the engine's arithmetic; None leaves it to torch.
        on_end: told of each request that ended, on the event loop.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_queue: int,
        threads: int | None = None,
        on_end: Callable[[Request, News], None] = lambda request, news: None,
    ) -> None:
        self.engine, self.on_end = engine, on_end
        self._threads = threads
        self.capacity = engine.max_rows + max_queue
        self.texts = 0
        self.faults = 0
        self.is_broken = False
        self.is_draining = False
        self.last_seconds = 1.0  # how long a request took lately, for Retry-After
        self._calls: set[Call] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turns_to_wake = 0
        self._wake = threading.Condition()
        self._arrivals: deque[Ticket] = deque()  # from the event loop to the thread, under _wake
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # the thread's own:
        self._waiting: deque[Ticket] = deque()
        self._live: dict[Handle, Ticket] = {}
        self._trial: Ticket | None = None
        self._is_delivered = threading.Event()
        self._batch: list[tuple[Call, News]] = []

    # on the event loop

    def start(self) -> None:
        """Begin; what is brought is handed to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self.is_broken and not self.is_draining

    def submit(self, requests: Sequence[Request], *, streams: bool, seconds: float) -> Call:
        """Queue the requests of one call, all of them or none.

        Args:
            requests: one for each prompt.
            streams: whether pieces are wanted.
            seconds: the time that it may take.

        Raises:
            RequestError: when the queue is full, or the service ends.
        """
        if not self.is_ready or self._loop is None:
            raise self._unavailable()
        n_rows = sum(request.n_rows for request in requests)
        if n_rows > self.capacity:
            raise RequestError(
                f"{n_rows} texts at once are more than this server takes, {self.capacity}; ask for fewer"
            )
        if self.texts + n_rows > self.capacity:
            wait = max(1, min(60, round(self.last_seconds)))
            raise RequestError(
                f"the queue is full: {self.texts} texts are being written or wait; try again in {wait} s",
                status=429,
                code="queue_full",
                retry_after=wait,
            )
        call = Call([_seeded(request) for request in requests], streams=streams, deadline=time.monotonic() + seconds)
        with self._wake:
            if self.is_broken:
                raise self._unavailable()
            self._arrivals.extend(Ticket(call, index, request) for index, request in enumerate(call.requests))
        self.texts += n_rows
        self._calls.add(call)
        if not self._turns_to_wake:
            self._loop.call_soon(self._wake_soon)
        self._turns_to_wake = GATHERING
        return call

    def _wake_soon(self) -> None:
        """Wake the thread, if it sleeps, once the event loop brings nothing more: prompts are fed together."""
        assert self._loop is not None
        self._turns_to_wake -= 1
        if self._turns_to_wake:
            self._loop.call_soon(self._wake_soon)
        else:
            with self._wake:
                self._wake.notify()

    def _unavailable(self) -> RequestError:
        what = "is shutting down" if self.is_draining else "has lost its engine"
        return RequestError(f"the server {what}; try another", status=503, code="unavailable", retry_after=5)

    def abort(self, reason: RequestError) -> None:
        """End every call with ``reason``, at the next step."""
        for call in list(self._calls):
            call.cancel(reason)

    def close(self, timeout: float = 10.0) -> None:
        """End the thread after the step it is in; texts that have not ended stay unanswered."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _deliver(self, batch: list[tuple[Call, News]]) -> None:
        for call, news in batch:
            request = call.requests[news.index]
            if news.is_last:
                self.texts -= request.n_rows
                call.n_open -= 1
                if not call.n_open:
                    self._calls.discard(call)
                if news.result is not None:
                    self.last_seconds += 0.1 * (news.result.timings.finished - self.last_seconds)
                self.on_end(request, news)
            call.take(news)
        assert self._loop is not None
        self._loop.call_soon(self._is_delivered.set)  # after the tasks that were just woken

    # in the thread

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # of this thread
        try:
            while self._has_work():
                self._turn()
        except BaseException:
            logger.exception("the engine's thread ended")
            self._give_up()

    def _has_work(self) -> bool:
        """Sleep until there is something to do; False at the end."""
        with self._wake:
            while not self._is_closing and not self._arrivals and not self._live and not self._waiting:
                self._wake.wait()
            self._waiting.extend(self._arrivals)
            self._arrivals.clear()
            return not self._is_closing

    def _turn(self) -> None:
        self._end_cancelled()
        self._admit()
        try:
            came = self.engine.step()
        except Exception:
            self.faults += 1
            logger.exception("a step of the engine failed; its texts are written anew")
            self._recover()
        else:
            self._gather(came)
        self._send()

    def _tell(self, ticket: Ticket, news: News) -> None:
        self._batch.append((ticket.call, news))

    def _send(self) -> None:
        """Hand over what there is to tell, in one call of the event loop, and let it be written before the next step.

        Both at a time would take longer: they share one interpreter lock, and perhaps a core.
        """
        batch, self._batch = self._batch, []
        if batch and self._loop is not None and not self._loop.is_closed():
            self._is_delivered.clear()
            self._loop.call_soon_threadsafe(self._deliver, batch)
            self._is_delivered.wait(PATIENCE)

    def _end_cancelled(self) -> None:
        """Free the rows of those that nobody waits for, or that took too long."""
        now = time.monotonic()
        for ticket in [*self._live.values(), *self._waiting]:
            if now > ticket.call.deadline:
                ticket.call.cancel(
                    RequestError("the request took longer than it may; ask for less", status=504, code="deadline")
                )
            if ticket.call.is_cancelled and ticket.handle is not None:
                self.engine.cancel(ticket.handle)
        for ticket in [ticket for ticket in self._waiting if ticket.call.is_cancelled]:
            self._waiting.remove(ticket)
            self._tell(ticket, News(ticket.index, error=_reason(ticket.call)))

    def _admit(self) -> None:
        """Give the engine what waits; of those that may have made it fail, one at a time."""
        while self._waiting and self._trial is None:
            ticket = self._waiting.popleft()
            try:
                ticket.handle = self.engine.submit(ticket.request)
            except GenerationError as error:
                self._tell(ticket, News(ticket.index, error=RequestError(str(error))))
                continue
            except Exception:
                logger.exception("the engine did not take a request")
                self._tell(ticket, News(ticket.index, error=engine_failed()))
                continue
            ticket.call.prompts[ticket.index] = ticket.handle
            self._live[ticket.handle] = ticket
            if ticket.steps_left is not None:
                self._trial = ticket

    def _gather(self, came: list[tuple[Handle, Piece]]) -> None:
        """Sort what a step brought by its requests."""
        pieces: dict[Ticket, list[Piece]] = {}
        for handle, piece in came:
            ticket = self._live[handle]
            if not ticket.call.streams:
                continue
            is_new = _is_new(ticket, piece)
            if is_new is None:
                ticket.call.cancel(RequestError(DIVERGED, status=500, code="engine_failed"))
            elif is_new:
                pieces.setdefault(ticket, []).append(piece)
        for handle, ticket in list(self._live.items()):
            if handle.result is not None:
                del self._live[handle]
                self._tell(ticket, _answer(ticket, handle.result, pieces.pop(ticket, [])))
        for ticket, new in pieces.items():
            self._tell(ticket, News(ticket.index, new))
        self._acquit()

    def _acquit(self) -> None:
        """End the trial of a request that is past the step that failed."""
        ticket = self._trial
        if ticket is None or ticket.handle is None or ticket.steps_left is None:
            return
        if ticket.handle.result is not None or ticket.handle.job.steps_left < ticket.steps_left:
            ticket.steps_left, self._trial = None, None

    def _recover(self) -> None:
        """Take everything out of the engine and line it up again; refuse what made it fail, if that is known."""
        running = [ticket for handle, ticket in self._live.items() if handle.job.rows]
        others = [ticket for handle, ticket in self._live.items() if not handle.job.rows]
        culprit = self._trial or (running[0] if len(running) == 1 else None)
        if culprit is not None:
            self._tell(culprit, News(culprit.index, error=engine_failed()))
        else:
            for ticket in running:
                assert ticket.handle is not None
                ticket.steps_left = ticket.handle.job.steps_left
        again = [ticket for ticket in (*running, *others, *self._waiting) if ticket is not culprit]
        # those that are cleared, those that are still to be tried, and those that had not begun
        again.sort(key=lambda ticket: 1 if ticket.steps_left is not None else 0 if ticket in running else 2)
        self._live, self._trial, self._waiting = {}, None, deque(again)
        self.engine.reset()
        self.engine.step()  # of nothing; if even that fails, so does the thread
        for ticket in again:
            ticket.handle = None
            ticket.replayed = dict.fromkeys(ticket.sent, 0)

    def _give_up(self) -> None:
        with self._wake:
            self.is_broken = True
            tickets = [*self._live.values(), *self._waiting, *self._arrivals]
            self._arrivals.clear()
        self._live, self._waiting = {}, deque()
        for ticket in tickets:
            self._tell(ticket, News(ticket.index, error=engine_failed()))
        self._send()


def _answer(ticket: Ticket, result: Result, pieces: list[Piece]) -> News:
    """What a request came to."""
    if ticket.call.is_cancelled:
        return News(ticket.index, error=_reason(ticket.call))
    if result.error is not None:
        # a grammar is the client's; what else goes wrong here is the model's
        status = 500 if ticket.request.constraint is None else 400
        error = RequestError(str(result.error), status=status, code="engine_failed")
        return News(ticket.index, pieces, error=error)
    return News(ticket.index, pieces, result)


def _seeded(request: Request) -> Request:
    """Give a request that draws a seed, so that it can be written again as it was."""
    if request.seed is not None or request.beams is not None or request.temperature == 0:
        return request
    return dataclasses.replace(request, seed=secrets.randbits(63))


def _is_new(ticket: Ticket, piece: Piece) -> bool | None:
    """Whether a piece was not handed out before; None if another was in its place."""
    sent = ticket.sent.setdefault(piece.index, [])
    place = ticket.replayed.get(piece.index, len(sent))
    if place < len(sent):
        ticket.replayed[piece.index] = place + 1
        return False if sent[place] == piece.token else None
    sent.append(piece.token)
    ticket.replayed.pop(piece.index, None)
    return True


def _reason(call: Call) -> RequestError:
    return call.reason or RequestError("the request was cancelled", status=499, code="cancelled")
