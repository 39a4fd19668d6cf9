"""Small stores and layouts for tests of packing."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from xlab.data.packing import IGNORED, Layout, Windows
from xlab.data.token_store import TokenStore, TokenStoreWriter

PAD, SOS, EOS = 0, 1, 2
BYTES = np.array([0, 0, 0, 1, 2, 3, 4])  # of each token in a vocabulary of 7

documents = st.lists(st.lists(st.integers(3, 6), max_size=9), min_size=4, max_size=8)


def write(prefix: Path, documents: list[list[int]]) -> TokenStore:
    """Write documents as sos, tokens, eos."""
    with TokenStoreWriter(prefix, 7) as writer:
        for document in documents:
            writer.write([SOS, *document, EOS])
            writer.end_document()
    return TokenStore(prefix)


def layout(folder: Path, seq_len: int, **settings: Any) -> Layout:
    """A layout of the vocabulary above, with plans in ``folder``."""
    own = {"pad_id": PAD, "sos_id": SOS, "byte_lengths": BYTES, "cache_dir": folder / "cache"}
    return Layout(seq_len, **{**own, **settings})


def targets_by_input(windows: Windows) -> Iterator[tuple[int, int]]:
    """Each input that has a counted target, and that target, item by item."""
    for index in range(len(windows)):
        batch = windows.__getitems__([index])
        for given, target in zip(batch["inputs"].flatten().tolist(), batch["targets"].flatten().tolist(), strict=True):
            if target != IGNORED:
                yield given, target


def pairs(documents: list[list[int]]) -> list[tuple[int, int]]:
    """Each token of documents but eos, and the token behind it."""
    whole = [[SOS, *document, EOS] for document in documents]
    return [pair for document in whole for pair in pairwise(document)]
