"""Pieces of a text have the tokens of the text."""

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from xlab.data.text_pieces import pieces
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer

LETTERS = [
    "a",
    "b",
    "the",
    "é",
    "1",
    "23",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    ".",
    "!!",
    "'s",
    "_",
    "\x1c",
    "\xa0",
    "。",
    "😀",
]
long_texts = st.lists(st.sampled_from(LETTERS), max_size=120).map("".join)

# Llama 3's pattern, which lets punctuation take the newlines after it
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module", params=["gpt2", "llama3"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    corpus = [" ".join(LETTERS) * 3, "".join(LETTERS) * 3, "the ab!!\n\nthe 's\n" * 5]
    if request.param == "gpt2":
        return ByteLevelBPE().make(iter(corpus), 290)
    backend = Backend(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(corpus, trainer)
    return Tokenizer(backend)


@given(text=long_texts, least=st.integers(1, 20))
@settings(deadline=None, max_examples=300)
def test_the_tokens_of_the_pieces_are_those_of_the_whole(tokenizer: Tokenizer, text: str, least: int) -> None:
    cut = list(pieces(text, least=least, most=10_000))
    assert "".join(cut) == text
    assert list(chain.from_iterable(map(tokenizer.encode, cut))) == tokenizer.encode(text)


@given(text=long_texts, least=st.integers(1, 20), more=st.integers(1, 20))
@settings(deadline=None)
def test_no_piece_is_too_long_and_nothing_is_lost(text: str, least: int, more: int) -> None:
    cut = list(pieces(text, least=least, most=least + more))
    assert "".join(cut) == text
    assert all(len(piece) <= least + more for piece in cut)
    assert all(cut) or cut == [""]


def test_long_texts_are_cut_at_lines() -> None:
    lines = [f"line {i}\n" for i in range(100)]
    cut = list(pieces("".join(lines), least=100, most=1000))
    assert len(cut) > 5
    assert all(piece.startswith("line") and piece.endswith("\n") for piece in cut)
