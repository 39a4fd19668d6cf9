"""The benchmark of a step's memory runs, and says of its mark what the figures say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.step_memory import WAYS, as_text, main, measure, prepare
from benchmarks.train_shape import TINY, Shape


def test_a_way_is_measured_in_a_process_of_its_own() -> None:
    found = measure("linear_cross_entropy", TINY, threads=1)
    assert found["megabytes"] > found["at_rest"] > 0
    assert found["loss"] == pytest.approx(math.log(TINY.vocab_size), rel=0.2)


def test_a_run_measures_every_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(way: str, shape: Shape, *, threads: int) -> dict[str, Any]:
        _, work = prepare(way, shape, threads=threads)
        return {**work(), "megabytes": 9.0, "precision": "torch.bfloat16"}  # in a process that held more before

    monkeypatch.setattr("benchmarks.step_memory.measure", measured)
    written = tmp_path / "step_memory.json"
    assert main(["--quick", "--threads=1", "--json", str(written)]) == 0
    ways = json.loads(written.read_text())["ways"]
    assert list(ways) == list(WAYS)
    losses = [figures["loss"] for figures in ways.values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=0.02)  # they compute the same
    capsys.readouterr()
    assert main(["--markdown", str(written)]) == 0
    assert "| unfused | 9 | 1.00 |" in capsys.readouterr().out


@pytest.mark.parametrize(("megabytes", "says"), [(40.0, "is reached"), (60.0, "is not reached")])
def test_the_mark(megabytes: float, says: str) -> None:
    figures: dict[str, Any] = {"at_rest": 1.0, "seconds": 1.0, "precision": "torch.bfloat16"}
    shape = {"n_layers": 1, "d_model": 2, "vocab_size": 3, "batch_size": 4, "seq_len": 5}
    machine = {"processor": "it", "cores": 2, "memory_gib": 1.0}
    report = {"date": "", "commit": "", "command": "", "machine": machine, "threads": 1, "shape": shape}
    ways = {way: {**figures, "megabytes": 100.0} for way in WAYS}
    ways["chunked"]["megabytes"] = megabytes
    assert says in as_text({**report, "ways": ways})
