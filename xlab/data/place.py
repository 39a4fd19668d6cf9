"""The place in an epoch's order that a checkpoint is taken at, for runs of any ranks, batches and accumulation.

A state is plain data: ``epoch``; ``place``, the windows of it that all ranks together have seen; ``windows_per_batch``,
those of a micro-batch on all ranks; ``n_windows``, those of the split; and the order's ``seed``.
"""

from fractions import Fraction

from xlab.errors import DataError

State = dict[str, int]


def batches_until(state: State, batch_size: int, world_size: int) -> int:
    """Return a run's micro-batches of the epoch until a state's place.

    Args:
        state: of the checkpoint; of one from before world sizes were told, ``epoch`` and ``batch``.
        batch_size: windows of this run's micro-batch on a rank.
        world_size: this run's ranks.

    Raises:
        DataError: when the place is amid a micro-batch.
    """
    if "place" not in state:
        return state["batch"]
    batches, rest = divmod(state["place"], batch_size * world_size)
    if rest:
        raise DataError(
            f"The checkpoint was taken {state['place']} windows into its epoch, in the middle of a micro-batch of "
            f"this run, of {batch_size} on each of {world_size} ranks. Set data.batch_size so that the ranks together "
            f"take {state['windows_per_batch']} at once as before, or a divisor of that, and accumulate the more."
        )
    return batches


def refuse_another_order(state: State, n_windows: int, seed: int) -> None:
    """Raise a DataError when a state's order was of another seed, or over another number of windows."""
    if state.get("seed", seed) != seed:
        raise DataError(
            f"The checkpoint's run had data.seed {state['seed']}, this one has {seed}: its order cannot go on. Leave "
            "data.seed as it was, or start a new run from the weights with --model.init_from."
        )
    if state.get("n_windows", n_windows) != n_windows:
        raise DataError(
            f"The checkpoint's run had {state['n_windows']} windows, these data make {n_windows}: its order cannot go "
            "on. Keep data.packing as it was, or start a new run from the weights with --model.init_from."
        )


def count_anew(counts: dict[str, int], state: State, windows_per_batch: int) -> None:
    """Turn Lightning's counts of micro-batches, in place, into those of a run with ``windows_per_batch``."""
    ready = int(counts["ready"] * Fraction(state["windows_per_batch"], windows_per_batch))
    # one that is being worked on is not counted everywhere yet
    counts.update({name: ready - (counts["ready"] - number) for name, number in counts.items()})
