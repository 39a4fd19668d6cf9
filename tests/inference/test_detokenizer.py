"""Pieces joined are the whole text, wherever it is cut."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from xlab.data.tokenizers import Tokenizer
from xlab.inference import BeamSettings, Engine, Request
from xlab.inference.detokenizer import Detokenizer, StopStrings, whole


def byte_level() -> Tokenizer:
    from tokenizers import pre_tokenizers

    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocabulary, []))
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


TOKENIZER = byte_level()
TOKEN_OF = {TOKENIZER.token_bytes(i): i for i in range(256)}


def pieces_of(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [detokenizer.add(token) for token in ids]


def bytes_of(data: bytes) -> list[int]:
    return [TOKEN_OF[bytes([byte])] for byte in data]


halves = st.sampled_from([b"\xff", b"\x82", b"\xe2", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0", "é€😀".encode(), b" "])


@given(
    st.binary(max_size=40)
    | st.text(max_size=12).map(str.encode)
    | st.text("é€😀�a", max_size=9).map(str.encode)
    | st.lists(halves, max_size=60).map(b"".join)
)
def test_pieces_of_random_bytes_joined_are_the_whole(data: bytes) -> None:
    text = TOKENIZER.decode(bytes_of(data))
    assert text == data.decode(errors="replace")
    assert "".join(pieces_of(Detokenizer(TOKENIZER.decode), bytes_of(data))) == whole(text)
    # with anything behind it, no byte is lost
    data += b"."
    assert "".join(pieces_of(Detokenizer(TOKENIZER.decode), bytes_of(data))) == data.decode(errors="replace")


@given(st.text(max_size=12), st.integers(1, 3))
def test_a_character_that_is_only_begun_is_left_out(text: str, n_bytes: int) -> None:
    begun = bytes_of(text.encode() + "😀".encode()[:n_bytes])
    assert "".join(pieces_of(Detokenizer(TOKENIZER.decode), begun)) == whole(text)


@pytest.mark.parametrize("unit", [b"\xff", b"\xe2\x82", b"\xe2", b"\xf0\x9f\x98", "�".encode(), "�😀".encode()[:6]])
def test_endless_bytes_that_are_no_characters_take_no_more_work_each(unit: bytes) -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return TOKENIZER.decode(ids)

    data = unit * (600 // len(unit))
    assert "".join(pieces_of(Detokenizer(decode), bytes_of(data))) == whole(data.decode(errors="replace"))
    assert longest <= 64


def test_a_length_that_ends_within_a_character_ends_the_text_before_it() -> None:
    cycle = "a€b😀".encode()  # the model says it over and over
    after = torch.full((len(TOKENIZER), len(TOKENIZER)), -9.0)

    def model(ids: torch.Tensor) -> torch.Tensor:
        place = (ids.cumsum(-1) * 0 + torch.arange(ids.size(1))) % len(cycle)
        return after[ids].scatter(-1, torch.tensor(bytes_of(cycle))[place].unsqueeze(-1), 9.0)

    engine = Engine(model, TOKENIZER, max_len=99, max_rows=2)
    for length in range(1, 25):
        said = (cycle * 3)[:length]
        for settings in ({"temperature": 0}, {"beams": BeamSettings(2)}):
            request = Request([0], max_new_tokens=length, **settings)  # type: ignore[arg-type]
            (result,) = engine.generate([request])
            assert list(result.tokens) == bytes_of(said)
            assert result.text == said.decode(errors="ignore")
            if not request.beams:
                assert "".join(piece.text for piece in engine.stream(request)) == result.text


@given(st.text(max_size=12))
def test_half_a_character_is_never_given(text: str) -> None:
    ids = [TOKEN_OF[bytes([byte])] for byte in text.encode()]
    given_so_far = ""
    for piece in pieces_of(Detokenizer(TOKENIZER.decode), ids):
        given_so_far += piece
        assert text.startswith(given_so_far)
    assert given_so_far == whole(text)


def test_a_whole_character_is_given_at_once() -> None:
    ids = [TOKEN_OF[bytes([byte])] for byte in "a€b".encode()]
    assert pieces_of(Detokenizer(TOKENIZER.decode), ids) == ["a", "", "", "€", "b"]


def test_special_tokens_say_nothing() -> None:
    ids = [TOKENIZER.sos_id, TOKEN_OF[b"a"], TOKENIZER.eos_id, TOKEN_OF[b"b"]]
    assert pieces_of(Detokenizer(TOKENIZER.decode), ids) == ["", "a", "", "b"]


def test_a_decoder_that_drops_the_first_space_keeps_the_others() -> None:
    words = ["▁the", "▁cat", "s", "<0xE2>", "<0x82>", "<0xAC>", "▁sat"]
    backend = Backend(models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for ids in itertools.product(range(3), repeat=3):
        whole = [*ids, 3, 4, 5, 6, *ids]
        assert "".join(pieces_of(Detokenizer(backend.decode), whole)) == backend.decode(whole)


def cut(text: str, stops: list[str]) -> str:
    """Before the stop string that is complete first; of those that are at once, before the longest."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


@given(st.data())
def test_a_stop_string_is_found_under_every_split(data: st.DataObject) -> None:
    text = data.draw(st.text("ab", max_size=9))
    stops = data.draw(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
    for n_cuts in (0, 1, 2, len(text)):
        places = itertools.combinations(range(len(text) + 1), n_cuts) if n_cuts < 3 else [tuple(range(len(text)))]
        for borders in places:
            search, given_text = StopStrings(stops), ""
            for start, end in itertools.pairwise((0, *borders, len(text))):
                given_text += search.add(text[start:end])
                assert cut(text, stops).startswith(given_text)
                if search.found:
                    break
            assert given_text + search.flush() == cut(text, stops)
            assert (search.found is not None) == any(stop in text for stop in stops)


@pytest.mark.parametrize(("stop", "pieces"), [("end", ["xe", "n", "x"]), ("aab", ["aaa", "a"])])
def test_what_cannot_begin_a_stop_string_is_not_held(stop: str, pieces: list[str]) -> None:
    search = StopStrings([stop])
    given_text = "".join(search.add(piece) for piece in pieces)
    assert given_text == {"end": "xenx", "aab": "aa"}[stop]
