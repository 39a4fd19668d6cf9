"""The made-up runs of the benchmark are runs, and differ in what they should."""

from pathlib import Path

from benchmarks.compare_scale import write_run
from xlab.lab.comparison import compare
from xlab.lab.run_groups import find_groups


def test_they_can_be_compared(tmp_path: Path) -> None:
    for number in range(6):
        write_run(tmp_path / f"version_{number}", variant=number % 2, seed=number // 2, n_points=100)
    comparison = compare(find_groups([str(tmp_path)]))
    assert {name: len(values) for name, values in comparison.figures.items()} == {"lr=0.001": 3, "lr=0.002": 3}
    assert comparison.contrasts[comparison.place][0].effect.method == "paired"
    assert comparison.place.amount == 100 * 2048
