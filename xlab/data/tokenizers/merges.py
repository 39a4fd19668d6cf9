"""Which pair makes each token, where a vocabulary tells only the order of its tokens."""

from collections.abc import Mapping
from itertools import pairwise
from typing import TypeVar

from xlab.errors import DataError

Piece = TypeVar("Piece", bytes, str)


def merges_of(ranks: Mapping[Piece, int]) -> list[tuple[Piece, Piece]]:
    """Return the pair of each token that is longer than one symbol, in the order of the ranks.

    tiktoken and SentencePiece join the two neighbours that make the token of lowest rank, whichever two they are; the
    library joins by pair. They agree, because a token is only ever made of the pair in which merging its own symbols
    by the lower ranks ends: as long as nothing reaches over its edges, what happens inside is what happens to it alone.

    Args:
        ranks: Each token's place in the order, the first to be joined lowest; single symbols may be among them.

    Raises:
        DataError: for a token that the ones before it do not make a pair of.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = _merged_below(token, rank, ranks)
        if len(parts) != 2:
            raise DataError(
                f"The token {token!r} is no pair of tokens before it, so no merges give this vocabulary; "
                "read the tokenizer.json of its model."
            )
        merges.append((parts[0], parts[1]))
    return merges


def _merged_below(token: Piece, limit: int, ranks: Mapping[Piece, int]) -> list[Piece]:
    """Merge the symbols of a token by the ranks below ``limit``, the lowest first, of equals the leftmost."""
    parts = [token[i : i + 1] for i in range(len(token))]
    pairs = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
    while pairs and (lowest := min(pairs)) < limit:
        at = pairs.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del pairs[at]
        for neighbour in (at - 1, at):
            if 0 <= neighbour < len(pairs):
                pairs[neighbour] = ranks.get(parts[neighbour] + parts[neighbour + 1], limit)
    return parts
