"""The data report: what training will see, measured on the prepared tokens, split by split."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlab.data.packing import BestFit, ContiguousWindows
from xlab.data.prefixes import PrefixedData
from xlab.data.splits import SPLITS
from xlab.datamodules import XLabDataModule
from xlab.errors import DataError
from xlab.lab.data_figures import Advance, Overlap, Seeker, SplitFigures, Vocabulary, measure
from xlab.lab.plan_steps import packing_of

RARE = 10  # a token that occurs less often in train is hardly learnt
_SHOWN = 24  # tokens in a list
_POINTS = 200  # of a curve


@dataclass(frozen=True)
class VocabularyUse:
    """How the training documents use the vocabulary; special tokens do not count.

    Args:
        size: Tokens that stand for text.
        used: Those that occur in train.
        rare: Those among them that occur less than ``RARE`` times.
        frequencies: (rank, occurrences) of tokens from the commonest to the rarest, at most some hundred points.
        commonest: (token, occurrences), as many as are worth looking at.
        rarest: The same, of those that occur.
        unused: Tokens that do not occur, the last to be merged first.
    """

    size: int
    used: int
    rare: int
    frequencies: list[tuple[int, int]]
    commonest: list[tuple[str, int]]
    rarest: list[tuple[str, int]]
    unused: list[str]


@dataclass(frozen=True)
class DataReport:
    """What was found.

    Args:
        sources: Where the documents come from: a title for each split's source, under "divided" that of all others.
        seq_len: Tokens in a window.
        vocab_size: Tokens of the vocabulary, specials included.
        fingerprint: Of the documents and the tokenizer.
        splits: Those that have documents.
        vocabulary: How train uses it.
        overlaps: What train has of each other split.
        packing: For each split that is cut into windows, what ``Windows.report`` tells, or why there are none.
        fills_windows: Whether the packing puts documents side by side already.
    """

    sources: dict[str, str]
    seq_len: int
    vocab_size: int
    fingerprint: str
    splits: dict[str, SplitFigures]
    vocabulary: VocabularyUse
    overlaps: dict[str, Overlap]
    packing: dict[str, Mapping[str, int | float] | str]
    fills_windows: bool


def report(datamodule: XLabDataModule, *, advance: Advance = lambda n_tokens: None) -> DataReport:
    """Measure a datamodule's prepared data; memory does not grow with the corpus.

    Args:
        datamodule: After ``prepare_data``.
        advance: Is told of every further number of tokens that was read; ``n_tokens_to_read`` tells of how many.

    Raises:
        DataError: when the data are not prepared, or not by this tokenizer.
    """
    prepared = datamodule.prepared
    vocabulary = Vocabulary(prepared.tokenizer)
    splits: dict[str, SplitFigures] = {}
    sought: dict[str, Seeker] = {}
    # train comes last: what the others hold is looked for in it, so that its size costs no memory
    for split in [split for split in reversed(SPLITS) if prepared.n_documents(split)]:
        looked_for = sought if split == "train" else {}
        store = prepared.store(split)
        splits[split], sample = measure(store, vocabulary, split, sought=looked_for, advance=advance)
        if split != "train":
            sought[split] = Seeker(sample)
    return DataReport(
        sources=_sources(datamodule),
        seq_len=datamodule.hparams["seq_len"],
        vocab_size=len(prepared.tokenizer),
        fingerprint=prepared.fingerprint,
        splits={split: splits[split] for split in SPLITS if split in splits},
        vocabulary=_use(splits["train"].counts, vocabulary),
        overlaps={
            split: sought[split].overlap(prepared.store(split), vocabulary, split, advance=advance)
            for split in SPLITS
            if split in sought
        },
        packing={split: _packing(datamodule, split) for split in ("train", "val", "test") if split in splits},
        fills_windows=isinstance(packing_of(datamodule.hparams), BestFit | ContiguousWindows),
    )


def n_tokens_to_read(datamodule: XLabDataModule) -> int:
    """Return how many tokens ``report`` reads: those of train once, those of the other splits twice."""
    prepared = datamodule.prepared
    used = [split for split in SPLITS if prepared.n_documents(split)]
    return sum(prepared.store(split).n_tokens * (1 if split == "train" else 2) for split in used)


def _sources(datamodule: XLabDataModule) -> dict[str, str]:
    prepared, corpus = datamodule.prepared, datamodule.corpus
    if isinstance(prepared, PrefixedData):
        return {split: str(prepared.store(split).prefix) for split in SPLITS if prepared.n_documents(split)}
    own = {split: source.title() for split, source in corpus.split_sources.items()}
    return ({} if corpus.source is None else {"divided": corpus.source.title()}) | own


def _use(counts: NDArray[np.int64], vocabulary: Vocabulary) -> VocabularyUse:
    ids = np.flatnonzero(~vocabulary.is_special)
    # the commonest first; of equals the one that was merged first
    ordered = ids[np.argsort(-counts[ids], kind="stable")]
    n_used = int((counts[ids] > 0).sum())
    used = ordered[:n_used]
    ranks = np.unique(np.geomspace(1, n_used, _POINTS).astype(np.int64)) if n_used else np.empty(0, dtype=np.int64)

    def shown(some: NDArray[np.int64]) -> list[tuple[str, int]]:
        return [(vocabulary.spell(token_id), int(counts[token_id])) for token_id in some.tolist()]

    return VocabularyUse(
        size=len(ids),
        used=n_used,
        rare=int((counts[used] < RARE).sum()),
        frequencies=[(rank, int(counts[used[rank - 1]])) for rank in ranks.tolist()],
        commonest=shown(used[:_SHOWN]),
        rarest=shown(used[::-1][:_SHOWN]),
        unused=[vocabulary.spell(token_id) for token_id in ordered[n_used:][::-1][:_SHOWN].tolist()],
    )


def _packing(datamodule: XLabDataModule, split: str) -> Mapping[str, int | float] | str:
    """Ask a split's windows what they hold, as they are made for training."""
    try:
        return datamodule.windows(split).report()
    except DataError as error:  # such as a split that is shorter than one window: worth knowing, and no reason to stop
        return str(error)
