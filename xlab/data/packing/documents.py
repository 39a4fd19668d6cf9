"""Packings that keep documents apart or whole: one a row, several side by side, or batches of about equal size.

Letters: B windows, T positions, P pieces.
"""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xlab.data.packing.best_fit import best_fit
from xlab.data.packing.packing import Packing
from xlab.data.packing.plan import Plan, PlanWriter, chunks, planned
from xlab.data.packing.windows import IGNORED, Batch, Layout, PiecedWindows, Pieces
from xlab.data.token_reader import TokenReader
from xlab.errors import ConfigError, DataError


class PlannedPacking(Packing):
    """A packing whose samples are listed in a plan."""

    def windows(self, store: TokenReader, layout: Layout) -> "PlannedWindows":
        plan = self.plan(store, layout)
        if not plan.n_groups:
            raise DataError(
                f"The {layout.split} split gives no sample: all of its {len(store)} documents are shorter than "
                "data.packing.min_sample_length, or empty. Give it more text, or lower that."
            )
        return PlannedWindows(store, layout, plan)

    def prepare(self, store: TokenReader, layout: Layout) -> None:
        self.plan(store, layout)

    @abstractmethod
    def plan(self, store: TokenReader, layout: Layout) -> Plan:
        """Find the plan, or make it."""


class BestFit(PlannedPacking):
    """Documents side by side in windows, each where it fits best; none shorter than a window is cut.

    Longer ones are cut into whole windows, and their rest is packed like a document. What no document fits into is
    padding, which the report counts as waste.
    """

    def plan(self, store: TokenReader, layout: Layout) -> Plan:
        def write(writer: PlanWriter) -> None:
            for starts, lengths in chunks(store, layout.seq_len, writer):
                rows = best_fit(lengths, layout.seq_len)
                order = np.argsort(rows, kind="stable")
                sizes = np.bincount(rows)
                writer.append(starts[order], lengths[order], sizes)
                writer.count(positions=len(sizes) * layout.seq_len, samples=len(sizes))

        return planned(store, ["BestFit", layout.seq_len], layout.cache_dir, write)


class OneDocument(PlannedPacking):
    """One document in a window, filled up with padding; a longer one is cut into several windows.

    Args:
        min_sample_length: samples of fewer tokens, sos and eos among them, are left out, and counted.
    """

    def __init__(self, min_sample_length: int = 2) -> None:
        self.min_sample_length = _at_least_two(min_sample_length)

    def plan(self, store: TokenReader, layout: Layout) -> Plan:
        least = self.min_sample_length

        def write(writer: PlanWriter) -> None:
            for starts, lengths in chunks(store, layout.seq_len, writer, min_sample_length=least):
                writer.append(starts, lengths, np.ones_like(lengths))
                writer.count(positions=len(lengths) * layout.seq_len, samples=len(lengths))

        return planned(store, ["OneDocument", layout.seq_len, least], layout.cache_dir, write)


class TokenBudget(PlannedPacking):
    """Batches of documents of about equal length, one a row, whose rows times positions stay within a budget.

    A batch is as long as its longest row; documents longer than ``data.seq_len`` are cut. The batches stay the same
    through the epochs, in another order (as in fairseq, Ott et al. 2019, arXiv 1904.01038). ``data.batch_size`` is not
    used.

    Args:
        max_tokens: the most positions of a micro-batch on a rank, at least ``data.seq_len``.
        min_sample_length: samples of fewer tokens, sos and eos among them, are left out, and counted.
    """

    def __init__(self, max_tokens: int, min_sample_length: int = 2) -> None:
        self.max_tokens = max_tokens
        self.min_sample_length = _at_least_two(min_sample_length)

    def batch_size(self, asked: int) -> int:
        return 1  # an item is a whole batch

    def windows(self, store: TokenReader, layout: Layout) -> "PlannedBatches":
        made = super().windows(store, layout)
        return PlannedBatches(store, layout, made.plan)

    def plan(self, store: TokenReader, layout: Layout) -> Plan:
        least, budget = self.min_sample_length, self.max_tokens
        if budget < layout.seq_len:
            raise ConfigError(
                f"data.packing.max_tokens is {budget}, less than one sample of {layout.seq_len} tokens; "
                "set it to at least data.seq_len."
            )

        def write(writer: PlanWriter) -> None:
            for starts, lengths in chunks(store, layout.seq_len, writer, min_sample_length=least):
                order = np.argsort(-lengths, kind="stable")
                sizes = _batch_sizes(lengths[order], budget)
                writer.append(starts[order], lengths[order], sizes)
                longest = lengths[order][np.cumsum(sizes) - sizes]
                writer.count(positions=(sizes * longest).sum(), samples=len(lengths))

        return planned(store, ["TokenBudget", layout.seq_len, budget, least], layout.cache_dir, write)


class PlannedWindows(PiecedWindows):
    """Windows that a plan lists: a group of pieces each.

    Args:
        store: the documents.
        layout: what the run's windows have in common.
        plan: of that store.
    """

    def __init__(self, store: TokenReader, layout: Layout, plan: Plan) -> None:
        super().__init__(store, layout)
        self.plan = plan

    def __len__(self) -> int:
        return self.plan.n_groups

    def pieces(self, indices: Sequence[int]) -> Pieces:
        return self.plan.pieces_of(indices)

    def report(self) -> dict[str, int | float]:
        counts = self.plan.counts
        padding = counts["positions"] - counts["targets"]
        return {
            "samples": counts["samples"],
            "positions": counts["positions"],
            "targets": counts["targets"] if self.layout.given is None else self.count_targets(),
            "padding": padding,
            "waste": padding / counts["positions"],
            "cut_documents": counts["cut_documents"],
            "dropped_documents": counts["dropped_documents"],
            "dropped_tokens": counts["dropped_tokens"],
        }


class PlannedBatches(PlannedWindows):
    """Batches that a plan lists: an item is a whole batch, (B, T) and (B,), with a row for each piece."""

    def __getitem__(self, index: int) -> Batch:
        if not -1 <= index < len(self):
            raise IndexError(f"there are {len(self)} batches, and no batch {index}")
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        starts, lengths, _ = self.pieces(indices)
        width = int(lengths.max(initial=1))
        rows = np.arange(len(lengths))
        return self.rows_of(Pieces(starts, lengths, rows), max(len(lengths), 1), width)

    def count_targets(self) -> int:
        return sum(int((self[item]["targets"] != IGNORED).sum()) for item in range(len(self)))

    def report(self) -> dict[str, int | float]:
        return super().report() | {"batches": len(self)}


def _batch_sizes(lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Cut samples, the longest first, into batches: as many as fit when all are as long as the first."""
    sizes = []
    first = 0
    while first < len(lengths):
        size = min(budget // int(lengths[first]), len(lengths) - first)
        sizes.append(size)
        first += size
    return np.array(sizes, dtype=np.int64)


def _at_least_two(min_sample_length: int) -> int:
    if min_sample_length < 2:
        raise ConfigError(
            f"data.packing.min_sample_length must be at least 2, an input and its target; got {min_sample_length}."
        )
    return min_sample_length
