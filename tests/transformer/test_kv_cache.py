"""The cache changes when a logit is computed, never what it is."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xlab.errors import ConfigError, GenerationError
from xlab.transformer import (
    ALiBi,
    Decoder,
    GroupedQueryAttention,
    KVCache,
    LearnedPosition,
    MultiQueryAttention,
    RotaryPosition,
    kv_cache,
)

EXACT = {"rtol": 0.0, "atol": 1e-10}


@torch.no_grad()
def in_chunks(decoder: Decoder, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    cache = decoder.make_cache(ids.size(0))
    return torch.cat([decoder(chunk, cache) for chunk in ids.split(sizes, dim=1)], dim=1)


both_ways = pytest.mark.parametrize("slack", [512, 4], ids=["windows in a whole cache", "in rings"], indirect=True)


@pytest.fixture(autouse=True)
def slack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Small enough that a layer with a window keeps no more than that, and its places come around again."""
    slack: int = getattr(request, "param", 4)
    monkeypatch.setattr(kv_cache, "SLACK", slack)
    return slack


@torch.no_grad()
def test_token_by_token_and_chunk_by_chunk_give_the_logits_of_one_pass(decoder: Decoder, ids: torch.Tensor) -> None:
    whole = decoder(ids)
    for sizes in ([1] * 12, [5, 4, 1, 2]):
        torch.testing.assert_close(in_chunks(decoder, ids, sizes), whole, **EXACT)


@torch.no_grad()
def test_rows_of_different_lengths_are_each_as_if_alone(decoder: Decoder, ids: torch.Tensor) -> None:
    lengths = [2, 6, 4]
    cache = decoder.make_cache(3, max_len=10)
    decoder(ids[:, :6], cache)  # what stands after each row's own tokens is padding
    cache.rewind(lengths)
    assert cache.lengths.tolist() == lengths
    following = [ids[:, 6:9], ids[:, 9:10]]  # a chunk, then a token
    ragged = torch.cat([decoder(chunk, cache) for chunk in following], dim=1)
    for row, length in enumerate(lengths):
        alone = torch.cat((ids[row, :length], *(chunk[row] for chunk in following))).unsqueeze(0)
        torch.testing.assert_close(ragged[row], decoder(alone)[0, length:], **EXACT)


WINDOWED = partial(GroupedQueryAttention, n_kv_heads=2, windows=[3, None, 1])


@pytest.fixture(
    scope="module",
    params=[
        (RotaryPosition, MultiQueryAttention),
        (LearnedPosition, MultiQueryAttention),
        (ALiBi, MultiQueryAttention),
        (RotaryPosition, WINDOWED),
        (ALiBi, WINDOWED),
        (RotaryPosition, partial(WINDOWED, cap=2.0, sinks=True)),
    ],
)
def small(request: pytest.FixtureRequest) -> Decoder:
    torch.manual_seed(0)
    position, attention = request.param
    sizes = {"vocab_size": 11, "max_len": 12, "d_model": 16, "n_layers": 3, "n_heads": 4, "d_ff": 16}
    return Decoder(**sizes, attention=attention, position=position).double()


@both_ways
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@torch.no_grad()
def test_any_sequence_of_appending_rewinding_and_reordering(small: Decoder, data: st.DataObject) -> None:
    rows: list[list[int]] = [[], []]
    cache = small.make_cache(2)
    for _ in range(data.draw(st.integers(1, 6))):
        action = data.draw(st.sampled_from(["append", "append", "rewind", "reorder"]))
        room = 12 - max(map(len, rows))
        if action == "append" and room:
            n = data.draw(st.integers(1, room))
            new = [data.draw(st.lists(st.integers(0, 10), min_size=n, max_size=n)) for _ in rows]
            rows = [row + more for row, more in zip(rows, new, strict=True)]
            logits = small(torch.tensor(new), cache)
            for row, cached in zip(rows, logits, strict=True):
                torch.testing.assert_close(cached, small(torch.tensor([row]))[0, -n:], **EXACT)
        elif action == "rewind":
            lengths = [data.draw(st.sampled_from([0, *range(max(len(row) - 4, 0), len(row) + 1)])) for row in rows]
            rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
            cache.rewind(torch.tensor(lengths))
        elif action == "reorder":
            order = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
            rows = [rows[i] for i in order]
            cache.reorder(torch.tensor(order))
        assert cache.lengths.tolist() == [len(row) for row in rows]


