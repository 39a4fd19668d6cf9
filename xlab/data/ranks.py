"""Which share of the data is a rank's: under tensor parallelism several ranks read the same."""

from typing import Any


def data_ranks(trainer: Any) -> tuple[int, int]:
    """Give which share of each batch a Lightning trainer's process reads, from 0, and how many shares there are."""
    own: tuple[int, int] | None = getattr(getattr(trainer, "strategy", None), "data_ranks", None)
    return (trainer.global_rank, trainer.world_size) if own is None else own
