"""The mask's benchmark measures what it says."""

from benchmarks.data_mask import Work, measure, packed_documents, table


def test_documents_are_of_their_mean_length() -> None:
    documents = packed_documents(Work(16, 2000, 50))
    assert documents.shape == (16, 2000)
    steps = documents.diff(dim=1)
    assert set(steps.unique().tolist()) <= {0, 1}
    assert 40 < 16 * 2000 / (steps.sum() + 16) < 60


def test_the_table_has_a_line_for_each_work() -> None:
    costs = list(measure([Work(2, 16, 4), Work(1, 8, 100)], rounds=1))
    assert all(cost.plain > 0 and cost.masked > 0 for cost in costs)
    assert [line.split(" | ")[0] for line in table(costs).splitlines()[2:]] == ["| 2 × 16", "| 1 × 8"]
