"""Plans: which stretches of a store make its samples; planned once, kept on disk, mapped by every rank and worker.

A plan is a directory: ``starts`` (P, int64) and ``lengths`` (P, int32) of the pieces, ``groups`` (G + 1, int64), the
first piece of each group and the end, and ``plan.json``, which is written last. Letters: P pieces, G groups.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlab.data.cache_directory import disk_errors, locked, scratch_directory
from xlab.data.digest import digest
from xlab.data.packing.windows import Pieces
from xlab.data.token_reader import TokenReader
from xlab.errors import DataError

_VERSION = 1
_TYPES = {"starts": "<i8", "lengths": "<i4", "groups": "<i8"}
_PIECES_AT_ONCE = 1 << 20


class Plan:
    """The samples of a store, memory-mapped; it pickles as its path.

    Args:
        directory: where it is.

    Raises:
        DataError: when it is missing, cut short, or of another version.

    Attributes:
        counts: what the planning counted, as plain numbers.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            written = json.loads((directory / "plan.json").read_text(encoding="utf-8"))
            self.counts: dict[str, int] = written["counts"]
            self.n_pieces, self.n_groups = int(written["pieces"]), int(written["groups"])
            sizes = {"starts": self.n_pieces, "lengths": self.n_pieces, "groups": self.n_groups + 1}
            for name, size in sizes.items():
                expected = size * np.dtype(_TYPES[name]).itemsize
                if (directory / name).stat().st_size != expected:
                    raise DataError(f"{directory / name} has not the {expected} bytes that plan.json tells of.")
            if written["version"] != _VERSION:
                raise DataError(f"{directory} was planned by another version of XLab.")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{directory} holds no packing plan: {error}.") from error

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each piece begins in the stream, (P,)."""
        starts: NDArray[np.int64] = self._map("starts", self.n_pieces)
        return starts

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """How many inputs each piece gives, (P,)."""
        lengths: NDArray[np.int32] = self._map("lengths", self.n_pieces)
        return lengths

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """The first piece of each group, and the number of pieces, (G + 1,)."""
        groups: NDArray[np.int64] = self._map("groups", self.n_groups + 1)
        return groups

    def pieces_of(self, groups: Sequence[int]) -> Pieces:
        """Give the pieces of groups; a piece's row is its group's place in the list, and −1 has none."""
        numbers = np.asarray(groups, dtype=np.int64)
        known = numbers.clip(0)
        firsts = self.groups[known]
        sizes = np.where(numbers >= 0, self.groups[known + 1] - firsts, 0)
        before = np.cumsum(sizes) - sizes
        pieces = np.repeat(firsts - before, sizes) + np.arange(sizes.sum())
        rows = np.repeat(np.arange(len(numbers)), sizes)
        return Pieces(self.starts[pieces], self.lengths[pieces].astype(np.int64), rows)

    def _map(self, name: str, length: int) -> Any:
        if not length:  # an empty file cannot be mapped
            return np.empty(0, dtype=_TYPES[name])
        return np.asarray(np.memmap(self.directory / name, dtype=_TYPES[name], mode="r", shape=(length,)))

    def __reduce__(self) -> tuple[object, ...]:
        return Plan, (self.directory,)


class PlanWriter:
    """Append pieces to a plan; memory does not grow with them.

    Args:
        directory: that of the plan to be.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._n_pieces = self._n_groups = 0
        self._counts: dict[str, int] = {}

    def __enter__(self) -> "PlanWriter":
        with ExitStack() as stack:
            self._files = {name: stack.enter_context((self._directory / name).open("wb")) for name in _TYPES}
            self._stack = stack.pop_all()
        self._write("groups", np.zeros(1, dtype=np.int64))
        return self

    def append(self, starts: NDArray[np.int64], lengths: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Add pieces, and the numbers of pieces (G,) of the groups that they form."""
        self._write("starts", starts)
        self._write("lengths", lengths)
        self._write("groups", self._n_pieces + np.cumsum(sizes))
        self._n_pieces += len(starts)
        self._n_groups += len(sizes)

    def count(self, **counts: int) -> None:
        """Add to the plan's counts."""
        for name, number in counts.items():
            self._counts[name] = self._counts.get(name, 0) + int(number)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if kind is None:
            content = {"version": _VERSION, "pieces": self._n_pieces, "groups": self._n_groups, "counts": self._counts}
            (self._directory / "plan.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _write(self, name: str, values: NDArray[np.int64]) -> None:
        self._files[name].write(values.astype(_TYPES[name]).tobytes())


def planned(
    store: TokenReader, settings: Sequence[object], cache_dir: str | Path, write: Callable[[PlanWriter], None]
) -> Plan:
    """Find the plan that ``settings`` make of a store, or let ``write`` make it.

    Several processes may call this at once: one plans, the others wait for it. A killed one leaves no plan.

    Raises:
        DataError: when the store is damaged, or the disk full.
    """
    cache, identity = Path(cache_dir), digest("packing plan", _VERSION, store.identity(), *settings)
    directory = cache / f"{identity}.plan"
    with suppress(DataError):
        return Plan(directory)
    with disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache, identity):
            with suppress(DataError):
                return Plan(directory)  # another process has made it while this one waited
            with scratch_directory(cache, identity) as scratch:
                with PlanWriter(scratch) as writer:
                    write(writer)
                if directory.exists():
                    shutil.rmtree(directory)  # it was there, and did not open
                scratch.rename(directory)
    return Plan(directory)


def chunks(
    store: TokenReader, longest: int, writer: PlanWriter, *, min_sample_length: int = 2
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut documents into stretches of up to ``longest`` inputs, and count what that does to them.

    A document of n tokens has n − 1 inputs, each with the token behind it as its target. Stretches that follow one
    another share a token, the last target of one and the first input of the next: every token but the first, which is
    given, is a target once.

    Args:
        store: the documents.
        longest: the most inputs of a stretch.
        writer: gets the counts ``targets``, ``cut_documents``, ``dropped_documents`` and ``dropped_tokens``.
        min_sample_length: stretches that have fewer tokens, inputs and last target together, are dropped.

    Yields:
        Where stretches begin, and how many inputs they have; about a million at a time.
    """
    for starts, n_tokens in store.blocks():
        inputs = np.maximum(n_tokens - 1, 0)
        numbers = -(-inputs // longest)
        portions = (np.cumsum(numbers) - numbers) // _PIECES_AT_ONCE  # one long document can be millions of stretches
        for part in np.split(np.arange(len(starts)), np.flatnonzero(np.diff(portions)) + 1):
            owner = np.repeat(part, numbers[part])
            before = np.cumsum(numbers[part]) - numbers[part]
            offsets = (np.arange(len(owner)) - np.repeat(before, numbers[part])) * longest
            lengths = np.minimum(inputs[owner] - offsets, longest)
            kept = lengths + 1 >= min_sample_length
            writer.count(
                targets=lengths[kept].sum(),
                cut_documents=(numbers[part] > 1).sum(),
                dropped_documents=len(part) - len(np.unique(owner[kept])),
                dropped_tokens=lengths[~kept].sum(),
            )
            yield (starts[owner] + offsets)[kept], lengths[kept]
