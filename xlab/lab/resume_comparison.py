"""The first thing in which an interrupted run is not the uninterrupted one."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlab.lab.resume_runs import Attempt, Record
from xlab.sharded_checkpoints import is_sharded, read

# of a weight's norm: Adam's first steps make a whole step of a gradient that is rounding, and Muon reckons in bf16.
# A step that is lost, or made twice, moves a matrix by some eight hundredths
WEIGHTS_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Difference:
    """Something that is not what it was in the uninterrupted run.

    Args:
        where: the step, micro-batch and rank, or the end.
        what: what differs.
        expected: its value in the uninterrupted run.
        found: its value in the interrupted one.
    """

    where: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.found}, without the interruption {self.expected}"


def first_difference(whole: Attempt, attempt: Attempt, *, tolerance: float | None = None) -> Difference | None:
    """Compare all that an attempt recorded with the uninterrupted run, in the order of the run.

    Args:
        whole: the uninterrupted run.
        attempt: a part of the interrupted one.
        tolerance: relative, of losses, for an attempt that rounds in another order: then the windows of each optimiser
            step are compared as a set. None: the world size has never changed, and every bit counts.
    """
    found = _exactly(whole, attempt) if tolerance is None else _to_rounding(whole, attempt, tolerance)
    return next(found, None)


def gap(before: Attempt | None, attempt: Attempt) -> Difference | None:
    """Tell when an attempt begins behind the step that the one before it was killed in."""
    done = max((record["step"] for record in before.of("step")), default=0) if before else 0
    if before is not None:  # which itself may have been killed in the step that it was resumed in
        done = max(done, min((record["step"] for record in before.of("batch")), default=0))
    begun = min((record["step"] for record in attempt.of("batch")), default=0)
    return None if begun <= done else Difference(f"step {begun + 1}", "steps done", f"at most {done}", str(begun))


def missing_end(whole: Attempt, attempts: Sequence[Attempt]) -> Difference | None:
    """Tell when the attempts together do not come as far as the uninterrupted run."""
    expected = max((record["step"] for record in whole.of("step")), default=0)
    found = max((record["step"] for attempt in attempts for record in attempt.of("step")), default=0)
    return None if expected == found else Difference("the end", "last step", str(expected), str(found))


def checkpoint_difference(expected: Path, found: Path, *, tolerance: float | None = None) -> Difference | None:
    """Compare two checkpoints: weights, optimiser and schedule; to rounding, the weights alone.

    Args:
        expected: of the uninterrupted run.
        found: of the interrupted one.
        tolerance: relative to each weight's norm; None: bit for bit.
    """
    sections = ("state_dict", "optimizer_states", "lr_schedulers") if tolerance is None else ("state_dict",)
    names = {"state_dict": "weights", "optimizer_states": "optimiser", "lr_schedulers": "schedule"}
    loaded = [_read(path) for path in (expected, found)]
    for section in sections:
        one, other = (dict(_leaves(content.get(section, {}))) for content in loaded)
        for name in sorted(one.keys() | other.keys()):
            values = (one.get(name), other.get(name))
            if not _same(*values, tolerance):
                shown = (_shown(value, values) for value in values)
                return Difference("the end", f"{names[section]} {name}", *shown)
    return None


def _read(path: Path) -> dict[str, Any]:
    if is_sharded(path):
        return read(path, with_optimizer=True)
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _exactly(whole: Attempt, attempt: Attempt) -> Iterator[Difference]:
    known = {_key(record): record for record in whole.records}
    for record in attempt.records:
        if record["kind"] not in ("batch", "loss", "step", "validated"):
            continue
        expected = known.get(_key(record))
        if expected is None:
            if record["kind"] != "validated":  # a checkpoint's validation may be finished once more
                yield Difference(_where(record, whole), record["kind"], "nothing", "there")
            continue
        for what, value in _compared(record).items():
            before = _compared(expected).get(what)
            if value != before:
                yield Difference(_where(record, whole), what, _readable(before), _readable(value))


def _to_rounding(whole: Attempt, attempt: Attempt, tolerance: float) -> Iterator[Difference]:
    expected_rows, found_rows = _rows_by_step(whole), _rows_by_step(attempt)
    expected_losses, found_losses = _losses_by_step(whole), _losses_by_step(attempt)
    for step, found in sorted(found_losses.items()):
        expected_step, found_step = expected_rows.get(step, Counter()), found_rows[step]
        if found_step != expected_step and (step > min(found_rows) or _from_its_start(attempt, step)):
            lost, strange = _listed(expected_step - found_step), _listed(found_step - expected_step)
            yield Difference(f"step {step}", "windows that are in one run only", lost, strange)
        expected = expected_losses.get(step, math.nan)
        if not math.isclose(expected, found, rel_tol=tolerance):
            yield Difference(f"step {step}", f"loss (to {tolerance:g})", f"{expected:.9g}", f"{found:.9g}")


def _from_its_start(attempt: Attempt, step: int) -> bool:
    """Whether an attempt saw the first micro-batch of a step: a step may be resumed in its middle."""
    micro_batches = {record["n"] for record in attempt.of("batch") if record["step"] == step - 1}
    accumulate = next((record["accumulate"] for record in attempt.of("start")), 1)
    return len(micro_batches) >= accumulate


def _rows_by_step(attempt: Attempt) -> dict[int, Counter[str]]:
    rows: dict[int, Counter[str]] = {}
    for record in attempt.of("batch"):
        rows.setdefault(record["step"] + 1, Counter()).update(record["rows"])
    return rows


def _losses_by_step(attempt: Attempt) -> dict[int, float]:
    # the loss is that of all ranks: each has the same
    return {record["step"]: float.fromhex(record["loss"]) for record in attempt.of("step") if record["rank"] == 0}


def _key(record: Record) -> tuple[Any, ...]:
    return record["kind"], record["rank"], record["n"]


def _compared(record: Record) -> dict[str, Any]:
    if record["kind"] == "batch":
        return {"optimiser steps before it": record["step"], **record["tensors"]}
    if record["kind"] == "step":
        names = {"step": "step", "loss": "loss of the step", "rate": "learning rate"}
        return {name: record[key] for key, name in names.items()}
    return {"loss": record["value"]} if record["kind"] == "loss" else {"validation loss": record["loss"]}


def _where(record: Record, whole: Attempt) -> str:
    """Name the place of a record: its micro-batch, and the step that this belongs to in the uninterrupted run."""
    step = next((other["step"] for other in whole.of("batch") if other["n"] == record["n"]), None)
    of_step = f"step {step + 1}, " if step is not None else ""
    rank = f", rank {record['rank']}" if whole.world_size > 1 else ""
    return f"{of_step}micro-batch {record['n'] + 1} of the run{rank}"


def _readable(value: Any) -> str:
    if isinstance(value, str) and value.startswith(("0x", "-0x")):
        return f"{float.fromhex(value)!r}"
    return "nothing" if value is None else str(value)


def _listed(rows: Counter[str]) -> str:
    names = sorted(rows.elements())
    return f"{len(names)} ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})"


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Walk nested lists and dicts to what they hold, by dotted names."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if inner is None:
        yield name, value
        return
    for key, item in inner:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _same(one: Any, other: Any, tolerance: float | None) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if tolerance is None or not one.is_floating_point():
        return torch.equal(one, other)
    return bool((one - other).norm() <= tolerance * one.norm())


def _shown(value: Any, values: tuple[Any, Any]) -> str:
    """Show a tensor by its entry that differs most."""
    one, other = values
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return "nothing" if value is None else str(tuple(value.shape) if isinstance(value, Tensor) else value)
    place = int((one.double() - other.double()).abs().argmax())
    return f"{value.double().flatten()[place].item():.9g} at entry {place}"
