"""From the rounds of ``serve_load`` to its figures, and from its figures to tables and what they say.

A report is plain data, as it stands in the JSON file. It holds matches: one precision, one number of clients, all
contenders in turns; and, where they were asked for, a soak and a flood.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.layout import as_columns, as_markdown_table

Report = dict[str, Any]
Match = dict[str, Any]

OFFLINE, OURS, PEER = "xlab-offline", "xlab-http", "litgpt-serve"
CONTENDERS = (OFFLINE, OURS, PEER)
HEADINGS = (
    "contender",
    "tokens/s",
    "lowest – highest",
    "÷ offline",
    "first token, median",
    "95 %",
    "ms per token",
    "clients' share of a core",
)
NOT_MEASURED = "not measured"
SHARE = 0.85  # of the engine's tokens/s offline, at the same batch


def figures(turns: Sequence[Mapping[str, Any]], *, tokens: int) -> dict[str, Any]:
    """What the rounds of one contender say; ``tokens`` are a turn's, over all clients."""
    seconds = [turn["seconds"] for turn in turns]
    first, per_token = _all(turns, "first"), _all(turns, "per_token")
    figures = {
        "tokens_per_second": tokens / median(seconds),
        "lowest": tokens / max(seconds),
        "highest": tokens / min(seconds),
        "first_token": {"p50": quantile(first, 0.5), "p95": quantile(first, 0.95), "n": len(first)},
        "per_token": {"p50": quantile(per_token, 0.5), "p95": quantile(per_token, 0.95)},
        "seconds": seconds,
    }
    if "client_seconds" in turns[0]:
        figures["client_share"] = median(turn["client_seconds"] / turn["seconds"] for turn in turns)
    if "prefill" in turns[0]:
        figures["prefill"] = median(_all(turns, "prefill"))
        figures["prefill_together"] = median(max(turn["first"]) for turn in turns)
    return figures


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def first_token_limit(match: Match) -> float | None:
    """Seconds in which the last of all clients should see its first token; None if the engine was not measured.

    Its own prefill, those of all others before it, and two decode steps: all as the engine took them offline.
    """
    entry = match["contenders"].get(OFFLINE, {NOT_MEASURED: ""})
    if NOT_MEASURED in entry:
        return None
    limit: float = match["clients"] * entry["prefill"] + 2 * entry["per_token"]["p50"]
    return limit


def as_text(report: Report) -> str:
    """Tables for a terminal."""
    parts = [setting(report)]
    for match in report["matches"]:
        parts += [title(report, match), as_columns(HEADINGS, rows(match)), "\n".join(_remarks(report, match))]
    return "\n\n".join(filter(None, [*parts, *_trials(report)]))


def as_markdown(report: Report) -> str:
    """The same for ``docs/benchmarks.md``."""
    parts = [setting(report)]
    for match in report["matches"]:
        parts += [f"### {title(report, match)}", as_markdown_table(HEADINGS, rows(match)), *_remarks(report, match)]
    return "\n\n".join([*parts, *_trials(report)])


def setting(report: Report) -> str:
    """Machine, versions, date and command in a few sentences."""
    machine, shape = report["machine"], report["shape"]
    lines = [
        f"{report['date']}, commit {report['commit']}: `{report['command']}`.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {report['threads']} threads, "
        f"load {machine['load_before']} before the run; {report['rounds']} rounds.",
        *([", ".join(report["versions"]) + "."] if report["versions"] else []),
        f"{shape['n_layers']} layers, d {shape['d_model']}, {shape['n_heads']} heads ({shape['n_kv_heads']} of keys), "
        f"SwiGLU {shape['d_ff']}, vocabulary {shape['vocab_size']}; {shape['prompt_len']} + {shape['new_tokens']} "
        "tokens, greedy.",
    ]
    return "\n".join([*lines, "A smoke test on a tiny shape: no figure to quote."] if report["quick"] else lines)


def title(report: Report, match: Match) -> str:
    """A match in a line."""
    clients = match["clients"]
    return (
        f"{match['precision']}: {clients} streaming client{'s' if clients > 1 else ''}, "
        f"{match['waves'] * report['rounds']} times"
    )


def rows(match: Match) -> list[tuple[str, ...]]:
    """The cells of a match's table, a row for each contender in the order of its turns."""
    return [(name, *_cells(name, entry, match["contenders"])) for name, entry in match["contenders"].items()]


