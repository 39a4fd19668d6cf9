"""The generation loop: a model gives logits, strategies choose, the chosen rows go on; texts come and go at any step.

Letters: B rows of one job, R rows of all, V vocabulary.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference import checks
from xlab.inference.drawing import Choice, Drawable, draw
from xlab.inference.rows import CachedModel, Model, PlainRows, Row, Rows, device_of, longest_context
from xlab.inference.slots import Slots
from xlab.transformer.decoder import Decoder


class Step(NamedTuple):
    """What a strategy chose: row ``parents[i]`` goes on with ``tokens[i]``; without any, generation ends."""

    tokens: list[int]
    parents: list[int]


class Strategy(Protocol):
    """A way of choosing. It keeps what it needs between steps, and only it knows what it has generated."""

    def choose(self, logits: Tensor) -> Step:
        """Choose from the logits (B, V) of the rows that the step before left."""


@runtime_checkable
class DrawingStrategy(Protocol):
    """A strategy whose rows each draw for themselves, so that the rows of many jobs can draw together."""

    def drawables(self) -> Sequence[Drawable]:
        """The texts that draw: one for each row, or many for the first row."""

    def take(self, choices: list[Choice]) -> Step:
        """Go on with what was drawn for each."""


class Job:
    """One prompt and its strategy, from the queue to its end.

    Args:
        prompt: token ids, not empty.
        strategy: chooses, and says when to end.
        window: the model sees the last ``window`` tokens; None is no limit.
        n_steps: how often to choose at most.
        n_rows: how many rows the strategy may come to need.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        strategy: Strategy | DrawingStrategy,
        *,
        window: int | None,
        n_steps: int,
        n_rows: int = 1,
    ) -> None:
        self.prompt, self.strategy, self.window = list(prompt), strategy, window
        self.steps_left, self.n_rows = n_steps, n_rows
        self.rows: list[Row] = []
        self.is_cancelled = False
        self.is_done = False
        self.is_checked = False
        self.error: GenerationError | None = None
        self.on_prompt = getattr(strategy, "on_prompt", None)


