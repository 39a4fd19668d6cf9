"""How many parameters a model has, and where: counted by what they belong to."""

from collections.abc import Iterable

PARTS = ("embedding", "positions", "attention", "feed-forward", "norms", "values", "output", "other")
_FIRST = {"embedding": "embedding", "position": "positions", "value_mix": "values", "output": "output"}


def by_part(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sum parameters up by what they belong to.

    Args:
        sizes: a parameter's name in the decoder's state, and how many numbers it has.

    Returns:
        All of ``PARTS``, in their order; ``other`` is what a block has of its own, such as learned scales.
    """
    counts = dict.fromkeys(PARTS, 0)
    for name, n_numbers in sizes:
        counts[part_of(name)] += n_numbers
    return counts


def part_of(name: str) -> str:
    """Tell which of ``PARTS`` a parameter belongs to by its name."""
    first, *inner = name.split(".")
    own = inner[1] if first == "blocks" and len(inner) > 1 else first
    if own.endswith("norm"):
        return "norms"
    if first == "blocks":
        return {"attention": "attention", "feed_forward": "feed-forward"}.get(own, "other")
    return _FIRST.get(first, "other")
