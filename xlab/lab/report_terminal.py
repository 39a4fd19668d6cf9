"""The data report on a terminal."""

from collections.abc import Iterator

from xlab.lab import report_rows
from xlab.lab.data_report import DataReport
from xlab.lab.report_rows import Rows


def lines(report: DataReport) -> Iterator[str]:
    """Lay the report out in tables, a column for each split."""
    for split, title in report.sources.items():
        yield title if split == "divided" else f"{title} ({split})"
    splits = list(report.splits)
    tables = [
        ("", splits, report_rows.sizes(report)),
        ("tokens in a document", splits, report_rows.lengths(report)),
        (f"windows of {report.seq_len:,}", list(report_rows.packed(report)), report_rows.packing(report)),
        ("repetitions", splits, report_rows.repetitions(report)),
        ("vocabulary", ["tokens", "share"], report_rows.vocabulary(report)),
    ]
    label_width = max(len(label) for _, _, rows in tables for label, _ in rows) + 2
    width = max(len(cell) for _, _, rows in tables for _, cells in rows for cell in cells) + 2
    for title, columns, rows in tables:
        if rows:
            yield from _table(title, columns, rows, label_width, width)
    remarks = report_rows.remarks(report)
    if remarks:
        yield ""
    for remark in remarks:
        yield f"! {remark}"


def _table(title: str, columns: list[str], rows: Rows, label_width: int, width: int) -> Iterator[str]:
    yield ""
    yield f"{title:<{label_width}}" + "".join(f"{column:>{width}}" for column in columns)
    for label, cells in rows:
        yield (f"  {label:<{label_width - 2}}" + "".join(f"{cell:>{width}}" for cell in cells)).rstrip()
