"""What the model thought of tokens, in the forms of OpenAI's completions and chats."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from xlab.data.tokenizers import Tokenizer
from xlab.inference.detokenizer import Detokenizer
from xlab.inference.requests import TokenLogprob

LEAST = -9999.0  # stands for minus infinity, which JSON lacks


class TokenTexts:
    """The text of single tokens; one that is half a character is spelt as OpenAI does, by its bytes.

    A model may have ids that its tokenizer lacks; none is ever written, but one may be likely.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.of = lru_cache(maxsize=65536)(self._of)

    def _of(self, token: int) -> str:
        if token >= len(self.tokenizer):
            return f"<|{token}|>"
        text = self.tokenizer.decode([token], skip_special_tokens=False)
        if "�" not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes_of(token))

    def bytes_of(self, token: int) -> list[int]:
        """The UTF-8 that a token stands for."""
        return list(self.tokenizer.token_bytes(token)) if token < len(self.tokenizer) else []


class CompletionScores:
    """One text's scores, in the lists of OpenAI's completions; a stream asks for them piece by piece.

    Args:
        texts: of tokens.
        n_top: how many of the likeliest the client wants.
        with_ids: tell ids beside texts.
        offset: characters that stand before the first token.
    """

    def __init__(self, texts: TokenTexts, *, n_top: int, with_ids: bool, offset: int = 0) -> None:
        self.texts, self.n_top, self.with_ids, self.offset = texts, n_top, with_ids, offset
        self._detokenizer = Detokenizer(texts.tokenizer.decode)

    def of(self, tokens: Sequence[TokenLogprob | int]) -> dict[str, list[Any]]:
        """The lists for the next tokens; a bare id is one without a score, the first of all."""
        lists: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        if self.with_ids:
            lists |= {"token_ids": [], "top_token_ids": [], "top_token_logprobs": [], "top_tokens": []}
        for token in tokens:
            self._add(lists, token)
        return lists

    def _add(self, lists: dict[str, list[Any]], scored: TokenLogprob | int) -> None:
        token, logprob, top = (scored, None, ()) if isinstance(scored, int) else scored
        top = top[: self.n_top]
        lists["tokens"].append(self.texts.of(token))
        lists["token_logprobs"].append(None if logprob is None else finite(logprob))
        lists["top_logprobs"].append(None if logprob is None else self._by_text(token, logprob, top))
        lists["text_offset"].append(self._start(token))
        if self.with_ids:
            lists["token_ids"].append(token)
            lists["top_token_ids"].append([other for other, _ in top])
            lists["top_token_logprobs"].append([finite(value) for _, value in top])
            lists["top_tokens"].append([self.texts.of(other) for other, _ in top])

    def _start(self, token: int) -> int:
        """Where a token's text begins; that of half a character, where the character does."""
        own, before = self.texts.of(token), self.offset
        piece = self._detokenizer.add(token)
        self.offset += len(piece)
        return self.offset - len(own) if piece.endswith(own) else before

    def _by_text(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for other, value in (*top, (token, logprob)):  # the likeliest first: it is the one to keep of two alike
            found.setdefault(self.texts.of(other), finite(value))
        return found


def chat_scores(texts: TokenTexts, tokens: Sequence[TokenLogprob], *, n_top: int) -> dict[str, Any]:
    """Scores in the form of OpenAI's chats."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        return {"token": texts.of(token), "logprob": finite(logprob), "bytes": texts.bytes_of(token)}

    content = [
        {**one(scored.token, scored.logprob), "top_logprobs": [one(*other) for other in scored.top[:n_top]]}
        for scored in tokens
    ]
    return {"content": content, "refusal": None}


def finite(value: float) -> float:
    """A number that JSON has."""
    return value if math.isfinite(value) else LEAST
