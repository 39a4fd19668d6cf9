"""Blocks joined are the store, and their text is the documents'."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.errors import DataError
from xlab.lab.data_blocks import Block, VocabularyBytes, blocks

TOKENIZER = ByteLevelBPE().make(iter(["the cat and the dog and the naïve one " * 5]), 270)
VOCABULARY = VocabularyBytes(TOKENIZER)


class Listed:
    """Documents in memory."""

    def __init__(self, documents: list[list[int]]) -> None:
        self._documents = [np.array(document, dtype=np.uint16) for document in documents]

    def __len__(self) -> int:
        return len(self._documents)

    def document(self, i: int) -> np.ndarray:
        return self._documents[i]


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=12), st.integers(1, 15))
def test_joined_they_are_the_documents(documents: list[list[int]], at_once: int) -> None:
    found: list[list[int]] = []
    for block in blocks(Listed(documents), at_once):
        assert len(block.tokens) <= at_once
        parts = [part.tolist() for part in np.split(block.tokens, block.starts[1:])]
        assert [len(part) for part in parts] == block.sizes.tolist()
        if block.continues:
            found[-1] += parts.pop(0)
        found += parts
    assert found == documents


def encoded(texts: list[str], tokenizer: Tokenizer = TOKENIZER) -> Listed:
    return Listed([[tokenizer.sos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts])


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_the_text_is_that_of_the_documents(texts: list[str]) -> None:
    (block,) = blocks(encoded(texts))
    text, starts = VOCABULARY.text(block, "train")
    assert [part.tobytes().decode() for part in np.split(text, starts[1:])] == texts


def test_tokens_of_another_vocabulary_are_refused() -> None:
    block = Block(np.array([1, 999], dtype=np.int32), np.zeros(1, dtype=np.int64))
    with pytest.raises(DataError, match="val holds token 999, but the vocabulary has 270"):
        VOCABULARY.text(block, "val")
