"""Cut token streams into fixed windows, keeping document boundaries.

Letters: B windows, T positions, N tokens in the stream, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from xlab.data.token_store import TokenStore
from xlab.errors import ConfigError, DataError

IGNORED = -100  # what torch's cross-entropy leaves out

Batch = dict[str, Tensor]
_T = TypeVar("_T")


class Packing(ABC, Dataset[Batch]):
    """Map-style windows over a token store.

    An item is ``inputs`` (T,) and ``targets`` (T,), the token that follows each input or ``IGNORED``, both int64, and
    ``n_bytes`` (), the bytes of source text that the counted targets stand for. Item −1 is empty: it counts nothing,
    and evens out the ranks of an evaluation.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return whole batches: (B, T), (B, T) and (B,)."""

    def __getitem__(self, index: int) -> Batch:
        if not -1 <= index < len(self):
            raise IndexError(f"there are {len(self)} windows, and no window {index}")
        return {name: values[0] for name, values in self.__getitems__([index]).items()}


class ContiguousWindows(Packing):
    """Windows of T tokens one after the other, through document ends: nothing is cut off, nothing is repeated.

    Every token is a target once but the documents' sos, which are given, not predicted. The last window is filled
    up with padding.

    Args:
        store: Documents, each ``sos … eos``.
        seq_len: T.
        pad_id: What fills the last window's inputs.
        sos_id: The token that is no target.
        byte_lengths: (V,) the bytes that each token stands for.
        split: What the store is called in messages.

    Raises:
        DataError: when the store is shorter than one window, or its tokens cannot be this tokenizer's.
    """

    def __init__(
        self,
        store: TokenStore,
        seq_len: int,
        *,
        pad_id: int,
        sos_id: int,
        byte_lengths: NDArray[np.int64],
        split: str = "train",
    ) -> None:
        if seq_len < 1:
            raise ConfigError(f"data.seq_len must be at least 1, got {seq_len}.")
        if store.n_tokens < seq_len + 1:
            raise DataError(
                f"The {split} split has {store.n_tokens} tokens, too few for one window of {seq_len} + 1. "
                f"Give it a larger share or more text, or set data.seq_len to at most {max(store.n_tokens - 1, 1)}."
            )
        self._store = store
        self._seq_len = seq_len
        self._pad_id = pad_id
        self._sos_id = sos_id
        self._byte_lengths = byte_lengths

    def __len__(self) -> int:
        return -(-(self._store.n_tokens - 1) // self._seq_len)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        n_tokens, starts = self._store.n_tokens, np.asarray(indices, dtype=np.int64) * self._seq_len
        positions = starts[:, None] + np.arange(self._seq_len + 1)  # (B, T + 1)
        inside = (positions < n_tokens) & (starts >= 0)[:, None]
        tokens = self._store.tokens[np.where(inside, positions, 0)].astype(np.int64)
        inputs = np.where(inside[:, :-1], tokens[:, :-1], self._pad_id)
        following = tokens[:, 1:]
        counted = inside[:, 1:] & (following != self._sos_id)
        n_bytes = np.where(counted, self._lengths(following), 0).sum(axis=1)
        return {
            "inputs": torch.from_numpy(inputs),
            "targets": torch.from_numpy(np.where(counted, following, IGNORED)),
            "n_bytes": torch.from_numpy(n_bytes),
        }

    def _lengths(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        if tokens.max() >= len(self._byte_lengths):
            raise DataError(
                f"{self._store.prefix} holds token {tokens.max()}, but the vocabulary has {len(self._byte_lengths)}; "
                "the store was made with another tokenizer."
            )
        return self._byte_lengths[tokens]


def as_is(batch: _T) -> _T:
    """Collate nothing: ``Packing.__getitems__`` has made the batch."""
    return batch