def conclusions(match: Match) -> Iterator[str]:
    """What the marks of ``serve_load`` speak of, as far as it was measured."""
    entries = {name: entry for name, entry in match["contenders"].items() if NOT_MEASURED not in entry}
    if OURS not in entries:
        return
    ours, limit = entries[OURS], first_token_limit(match)
    if limit is not None:
        share = ours["tokens_per_second"] / entries[OFFLINE]["tokens_per_second"]
        yield f"Over HTTP it is {share:.2f} × the engine offline ({_verdict(share >= SHARE)} the mark of {SHARE})."
        p95, prefill, step = (
            ours["first_token"]["p95"],
            entries[OFFLINE]["prefill"],
            entries[OFFLINE]["per_token"]["p50"],
        )
        ahead = (
            f"{match['clients']} prefills of {_ms(prefill)}" if match["clients"] > 1 else f"a prefill of {_ms(prefill)}"
        )
        yield (
            f"First token, 95 %: {_ms(p95)}, where {ahead} and two decode steps of {_ms(step)} are {_ms(limit)} "
            f"({_verdict(p95 <= limit)} the mark). Offline, the prompts are fed together in "
            f"{_ms(entries[OFFLINE]['prefill_together'])}."
        )
    if PEER in entries:
        ratio = ours["tokens_per_second"] / entries[PEER]["tokens_per_second"]
        alone = "" if match["clients"] == 1 else ", which writes one text after another"
        yield f"It is {ratio:.2f} × {PEER}{alone}."


def _verdict(is_reached: bool) -> str:
    return "reaches" if is_reached else "misses"


def doubts(match: Match) -> Iterator[str]:
    """What a reader must know before trusting the table."""
    for name, entry in match["contenders"].items():
        if NOT_MEASURED in entry:
            yield f"{name}: {NOT_MEASURED} ({entry[NOT_MEASURED]})."


def soak_told(soak: Mapping[str, Any]) -> str:
    """The soak in a few sentences."""
    before, *after = [f"{mib:.1f}" for mib in soak["resident_mib"]]
    return (
        f"{soak['requests']} requests of {soak['new_tokens']} tokens, {soak['at_once']} at once, half of them streams: "
        f"{_told(soak['outcomes'])}; {soak['requests_per_second']:.0f} requests/s. The server held {before} MiB (after "
        f"{soak['warm_up']} others), and after each quarter {', '.join(after)}: {soak['growth_mib']:+.1f} MiB."
    )


def flood_told(flood: Mapping[str, Any]) -> str:
    """The flood in a few sentences."""
    before, after = flood["resident_mib"]
    well = flood["ready_afterwards"] and flood["right_afterwards"] and not flood["texts_held_afterwards"]
    return (
        f"{flood['requests']} requests at once to {flood['max_rows']} rows and a queue of {flood['max_queue']}: "
        f"{_told(flood['outcomes'])}; all over after {flood['seconds']:.1f} s, {before:.0f} MiB before and {after:.0f} "
        f"after. Afterwards the server is {'ready, empty and right' if well else 'NOT as it was'}."
    )


def is_sound(report: Report) -> bool:
    """Whether soak and flood, where they were run, went as they must: nothing wrong, nothing unanswered."""
    fine = {"soak": {"right"}, "flood": {"right", "refused with 429", "refused with 503"}}
    told = [(report[name], fine[name]) for name in fine if name in report]
    afterwards = [not trial["texts_held_afterwards"] for trial, _ in told if "texts_held_afterwards" in trial]
    afterwards += [
        trial[name] for trial, _ in told for name in ("ready_afterwards", "right_afterwards") if name in trial
    ]
    return all(set(trial["outcomes"]) <= outcomes for trial, outcomes in told) and all(afterwards)


def _trials(report: Report) -> list[str]:
    told = {"soak": soak_told, "flood": flood_told}
    return [f"{name.capitalize()}: {tell(report[name])}" for name, tell in told.items() if name in report]


def _told(outcomes: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))


def _remarks(report: Report, match: Match) -> list[str]:
    return [*([] if report["quick"] else conclusions(match)), *doubts(match)]


def _cells(name: str, entry: Mapping[str, Any], contenders: Mapping[str, Any]) -> tuple[str, ...]:
    if NOT_MEASURED in entry:
        return (NOT_MEASURED, *["–"] * (len(HEADINGS) - 2))
    offline = contenders.get(OFFLINE, {NOT_MEASURED: ""})
    is_compared = name != OFFLINE and NOT_MEASURED not in offline
    return (
        f"{entry['tokens_per_second']:.1f}",
        f"{entry['lowest']:.1f} – {entry['highest']:.1f}",
        f"{entry['tokens_per_second'] / offline['tokens_per_second']:.2f}" if is_compared else "–",
        _ms(entry["first_token"]["p50"]),
        _ms(entry["first_token"]["p95"]),
        f"{1000 * entry['per_token']['p50']:.2f}",
        f"{entry['client_share']:.1%}" if "client_share" in entry else "–",
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _all(turns: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [value for turn in turns for value in turn[name]]
