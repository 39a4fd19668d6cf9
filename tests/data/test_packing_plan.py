"""A plan is made once, by one process, whole or not at all."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.data.packed import layout, targets_by_input, write
from xlab.data.packing import BestFit, OneDocument, PlannedPacking, TokenBudget
from xlab.data.packing.plan import Plan, PlanWriter
from xlab.errors import DataError

TEXTS = [[3 + (i + j) % 4 for j in range(i % 9)] for i in range(30)]
PACKINGS = [BestFit(), OneDocument(3), TokenBudget(20)]


def plans(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: type(packing).__name__)
def test_a_plan_is_made_once(tmp_path: Path, packing: PlannedPacking, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "a", TEXTS)
    first = packing.windows(store, layout(tmp_path, 6))
    monkeypatch.setattr("xlab.data.packing.plan.PlanWriter", None)
    again = packing.windows(store, layout(tmp_path, 6, split="val"))
    assert list(targets_by_input(again)) == list(targets_by_input(first))
    assert again.report() == first.report()
    assert len(plans(tmp_path)) == 1


def test_what_decides_a_plan_is_in_its_name(tmp_path: Path) -> None:
    store = write(tmp_path / "a", TEXTS)
    others = [OneDocument(4), TokenBudget(21), TokenBudget(20, min_sample_length=3)]
    for packing in (*PACKINGS, *others):
        packing.prepare(store, layout(tmp_path, 6))
    BestFit().prepare(store, layout(tmp_path, 5))
    BestFit().prepare(write(tmp_path / "b", TEXTS), layout(tmp_path, 6))
    assert len(plans(tmp_path)) == len(PACKINGS) + len(others) + 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda plan: (plan / "plan.json").unlink(),
        lambda plan: (plan / "plan.json").write_text("{"),
        lambda plan: (plan / "plan.json").write_text(json.dumps({"version": 1})),
        lambda plan: (plan / "groups").unlink(),
        lambda plan: (plan / "starts").write_bytes((plan / "starts").read_bytes()[:-1]),
    ],
)
def test_a_damaged_plan_is_made_again(tmp_path: Path, damage) -> None:
    store = write(tmp_path / "a", TEXTS)
    first = list(targets_by_input(BestFit().windows(store, layout(tmp_path, 6))))
    directory = BestFit().plan(store, layout(tmp_path, 6)).directory
    damage(directory)
    with pytest.raises(DataError, match=directory.name):
        Plan(directory)
    assert list(targets_by_input(BestFit().windows(store, layout(tmp_path, 6)))) == first


def test_a_planner_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "a", TEXTS)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PlanWriter, "count", fail)
        with pytest.raises(KeyboardInterrupt):
            BestFit().plan(store, layout(tmp_path, 6))
    assert plans(tmp_path) == []
    assert BestFit().windows(store, layout(tmp_path, 6)).report()["dropped_tokens"] == 0


def test_a_full_disk_is_said_in_a_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write(tmp_path / "a", TEXTS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PlanWriter, "append", full)
    with pytest.raises(DataError, match=r"The disk of .*cache is full; nothing was kept"):
        BestFit().plan(store, layout(tmp_path, 6))
    assert plans(tmp_path) == []


def test_those_who_plan_at_once_share_one_plan(tmp_path: Path) -> None:
    """Threads, for speed: the lock is a file's, and knows no difference."""
    store = write(tmp_path / "a", TEXTS)
    together = threading.Barrier(3)

    def plan(_: int) -> str:
        together.wait(timeout=60)
        return BestFit().plan(store, layout(tmp_path, 6)).directory.name

    with ThreadPoolExecutor(3) as pool:
        names = list(pool.map(plan, range(3)))
    assert plans(tmp_path) == sorted(set(names))
    assert len(set(names)) == 1
