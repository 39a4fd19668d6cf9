"""The engine: answers many requests at once over one model, token by token; they come and go at any step."""

import copy
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from xlab.errors import GenerationError
from xlab.inference import checks
from xlab.inference.answers import PromptScorer, drawn, pieces_of, searched
from xlab.inference.beam_search import Beams, DiverseBeams, beams_for
from xlab.inference.fixed_step import FixedStep
from xlab.inference.requests import Piece, Request, Result, Timings, TokenLogprob
from xlab.inference.rows import Model, PlainRows, Row, device_of, longest_context
from xlab.inference.sampling import Sampler, Text
from xlab.inference.scheduler import Job, Scheduler, decoder_of
from xlab.inference.shaping import Constrained
from xlab.inference.slots import Slots
from xlab.inference.speculation import DraftModel, Guesser, guesses_of
from xlab.inference.vocabulary import Vocabulary
from xlab.inference.weights import Precision, prepare
from xlab.transformer.decoder import Decoder


class Decodes(Protocol):
    """What the engine needs of a tokenizer."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


@dataclass(eq=False)
class Handle:
    """A request on its way: what ``submit`` gives, and ``step`` brings to its end.

    Attributes:
        request: as submitted.
        result: the answer, once there is one.
    """

    request: Request
    job: Job
    prompt_logprobs: list[TokenLogprob] | None
    submitted: float
    started: float = 0.0
    first_token: float = 0.0
    result: Result | None = None


class Engine:
    """One model, its KV cache, and the requests that run over it.

    ``generate`` and ``stream`` run it themselves; a server calls ``step`` in a thread of its own, and ``submit`` and
    ``cancel`` from any other.

    Args:
        model: XLab's decoder, or a module that wraps one as XLabModel does; or anything that maps (B, T) ids to
            (B, T, V) logits, which is called anew for each token with all that came before, and stays as it is.
        tokenizer: for text and stop strings; None gives tokens alone.
        max_rows: texts that can run side by side.
        max_len: the longest context, prompt included; None is the model's.
        dtype: "keep" decodes in the decoder's own type, "fp32" and "bf16" in these, "int8" with weights of a byte.
        compile: compile the step of decoding; the first of each batch size then takes a minute.
        chunk: tokens of prompts that one step may feed, while others wait for their next token.
        guesser: guesses what a text that runs alone goes on with: the same text, in fewer passes.

    Raises:
        GenerationError: for a size that cannot be, a cache larger than the memory that is free, or a guesser for a
            model other than XLab's.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Decodes | None = None,
        *,
        max_rows: int = 8,
        max_len: int | None = None,
        dtype: Precision = "keep",
        compile: bool = False,
        chunk: int = 512,
        guesser: Guesser | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_rows = checks.count("max_rows", max_rows, least=1, remedy="it is the number of texts side by side")
        checks.count("chunk", chunk, least=1, remedy="it is the number of tokens fed at once")
        decoder = decoder_of(model)
        subject = model if decoder is None else decoder  # what is around a decoder need not say what it can take
        vocab_size = getattr(subject, "vocab_size", None)
        self.vocab_size: int | None = vocab_size if isinstance(vocab_size, int) else None
        self.device = device_of(model)
        longest = longest_context(subject)
        if max_len is not None:
            checks.count("max_len", max_len, least=1, remedy="None is the model's own")
            if longest is not None and max_len > longest:
                raise GenerationError(f"max_len is {max_len}, more than the model's, {longest}")
        self.max_len = longest if max_len is None else max_len
        self.cache_bytes = 0
        guess = None if guesser is None else self._guess_by(guesser, decoder)
        if decoder is not None:
            self.rows: Slots | PlainRows = self._slots(decoder, dtype, compile, chunk)
        else:
            self.rows = PlainRows(_uncached(model), self.device, self.max_len or 0, max_rows=max_rows)
        self.scheduler = Scheduler(self.rows, guess)
        self._handles: dict[Job, Handle] = {}

    def _slots(self, decoder: Decoder, dtype: Precision, compile: bool, chunk: int) -> Slots:
        assert self.max_len is not None
        prepared = prepare(decoder, dtype, leaner=not compile)
        self.cache_bytes = decoder.cache_bytes(self.max_rows, self.max_len, dtype=prepared.dtype)
        purpose = f"a cache of {self.max_rows} texts of {self.max_len} tokens"
        checks.memory(self.cache_bytes, self.device, purpose=purpose)
        cache = prepared.decoder.make_cache(self.max_rows, self.max_len, dtype=prepared.dtype)
        decode = FixedStep(prepared.decoder, prepared.project, cache) if compile else None
        return Slots(prepared.decoder, cache, project=prepared.project, chunk=chunk, decode=decode)

    def _guess_by(self, guesser: Guesser, decoder: Decoder | None) -> Callable[[Row, Text, int], list[int]]:
        if decoder is None:
            raise GenerationError("guesses are checked over the cache of XLab's decoder, and this model has none")
        if isinstance(guesser, DraftModel) and guesser.vocab_size != decoder.vocab_size:
            raise GenerationError(
                f"the draft model has a vocabulary of {guesser.vocab_size}, the model one of {decoder.vocab_size}; "
                "they must share their tokenizer"
            )
        return guesses_of(guesser, decoder.vocab_size)

    @property
    def is_idle(self) -> bool:
        """Whether every request has its answer."""
        return self.scheduler.is_idle

    def generate(self, requests: Sequence[Request]) -> list[Result]:
        """Answer requests side by side, in their order; one that is refused or fails says so in its own result."""
        answers: list[Handle | Result] = []
        for request in requests:
            try:
                answers.append(self.submit(request))
            except GenerationError as error:
                n_prompt = len(request.prompt) if isinstance(request.prompt, Sequence) else 0
                answers.append(Result((), n_prompt, Timings(0.0, 0.0, 0.0), error=error))
        handles = [answer for answer in answers if isinstance(answer, Handle)]
        try:
            while any(handle.result is None for handle in handles):
                self.step()
        finally:
            self._abandon(handles)
        results = [answer.result if isinstance(answer, Handle) else answer for answer in answers]
        return [result for result in results if result is not None]

    def stream(self, request: Request) -> Generator[Piece, None, None]:
        """Yield one request's pieces as they come; closing the iterator frees its rows.

        Raises:
            GenerationError: at the call, when the request is refused; later, when something goes wrong.
        """
        if request.beams is not None:
            raise GenerationError("a beam search knows its text only at its end, so it cannot be streamed")
        if request.n_texts > request.n:
            raise GenerationError("best_of knows its texts only at their end, so they cannot be streamed")
        return self._pieces(self.submit(request))

    def _pieces(self, handle: Handle) -> Generator[Piece, None, None]:
        try:
            while handle.result is None:
                if handle.job not in self._handles:
                    raise GenerationError("the engine was reset before the text ended; ask for it again")
                for owner, piece in self.step():
                    if owner is handle:
                        yield piece
        finally:
            self._abandon([handle])
        assert handle.result is not None
        if handle.result.error is not None:
            raise handle.result.error

    def _abandon(self, handles: Sequence[Handle]) -> None:
        """Free the rows of those that have no answer yet."""
        unanswered = [handle for handle in handles if handle.result is None]
        for handle in unanswered:
            self.cancel(handle)
        if unanswered:
            self._note(self.scheduler.leave())

    def submit(self, request: Request) -> Handle:
        """Queue a request; safe from any thread.

        Raises:
            GenerationError: when it cannot be answered.
        """
        request.check(self.vocab_size)
        self.scheduler.check_rows(request.n_rows)
        if request.stop and self.tokenizer is None:
            raise GenerationError("stop strings need a tokenizer; give the engine one")
        prompt, window, limit = self._fit(request)
        handle = Handle(request, None, None, time.perf_counter())  # type: ignore[arg-type]
        strategy = self._strategy(request, prompt, limit)
        handle.job = Job(prompt, strategy, window=window, n_steps=limit, n_rows=request.n_rows)
        if request.prompt_logprobs is not None:
            handle.prompt_logprobs = []
            handle.job.on_prompt = PromptScorer(prompt, request.prompt_logprobs, handle.prompt_logprobs)
        self._handles[handle.job] = handle
        try:
            self.scheduler.submit(handle.job)
        except GenerationError:
            del self._handles[handle.job]
            raise
        return handle

    def cancel(self, handle: Handle) -> None:
        """End a request at the next step; safe from any thread."""
        handle.job.is_cancelled = True

    def reset(self) -> None:
        """Forget every request, whatever a step that failed has left of it; their handles get no result.

        Where ``step`` raises something that no request answers for, such as a device out of memory, this makes the
        engine new; call it in the thread that steps.
        """
        self.scheduler.clear()
        self._handles.clear()

    @torch.no_grad()
    def step(self) -> list[tuple[Handle, Piece]]:
        """Feed the model once; return what that brought to which requests."""
        waiting = [handle for handle in list(self._handles.values()) if not handle.started]
        jobs = self.scheduler.step()
        now = time.perf_counter()
        for handle in waiting:
            if handle.job.rows or handle.job.is_done:
                handle.started = now
        return self._note(jobs)

    def _note(self, jobs: Sequence[Job]) -> list[tuple[Handle, Piece]]:
        now = time.perf_counter()
        pieces: list[tuple[Handle, Piece]] = []
        for job in jobs:
            handle = self._handles[job]
            handle.first_token = handle.first_token or now
            if isinstance(job.strategy, Sampler) and not job.is_cancelled:
                pieces += [(handle, piece) for piece in pieces_of(job.strategy, handle.request)]
            if job.is_done:
                handle.result = self._result(handle, now)
                del self._handles[job]
        return pieces

    def _fit(self, request: Request) -> tuple[list[int], int | None, int]:
        """The prompt that the model sees, its window, and how many tokens can be added."""
        prompt, limit = [int(token) for token in request.prompt], request.max_new_tokens
        if self.max_len is None:
            return prompt, None, limit
        if len(prompt) > self.max_len and not (request.truncate or request.rolling):
            raise GenerationError(
                f"the prompt has {len(prompt)} tokens, the context {self.max_len}; shorten it, or set truncate=True to "
                "keep its last tokens"
            )
        if request.rolling:
            return prompt[-self.max_len :], self.max_len, limit
        if request.truncate:  # leave the new tokens room, up to half of the context
            prompt = prompt[-max(self.max_len - limit + 1, (self.max_len + 1) // 2) :]
        return prompt, None, min(limit, self.max_len - len(prompt) + 1)  # the last token is never fed back

    def _strategy(self, request: Request, prompt: list[int], limit: int) -> Sampler | Beams | DiverseBeams:
        if request.beams is not None:
            return beams_for(
                Vocabulary(next(iter(request.eos_ids), None), request.banned_ids),
                width=request.beams.width,
                output_length=limit,
                length_penalty=request.beams.length_penalty,
                n=request.n,
                early_stopping=request.beams.early_stopping,
                n_groups=request.beams.n_groups,
                diversity_penalty=request.beams.diversity_penalty,
            )
        return Sampler([self._text(request, prompt, limit, index) for index in range(request.n_texts)])

    def _text(self, request: Request, prompt: list[int], limit: int, index: int) -> Text:
        constraint = copy.deepcopy(request.constraint)  # the request may be asked again
        shapers = request.shapers()
        if constraint is not None:
            shapers.append(Constrained(constraint))
        n_logprobs = request.logprobs
        if n_logprobs is None and request.n_texts > request.n:
            n_logprobs = 0
        filters = request.filters()
        return Text(
            prompt,
            limit=limit,
            filters=filters,
            generator=_generator(request.seed, index, self.device) if filters else None,
            eos_ids=request.eos_ids,
            shapers=shapers,
            decode=None if self.tokenizer is None else self.tokenizer.decode,
            stops=request.stop,
            constraint=constraint,
            n_logprobs=n_logprobs,
        )

    def _result(self, handle: Handle, now: float) -> Result:
        request, strategy = handle.request, handle.job.strategy
        if isinstance(strategy, Sampler):
            completions = drawn(strategy, request, "cancelled" if handle.job.is_cancelled else "error")
        else:
            assert isinstance(strategy, Beams | DiverseBeams)
            completions = searched(strategy, None if self.tokenizer is None else self.tokenizer.decode)
        error = handle.job.error or (completions[0].error if completions else None)
        started = (handle.started or now) - handle.submitted
        timings = Timings(started, handle.first_token - handle.submitted, now - handle.submitted)
        scored = None if handle.prompt_logprobs is None else tuple(handle.prompt_logprobs)
        return Result(tuple(completions), len(handle.job.prompt), timings, scored, error)


def _generator(seed: int | None, index: int, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        # the first text of a seed is what that seed alone gives; the others are far from it and from each other
        generator.manual_seed((int(seed) + index * 0x9E3779B97F4A7C15) % 2**63)
    return generator


def _uncached(model: Model) -> Model:
    """A model without its cache: a foreign one serves a single text."""
    return lambda ids: model(ids)
