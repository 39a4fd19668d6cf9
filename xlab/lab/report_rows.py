"""The data report's figures in words and rows, the same for the page and for the terminal."""

from collections.abc import Callable, Mapping

from xlab.lab.data_figures import COVERED, SplitFigures
from xlab.lab.data_ngrams import N
from xlab.lab.data_report import RARE, DataReport
from xlab.lab.data_sample import Share

Rows = list[tuple[str, list[str]]]  # a label, and what stands in each column

NOTHING = "–"
WASTEFUL = 0.1  # of what a step computes
_SPLIT_FIGURES: list[tuple[str, Callable[[SplitFigures], str]]] = [
    ("documents", lambda split: f"{split.documents:,}"),
    ("characters", lambda split: f"{split.characters:,}"),
    ("bytes", lambda split: f"{split.n_bytes:,}"),
    ("tokens", lambda split: f"{split.tokens:,}"),
    ("bytes per token", lambda split: f"{split.bytes_per_token:.3f}"),
    ("byte-fallback rate", lambda split: percent(split.byte_rate)),
]
_LENGTHS: list[tuple[str, Callable[[SplitFigures], str]]] = [
    ("shortest", lambda split: f"{min(split.lengths):,}"),
    ("median", lambda split: f"{split.quantile(0.5):,}"),
    ("90 % have at most", lambda split: f"{split.quantile(0.9):,}"),
    ("99 % have at most", lambda split: f"{split.quantile(0.99):,}"),
    ("longest", lambda split: f"{max(split.lengths):,}"),
]


def percent(value: float) -> str:
    """Write a share so that a small one is not taken for none: 12.3 %, 0.31 %, < 0.01 %, 0 %."""
    if not value:
        return "0 %"
    if value < 1e-4:
        return "< 0.01 %"
    # 99.96 % is not 100 %: what is left over may be what matters
    digits = 1 if 0.1 <= value <= 0.999 or value == 1 else 2
    return f"{100 * min(value, 0.9999 if value < 1 else 1):.{digits}f} %"


def share(counted: Share) -> str:
    """Write a share; ≈ where it was estimated on a sample."""
    if not counted.whole:
        return NOTHING
    return percent(counted.value) if counted.is_exact else f"≈ {percent(counted.value)}"


def sizes(report: DataReport) -> Rows:
    """What each split holds."""
    return [(label, [figure(split) for split in report.splits.values()]) for label, figure in _SPLIT_FIGURES]


def lengths(report: DataReport) -> Rows:
    """Tokens in a document, start and end included."""
    rows = [(label, [figure(split) for split in report.splits.values()]) for label, figure in _LENGTHS]
    longer = [share(split.longer_than(report.seq_len)) for split in report.splits.values()]
    return [*rows, (f"longer than {report.seq_len:,}", longer)]


def vocabulary(report: DataReport) -> Rows:
    """How the training documents use the vocabulary."""
    use = report.vocabulary
    return [
        ("tokens that stand for text", [f"{use.size:,}", ""]),
        ("used in train", [f"{use.used:,}", percent(use.used / use.size if use.size else 0)]),
        ("never used", [f"{use.size - use.used:,}", percent((use.size - use.used) / use.size if use.size else 0)]),
        (f"rare: used less than {RARE} times", [f"{use.rare:,}", percent(use.rare / use.size if use.size else 0)]),
    ]


def repetitions(report: DataReport) -> Rows:
    """What comes twice: inside each split, and in train and another split."""
    overlaps = [report.overlaps.get(split) for split in report.splits]
    covered = f"documents ≥ {COVERED:.0%} in train".replace("%", " %")
    return [
        ("documents that came before", [share(split.repeated_documents) for split in report.splits.values()]),
        (f"{N}-grams that came before", [share(split.repeated_ngrams) for split in report.splits.values()]),
        ("documents also in train", [share(one.documents) if one else NOTHING for one in overlaps]),
        (f"{N}-grams also in train", [share(one.ngrams) if one else NOTHING for one in overlaps]),
        (covered, [share(one.covered) if one else NOTHING for one in overlaps]),
    ]


def packed(report: DataReport) -> dict[str, Mapping[str, int | float]]:
    """What the windows hold of each split that has any."""
    return {split: found for split, found in report.packing.items() if not isinstance(found, str)}


def packing(report: DataReport) -> Rows:
    """What the windows of each split in ``packed`` hold: counts as they are told, then shares."""
    found = packed(report)
    labels = dict.fromkeys(label for figures in found.values() for label in figures if label != "waste")
    counts = [
        (
            label.replace("_", " "),
            [f"{figures[label]:,}" if label in figures else NOTHING for figures in found.values()],
        )
        for label in labels
    ]
    if not found:
        return []
    cut = [Share(int(figures["cut_documents"]), report.splits[split].documents) for split, figures in found.items()]
    return [
        *counts,
        ("waste: padding of positions", [percent(figures["waste"]) for figures in found.values()]),
        ("cropped: dropped of all targets", [share(cropped(figures)) for figures in found.values()]),
        ("documents cut", [share(one) for one in cut]),
    ]


def cropped(figures: Mapping[str, int | float]) -> Share:
    """The share of a split's targets that no window has."""
    dropped = int(figures["dropped_tokens"])
    return Share(dropped, dropped + int(figures["targets"]))


def remarks(report: DataReport) -> list[str]:
    """What deserves a second look before training, the worst first."""
    found = []
    for split, overlap in report.overlaps.items():
        if overlap.documents.part:
            found.append(
                f"{share(overlap.documents)} of the {split} documents are in train, word for word: "
                f"figures on {split} flatter the model."
            )
        elif overlap.covered.part:
            found.append(
                f"{share(overlap.covered)} of the {split} documents have most of their {N}-grams in train: "
                "near copies, or templates."
            )
    for split, figures in report.splits.items():
        if figures.repeated_documents.part:
            found.append(
                f"{share(figures.repeated_documents)} of the {split} documents repeat an earlier one; "
                "the source Filtered has drop_duplicates."
            )
    found += [f"{split} cannot be packed: {why}" for split, why in report.packing.items() if isinstance(why, str)]
    for split, windows in packed(report).items():
        if (lost := cropped(windows)).part:
            found.append(f"{share(lost)} of the {split} targets are in no window: packing dropped them.")
        if windows["waste"] > WASTEFUL:
            remedy = "BestFit leaves the least." if not report.fills_windows else "a smaller data.seq_len leaves less."
            found.append(f"{percent(windows['waste'])} of the {split} windows is padding; {remedy}")
    use, train = report.vocabulary, report.splits["train"]
    if (scarce := use.size - use.used + use.rare) > 0.1 * use.size:
        found.append(
            f"{percent(scarce / use.size)} of the vocabulary is unused or rare in train, so hardly learnt: "
            "a smaller data.vocab_size, or more text."
        )
    if train.byte_rate > 0.01:
        found.append(
            f"{percent(train.byte_rate)} of train's tokens are pieces of characters: "
            "the tokenizer was made for other text, or is too small for this script."
        )
    return found
