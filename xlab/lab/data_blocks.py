"""Read a token store in blocks that fit in memory, as tokens and as the text that they stand for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xlab.data.tokenizers import Tokenizer
from xlab.errors import DataError

Tokens = NDArray[Any]

_TOKENS_AT_ONCE = 1 << 18


class Documents(Protocol):
    """Documents of tokens in a row, such as a token store."""

    def __len__(self) -> int: ...

    def document(self, i: int) -> Tokens:
        """(tokens,) of one."""


@dataclass(frozen=True)
class Block:
    """Some documents, or a part of one.

    Args:
        tokens: (N,) of all.
        starts: (D,) where in ``tokens`` each begins.
        continues: Whether the first goes on from the block before.
        ends: Whether the last ends here.
    """

    tokens: Tokens
    starts: NDArray[np.int64]
    continues: bool = False
    ends: bool = True

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(D,) tokens of each."""
        return np.diff(self.starts, append=len(self.tokens))


def blocks(store: Documents, tokens_at_once: int = _TOKENS_AT_ONCE) -> Iterator[Block]:
    """Stream a store, many short documents or a part of a long one at once."""
    waiting: list[Tokens] = []
    n_waiting = 0
    for number in range(len(store)):
        tokens = store.document(number)
        if waiting and n_waiting + len(tokens) > tokens_at_once:
            yield _joined(waiting)
            waiting, n_waiting = [], 0
        if len(tokens) > tokens_at_once:
            for start in range(0, len(tokens), tokens_at_once):
                part = tokens[start : start + tokens_at_once]
                at_end = start + len(part) == len(tokens)
                yield Block(np.asarray(part), np.zeros(1, dtype=np.int64), continues=start > 0, ends=at_end)
        else:
            waiting.append(tokens)
            n_waiting += len(tokens)
    if waiting:
        yield _joined(waiting)


def _joined(documents: list[Tokens]) -> Block:
    ends = np.cumsum([len(tokens) for tokens in documents])
    return Block(np.concatenate(documents), np.concatenate([[0], ends[:-1]]).astype(np.int64))


class VocabularyBytes:
    """The bytes of source text behind tokens, for many tokens at once.

    Args:
        tokenizer: Whose tokens they are; V of them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        spelt = [tokenizer.token_bytes(token_id) for token_id in range(len(tokenizer))]
        self.lengths = np.array([len(one) for one in spelt], dtype=np.int64)  # (V,)
        self._first = np.cumsum(self.lengths) - self.lengths
        self._bytes = np.frombuffer(b"".join(spelt), dtype=np.uint8)

    def text(self, block: Block, name: object) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the bytes of a block, (Y,), and where in them each of its documents begins, (D,).

        Raises:
            DataError: for tokens outside the vocabulary; ``name`` says where they are from.
        """
        if len(block.tokens) and not 0 <= block.tokens.min() <= block.tokens.max() < len(self.lengths):
            wrong = max(int(block.tokens.max()), int(block.tokens.min()), key=lambda token: token >= 0)
            raise DataError(
                f"{name} holds token {wrong}, but the vocabulary has {len(self.lengths)}; "
                "it was made with another tokenizer."
            )
        lengths = self.lengths[block.tokens]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        # from the token's place in the text to its place in the vocabulary's bytes
        shifts = np.repeat(self._first[block.tokens] - ends[:-1], lengths)
        return self._bytes[shifts + np.arange(ends[-1])], ends[block.starts]
