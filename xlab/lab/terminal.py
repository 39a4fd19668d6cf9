"""Tables on a terminal."""

from collections.abc import Collection, Iterator, Sequence

from xlab.lab.page_parts import Rows


def table(title: str, columns: Sequence[str], rows: Rows, *, left: Collection[str] = ()) -> Iterator[str]:
    """Lay rows out, each column as wide as it needs, numbers to the right.

    Args:
        title: of the column of labels.
        columns: their names.
        rows: a label, and what stands in each column.
        left: the columns of words.
    """
    labels = max(len(title), *(len(label) for label, _ in rows)) if rows else len(title)
    widths = [max([len(column), *(len(cells[i]) for _, cells in rows)]) for i, column in enumerate(columns)]
    for label, cells in [(title, list(columns)), *rows]:
        placed = (
            f"{cell:<{width}}" if column in left else f"{cell:>{width}}"
            for column, cell, width in zip(columns, cells, widths, strict=True)
        )
        yield "  ".join([f"{label:<{labels}}", *placed]).rstrip()
