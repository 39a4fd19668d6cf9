"""A model card as Markdown and as a page."""

import re
from html import escape

from xlab.lab.model_card import ModelCard, Section
from xlab.lab.page_parts import document, figure, headline, remark_list, table

MARK = "<!doctype html><!-- XLab model card -->"  # tells an older card from a file of somebody else's
_STYLE = (
    "text{fill:#6a655b;font:11px sans-serif}.grid{stroke:#e2dccf}.axis{stroke:#6a655b}"
    ".curve{fill:none;stroke:#2f4a73;stroke-width:2}.dot-mark{fill:#2f4a73}"
)


def page(card: ModelCard) -> str:
    """Lay a card out as one HTML file that asks for nothing else."""
    body = [
        f'<header><h1>Model card</h1><p class="source">{escape(card.title)}</p></header>',
        *headline(card.headline),
        *remark_list(card.missing),
    ]
    for section in card.sections:
        body += _as_html(section)
    return document(MARK, f"Model card of {card.title}", body, more=["model_card.css"])


def markdown(card: ModelCard) -> str:
    """Write a card as Markdown; its plots are the files of ``pictures``."""
    lines = [f"# Model card: {card.title}", ""]
    lines += [
        f"* {name}: **{value}** ({note})" if note else f"* {name}: **{value}**" for name, value, note in card.headline
    ]
    lines += ["", *(f"> {remark}" for remark in card.missing)]
    for section in card.sections:
        lines += ["", f"## {section.title}", ""]
        lines += [*section.words, ""] if section.words else []
        lines += _table(section)
        lines += [f"![{title}]({file_name(title)})" for title in section.plots]
        for prompt, text in section.quotes:
            lines += _fenced(prompt + text)
        lines += _fenced("\n".join(section.commands), "sh") if section.commands else []
    return "\n".join(lines).rstrip() + "\n"


def pictures(card: ModelCard) -> dict[str, str]:
    """Give the card's plots as SVG files that bring their colours along, by file name."""
    plots = (item for section in card.sections for item in section.plots.items())
    return {file_name(title): _alone(plot) for title, plot in plots}


def _alone(plot: str) -> str:
    opening, _, content = plot.partition(">")
    opening = opening.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" style="background: #faf8f3"', 1)
    return f"{opening}><style>{_STYLE}</style>{content}\n"


def file_name(title: str) -> str:
    """Name a plot's file: val_loss.svg."""
    return re.sub(r"\W+", "_", title) + ".svg"


def _as_html(section: Section) -> list[str]:
    drawn = [f"<h2>{escape(section.title)}</h2>"]
    drawn += [f'<p class="muted">{escape(words)}</p>' for words in section.words]
    if section.rows:
        shown = table(section.columns, section.rows)
        drawn.append(f'<div class="settings">{shown}</div>' if section.columns == ["value"] else shown)
    if section.plots:
        plots = "".join(figure(title, plot) for title, plot in section.plots.items())
        drawn.append(f'<div class="plots">{plots}</div>')
    drawn += [
        f'<blockquote><span class="muted">{escape(prompt)}</span>{escape(text)}</blockquote>'
        for prompt, text in section.quotes
    ]
    if section.commands:
        drawn.append(f"<pre>{escape(chr(10).join(section.commands))}</pre>")
    return drawn


def _table(section: Section) -> list[str]:
    if not section.rows:
        return []
    head = ["|".join(["", " ", *(f" {column} " for column in section.columns), ""])]
    head.append("|".join(["", "---", *("---" for _ in section.columns), ""]))
    return [
        *head,
        *("|".join(["", *(f" {_cell(cell)} " for cell in (label, *cells)), ""]) for label, cells in section.rows),
    ]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _fenced(text: str, language: str = "text") -> list[str]:
    """Quote a text as it is; the fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text, fence, ""]
