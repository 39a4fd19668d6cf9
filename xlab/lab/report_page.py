"""The data report as one HTML file that asks for nothing else: plots inline, light and dark, narrow and wide."""

from collections.abc import Iterable, Mapping
from html import escape

from xlab.lab import report_rows
from xlab.lab.data_figures import COVERED
from xlab.lab.data_ngrams import N
from xlab.lab.data_report import RARE, DataReport, VocabularyUse
from xlab.lab.page_parts import document, figure, headline, remark_list, table
from xlab.lab.report_plots import curve, histogram, short
from xlab.lab.report_rows import percent

MARK = "<!doctype html><!-- XLab data report -->"  # tells an older report from a file of somebody else's

_HOW = [
    (
        "What is read",
        "The prepared tokens, which are what training reads. Characters and bytes are those of the text that the "
        "tokens stand for; tokens include those that begin and end documents.",
    ),
    (
        "Bytes per token, byte-fallback rate",
        "Of the tokens that stand for text. A token counts as fallback when it is no whole character: a part of one, "
        "in a byte-level vocabulary, or one of the 256 bytes of a vocabulary with byte fallback.",
    ),
    (
        "Documents that came before, documents also in train",
        "By a 64-bit hash of their text, whatever came in between.",
    ),
    (
        f"{N}-grams",
        f"{N} words in a row, inside one document. A word is a run of letters and digits, whatever the case of ASCII; "
        "of Chinese, Japanese and Korean each character is a word. Punctuation does not count.",
    ),
    (
        f"Documents ≥ {COVERED:.0%} in train".replace("%", " %"),
        f"Of the documents of {N} words and more, those of whose {N}-grams at least that share occur in train.",
    ),
    (
        "≈",
        "Estimated on a sample. Up to a million different documents and n-grams of a split are kept, and figures are "
        "exact; of more, those whose hash ends in a zero bit, then in two, with all their occurrences.",
    ),
]


def page(report: DataReport) -> str:
    """Lay the report out."""
    return document(
        MARK,
        "Data report",
        [
            *_head(report),
            *_sizes(report),
            *_lengths(report),
            *_packing(report),
            *_vocabulary(report),
            *_repetitions(report),
            "<h2>How it was counted</h2>",
            '<dl class="counted">',
            *(f"<dt>{escape(what)}</dt><dd>{escape(how)}</dd>" for what, how in _HOW),
            "</dl>",
        ],
    )


def _head(report: DataReport) -> list[str]:
    splits, use = report.splits.values(), report.vocabulary
    n_tokens, train = sum(split.tokens for split in splits), report.splits["train"]
    figures = [
        ("documents", f"{sum(split.documents for split in splits):,}", f"in {_number(len(splits), 'split')}"),
        ("tokens", short(n_tokens), f"{n_tokens:,}"),
        ("bytes per token", f"{train.bytes_per_token:.2f}", "in train"),
        ("vocabulary used", percent(use.used / use.size if use.size else 0), f"{use.used:,} of {use.size:,}"),
    ]
    remarks = report_rows.remarks(report)
    return [
        "<header><h1>Data report</h1>",
        *(f'<p class="source">{escape(_named(split, title))}</p>' for split, title in report.sources.items()),
        f'<p class="source muted">fingerprint {escape(report.fingerprint)}</p></header>',
        *headline(figures),
        *remark_list(remarks, otherwise="Nothing here asks for a second look."),
    ]


def _named(split: str, title: str) -> str:
    return title if split == "divided" else f"{title} ({split})"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _sizes(report: DataReport) -> list[str]:
    return ["<h2>Splits</h2>", table(list(report.splits), report_rows.sizes(report))]


def _lengths(report: DataReport) -> list[str]:
    longest = max(max(figures.lengths) for figures in report.splits.values())
    shortest = min(min(figures.lengths) for figures in report.splits.values())
    # the same axis for every split, and the window on it
    span = max(min(shortest, report.seq_len), 1), max(longest, report.seq_len)
    plots = [
        figure(
            split,
            histogram(
                figures.lengths,
                title=f"How many {split} documents have how many tokens",
                x="tokens in a document",
                y="documents",
                span=span,
                mark=(report.seq_len, f"window, {report.seq_len:,}"),
            ),
        )
        for split, figures in report.splits.items()
    ]
    return [
        "<h2>Length of documents</h2>",
        '<p class="muted">In tokens, start and end included; the axis is logarithmic.</p>',
        f'<div class="plots">{"".join(plots)}</div>',
        table(list(report.splits), report_rows.lengths(report)),
    ]


def _packing(report: DataReport) -> list[str]:
    packed = report_rows.packed(report)
    if not packed:
        return []
    return [
        "<h2>Windows</h2>",
        f'<p class="muted">What training gets of the documents, in windows of {report.seq_len:,} tokens.</p>',
        '<div class="shares">',
        *(_share_bar(split, figures) for split, figures in packed.items()),
        '<p class="key"><i class="targets"></i>targets <i class="given"></i>given, not predicted '
        '<i class="padding"></i>padding</p></div>',
        table(list(packed), report_rows.packing(report)),
    ]


def _share_bar(split: str, figures: Mapping[str, int | float]) -> str:
    positions, targets, padding = figures["positions"], figures["targets"], figures["padding"]
    parts = {"targets": targets, "given": positions - targets - padding, "padding": padding}
    drawn = "".join(
        f'<span class="{name}" style="flex: {part}" title="{name}: {part:,} ({percent(part / positions)})"></span>'
        for name, part in parts.items()
        if part > 0
    )
    return f'<div class="share"><b>{escape(split)}</b><div class="whole">{drawn}</div></div>'


def _vocabulary(report: DataReport) -> list[str]:
    use = report.vocabulary
    plot = curve(
        use.frequencies,
        title="How often the tokens occur in train, the commonest first",
        x="rank of a token",
        y="occurrences",
        mark=(RARE, f"rare: less than {RARE}"),
    )
    return [
        "<h2>Vocabulary</h2>",
        '<p class="muted">How the training documents use it. A token that hardly occurs is hardly learnt.</p>',
        '<div class="beside">',
        figure("occurrences by rank", plot) if use.frequencies else "",
        table(["tokens", "share"], report_rows.vocabulary(report)),
        "</div>",
        *_token_lists(use),
    ]


def _token_lists(use: VocabularyUse) -> list[str]:
    lists: list[tuple[str, Iterable[tuple[str, int | None]]]] = [
        ("The commonest", use.commonest),
        ("The rarest that occur", use.rarest),
        ("Never used", [(token, None) for token in use.unused]),
    ]
    drawn = []
    for title, tokens in lists:
        if items := "".join(_token(token, count) for token, count in tokens):
            drawn.append(f'<h3>{title}</h3><ul class="tokens">{items}</ul>')
    return drawn


def _token(token: str, count: int | None) -> str:
    shown = "".join(_VISIBLE.get(character, character) for character in token)
    return f"<li>{escape(shown)}{'' if count is None else f'<span>{count:,}</span>'}</li>"


_VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


def _repetitions(report: DataReport) -> list[str]:
    return [
        "<h2>Repetitions</h2>",
        '<p class="muted">What comes twice inside a split, and what of the other splits is in train: '
        "figures on text that was trained on flatter the model.</p>",
        table(list(report.splits), report_rows.repetitions(report), mark_found=True),
    ]
