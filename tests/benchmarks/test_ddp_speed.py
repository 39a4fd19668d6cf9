"""ddp_speed's table says how DDP does beside one process."""

from benchmarks.ddp_speed import Round, as_markdown


def report(*rounds: Round) -> dict[str, object]:
    machine = {"processor": "p", "cores": 2, "load_before": 0.1}
    about = {"date": "d", "commit": "c", "command": "x", "machine": machine, "ranks": 2, "steps": 60}
    return {**about, "rounds": [vars(one) for one in rounds]}


def test_the_table_has_medians_and_the_mark() -> None:
    page = as_markdown(report(Round(2000, 1900), Round(2100, 1995), Round(2200, 1100)))
    assert "| DDP, 2 processes of one thread | 1,900 | 0.950 | 0.500 – 0.950 |" in page
    assert "The mark of 0.9 is reached." in page
    assert "missed" in as_markdown(report(Round(2000, 1700)))
