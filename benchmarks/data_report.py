"""From the rounds of ``data_speed`` to its tables, and what they say of its marks.

A report is plain data, as it stands in the JSON file: the rounds of each part that ran, or why it did not.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.layout import Row, as_columns, as_markdown_table

Report = dict[str, Any]
NOT_MEASURED = "not measured"


class Mark(NamedTuple):
    """What is asked for, what was measured, and whether that is enough."""

    what: str
    asked: str
    measured: str
    reached: bool


class Section(NamedTuple):
    """A table under its title."""

    title: str
    headings: Row
    rows: Sequence[Row]


def as_text(report: Report) -> str:
    """Tables for a terminal."""
    parts = [setting(report)]
    for title, headings, rows in sections(report):
        parts += [title, as_columns(headings, rows)]
    return "\n\n".join([*parts, *doubts(report)])


def as_markdown(report: Report) -> str:
    """The same for ``docs/benchmarks.md``."""
    parts = [setting(report)]
    for title, headings, rows in sections(report):
        parts += [f"### {title}", as_markdown_table(headings, rows)]
    return "\n\n".join([*parts, *doubts(report)])


def setting(report: Report) -> str:
    """Machine, versions, date and command in a few sentences."""
    machine, corpus = report["machine"], report["corpus"]
    lines = [
        f"{report['date']}, commit {report['commit']}: `{report['command']}`.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {report['threads']} threads, "
        f"load {machine['load_before']} before the run; {report['rounds']} rounds.",
        ", ".join(report["versions"]) + ".",
        f"{corpus['documents']} documents, {corpus['bytes'] / 1e6:.1f} MB: {corpus['origin']}; "
        f"a byte-level BPE of {report['vocab_size']} tokens.",
    ]
    return "\n".join([*lines, "A smoke test on a tiny corpus: no figure to quote."] if report["quick"] else lines)


def sections(report: Report) -> Iterator[Section]:
    """The tables of what was measured, that of the marks first."""
    parts = measured(report)
    if found := list(marks(report)):
        cells = [(mark.what, mark.asked, mark.measured, "yes" if mark.reached else "no") for mark in found]
        yield Section("Against the marks", ("mark", "asked", "measured", "reached"), cells)
    megabytes = report["corpus"]["bytes"] / 1e6
    for name, title, ours in (
        ("encoding", "Raw text to prepared tokens", "xlab"),
        ("training", "Training the tokenizer", "train-xlab"),
    ):
        if name in parts:
            headings = ("contender", "MB/s", "lowest – highest", "XLab's speed ÷ it")
            seconds = {contender: entry["seconds"] for contender, entry in measured(parts[name]).items()}
            yield Section(title, headings, list(_speeds(seconds, megabytes, ours)))
    if "memory" in parts:
        rows = [(f"{size} MB", f"{one['megabytes']:.0f}", f"{one['seconds']:.1f}") for size, one in _memory(parts)]
        yield Section("Memory of preparing a corpus", ("corpus", "MB above the imports", "seconds"), rows)
    if "resume" in parts:
        cells = [
            f"{low} – {high}" for low, high in (_extremes(parts["resume"], key) for key in ("seconds", "megabytes"))
        ]
        headings = (f"a store of {parts['resume'][0]['tokens']:.0e} tokens", "ms", "MB")
        yield Section(
            "Opening a store and resuming at step 10⁶", headings, [("lowest – highest of the rounds", *cells)]
        )
    if "loaders" in parts:
        yield Section("The loader beside a step", ("packing", "ms a batch", "share of a step"), list(_loaders(parts)))
    if "mask" in parts:
        headings = ("B × T", "mean document", "no mask, ms", "mask, ms", "ratio")
        yield Section("What a document mask costs a training step", headings, [_mask(one) for one in parts["mask"]])


def marks(report: Report) -> Iterator[Mark]:
    """What was asked of the parts that were measured; nothing of a smoke test."""
    if report["quick"]:
        return
    parts = measured(report)
    for peer in ("encode_batch", "encode_batch_fast"):
        if (ratio := _ratio(parts.get("encoding", {}), peer, "xlab")) is not None:
            yield Mark(f"preparation ÷ bare `{peer}`", "≥ 0.9", f"{ratio:.2f}", ratio >= 0.9)
    if (ratio := _ratio(parts.get("training", {}), "train-xlab", "train-tokenizers")) is not None:
        yield Mark("time to train a tokenizer ÷ `tokenizers` alone", "≤ 1.2", f"{ratio:.2f}", ratio <= 1.2)
    if "memory" in parts:
        (small, first), *_, (large, last) = _memory(parts)
        growth = last["megabytes"] / first["megabytes"]
        yield Mark(f"memory for {large} MB", "< 1000 MB", f"{last['megabytes']:.0f} MB", last["megabytes"] < 1000)
        yield Mark(f"memory for {large} MB ÷ for {small} MB", "≤ 1.2", f"{growth:.2f}", growth <= 1.2)
    if "loaders" in parts:
        name, share = max(_shares(parts["loaders"]).items(), key=lambda item: item[1])
        yield Mark(f"loader, share of a step ({name})", "< 2%", f"{share:.2%}", share < 0.02)
    if "resume" in parts:
        seconds = median(one["seconds"] for one in parts["resume"])
        megabytes = median(one["megabytes"] for one in parts["resume"])
        yield Mark("open and resume", "< 10 ms", f"{1e3 * seconds:.1f} ms", seconds < 0.01)
        yield Mark("open and resume", "< 10 MB", f"{megabytes:.1f} MB", megabytes < 10)


def doubts(report: Report) -> list[str]:
    """What a reader must know before trusting the tables: unequal work, and what has no figure."""
    lines = []
    for part in ("encoding", "training"):
        entries = measured(measured(report).get(part, {}))
        counts = {name: entry["tokens"] for name, entry in entries.items()}
        if len(set(counts.values())) > 1:
            lines.append("Not the same work: " + ", ".join(f"{name}: {n} tokens" for name, n in counts.items()) + ".")
        for name, entry in report["parts"].get(part, {}).items():
            if NOT_MEASURED in entry:
                lines.append(f"{name}: {NOT_MEASURED} ({entry[NOT_MEASURED]}).")
    for name, part in report["parts"].items():
        if NOT_MEASURED in part:
            lines.append(f"{name}: {NOT_MEASURED} ({part[NOT_MEASURED]}).")
    return lines


def measured(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of a report's parts, or of a part's contenders, that have figures."""
    entries = entries.get("parts", entries)
    return {name: entry for name, entry in entries.items() if NOT_MEASURED not in entry}


