"""Many token stores as one: the shards PREFIX-00000-of-00004 … of a corpus that was written side by side."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xlab.data.digest import digest
from xlab.data.token_reader import TokenReader, Tokens
from xlab.data.token_store import TokenStore
from xlab.errors import DataError

_SHARD = re.compile(r"-(?P<number>\d{5})-of-(?P<total>\d{5})\.(bin|idx)")


class ShardedTokenStore(TokenReader):
    """The documents of several stores, in the stores' order.

    It pickles as its paths. Opening costs what opening the shards costs, whatever they hold.

    Args:
        prefixes: Of the stores.
        name: What they are called together, in messages; the first one's prefix if not given.

    Raises:
        DataError: when there are none, or one cannot be opened.
    """

    def __init__(self, prefixes: Sequence[str | Path], name: str | Path | None = None) -> None:
        if not prefixes:
            raise DataError("A dataset of shards needs at least one; give the prefixes of its token stores.")
        self.prefix = Path(prefixes[0] if name is None else name)
        self.shards = [TokenStore(prefix) for prefix in prefixes]
        self._first_document = np.cumsum([0, *map(len, self.shards)])
        self._first_token = np.cumsum([0, *(shard.n_tokens for shard in self.shards)])
        self.n_tokens = int(self._first_token[-1])

    def __len__(self) -> int:
        return int(self._first_document[-1])

    def document(self, i: int) -> Tokens:
        if not 0 <= i < len(self):
            raise IndexError(f"{self.prefix} has {len(self)} documents, and no document {i}")
        shard = int(_place(self._first_document, np.asarray(i)))
        return self.shards[shard].document(i - int(self._first_document[shard]))

    def slice(self, start: int, stop: int) -> Tokens:
        first, last, _ = slice(start, stop).indices(self.n_tokens)
        return self.gather(np.arange(first, max(first, last)))

    def gather(self, positions: ArrayLike) -> NDArray[np.int64]:
        places = np.asarray(positions, dtype=np.int64)
        shards = _place(self._first_token, places)
        tokens = np.empty_like(places)
        for shard in np.unique(shards):
            here = shards == shard
            tokens[here] = self.shards[shard].gather(places[here] - self._first_token[shard])
        return tokens

    def starts(self, documents: ArrayLike) -> NDArray[np.int64]:
        numbers = np.asarray(documents, dtype=np.int64)
        shards = _place(self._first_document, numbers)
        found = np.empty_like(numbers)
        for shard in np.unique(shards):
            here = shards == shard
            local = self.shards[shard].starts(numbers[here] - self._first_document[shard])
            found[here] = local + self._first_token[shard]
        return found

    def identity(self) -> str:
        return digest(*(shard.identity() for shard in self.shards))

    def verify(self, vocab_size: int | None = None) -> None:
        for shard in self.shards:
            shard.verify(vocab_size)

    def __reduce__(self) -> tuple[object, ...]:
        return ShardedTokenStore, ([shard.prefix for shard in self.shards], self.prefix)


def open_store(prefix: str | Path) -> TokenReader:
    """Open PREFIX.bin and PREFIX.idx, or where they are not there the whole set PREFIX-00000-of-N ….

    Raises:
        DataError: when there is neither, a shard is missing from its set, or a file is damaged.
    """
    if any(Path(f"{prefix}.{suffix}").exists() for suffix in ("idx", "bin")):
        return TokenStore(prefix)
    shards = shard_prefixes(prefix)
    if not shards:
        raise DataError(
            f"There is no token store {prefix}: neither {prefix}.idx nor {prefix}-00000-of-….idx exists; "
            "give the path without its ending."
        )
    return ShardedTokenStore(shards, prefix)


def shard_prefixes(prefix: str | Path) -> list[Path]:
    """Find the shards of a set; none if there is no such set.

    Raises:
        DataError: when one is missing, or there are two sets of one name.
    """
    prefix = Path(prefix)
    names = [path.name for path in prefix.parent.iterdir()] if prefix.parent.is_dir() else []
    matches = [
        match
        for name in names
        if name.startswith(prefix.name) and (match := _SHARD.fullmatch(name.removeprefix(prefix.name)))
    ]
    totals = sorted({int(match["total"]) for match in matches})
    if len(totals) > 1:
        raise DataError(f"{prefix} is the name of two sets, of {totals[0]} and of {totals[1]} shards; remove one.")
    found = {int(match["number"]) for match in matches}
    wanted = [Path(f"{prefix}-{number:05}-of-{totals[0]:05}") for number in range(totals[0])] if totals else []
    missing = [str(shard) for number, shard in enumerate(wanted) if number not in found]
    if missing:
        others = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{others} is missing from a set of {len(wanted)} shards; make it again.")
    return wanted


def _place(firsts: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which shard each value lies in; the stream's end lies in the last."""
    return np.minimum(np.searchsorted(firsts, values, side="right") - 1, len(firsts) - 2)
