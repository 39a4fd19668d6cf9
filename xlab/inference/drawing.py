"""Draw the next token of many texts at once, each from its own distribution and its own generator.

Letters: R texts, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from xlab.inference.filters import LogitFilter, widest


@dataclass(frozen=True)
class Choice:
    """A token that was drawn, and what the model thought of it.

    Attributes:
        token: its id.
        best_logit: the largest of the logits it was drawn from: NaN or infinity when something is wrong with them.
        logprob: the model's log-probability of the token, before anything was filtered; None unless asked for.
        top: the likeliest tokens and their log-probabilities, as many as were asked for.
    """

    token: int
    best_logit: float
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Drawable(Protocol):
    """A text that wants its next token."""

    filters: tuple[LogitFilter, ...]
    """What to draw from; none at all takes the likeliest token."""
    generator: torch.Generator | None
    """Draws; None is torch's global one."""
    n_logprobs: int | None
    """How many of the likeliest tokens to report; None reports not even the drawn one's."""

    def shape(self, logits: Tensor) -> Tensor:
        """Lower, raise or forbid tokens: the logits (V,) as this text's history and settings want them."""

    @property
    def shapes(self) -> bool:
        """Whether ``shape`` does anything."""


def draw(logits: Tensor, texts: Sequence[Drawable]) -> list[Choice]:
    """Draw a token for each text from its row of ``logits`` (R, V)."""
    plain = shaped = logits
    if any(text.filters or text.shapes or text.n_logprobs is not None for text in texts):
        # a half-precision model's logits are whole in float32; its probabilities would not be
        plain = shaped = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if any(text.shapes for text in texts):
        rows = zip(plain, texts, strict=True)
        shaped = torch.stack([text.shape(row) if text.shapes else row for row, text in rows])
    best, tokens = shaped.max(dim=-1)
    for rows_alike, filters in _alike(texts):
        chosen = shaped if len(rows_alike) == len(texts) else shaped[rows_alike]
        drawn = _race(chosen, filters, [texts[row].generator for row in rows_alike])
        tokens[rows_alike] = drawn.to(tokens)
    columns = [widest(tokens).unsqueeze(-1), widest(best).unsqueeze(-1)]
    n_top = max((text.n_logprobs for text in texts if text.n_logprobs is not None), default=None)
    if n_top is not None:
        columns += _report(plain, tokens, min(n_top, logits.size(-1)))
    numbers = torch.cat(columns, dim=-1).tolist()  # the step's only host read
    return [_choice(row, text) for row, text in zip(numbers, texts, strict=True)]


def _alike(texts: Sequence[Drawable]) -> list[tuple[list[int], tuple[LogitFilter, ...]]]:
    """The rows that draw, those with equal filters together."""
    groups: dict[tuple[LogitFilter, ...], list[int]] = {}
    for row, text in enumerate(texts):
        if text.filters:
            groups.setdefault(text.filters, []).append(row)
    return [(rows, filters) for filters, rows in groups.items()]


def _race(logits: Tensor, filters: tuple[LogitFilter, ...], generators: list[torch.Generator | None]) -> Tensor:
    """Draw a token for each row of ``logits`` (R, V)."""
    for keep in filters:
        logits = keep(logits)
    p = logits.softmax(dim=-1)
    winners = []
    for row, generator in zip(p, generators, strict=True):
        here = row if generator is None else row.to(generator.device)
        # an exponential race draws what torch.multinomial(p, 1) draws, but lets NaN through to the caller's check
        winners.append((here / torch.empty_like(here).exponential_(generator=generator)).argmax(dim=-1).to(p.device))
    return torch.stack(winners)


def _report(logits: Tensor, tokens: Tensor, n_top: int) -> list[Tensor]:
    log_p = widest(logits).log_softmax(dim=-1)
    columns = [log_p.gather(-1, tokens.unsqueeze(-1))]
    if n_top:
        values, ids = log_p.topk(n_top, dim=-1)
        columns += [values, ids.to(values)]
    return columns


def _choice(numbers: list[float], text: Drawable) -> Choice:
    token, best_logit, *rest = numbers
    if text.n_logprobs is None:
        return Choice(int(token), best_logit)
    logprob, *top = rest
    values, ids = top[: len(top) // 2], top[len(top) // 2 :]
    pairs = tuple((int(i), value) for i, value in zip(ids, values, strict=True))
    return Choice(int(token), best_logit, logprob, pairs[: text.n_logprobs])
