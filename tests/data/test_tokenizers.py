"""Tokenizers lose nothing, count bytes exactly, and take text for text."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from xlab.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerFile
from xlab.errors import ConfigError, DataError

TEXTS = ["The cat sat on the mat.\n", "the dog's dinner isn't here\r\n", "naïve café, naïve café 😀😀"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE().make(iter(TEXTS), 290)


def foreign(tokens: list[str], special: list[str]) -> str:
    """The JSON of a byte-level tokenizer made without XLab."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *tokens])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return backend.to_str()


def test_the_special_tokens_come_first(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.sos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer[tokenizer.sos_token] == 1
    assert [tokenizer.pad_token, tokenizer.sos_token, tokenizer.eos_token] == ["<|pad|>", "<|sos|>", "<|eos|>"]
    assert len(tokenizer) == tokenizer.vocab_size == 290


@given(st.text())
@settings(deadline=None)
def test_text_comes_back_and_its_bytes_are_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())


def test_text_that_spells_a_special_token_is_text(tokenizer: Tokenizer) -> None:
    text = "before<|eos|>after <|sos|><|pad|>"
    ids = tokenizer.encode(text)
    assert min(ids) > 2
    assert tokenizer.decode(ids) == text
    assert Tokenizer.from_json(tokenizer.to_json()).encode(text) == ids


def test_decoding_takes_lists_arrays_and_tensors(tokenizer: Tokenizer) -> None:
    ids = [1, *tokenizer.encode("the café"), 2]
    for given_ids in (ids, tuple(ids), np.array(ids), torch.tensor(ids)):
        assert tokenizer.decode(given_ids) == "the café"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|sos|>the café<|eos|>"
    assert tokenizer.decode([]) == ""


def test_special_tokens_stand_for_no_bytes(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (290,)
    assert lengths.dtype == np.int64
    assert lengths[:3].tolist() == [0, 0, 0]
    assert lengths[3:].min() == 1


def test_a_copy_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    for copy in (
        Tokenizer.from_json(tokenizer.to_json()),
        Tokenizer.from_file(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.to_json() == tokenizer.to_json()
        assert copy.encode("the cat’s") == tokenizer.encode("the cat’s")


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    assert ByteLevelBPE().make(iter(TEXTS), 290).fingerprint == tokenizer.fingerprint


def test_the_library_reads_what_we_save(tokenizer: Tokenizer) -> None:
    theirs = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    assert theirs.encode("the naïve dog").ids == tokenizer.encode("the naïve dog")


def test_what_is_outside_the_vocabulary_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no token 'nothing like it'"):
        tokenizer["nothing like it"]
    for wrong in (290, -1):
        with pytest.raises(DataError, match=f"There is no token {wrong}: the vocabulary's ids are 0 to 289"):
            tokenizer.decode([5, wrong])
        with pytest.raises(DataError, match=f"There is no token {wrong}"):
            tokenizer.token_bytes(wrong)
    with pytest.raises(DataError, match="has no UTF-8"):
        tokenizer.encode("half a pair \ud800")


@pytest.mark.parametrize(
    ("special", "names"),
    [
        ([], ("<|sos|>", "<|eos|>", "<|pad|>")),
        (["<|endoftext|>"], ("<|sos|>", "<|endoftext|>", "<|pad|>")),
        (["<s>", "</s>", "<pad>"], ("<s>", "</s>", "<pad>")),
        (["<bos>", "<eos>"], ("<bos>", "<eos>", "<|pad|>")),
    ],
)
def test_a_foreign_vocabulary_keeps_its_own_special_tokens(special: list[str], names: tuple[str, str, str]) -> None:
    tokenizer = Tokenizer.from_json(foreign(["ab"], special))
    assert (tokenizer.sos_token, tokenizer.eos_token, tokenizer.pad_token) == names
    assert len(tokenizer) == 257 + len({*special, *names})
    assert len({tokenizer.sos_id, tokenizer.eos_id, tokenizer.pad_id}) == 3
    assert tokenizer.byte_lengths().sum() == 258
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.fingerprint == tokenizer.fingerprint


def test_a_foreign_post_processor_and_truncation_add_and_cut_nothing() -> None:
    written = json.loads(foreign([], ["<s>", "</s>"]))
    written["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    written["post_processor"] = {"type": "RobertaProcessing", "sep": ["</s>", 257], "cls": ["<s>", 256]} | {
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    tokenizer = Tokenizer.from_json(json.dumps(written))
    assert tokenizer.decode(tokenizer.encode("longer than three"), skip_special_tokens=False) == "longer than three"


def test_files_that_hold_no_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"tokenizer\.json cannot be read: No such file"):
        Tokenizer.from_file(path)
    for content in (b"", b'{"model": 3}', b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer\.json of Hugging Face's"):
            Tokenizer.from_file(path)


class TestByteLevelBPE:
    def test_a_vocabulary_that_the_texts_cannot_give(self) -> None:
        with pytest.raises(DataError, match=r"give a vocabulary of 26\d tokens, not 5000. Set data.vocab_size to at"):
            ByteLevelBPE().make(iter(["abc abc abc"]), 5000)

    def test_sizes(self) -> None:
        assert ByteLevelBPE().vocab_size_of(259) == 259
        with pytest.raises(ConfigError, match=r"data.vocab_size must be at least 259"):
            ByteLevelBPE().vocab_size_of(258)
        with pytest.raises(ConfigError, match=r"set data.vocab_size"):
            ByteLevelBPE().vocab_size_of(None)
        with pytest.raises(ConfigError, match="min_frequency must be at least 1, got 0"):
            ByteLevelBPE(min_frequency=0)

    def test_an_error_while_reading_comes_through(self) -> None:
        def texts():
            yield "fine"
            raise DataError("line 2 is broken")

        with pytest.raises(DataError, match="line 2 is broken"):
            ByteLevelBPE().make(texts(), 300)


class TestTokenizerFile:
    def test_it_has_its_own_size_and_reads_no_text(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        tokenizer.save(tmp_path / "t.json")
        recipe = TokenizerFile(f"{tmp_path}/t.json")
        assert recipe.vocab_size_of(None) == recipe.vocab_size_of(290) == 290

        def texts():
            pytest.fail("the texts were read")
            yield ""

        assert recipe.make(texts(), 290).fingerprint == tokenizer.fingerprint
        with pytest.raises(ConfigError, match=r"data.vocab_size is 300, but .*t\.json has 290 tokens"):
            recipe.vocab_size_of(300)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
def test_forking_after_parallel_work_is_silent() -> None:
    script = """
import os
from xlab.data.tokenizers import ByteLevelBPE
tokenizer = ByteLevelBPE().make(iter(["some text to train on"] * 50), 265)
tokenizer.encode_batch(["some text"] * 500)
child = os.fork()
if child == 0:
    assert tokenizer.decode(tokenizer.encode_batch(["some text"] * 500)[0]) == "some text"
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr == ran.stdout == ""
