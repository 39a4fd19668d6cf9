"""What the laboratory's pages are made of: HTML that asks for nothing else, light and dark, narrow and wide."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

Rows = list[tuple[str, list[str]]]  # a label, and what stands in each column

NOTHING = "–"


def document(mark: str, title: str, body: Iterable[str], *, more: Sequence[str] = ()) -> str:
    """Put a page together.

    Args:
        mark: its first line, which tells it from files of somebody else's.
        title: of the window.
        body: pieces of HTML.
        more: names of files beside this one: style sheets to add to the pages' own, and scripts.
    """
    style = "".join(_text(name) for name in ("report_page.css", *more) if name.endswith(".css"))
    scripts = "".join(f"<script>\n{_text(name)}</script>" for name in more if name.endswith(".js"))
    return "\n".join(
        [
            mark,
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>\n{style}</style></head><body>",
            *body,
            f"{scripts}</body></html>\n",
        ]
    )


def headline(figures: Iterable[tuple[str, str, str]]) -> list[str]:
    """Lay out a few large figures: (what, value, a note)."""
    shown = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in figures
    )
    return ['<dl class="headline">', *shown, "</dl>"]


def remark_list(remarks: Sequence[str], *, otherwise: str | None = None) -> list[str]:
    """List what deserves a second look; ``otherwise`` says that nothing does."""
    items = [f"<li>{escape(remark)}</li>" for remark in remarks]
    if not items and otherwise is not None:
        items = [f'<li class="fine">{escape(otherwise)}</li>']
    return ['<ul class="remarks">', *items, "</ul>"] if items else []


def figure(title: str, plot: str) -> str:
    """Give a plot its title."""
    return f"<figure><h3>{escape(title)}</h3>{plot}</figure>"


def table(columns: Sequence[str], rows: Rows, *, mark_found: bool = False, corner: str = "") -> str:
    """Lay out a table; what does not fit scrolls, under labels that stay.

    Args:
        columns: their names, without that of the labels.
        rows: a label, and what stands in each column.
        mark_found: whether cells that are not none stand out.
        corner: the name of the labels' column.
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(_cell(cell, mark_found) for cell in cells)}</tr>'
        for label, cells in rows
    )
    width = f' style="min-width: {7.5 + 4.6 * len(columns):g}rem"'
    first = f'<th scope="col">{escape(corner)}</th>'
    return f'<div class="wide"><table{width}><thead><tr>{first}{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str, mark_found: bool) -> str:
    found = mark_found and text not in ("0 %", "≈ 0 %", NOTHING)
    return f'<td class="found">{escape(text)}</td>' if found else f"<td>{escape(text)}</td>"


def _text(name: str) -> str:
    return files("xlab.lab").joinpath(name).read_text(encoding="utf-8")