def _ratio(part: Mapping[str, Any], name: str, other: str) -> float | None:
    """Median time of one contender over that of another."""
    entries = measured(part)
    if name not in entries or other not in entries:
        return None
    return median(entries[name]["seconds"]) / median(entries[other]["seconds"])


def _speeds(seconds: Mapping[str, Sequence[float]], megabytes: float, ours: str) -> Iterator[Row]:
    for name, rounds in seconds.items():
        ratio = f"{median(rounds) / median(seconds[ours]):.2f}" if ours in seconds else "–"
        spread = f"{megabytes / max(rounds):.2f} – {megabytes / min(rounds):.2f}"
        yield name, f"{megabytes / median(rounds):.2f}", spread, ratio


def _memory(parts: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]]:
    return sorted(parts["memory"].items(), key=lambda item: float(item[0]))


def _extremes(rounds: Sequence[Mapping[str, float]], key: str) -> tuple[str, str]:
    scale = 1e3 if key == "seconds" else 1
    values = [one[key] * scale for one in rounds]
    return f"{min(values):.1f}", f"{max(values):.1f}"


def _shares(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    step = median(one["step"] for one in rounds)
    return {name: median(one["loaders"][name] for one in rounds) / step for name in rounds[0]["loaders"]}


def _loaders(parts: Mapping[str, Any]) -> Iterator[Row]:
    step = median(one["step"] for one in parts["loaders"])
    yield "a step without loading", f"{1e3 * step:.1f}", "–"
    for name, share in _shares(parts["loaders"]).items():
        yield name, f"{1e3 * share * step:.2f}", f"{share:.2%}"


def _mask(cost: Mapping[str, Any]) -> Row:
    shape = f"{cost['batch_size']} × {cost['seq_len']}"
    times = (f"{1e3 * cost['plain']:.1f}", f"{1e3 * cost['masked']:.1f}", f"{cost['masked'] / cost['plain']:.2f}")
    return shape, str(cost["mean_length"]), *times