class Scheduler:
    """Runs jobs side by side over ``rows``: each ``step`` feeds the model, then lets every job that can choose.

    Args:
        rows: of the model.
        guess: for a row and the text that draws for it, up to a number of tokens that may follow; asked while one text
            runs alone, since a batch fills the products by itself.
    """

    def __init__(self, rows: Rows, guess: Callable[[Row, Any, int], list[int]] | None = None) -> None:
        self.rows, self.guess = rows, guess
        self.n_guessed, self.n_right = 0, 0
        self.is_spoilt = False  # whether a row of this step has brought NaN
        self.waiting: deque[Job] = deque()  # appended to from other threads
        self.running: list[Job] = []

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    def submit(self, job: Job) -> None:
        """Queue a job; safe from any thread.

        Raises:
            GenerationError: when it needs more rows than there are.
        """
        self.check_rows(job.n_rows)
        self.waiting.append(job)

    def check_rows(self, n_rows: int) -> None:
        """Raise GenerationError when there are not that many rows."""
        if self.rows.max_rows is not None and n_rows > self.rows.max_rows:
            raise GenerationError(
                f"{n_rows} texts side by side do not fit into {self.rows.max_rows} rows; ask for fewer, or give "
                "the engine more"
            )

    def step(self) -> list[Job]:
        """Feed the model once and choose; return the jobs that chose, or ended."""
        ended = self.leave()
        self._join()
        ended += self._guess()
        try:
            ready, logits = self.rows.feed()
        except IndexError as error:
            return [*ended, self._blame(error)]
        # behind a row's logits are those that follow its guesses
        starts = accumulate((1 + len(row.guesses) for row in ready), initial=0)
        place = dict(zip(ready, starts, strict=False))
        choosing = [job for job in self.running if all(row in place for row in job.rows)]
        going_on = choosing if logits is not None else []
        while going_on and logits is not None:
            self._choose(going_on, logits, place)
            going_on = [job for job in going_on if self._was_right(job, place)]
        if self.is_spoilt:
            self.rows.wipe()
            self.is_spoilt = False
        return ended + choosing

    def leave(self) -> list[Job]:
        """Drop the jobs that were cancelled, and return them."""
        cancelled = [job for job in (*self.waiting, *self.running) if job.is_cancelled]
        for job in cancelled:
            if job in self.running:
                self.running.remove(job)
            else:
                self.waiting.remove(job)
            self._end(job)
        return cancelled

    def _join(self) -> None:
        """Let in those who wait, in their order, while the rows that they may need are free."""
        taken = sum(job.n_rows for job in self.running)
        while self.waiting and (self.rows.max_rows is None or taken + self.waiting[0].n_rows <= self.rows.max_rows):
            job = self.waiting.popleft()
            taken += job.n_rows
            row = self.rows.open(job.prompt, job.window)
            row.on_prompt = job.on_prompt
            job.rows = [row]
            self.running.append(job)

    def _guess(self) -> list[Job]:
        """Let the model be fed with tokens that may follow, where a text runs alone; return the job if that fails."""
        if self.guess is None or len(self.running) != 1:
            return []
        job = self.running[0]
        if len(job.rows) > 1 or not isinstance(job.strategy, DrawingStrategy):
            return []
        texts, row = job.strategy.drawables(), job.rows[0]
        limit = min(self.rows.room(row), job.steps_left - 1)
        if len(texts) > 1 or limit < 1:
            return []
        try:
            row.guesses = self.guess(row, texts[0], limit)
        except Exception as error:
            return [self._fail(job, checks.generation_error(error, "guessing failed"))]
        self.n_guessed += len(row.guesses)
        return []

    def _was_right(self, job: Job, place: dict[Row, int]) -> bool:
        """Whether a job drew what was guessed, so that it can draw once more: the model has seen that token already."""
        if not job.rows or not job.rows[0].guesses:
            return False
        row = job.rows[0]
        if row.ids[-1] != row.guesses[0]:
            row.guesses = []
            return False
        row.guesses = row.guesses[1:]
        row.held += 1
        place[row] += 1
        self.n_right += 1
        return True

    def _blame(self, error: IndexError) -> Job:
        """End the job that came with ids that the model has no row for, where it does not tell its vocabulary."""
        suspects = [job for job in self.running if not job.is_checked]
        if not suspects:
            raise error
        # whoever else came with it is fed again, and blamed if that fails too
        job = max(suspects, key=lambda job: max(job.prompt))
        return self._fail(job, checks.generation_error(error, "the model fails on the prompt's ids"))

    def _fail(self, job: Job, error: GenerationError) -> Job:
        job.error = error
        self.running.remove(job)
        self._end(job)
        return job

    def clear(self) -> None:
        """Forget all jobs and rows, whatever a step that failed has left of them."""
        self.waiting.clear()
        self.running.clear()
        self.rows.clear()

    def _choose(self, jobs: list[Job], logits: Tensor, place: dict[Row, int]) -> None:
        drawing: list[tuple[Job, DrawingStrategy, Sequence[Drawable]]] = []
        texts: list[Drawable] = []
        sources: list[int] = []
        for job in jobs:
            own = [place[row] for row in job.rows]
            if not job.is_checked and not self._check(job, logits.size(-1)):
                continue
            if isinstance(job.strategy, DrawingStrategy):
                mine = job.strategy.drawables()
                drawing.append((job, job.strategy, mine))
                texts += mine
                sources += own if len(own) == len(mine) else own * len(mine)
            else:
                self._choose_alone(job, job.strategy, _pick(logits, own))
        if not drawing:
            return
        choices = draw(_pick(logits, sources), texts)
        self.is_spoilt |= not all(math.isfinite(choice.best_logit) for choice in choices)
        left = iter(choices)
        for job, strategy, mine in drawing:
            step = strategy.take([next(left) for _ in mine])
            self._go_on(job, step)

    def _check(self, job: Job, vocab_size: int) -> bool:
        """Look at the prompt once more, where the vocabulary's size was not known before the first logits."""
        job.is_checked = True
        try:
            checks.token("x contains token id", max(job.prompt), vocab_size)
        except GenerationError as error:
            job.error = error
            self._go_on(job, Step([], []))
        return job.error is None

    def _choose_alone(self, job: Job, strategy: Strategy, logits: Tensor) -> None:
        try:
            step = strategy.choose(logits)
        except Exception as error:
            job.error = checks.generation_error(error, "the search failed")
            step, self.is_spoilt = Step([], []), True
        self._go_on(job, step)

    def _go_on(self, job: Job, step: Step) -> None:
        job.steps_left -= 1
        if not step.tokens or job.steps_left <= 0:
            self.running.remove(job)
            self._end(job)
            return
        before = job.rows
        # the first to go on from a row takes it over; the others get copies, in the places of rows that end
        first = [parent not in step.parents[:i] for i, parent in enumerate(step.parents)]
        again = [before[parent] for parent, is_first in zip(step.parents, first, strict=True) if not is_first]
        ending = [row for i, row in enumerate(before) if i not in step.parents]
        for row in ending[len(again) :]:
            self.rows.close(row)
        copies = iter(self.rows.fork(again, ending[: len(again)]) if again else [])
        job.rows = [
            before[parent] if is_first else next(copies) for parent, is_first in zip(step.parents, first, strict=True)
        ]
        for row, token in zip(job.rows, step.tokens, strict=True):
            row.ids.append(token)

    def _end(self, job: Job) -> None:
        for row in job.rows:
            self.rows.close(row)
        job.rows, job.is_done = [], True


