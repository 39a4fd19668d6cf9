"""From the rounds of ``decode_speed`` to its figures, and from its figures to tables and what they say.

A report is plain data, as it stands in the JSON file. It holds matches: one shape, one work, all contenders in turns.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.layout import as_columns, as_markdown_table

Report = dict[str, Any]
Match = dict[str, Any]
Entries = Mapping[str, dict[str, Any]]

HEADINGS = ("contender", "tokens/s", "lowest – highest", "XLab of its precision ÷ it", "products ÷ it")
NOT_MEASURED = "not measured"
LIMITS = ("products", "packed")  # bare matrix products: as PyTorch has them, and in oneDNN's own order


def figures(seconds: Sequence[float], *, tokens: int) -> dict[str, Any]:
    """What the rounds of one contender say, in new tokens a second; of beams, the best one's tokens count."""
    return {
        "tokens_per_second": tokens / median(seconds),
        "lowest": tokens / max(seconds),
        "highest": tokens / min(seconds),
        "seconds": list(seconds),
    }


def rows(match: Match) -> list[tuple[str, ...]]:
    """The cells of a match's table, a row for each contender in the order of its turns."""
    return [(name, *_cells(name, entry, match["contenders"])) for name, entry in match["contenders"].items()]


def as_text(report: Report) -> str:
    """Tables for a terminal."""
    parts = [setting(report)]
    for match in report["matches"]:
        parts += [title(match), as_columns(HEADINGS, rows(match)), "\n".join(_remarks(report, match))]
    return "\n\n".join(filter(None, parts))


def as_markdown(report: Report) -> str:
    """The same for ``docs/benchmarks.md``."""
    parts = [setting(report)]
    for match in report["matches"]:
        parts += [f"### {title(match)}", as_markdown_table(HEADINGS, rows(match))]
        parts += _remarks(report, match)
    return "\n\n".join(parts)


def setting(report: Report) -> str:
    """Machine, versions, date and command in a few sentences."""
    machine = report["machine"]
    lines = [
        f"{report['date']}, commit {report['commit']}: `{report['command']}`.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {report['threads']} threads, "
        f"load {machine['load_before']} before the run; {report['rounds']} rounds.",
        ", ".join(report["versions"]) + ".",
    ]
    return "\n".join([*lines, "A smoke test on a tiny shape: no figure to quote."] if report["quick"] else lines)


def title(match: Match) -> str:
    """Shape and work of a match in a line."""
    shape, work = match["shape"], match["work"]
    how = f"beam search of {work['beams']}" if work["beams"] > 1 else f"greedy, batch {work['batch_size']}"
    return (
        f"{match['shape_name']}: {how}, {shape['prompt_len']} + {shape['new_tokens']} tokens; "
        f"{shape['n_layers']} layers, d {shape['d_model']}, {shape['n_heads']} heads ({shape['n_kv_heads']} of keys), "
        f"SwiGLU {shape['d_ff']}, vocabulary {shape['vocab_size']}{', tied' if shape['tied'] else ''}"
    )


def conclusions(match: Match) -> Iterator[str]:
    """What the marks of ``decode_speed`` speak of, as far as it was measured."""
    entries = measured(match["contenders"])
    ours = by_engine(entries, "xlab")
    peers = {name: entry for name, entry in entries.items() if not name.startswith(("xlab", *LIMITS))}
    if not ours or not peers:
        return
    peer, best = fastest(peers), fastest(ours)
    yield f"Against {peer}, the fastest peer: {best} is {_ratio(entries, best, peer):.2f} ×."
    eager = {name: entry for name, entry in ours.items() if not name.endswith("compiled")}
    if eager and fastest(eager) != best:
        yield f"Without compiling, {fastest(eager)} is {_ratio(entries, fastest(eager), peer):.2f} × {peer}."
    for precision, rival in (("bf16", "transformers"), ("int8", "ctranslate2")):
        own = of_precision(ours, precision)
        others = of_precision(by_engine(entries, rival), precision)
        if own and others:
            pair = fastest(own), fastest(others)
            yield f"In {precision}, {pair[0]} is {_ratio(entries, *pair):.2f} × {pair[1]}."
    if own := of_precision(ours, "bf16"):
        best = fastest(own)
        for limit in LIMITS:
            if (name := f"{limit}-bf16") in entries:
                yield f"The bare products ({limit}) take {_ratio(entries, best, name):.0%} of {best}'s time."


def doubts(match: Match) -> Iterator[str]:
    """What a reader must know before trusting the table: contenders of unequal size, and those without a figure."""
    sizes = {name: entry["parameters"] for name, entry in measured(match["contenders"]).items()}
    if len(set(sizes.values())) > 1:
        yield "Not the same work: " + ", ".join(f"{name} has {size} parameters" for name, size in sizes.items()) + "."
    for name, entry in match["contenders"].items():
        if NOT_MEASURED in entry:
            yield f"{name}: {NOT_MEASURED} ({entry[NOT_MEASURED]})."


def measured(contenders: Entries) -> Entries:
    """The contenders that have figures."""
    return {name: entry for name, entry in contenders.items() if NOT_MEASURED not in entry}


def by_engine(entries: Entries, engine: str) -> Entries:
    """Those of one engine."""
    return {name: entry for name, entry in entries.items() if name.split("-")[0] == engine}


def of_precision(entries: Entries, precision: str) -> Entries:
    """Those of one precision."""
    return {name: entry for name, entry in entries.items() if name.split("-")[1] == precision}


def fastest(entries: Entries) -> str:
    """The name of the fastest of some that were measured."""
    return max(entries, key=lambda name: entries[name]["tokens_per_second"])


def _remarks(report: Report, match: Match) -> list[str]:
    return [*([] if report["quick"] else conclusions(match)), *doubts(match)]


def _ratio(entries: Entries, name: str, other: str) -> float:
    ratio: float = entries[name]["tokens_per_second"] / entries[other]["tokens_per_second"]
    return ratio


def _cells(name: str, entry: Mapping[str, Any], contenders: Entries) -> tuple[str, ...]:
    if NOT_MEASURED in entry:
        return (NOT_MEASURED, *["–"] * (len(HEADINGS) - 2))
    known, precision = measured(contenders), name.split("-")[1]
    ours = of_precision(by_engine(known, "xlab"), precision)
    limits = {f"{limit}-{precision}" for limit in LIMITS} & known.keys()
    return (
        f"{entry['tokens_per_second']:.1f}",
        f"{entry['lowest']:.1f} – {entry['highest']:.1f}",
        f"{_ratio(known, fastest(ours), name):.2f}" if ours else "–",
        # a share of time is a ratio of speeds the other way round
        f"{_ratio(known, name, fastest({limit: known[limit] for limit in limits})):.1%}" if limits else "–",
    )
