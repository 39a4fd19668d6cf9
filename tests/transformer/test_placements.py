"""Where tokens stand in a ring, and what keys hand on; test_kv_cache.py sees placements at work."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from xlab.transformer.placements import hand_on, in_sight, put


@given(window=st.integers(1, 5), slack=st.integers(1, 4), held=st.integers(0, 20), n_tokens=st.integers(1, 4))
def test_a_ring_shows_the_tokens_of_the_window_wherever_they_stand(
    window: int, slack: int, held: int, n_tokens: int
) -> None:
    n_tokens = min(n_tokens, slack)
    n_places, end = window + slack, held + n_tokens
    slots: dict[int, int] = {}
    for token in range(end):  # the later takes the earlier one's place
        slots[token % n_places] = token
    queries = torch.arange(held, end)
    found = in_sight(queries, end, min(end, n_places), window=window, n_places=n_places)
    for query, row in zip(queries.tolist(), found, strict=True):
        seen = {slots[slot] for slot, is_seen in enumerate(row.tolist()) if is_seen}
        assert seen == set(range(max(0, query - window + 1), query + 1))


def test_rows_end_where_each_of_them_does() -> None:
    queries, ends = torch.tensor([[9], [3]]), torch.tensor([[10], [4]])
    found = in_sight(queries, ends, 5, window=2, n_places=5)
    alone = [in_sight(query, int(end), 5, window=2, n_places=5) for query, end in zip(queries, ends, strict=True)]
    torch.testing.assert_close(found, torch.stack(alone))


def test_the_first_key_of_each_text_is_handed_nothing() -> None:
    keys = torch.arange(1.0, 13.0).view(1, 1, 4, 3)
    one_text = hand_on(keys, 1, torch.arange(4))
    assert one_text[0, 0].tolist() == [[1, 2, 0], [4, 5, 3], [7, 8, 6], [10, 11, 9]]
    two_texts = hand_on(keys, 1, torch.tensor([[0, 1, 0, 1]]))
    assert two_texts[0, 0, :, -1].tolist() == [0, 3, 0, 9]


def test_what_is_put_is_handed_on_one_place_ahead() -> None:
    keys = torch.arange(1.0, 13.0).view(1, 1, 4, 3)
    held = torch.zeros(1, 1, 5, 3)
    everything = slice(None)
    put(held, keys, 1, (everything, everything, slice(0, 4)), (everything, everything, slice(1, 5)))
    torch.testing.assert_close(held[:, :, :4], hand_on(keys, 1, torch.arange(4)))
    assert held[0, 0, 4].tolist() == [0, 0, 12]