def generate(
    model: Model,
    x: Tensor,
    output_length: int,
    block_size: int | None,
    strategy: Strategy | DrawingStrategy,
    *,
    n_rows: int = 1,
) -> Iterator[Job]:
    """Run one strategy by itself: yield after each of its steps, ``output_length`` at most.

    The arguments are checked at the call; the model first runs when the first step is asked for. Leaving the iterator
    early costs nothing. The model's train or eval mode is left alone: pass one in eval mode, or dropout speaks too.

    Args:
        model: maps (B, T) ids to (B, T, V) logits; a ``CachedModel`` is driven over its cache.
        x: (T,) ids of the prompt, not empty.
        output_length: new tokens at most, ≥ 0.
        block_size: the longest context that the model sees: the last ``block_size`` tokens; None is no limit.
        strategy: chooses, and says when to end.
        n_rows: how many rows the strategy may come to need.

    Raises:
        GenerationError: for a prompt or a number that cannot be, or logits that nothing can be chosen from.
    """
    checks.prompt(x)
    output_length = checks.count("output_length", output_length, least=0, remedy="it is the number of new tokens")
    if block_size is not None:
        block_size = checks.count("block_size", block_size, least=1, remedy="None sets no limit")
    vocab_size = getattr(model, "vocab_size", None)
    checks.prompt_ids(x, vocab_size if isinstance(vocab_size, int) else None)
    return _steps(model, x, output_length, block_size, strategy, n_rows)


def _steps(
    model: Model,
    x: Tensor,
    output_length: int,
    block_size: int | None,
    strategy: Strategy | DrawingStrategy,
    n_rows: int,
) -> Iterator[Job]:
    if not output_length:
        return
    max_len = x.numel() + output_length - 1  # the last token is never fed back
    job = Job(x.tolist(), strategy, window=block_size, n_steps=output_length, n_rows=n_rows)
    scheduler = Scheduler(rows_for(model, device_of(model, x), n_rows=n_rows, max_len=max_len, window=block_size))
    scheduler.submit(job)
    while not job.is_done:
        # not inference_mode: a table that a module fills on first use here could not take part in training afterwards
        with torch.no_grad():
            chose = scheduler.step()
        if job.error is not None:
            raise job.error
        if chose:
            yield job


def rows_for(model: Model, device: torch.device, *, n_rows: int, max_len: int, window: int | None) -> Rows:
    """The rows that serve ``model`` best, for texts of up to ``max_len`` tokens of which it sees ``window``."""
    longest = longest_context(model)
    capacity = min(size for size in (max_len, window, longest) if size is not None)
    decoder = decoder_of(model)
    if decoder is None:
        return PlainRows(model, device, max_len)
    purpose = f"a cache of {n_rows} × {capacity} tokens"
    checks.memory(decoder.cache_bytes(n_rows, capacity), device, purpose=purpose)
    return Slots(model, decoder.make_cache(n_rows, capacity))


def decoder_of(model: Model) -> Decoder | None:
    """XLab's decoder, where a model is one or wraps one as XLabModel does."""
    decoder = getattr(model, "decoder", model)
    return decoder if isinstance(decoder, Decoder) and isinstance(model, CachedModel) else None


def _pick(logits: Tensor, places: list[int]) -> Tensor:
    if places == list(range(logits.size(0))):
        return logits
    return logits[torch.tensor(places, device=logits.device)]
