"""Put what strategies found into a request's answer."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xlab.inference.beam_search import Beams, DiverseBeams
from xlab.inference.detokenizer import whole
from xlab.inference.drawing import Choice
from xlab.inference.filters import widest
from xlab.inference.requests import Completion, Piece, Request, TokenLogprob
from xlab.inference.sampling import Sampler


class PromptScorer:
    """Collects the log-probabilities of a prompt's tokens as its logits come."""

    def __init__(self, prompt: list[int], n_top: int, scored: list[TokenLogprob]) -> None:
        self.prompt, self.n_top, self.scored = prompt, n_top, scored

    def __call__(self, logits: Tensor) -> None:
        place = len(self.scored) + 1
        following = self.prompt[place : place + len(logits)]
        if max(following, default=0) >= logits.size(-1):
            return  # the scheduler refuses such a prompt, when it has been fed
        log_p = widest(logits[: len(following)]).log_softmax(dim=-1)
        own = log_p.gather(-1, torch.tensor(following, device=logits.device).unsqueeze(-1)).squeeze(-1).tolist()
        values, ids = log_p.topk(min(self.n_top, log_p.size(-1)), dim=-1)
        tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
        self.scored += [TokenLogprob(*numbers) for numbers in zip(following, own, tops, strict=True)]


def pieces_of(sampler: Sampler, request: Request) -> list[Piece]:
    """What came to a request's texts since this was asked last."""
    news_of_all = sampler.collect()
    if request.n_texts > request.n:
        return []  # which texts are the best is known at the end
    return [
        Piece(
            news.index,
            news.token,
            news.text,
            None if news.choice is None or request.logprobs is None else _logprob(news.choice),
            news.finish_reason,
        )
        for news in news_of_all
    ]


def drawn(sampler: Sampler, request: Request, unfinished: str) -> list[Completion]:
    """A request's texts as they are; those that did not end by themselves end as ``unfinished``."""
    completions, means = [], []
    for text in sampler.texts:
        text.finish(unfinished)
        logprobs = tuple(_logprob(choice) for choice in text.choices)
        wants = request.logprobs is not None
        own = [token.logprob for token in logprobs]
        if text.end is not None and text.end.logprob is not None:
            own.append(text.end.logprob)  # a text that ends at once would otherwise beat every other
        score = sum(own) if text.n_logprobs is not None else None
        means.append(sum(own) / len(own) if own else -math.inf)
        assert text.finish_reason is not None
        completions.append(
            Completion(
                tuple(text.tokens),
                "".join(text.pieces),
                text.finish_reason,
                logprobs if wants else None,
                score,
                text.error,
            )
        )
    if request.n_texts > request.n:
        order = sorted(range(len(means)), key=lambda i: -means[i])
        completions = [completions[i] for i in order]
    return completions[: request.n]


def _logprob(choice: Choice) -> TokenLogprob:
    assert choice.logprob is not None
    return TokenLogprob(choice.token, choice.logprob, choice.top)


def searched(beams: Beams | DiverseBeams, decode: Callable[[Sequence[int]], str] | None) -> list[Completion]:
    """The best texts of a beam search."""
    return [
        Completion(
            tuple(text.tokens),
            "" if decode is None else whole(decode(text.tokens)),
            "eos" if text.finished else "length",
            score=text.score,
        )
        for text in beams.best
    ]
