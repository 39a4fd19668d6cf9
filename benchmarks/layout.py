"""Tables of a report, for a terminal and for Markdown; the first column is names, the others are figures."""

from collections.abc import Iterable, Sequence

Row = Sequence[str]


def as_columns(headings: Row, rows: Iterable[Row]) -> str:
    """Line the cells up under each other."""
    table = [headings, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )


def as_markdown_table(headings: Row, rows: Iterable[Row]) -> str:
    """Put the cells between bars."""
    table = [headings, ("---", *["---:"] * (len(headings) - 1)), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)