@torch.no_grad()
def test_what_a_row_never_wrote_cannot_reach_it(make_decoder, ids: torch.Tensor) -> None:
    decoder = make_decoder()
    cache = decoder.make_cache(3)
    decoder(ids[:, :4], cache)
    cache.rewind([1, 4, 2])
    for held in (*cache.keys, *cache.values):
        held[0, :, 1:] = 1e30
    logits = decoder(ids[:, 4:5], cache)
    alone = decoder(torch.cat((ids[:1, :1], ids[:1, 4:5]), dim=1))
    torch.testing.assert_close(logits[0, -1], alone[0, -1], **EXACT)


def test_memory_is_two_numbers_a_token_layer_head_and_width() -> None:
    cache = KVCache(3, 10, [(2, 4), (1, 8)], dtype=torch.bfloat16)
    assert cache.n_bytes == 2 * 2 * 3 * 10 * (2 * 4 + 1 * 8)
    assert KVCache(3, 10, [(2, 4), (1, 8)], dtype=torch.bfloat16, device="meta").n_bytes == cache.n_bytes


def test_reordering_as_many_rows_stays_in_place() -> None:
    cache = KVCache(2, 4, [(1, 2)])
    before = cache.keys[0].data_ptr()
    cache.reorder(torch.tensor([1, 1]))
    assert cache.keys[0].data_ptr() == before
    cache.reorder(torch.tensor([0, 1, 1]))
    assert cache.batch_size == 3


@torch.no_grad()
def test_a_full_cache_says_so_and_keeps_what_it_holds(make_decoder, ids: torch.Tensor) -> None:
    decoder = make_decoder()
    cache = decoder.make_cache(3, max_len=5)
    decoder(ids[:, :4], cache)
    with pytest.raises(GenerationError, match="a row holds 4 of 5 tokens, and 2 more do not fit"):
        decoder(ids[:, 4:6], cache)
    torch.testing.assert_close(decoder(ids[:, 4:5], cache), decoder(ids[:, :5])[:, 4:], **EXACT)


@torch.no_grad()
def test_refusals_name_the_numbers(make_decoder, ids: torch.Tensor) -> None:
    decoder = make_decoder()
    with pytest.raises(ConfigError, match="13 tokens is longer than the model's max_len, 12"):
        decoder.make_cache(1, max_len=13)
    with pytest.raises(ConfigError, match="0 × 12"):
        decoder.make_cache(0)
    cache = decoder.make_cache(3)
    decoder(ids[:, :4], cache)
    with pytest.raises(GenerationError, match="3 rows, the tokens have 1"):
        decoder(ids[:1], cache)
    for lengths in (5, -1, [4, 4], torch.tensor([1, 2, 5])):
        with pytest.raises(GenerationError, match="cannot be rewound"):
            cache.rewind(lengths)


@both_ways
@torch.no_grad()
def test_a_layer_with_a_window_takes_no_more_memory_than_that(make_decoder, ids: torch.Tensor, slack: int) -> None:
    decoder = make_decoder(attention=partial(GroupedQueryAttention, n_kv_heads=2, windows=[3, None]))
    cache = decoder.make_cache(3)
    kept = min(12, 3 + slack)
    assert [keys.size(2) for keys in cache.keys] == [kept, 12]
    assert cache.n_bytes == decoder.cache_bytes(3) == 3 * 2 * 2 * 6 * 8 * (kept + 12)
    torch.testing.assert_close(decoder(ids, cache), decoder(ids), **EXACT)
    if kept < 12:
        with pytest.raises(GenerationError, match="can be rewound by 4 tokens, not by 5"):
            cache.rewind(7)
    cache.rewind(0)
    torch.testing.assert_close(decoder(ids[:, :5], cache), decoder(ids[:, :5]), **EXACT)


@both_ways
@torch.no_grad()
def test_a_row_alone_and_copied_rows_go_on_in_their_rings(make_decoder, ids: torch.Tensor) -> None:
    decoder = make_decoder(attention=partial(GroupedQueryAttention, n_kv_heads=2, windows=[2, 3]))
    whole = decoder(ids)
    cache = decoder.make_cache(4)
    decoder(ids[:1, :9].expand(4, -1), cache)
    cache.rows(0, 3)
    cache.copy_rows([0], [2], length=9)
    view = cache.rows(2, 3)
    view.hold([9])
    stepwise = torch.cat([decoder(ids[:1, t : t + 1], view) for t in range(9, 12)], dim=1)
    torch.testing.assert_close(stepwise, whole[:1, 9:], **EXACT)
