"""Vocabularies that are trained lose nothing, whatever cuts the text, and keep apart what is to be kept apart."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from xlab.data.text_pieces import pieces
from xlab.data.tokenizers import ByteFallbackBPE, ByteLevelBPE, Tokenizer, TokenizerRecipe
from xlab.errors import ConfigError, DataError
from xlab.inference.detokenizer import Detokenizer

CORPUS = [
    "The cat sat on the mat in 1984, and the dog's dinner isn't here.\r\n\r\n",
    "naïve café, naïve café: 20 and 345 and 67890 😀😀\n  the end\t\n",
    "HTMLParser<|eos|> <|eos|>x <|pad|>y <0x41> <0x41><0xE9> ▁the ▁cat\n",
] * 20 + [Path(__file__).read_text(encoding="utf-8")] * 2
OWN = r"\S+|\s+"  # keeps together what no named pattern does
RECIPES: dict[str, TokenizerRecipe] = {
    "bytes": ByteLevelBPE(),
    "bytes, cl100k": ByteLevelBPE(pattern="cl100k"),
    "bytes, o200k, digits": ByteLevelBPE(pattern="o200k", digits=1),
    "bytes, own": ByteLevelBPE(pattern=OWN, digits=2),
    "characters": ByteFallbackBPE(),
    "characters, few": ByteFallbackBPE(character_coverage=0.8, pattern="cl100k"),
    "characters, own": ByteFallbackBPE(pattern=OWN),
}
PARTS = [
    *("<0x41>", "<0xe9>", "<0x", "41>", "<|eos|>", "<|", "|>", "▁", " ", "  ", "\n", "\r\n", "\t", "\x00", "\x85"),
    *(
        "\u2028",
        "é",
        "e\u0301",
        "😀",
        "👩\u200d👩",
        "\ufffd",
        "'s",
        "'S",
        "ſ",
        "12",
        "٣",
        "Ⅷ",
        "the",
        "Cat",
        "ß",
        "\U0010ffff",
    ),
]
ODD = st.sampled_from(PARTS)
texts = st.text() | st.lists(ODD | st.text(max_size=3), max_size=12).map("".join)


@pytest.fixture(scope="module", params=RECIPES, ids=str)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return trained(RECIPES[request.param])


def trained(recipe: TokenizerRecipe, size: int = 420) -> Tokenizer:
    return recipe.make(iter(CORPUS), size)


@given(text=texts)
def test_text_comes_back_and_its_bytes_are_counted(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=False) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert not {tokenizer.sos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)


@given(text=texts)
def test_a_copy_and_the_bare_library_give_the_same_ids(tokenizer: Tokenizer, text: str) -> None:
    copy, bare = Tokenizer.from_json(tokenizer.to_json()), tokenizers.Tokenizer.from_str(tokenizer.to_json())
    bare.encode_special_tokens = True
    assert copy.encode(text) == tokenizer.encode(text) == bare.encode(text).ids
    assert bare.decode(bare.encode(text).ids) == text


@given(text=texts | st.lists(st.binary(max_size=3)).map(lambda parts: b"".join(parts).decode(errors="replace")))
def test_a_stream_joins_to_the_whole(tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(tokenizer.decode)
    streamed = "".join(map(detokenizer.add, tokenizer.encode(text)))
    # what looks like half a character is held back at the end
    assert text.startswith(streamed)
    assert text.removeprefix(streamed).strip("\ufffd") == ""


@given(text=texts, least=st.integers(1, 10))
def test_pieces_of_a_text_have_its_tokens(tokenizer: Tokenizer, text: str, least: int) -> None:
    text = text.replace("\n/", "\n")  # o200k keeps these together
    ids = [token for piece in pieces(text, least=least, most=10_000) for token in tokenizer.encode(piece)]
    assert ids == tokenizer.encode(text)


@pytest.mark.parametrize("name", ["bytes, cl100k", "characters"])
def test_long_texts_are_cut(name: str) -> None:
    tokenizer = trained(RECIPES[name])
    text = "The cat sat on the mat in 1984.\n" * 2100
    cut = list(tokenizer.pieces(text))
    assert len(cut) == 2
    assert [token for piece in cut for token in tokenizer.encode(piece)] == tokenizer.encode(text)


def test_every_token_has_an_id_of_its_own_and_training_repeats_itself(tokenizer: Tokenizer, request) -> None:
    assert len(tokenizer) == 420
    assert [tokenizer.pad_id, tokenizer.sos_id, tokenizer.eos_id] == [0, 1, 2]
    assert sum(not stands_for for stands_for in map(tokenizer.token_bytes, range(420))) == 3
    recipe = RECIPES[request.node.callspec.params["tokenizer"]]
    assert trained(recipe).fingerprint == tokenizer.fingerprint


class TestSettings:
    def test_the_default_is_what_the_library_trains(self) -> None:
        bare = tokenizers.Tokenizer(models.BPE())
        bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = ["<|pad|>", "<|sos|>", "<|eos|>"]
        trainer = trainers.BpeTrainer(
            vocab_size=400, min_frequency=2, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        bare.train_from_iterator(CORPUS, trainer)
        assert trained(ByteLevelBPE(), 400).to_json() == bare.to_str()

    @pytest.mark.parametrize("kind", [ByteLevelBPE, ByteFallbackBPE])
    @pytest.mark.parametrize("digits", [1, 2, 3])
    def test_digits_stay_together_as_far_as_asked(self, kind: type[TokenizerRecipe], digits: int) -> None:
        tokenizer = trained(kind(digits=digits, pattern="gpt2"), 480)
        numbers = [token for token in map(tokenizer.token_bytes, range(480)) if re.search(rb"\d", token)]
        assert max(map(len, numbers)) == min(digits, 2 if kind is ByteFallbackBPE else 3)
        split = [tokenizer.decode([token]) for token in tokenizer.encode("in 67890")]
        assert split[-1] != "67890"
        assert all(len(piece) <= digits for piece in split if piece.isdigit())

    @pytest.mark.parametrize("kind", [ByteLevelBPE, ByteFallbackBPE])
    def test_no_token_reaches_over_a_cut(self, kind: type[TokenizerRecipe]) -> None:
        tokenizer = trained(kind(pattern="[aeiou]"), 350)
        tokens = [tokenizer.token_bytes(token) for token in range(350)]
        assert [token for token in tokens if len(token) > 1 and re.search(b"[aeiou]", token)] == []

    def test_a_pattern_of_ones_own_keeps_special_tokens_text(self) -> None:
        for kind in (ByteLevelBPE, ByteFallbackBPE):
            tokenizer = trained(kind(pattern=OWN), 500)
            for text in ("<|eos|>", "<|pad|>y", "<0x41><0xE9>"):
                assert min(tokenizer.encode(text)) > 2
                assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_a_pair_must_be_frequent_enough(self) -> None:
        for kind in (ByteLevelBPE, ByteFallbackBPE):
            with pytest.raises(DataError, match=r"give a vocabulary of 2\d\d tokens, not 300"):
                kind(min_frequency=3).make(iter(["abcd abcd"]), 300)

    def test_the_commonest_characters_get_tokens(self) -> None:
        corpus = ["aaaaaaaa" * 10 + "bbbb" * 10 + "cé"] * 5
        for coverage, own in ((0.5, "a"), (0.99, "abc"), (1.0, "abcé"), (0.0, "")):
            tokenizer = ByteFallbackBPE(character_coverage=coverage).make(iter(corpus), 259 + len(own))
            for character in "abcé":
                assert len(tokenizer.encode(character)) == (1 if character in own else len(character.encode()))

    def test_more_characters_than_the_vocabulary_holds(self) -> None:
        tokenizer = ByteFallbackBPE(character_coverage=1).make(iter(["".join(map(chr, range(0x4E00, 0x5000)))]), 300)
        assert len(tokenizer) == 300

    def test_the_corpus_is_read_once_and_to_its_end(self) -> None:
        read = []

        def corpus():
            for text in CORPUS:
                read.append(text)
                yield text

        ByteFallbackBPE().make(corpus(), 300)
        assert read == CORPUS

    @pytest.mark.parametrize("kind", [ByteLevelBPE, ByteFallbackBPE])
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"min_frequency": 0}, "min_frequency must be at least 1, got 0"),
            ({"digits": 0}, "digits must be at least 1, got 0"),
            ({"pattern": "gtp2"}, "no pattern 'gtp2'; did you mean 'gpt2'"),
            ({"pattern": ""}, "no pattern ''; there are gpt2, cl100k, o200k"),
            ({"pattern": "(?<a"}, "pattern is no regular expression of Oniguruma"),
        ],
    )
    def test_settings_that_cannot_be(self, kind: type[TokenizerRecipe], settings: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(message)):
            kind(**settings)

    def test_a_coverage_that_cannot_be(self) -> None:
        with pytest.raises(ConfigError, match="character_coverage must be from 0 to 1, got 95"):
            ByteFallbackBPE(character_coverage=95)
        with pytest.raises(ConfigError, match=r"ByteFallbackBPE is trained to a size: set data.vocab_size"):
            ByteFallbackBPE().vocab_size_of(None)

    def test_what_decides_the_tokenizer_decides_its_identity(self) -> None:
        recipes = [
            kind(**settings)
            for kind in (ByteLevelBPE, ByteFallbackBPE)
            for settings in ({}, {"min_frequency": 3}, {"pattern": "o200k"}, {"digits": 1}, {"digits": 3})
        ] + [ByteFallbackBPE(character_coverage=0.5)]
        assert len({recipe.identity() for recipe in recipes}) == len(recipes)


def test_bytes_stand_behind_the_special_tokens() -> None:
    model = json.loads(trained(ByteFallbackBPE()).to_json())["model"]
    assert [model["vocab"][f"<0x{byte:02X}>"] for byte in range(256)] == list(range(3, 259))
    assert model["byte_fallback"]


@pytest.mark.parametrize("recipe", [ByteLevelBPE, ByteFallbackBPE])
def test_training_reads_no_more_than_it_is_told(recipe: type[ByteLevelBPE | ByteFallbackBPE]) -> None:
    read: list[int] = []

    def texts() -> Iterator[str]:
        for i in range(100):
            read.append(i)
            yield f"some {i % 10} text " * 10  # 120 characters

    part, whole = (recipe(max_characters=n).make(texts(), 262) for n in (1200, 1_000_000))
    assert read == [*range(10), *range(100)]
    assert part.fingerprint == recipe().make((f"some {i} text " * 10 for i in range(10)), 262).fingerprint
    assert recipe(max_characters=1200).identity() != recipe().identity()
    with pytest.raises(ConfigError, match="max_characters must be at least 1, got 0"):
        recipe(max_characters=0)
    assert whole.decode(whole.encode("text")) == "text"
