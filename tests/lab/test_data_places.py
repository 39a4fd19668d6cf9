"""Places of first occurrence are what a dictionary would remember."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from xlab.lab.data_places import FirstPlaces, Place


@given(st.lists(st.tuples(st.sampled_from(["train", "val"]), st.integers(0, 40)), max_size=200))
def test_first_places_are_a_dictionarys(seen: list[tuple[str, int]]) -> None:
    places, expected = FirstPlaces(n_slots=2), {}
    for number, (split, text) in enumerate(seen):
        digest = hashlib.blake2b(bytes([text]), digest_size=16).digest()
        place = Place(split, number)
        assert places.first(digest, place) == expected.setdefault(digest, place)
