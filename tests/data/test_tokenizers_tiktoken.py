"""tiktoken's encodings, converted, give tiktoken's ids for every text, and its texts for every id."""

import lzma
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from xlab.data.tokenizers import TiktokenEncoding
from xlab.errors import ConfigError, DataError

tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is an extra: pip install tiktoken")

CACHE = ROOT.parent / "shared" / "tiktoken_cache"
# where patterns end tokens, and where engines read them differently
PARTS = [
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r", "\r\n", "\x0b", "\x85", "\xa0", "\u2028", "\u3000", "\u180e", "\x1c"),
    *("1", "12", "123", "1234567", "٣", "²", "½", "Ⅷ", "𝟘", "一"),
    *("'s", "'S", "'ſ", "'T", "'ll", "'LL", "'Ll", "'re", "'VE", "’s", "'", "''", "K", "ß", "ﬆ", "ŉ"),
    *("a", "A", "the", "The", "HTML", "camelCase", "é", "e\u0301", "\u0301", "ǅ", "ʰ", "ª", "あ", "한", "ي", "ा", "😀"),
    *("/", "//", "!", "!!\n", "(", ").", "_", "<|", "|>", "<|endoftext|>", "<|fim_prefix|>", "<|endofprompt|>"),
    *("\x00", "\ufffd", "\ufeff", "\u200d", "\U0010ffff", "\U000e0041", "\u0378"),
]
texts = st.text() | st.lists(st.sampled_from(PARTS) | st.text(max_size=2), max_size=16).map("".join)


class Both:
    """An encoding as tiktoken has it, and as XLab made it."""

    def __init__(self, name: str) -> None:
        recipe = TiktokenEncoding(name)
        self.theirs = tiktoken.get_encoding(name)
        self.ours = recipe.make(iter(()), recipe.vocab_size_of(None))
        assert len(self.ours) == recipe.vocab_size_of(None)
        self.lengths = self.ours.byte_lengths()


@pytest.fixture(scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """A copy of the files that tiktoken would fetch: it deletes what it takes for damaged."""
    if not CACHE.is_dir():
        pytest.skip(f"{CACHE} is not there: it holds what tiktoken would fetch")
    copy = tmp_path_factory.mktemp("tiktoken")
    for file in CACHE.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(copy))
        yield


@pytest.fixture(scope="module", params=["gpt2", "cl100k_base", "o200k_base"])
def both(request: pytest.FixtureRequest, _cache: None) -> Both:
    return Both(request.param)


@given(text=texts)
@settings(max_examples=100)
def test_ids_are_tiktokens(both: Both, text: str) -> None:
    ids = both.theirs.encode_ordinary(text)
    assert both.ours.encode(text) == ids
    assert both.ours.decode(ids) == text
    assert both.lengths[ids].sum() == len(text.encode())


@given(text=texts)
def test_special_tokens_are_tiktokens(both: Both, text: str) -> None:
    assert both.ours.encode_with_specials(text) == both.theirs.encode(text, allowed_special="all")


@pytest.mark.parametrize("frame", ["a{}b", " {}1", "'{}", "\n{}\n", "!{}{} !"])
def test_every_class_of_characters_is_cut_alike(both: Both, frame: str) -> None:
    codes = (
        code for code in [*range(0, 0x3000, 5), *range(0x3000, sys.maxunicode, 997)] if not 0xD800 <= code < 0xE000
    )
    framed = [frame.replace("{}", chr(code)) for code in codes]
    assert both.ours.encode_batch(framed) == both.theirs.encode_ordinary_batch(framed, num_threads=1)


def test_every_id_stands_for_the_same_bytes(both: Both) -> None:
    specials = both.theirs.special_tokens_set
    for token_id in range(0, both.theirs.n_vocab, 7):
        try:
            stands_for = both.theirs.decode_single_token_bytes(token_id)
        except KeyError:  # an id that the encoding leaves out
            stands_for = b""
        assert both.ours.token_bytes(token_id) == (
            b"" if stands_for.decode(errors="replace") in specials else stands_for
        )
    for special in specials:
        assert both.ours[special] == both.theirs.encode_single_token(special)


def test_the_end_of_text_is_the_end(both: Both) -> None:
    assert (both.ours.eos_token, both.ours.eos_id) == ("<|endoftext|>", both.theirs.eot_token)
    assert (both.ours.sos_id, both.ours.pad_id) == (both.theirs.n_vocab + 1, both.theirs.n_vocab)
    assert len(both.ours) == both.theirs.n_vocab + 2


def test_it_is_a_tokenizer_json_like_any_other(both: Both) -> None:
    bare = tokenizers.Tokenizer.from_str(both.ours.to_json())
    text = "The module's 12345 words<|endoftext|>\n\n  naïve"
    assert bare.encode(text).ids == both.theirs.encode(text, allowed_special="all")


def test_documents_have_tiktokens_ids_and_come_back(both: Both, shared_data: Path) -> None:
    for corpus in sorted(shared_data.glob("*.jsonl.xz")):
        with lzma.open(corpus, "rt", encoding="utf-8") as lines:
            text = lines.read(60_000)
        ids = both.theirs.encode_ordinary(text)
        assert both.ours.encode(text) == ids
        assert both.ours.decode(ids) == text


def test_names_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match="XLab has no encoding 'cl100k' of tiktoken's; did you mean 'cl100k_base'"):
        TiktokenEncoding("cl100k")
    with pytest.raises(ConfigError, match="there are gpt2, cl100k_base, o200k_base"):
        TiktokenEncoding("?")


@pytest.mark.usefixtures("_cache")
def test_another_size_than_it_has() -> None:
    with pytest.raises(
        ConfigError, match=r"data.vocab_size is 4096, but gpt2 has 50259 tokens; set data.vocab_size to null"
    ):
        TiktokenEncoding("gpt2").vocab_size_of(4096)


def test_without_tiktoken_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken_ext.openai_public", None)
    with pytest.raises(ConfigError, match="needs tiktoken, which is not installed: pip install tiktoken"):
        TiktokenEncoding("gpt2").read()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs tiktoken, which is not installed: pip install tiktoken"):
        TiktokenEncoding("gpt2").vocab_size_of(None)


def test_an_encoding_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))

    def unreachable(path: str) -> bytes:
        raise ConnectionError(f"no way to {path}")

    monkeypatch.setattr("tiktoken.load.read_file", unreachable)
    with pytest.raises(DataError, match=r"encoding gpt2 cannot be read: no way to .* that TIKTOKEN_CACHE_DIR names"):
        TiktokenEncoding("gpt2").read()
