"""Documents of several sources in proportions that hold over every long stretch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from xlab.data.digest import digest
from xlab.data.sources.source import Document, Source
from xlab.errors import ConfigError, DataError

Unit = Literal["bytes", "documents"]
Exhausted = Literal["stop", "continue", "repeat"]


class Turns:
    """Whose turn it is: the source that is furthest behind its share goes next.

    The arithmetic is exact. At any moment no source is ahead of its share by more than the size M of the largest
    document so far, nor behind it by more than M·(1 + 1/2 + … + 1/(k − 1)), where k is the number of sources: who
    is ahead was chosen when it was not, and the mean of the j that are furthest behind grows by a document outside
    them by at most M/j, while the mean of all k is always 0. Over any stretch, a source's part thus differs from its
    share by at most the sum of the two: for 2 sources 2 M, for 10 sources 3.83 M.

    Args:
        weights: One a source, above 0, of any sum.
    """

    def __init__(self, weights: Sequence[Fraction]) -> None:
        scale = math.lcm(*(weight.denominator for weight in weights))
        whole = [int(weight * scale) for weight in weights]
        self.weights = [weight // math.gcd(*whole) for weight in whole]
        self._active = list(range(len(weights)))
        self._begin()

    def next(self) -> int:
        """Return whose turn it is; of equals the heaviest, then the first."""
        return max(self._active, key=lambda i: (self._behind[i], self.weights[i], -i))

    def took(self, turn: int, size: int) -> None:
        """Tell that a source has given a document of this size."""
        for i in self._active:
            self._behind[i] += self.weights[i] * size
        self._behind[turn] -= self._total * size

    def leave(self, turn: int) -> bool:
        """Take a source out, the shares of the others growing in proportion from here on; tell if any is left."""
        self._active.remove(turn)
        self._begin()
        return bool(self._active)

    def _begin(self) -> None:
        self._total = sum(self.weights[i] for i in self._active)
        self._behind = [0] * len(self.weights)  # in units of 1/total


@dataclass
class _Given:
    """What one source has given so far."""

    documents: int = 0
    bytes: int = 0
    times_read: int = 0  # to its end


class Mixture(Source):
    """Documents of several sources in turn, by weight; without chance, so the same at every reading.

    Proportions hold for the mixture as it is read, exactly to a few documents over any stretch. Splits take their
    share of it by a hash of each document, so theirs are the same but for chance. Filters belong inside: what is left
    out behind a mixture is missing from its proportions.

    Args:
        sources: Where the documents come from.
        weights: How much of each: one number above 0 for each source, of any sum.
        unit: What the weights measure, bytes of text or documents. No source knows of tokens; bytes stand for them.
        exhausted: What to do when a source runs out: stop there, and leave the rest of the others unread; continue
            with the others, so that every document comes once and the proportions end with the first source; or
            repeat it from its beginning until every source was read to its end once.
    """

    def __init__(
        self, sources: list[Source], weights: list[float], unit: Unit = "bytes", exhausted: Exhausted = "stop"
    ) -> None:
        if not sources or len(sources) != len(weights):
            raise ConfigError(f"Mixture has {len(sources)} sources and {len(weights)} weights; give one weight each.")
        for source, weight in zip(sources, weights, strict=True):
            if not isinstance(source, Source):
                raise ConfigError(f"Mixture's sources hold {source!r}, which is no source of documents.")
            if not 0 < weight < math.inf:
                raise ConfigError(f"Mixture's weight of {source.title()} is {weight}; make it above 0, or drop both.")
        for setting, value, choices in (("unit", unit, get_args(Unit)), ("exhausted", exhausted, get_args(Exhausted))):
            if value not in choices:
                raise ConfigError(f"Mixture's {setting} is {value!r}; it can be {', '.join(choices)}.")
        self._sources = sources
        self._weights = weights
        self._unit = unit
        self._exhausted = exhausted
        self._given = [_Given() for _ in sources]

    def documents(self) -> Iterator[Document]:
        turns = self._turns()
        streams = [source.documents() for source in self._sources]
        given = self._given = [_Given() for _ in self._sources]
        while True:
            turn = turns.next()
            document = next(streams[turn], None)
            if document is None:
                self._refuse_empty(turn, given[turn])
                given[turn].times_read += 1
                if self._exhausted == "stop" or all(one.times_read for one in given):
                    return
                if self._exhausted == "continue":
                    turns.leave(turn)
                else:
                    streams[turn] = self._sources[turn].documents()
                continue
            n_bytes = len(document.text.encode())
            given[turn].documents += 1
            given[turn].bytes += n_bytes
            turns.took(turn, n_bytes if self._unit == "bytes" else 1)
            yield document

    def identity(self) -> str:
        # 2 to 1 and 4 to 2 give the same documents
        settings = [self._turns().weights, self._unit, self._exhausted]
        return digest("Mixture", 1, settings, [source.identity() for source in self._sources])

    def n_bytes(self) -> int | None:
        sizes = [size for source in self._sources if (size := source.n_bytes()) is not None]
        if len(sizes) < len(self._sources):
            return None
        if self._exhausted == "continue":
            return sum(sizes)
        if self._unit == "documents":
            return None
        whole = [size * sum(self._weights) / weight for size, weight in zip(sizes, self._weights, strict=True)]
        return int(min(whole) if self._exhausted == "stop" else max(whole))

    def report(self) -> dict[str, Any]:
        """Tell of every source its weight (of 1), its share of the latest reading, and how often it was read whole."""
        total = sum(self._size(given) for given in self._given) or 1
        sources = [
            {
                **source.report(),
                "weight": weight / sum(self._weights),
                "share": self._size(given) / total,
                "documents": given.documents,
                "bytes": given.bytes,
                "times_read_whole": given.times_read,
            }
            for source, weight, given in zip(self._sources, self._weights, self._given, strict=True)
        ]
        return {
            "source": self.title(),
            "unit": self._unit,
            "exhausted": self._exhausted,
            "documents": sum(given.documents for given in self._given),
            "bytes": sum(given.bytes for given in self._given),
            "sources": sources,
        }

    def _turns(self) -> Turns:
        # of the decimal that was written: 0.7 is 7/10 here, and not the nearest binary fraction
        return Turns([Fraction(str(weight)) for weight in self._weights])

    def _size(self, given: _Given) -> int:
        return given.bytes if self._unit == "bytes" else given.documents

    def _refuse_empty(self, turn: int, given: _Given) -> None:
        if not given.documents:
            title = self._sources[turn].title()
            raise DataError(f"{title} gives no document with text, so it cannot be part of a mixture; remove it.")
