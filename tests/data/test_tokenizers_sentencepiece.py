"""A tokenizer.model read without SentencePiece gives SentencePiece's ids."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlab.data.tokenizers import HubTokenizer, SentencePieceModel, Tokenizer
from xlab.errors import ConfigError, DataError
from xlab.inference.detokenizer import Detokenizer

sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is in requirements-dev.txt")

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "banana",
    "ananas",
    "naïve",
    "aaaa",
    "  ",
    "    ",
    "\t",
    "12",
    "2024",
    "。",
]
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
PLAIN |= {"model_type": "bpe", "vocab_size": 420, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1}
ODD = st.sampled_from(
    [*WORDS, " ", "é", "😀", "\n", "▁", "<s>", "</s>", "<unk>", "<0x41>", "a", "b", "n", "\u3000", "\x00"]
)
texts = st.text() | st.lists(ODD | st.text(max_size=3), max_size=14).map("".join)


def train(folder: Path, **changes: Any) -> Path:
    draw = random.Random(0)
    sentences = (" ".join(draw.choices(WORDS, k=8)) for _ in range(500))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=model, **{**PLAIN, **changes})
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


class Both:
    """A model as SentencePiece has it, and as XLab read it."""

    def __init__(self, path: Path) -> None:
        self.theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.ours = made(SentencePieceModel(str(path)))


def made(recipe: SentencePieceModel | HubTokenizer) -> Tokenizer:
    return recipe.make(iter(()), recipe.vocab_size_of(None))


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"add_dummy_prefix": False, "split_by_whitespace": False},
        {"split_digits": True, "allow_whitespace_only_pieces": True, "pad_id": 3, "pad_piece": "<padding>"},
    ],
    ids=["plain", "no prefix", "like Llama"],
)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(train(tmp_path_factory.mktemp("sentencepiece"), **request.param))


@given(text=texts)
@settings(max_examples=200)
def test_ids_are_sentencepieces(both: Both, text: str) -> None:
    ids = both.theirs.encode(text)
    assert both.ours.encode(text) == ids
    assert both.ours.decode(ids) == text.replace("▁", " ")


@given(text=texts)
def test_a_stream_joins_to_the_whole(both: Both, text: str) -> None:
    ids = both.ours.encode(text)
    detokenizer = Detokenizer(both.ours.decode)
    streamed, whole = "".join(map(detokenizer.add, ids)), both.ours.decode(ids)
    assert whole.startswith(streamed)
    assert whole.removeprefix(streamed).strip("\ufffd") == ""


def test_a_long_text_is_encoded_as_one(both: Both) -> None:
    text = "the cat\nsat on\n" * 6000
    ids = [token for piece in both.ours.pieces(text) for token in both.ours.encode(piece)]
    assert both.ours.decode(ids) == text


def test_every_piece_stands_for_its_bytes(both: Both) -> None:
    for token in range(both.theirs.vocab_size()):
        piece = both.theirs.id_to_piece(token)
        if both.theirs.is_control(token) or both.theirs.is_unknown(token):
            stands_for = b""
        elif both.theirs.is_byte(token):
            stands_for = bytes.fromhex(piece[3:5])
        else:
            stands_for = piece.replace("▁", " ").encode()
        assert both.ours.token_bytes(token) == stands_for


def test_its_own_start_and_end_are_ours(both: Both) -> None:
    assert (both.ours.sos_id, both.ours.eos_id) == (both.theirs.bos_id(), both.theirs.eos_id())
    has_padding = both.theirs.pad_id() >= 0
    assert both.ours.pad_id == (both.theirs.pad_id() if has_padding else both.theirs.vocab_size())
    assert both.ours.pad_token == ("<padding>" if has_padding else "<|pad|>")
    assert Tokenizer.from_json(both.ours.to_json()).pad_token == both.ours.pad_token


def test_a_folder_with_nothing_else(tmp_path: Path) -> None:
    path = train(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "</s>", "eos_token": "<s>"}')
    ours = made(HubTokenizer(str(tmp_path)))
    assert (ours.sos_token, ours.eos_token) == ("<s>", "</s>")  # the model's own word
    assert ours.fingerprint == made(SentencePieceModel(str(path))).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "unigram"}, "is not a BPE model, but of another kind"),
        ({"byte_fallback": False}, "has no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes text before it encodes it"),
        ({"remove_extra_whitespaces": True}, "changes text before it encodes it"),
        ({"treat_whitespace_as_suffix": True}, "writes spaces in another way"),
        ({"user_defined_symbols": "<mine>"}, "has pieces that a user defined"),
    ],
)
def test_models_that_would_lose_text_or_have_other_ids(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = train(tmp_path, **changes)
    with pytest.raises(DataError, match=rf"tokenizer.model {message}.*Read the tokenizer.json of its model"):
        SentencePieceModel(str(path)).vocab_size_of(None)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    path = train(tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"{}", b"\xff" * 40, whole[:-3], whole[:1000], whole[:5]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"tokenizer.model is no whole tokenizer.model of SentencePiece's"):
            SentencePieceModel(str(path)).vocab_size_of(None)
    path.unlink()
    with pytest.raises(DataError, match=r"tokenizer.model cannot be read: No such file"):
        SentencePieceModel(str(path)).vocab_size_of(None)
    with pytest.raises(ConfigError, match="SentencePieceModel's path is empty"):
        SentencePieceModel("")
