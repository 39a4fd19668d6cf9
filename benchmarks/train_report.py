"""From the rounds of ``train_speed`` to its figures, and from its figures to a table.

A report is plain data, as it stands in the JSON file, so that a table can be printed long after the run.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.layout import as_columns, as_markdown_table

Report = dict[str, Any]

HEADINGS = ("contender", "tokens/s", "lowest – highest", "xlab-eager ÷ it", "xlab-compiled ÷ it", "share of peak")
NOT_MEASURED = "not measured"


def figures(seconds: Sequence[float], *, tokens: int, flops: float, peak: float | None) -> dict[str, Any]:
    """What the rounds of one contender say.

    Args:
        seconds: of one step, a value for each round.
        tokens, flops: of one step.
        peak: FLOP/s of the bare matrix product in the same rounds, if it was measured.

    Returns:
        ``tokens_per_second`` (median), ``lowest``, ``highest`` (tokens/s), ``share_of_peak`` and ``seconds`` as given.
    """
    return {
        "tokens_per_second": tokens / median(seconds),
        "lowest": tokens / max(seconds),
        "highest": tokens / min(seconds),
        "share_of_peak": flops / median(seconds) / peak if peak else None,
        "seconds": list(seconds),
    }


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table's cells, a row for each contender in the order of its turns."""
    return [(name, *_cells(entry, report["contenders"])) for name, entry in report["contenders"].items()]


def as_text(report: Report) -> str:
    """The table for a terminal, with what was compared above it and what it says below."""
    table = as_columns(HEADINGS, rows(report))
    return "\n".join([setting(report), "", table, "", *conclusions(report), *doubts(report)])


def as_markdown(report: Report) -> str:
    """The same for ``docs/benchmarks.md``."""
    table = as_markdown_table(HEADINGS, rows(report))
    return "\n\n".join([setting(report), table, *conclusions(report), *doubts(report)])


def setting(report: Report) -> str:
    """Machine, versions, date and command in a few sentences."""
    machine, shape = report["machine"], report["shape"]
    peak = report["peak_gflops"]
    lines = [
        f"{report['date']}, commit {report['commit']}: `{report['command']}`.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {report['threads']} threads, "
        f"load {machine['load_before']} before the run.",
        ", ".join(report["versions"]) + ".",
        f"{shape['n_layers']} layers, d {shape['d_model']}, {shape['n_heads']} heads, SwiGLU {shape['d_ff']}, "
        f"vocabulary {shape['vocab_size']}, {shape['batch_size']} × {shape['seq_len']} tokens, {report['precision']}; "
        f"{report['rounds']} rounds of {report['steps']} steps.",
        f"Peak (median of the bare products): {peak:.0f} GFLOP/s." if peak else "Peak: not measured.",
    ]
    if report["quick"]:
        lines.append("A smoke test on a tiny shape: no figure to quote.")
    return "\n".join(lines)


def conclusions(report: Report) -> list[str]:
    """How XLab stands to the fastest peer, eager and compiled: what the marks of ``train_speed`` speak of."""
    if report["quick"]:
        return []
    contenders = measured(report["contenders"])
    lines = []
    for mode in ("eager", "compiled"):
        mine = ("xlab", "plain")
        rivals = {name: e for name, e in contenders.items() if name.endswith(mode) and not name.startswith(mine)}
        ours = [name for name in ("xlab-eager", "xlab-compiled") if name in contenders]
        if not rivals or not ours:
            continue
        rival, entry = max(rivals.items(), key=lambda item: item[1]["tokens_per_second"])
        ratios = (
            f"{name} is {contenders[name]['tokens_per_second'] / entry['tokens_per_second']:.2f} ×" for name in ours
        )
        lines.append(f"Against {rival}, the fastest {mode} peer: {', '.join(ratios)}.")
    costs = []
    for mode in ("eager", "compiled"):
        composed, plain = (contenders.get(f"{model}-{mode}") for model in ("xlab", "plain"))
        if composed and plain:
            costs.append(f"{composed['tokens_per_second'] / plain['tokens_per_second']:.2f} × {mode}")
    if costs:
        lines.append(f"Against the same model written down plainly, for what composition costs: {', '.join(costs)}.")
    return lines


def doubts(report: Report) -> list[str]:
    """What a reader must know before trusting the table: contenders of unequal size, and those without a figure."""
    sizes = {name: entry["parameters"] for name, entry in measured(report["contenders"]).items()}
    unequal = ", ".join(f"{name} has {size} parameters" for name, size in sizes.items())
    absent = [
        f"{name}: {NOT_MEASURED} ({entry[NOT_MEASURED]})."
        for name, entry in report["contenders"].items()
        if NOT_MEASURED in entry
    ]
    return [f"Not the same work: {unequal}."] * (len(set(sizes.values())) > 1) + absent


def measured(contenders: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The contenders that have figures."""
    return {name: entry for name, entry in contenders.items() if NOT_MEASURED not in entry}


def _cells(entry: Mapping[str, Any], contenders: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
    if NOT_MEASURED in entry:
        return (NOT_MEASURED, *["–"] * (len(HEADINGS) - 2))
    speed, share = entry["tokens_per_second"], entry["share_of_peak"]
    ours = (measured(contenders).get(name) for name in ("xlab-eager", "xlab-compiled"))
    return (
        f"{speed:.0f}",
        f"{entry['lowest']:.0f} – {entry['highest']:.0f}",
        *(f"{xlab['tokens_per_second'] / speed:.2f}" if xlab else "–" for xlab in ours),
        f"{share:.1%}" if share else "–",
    )
