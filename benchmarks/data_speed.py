"""The road of the data: preparing text, training a tokenizer, memory, loading batches, masks, and resuming far away.

Contenders are processes that take turns: XLab against the bare encoder of ``tokenizers`` and ``datasets.map``. The rest
is measured against a mark. docs/benchmarks.md says what is equal between contenders.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data_corpus import Written, make_up_corpus, read_texts, simulate_store, write_corpus
from benchmarks.data_report import NOT_MEASURED, Report, as_markdown, as_text
from benchmarks.machine import describe_commit, describe_machine, threads_available, today
from benchmarks.options import add_report_options, add_rounds, parser_of, positive, progress, write_report
from benchmarks.turns import Answer, Player, PlayerError, take_turns

ROOT = Path(__file__).parent.parent
ENCODERS = ("xlab", "encode_batch_fast", "encode_batch", "datasets")
TRAINERS = ("train-xlab", "train-tokenizers")
PARTS = ("encoding", "training", "memory", "loaders", "mask", "resume")


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        most_characters: of the corpus; None for all of it.
        vocab_size: of its tokenizer.
        megabytes: of the made-up corpora that are prepared for their memory.
        documents, tokens_of_each: of the simulated store.
    """

    most_characters: int | None = None
    vocab_size: int = 4096
    megabytes: tuple[int, ...] = (20, 200)
    documents: int = 10**9
    tokens_of_each: int = 1000


QUICK = Size(most_characters=100_000, vocab_size=300, megabytes=(1, 2))


@dataclass(frozen=True)
class Bench:
    """What all contenders are given.

    Attributes:
        scratch: a directory that is removed afterwards.
        rounds: turns of each contender.
        threads: of each while it works.
        quick: whether shapes are tiny.
    """

    scratch: Path
    size: Size
    rounds: int
    threads: int
    quick: bool

    @property
    def corpus(self) -> Path:
        """The texts, as JSON Lines."""
        return self.scratch / "corpus.jsonl"

    @property
    def tokenizer(self) -> Path:
        """What every contender encodes with."""
        return self.scratch / "tokenizer.json"

    def start(self, name: str, *, corpus: Path | None = None) -> tuple[Player, Answer]:
        """Start a contender; its introduction has ``missing`` if it lacks a package.

        Raises:
            PlayerError: when it breaks.
        """
        progress(f"{name}: starting")
        numbers = {"vocab-size": self.size.vocab_size, "threads": self.threads, "rounds": self.rounds}
        paths = {"corpus": corpus or self.corpus, "tokenizer": self.tokenizer, "scratch": self.scratch / name}
        options = [f"--{option}={value}" for option, value in {**numbers, **paths}.items()]
        threads = {"OMP_NUM_THREADS": str(self.threads), "RAYON_NUM_THREADS": str(self.threads)}
        environment = {**threads, "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", "XLAB_PROGRESS": "0"}
        command = [sys.executable, "-m", "benchmarks.data_worker", name, *options, *["--quick"] * self.quick]
        player = Player(command, cwd=ROOT, env=environment)
        try:
            return player, player.answer()
        except PlayerError:
            player.close()
            raise

    def alone(self, name: str, *, corpus: Path | None = None, turns: int = 1) -> list[Answer]:
        """Let one process work, and return what it answered in each turn.

        Raises:
            PlayerError: when it breaks, or lacks a package.
        """
        player, introduction = self.start(name, corpus=corpus)
        try:
            if "missing" in introduction:
                raise PlayerError(introduction["missing"])
            return [player.turn() for _ in range(turns)]
        finally:
            player.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print its tables and write its JSON.

    Returns:
        0, or 1 when something broke. A peer that is not installed breaks nothing.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    if args.markdown:
        print(as_markdown(json.loads(args.markdown.read_text())))
        return 0
    rounds = args.rounds or (2 if args.quick else 5)
    size = QUICK if args.quick else Size()
    with tempfile.TemporaryDirectory(prefix="data_speed-", dir=args.scratch) as scratch:
        bench = Bench(Path(scratch), size, rounds, args.threads, args.quick)
        try:
            report = run(args.only or PARTS, bench)
        except PlayerError as error:
            print(f"Stopped: {error}", file=sys.stderr)
            return 1
    command = shlex.join(["python", "-m", "benchmarks.data_speed", *arguments])
    report = {"benchmark": "data_speed", "command": command, "quick": args.quick, **report}
    print(as_text(report))
    write_report(report, args.json)
    return 0


def run(names: Sequence[str], bench: Bench) -> Report:
    """Measure some of ``PARTS``.

    Raises:
        PlayerError: when a contender breaks.
    """
    machine = describe_machine()
    corpus = write_corpus(bench.corpus, most_characters=bench.size.most_characters)
    _make_tokenizer(bench, corpus)
    known: list[str] = []
    parts: dict[str, Any] = {}
    for name in names:
        if name in ("encoding", "training"):
            parts[name] = _in_turns(bench, ENCODERS if name == "encoding" else TRAINERS, known)
        elif name == "memory":
            parts[name] = _memory(bench)
        elif name == "resume":
            parts[name] = _resume(bench)
        elif name == "loaders":
            parts[name] = bench.alone("loaders", turns=bench.rounds)
        else:
            (answer,) = bench.alone("mask")
            parts[name] = answer["costs"]
    return {
        "date": today(),
        "commit": describe_commit(ROOT),
        "machine": machine,
        "versions": list(dict.fromkeys(known)) or ["python " + sys.version.split()[0]],
        "corpus": {"origin": corpus.origin, "documents": corpus.documents, "bytes": corpus.n_bytes},
        "vocab_size": bench.size.vocab_size,
        "threads": bench.threads,
        "rounds": bench.rounds,
        "parts": parts,
    }


def _make_tokenizer(bench: Bench, corpus: Written) -> None:
    from xlab.data.tokenizers import ByteLevelBPE

    progress(f"{corpus.documents} documents, {corpus.n_bytes / 1e6:.1f} MB ({corpus.origin}): making a tokenizer")
    ByteLevelBPE().make(iter(read_texts(corpus.path)), bench.size.vocab_size).save(bench.tokenizer)


def _in_turns(bench: Bench, names: Sequence[str], known: list[str]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    with ExitStack() as stack:
        players: dict[str, Player] = {}
        for name in names:
            player, introduction = bench.start(name)
            stack.callback(player.close)
            if "missing" in introduction:
                entries[name] = {NOT_MEASURED: introduction["missing"]}
                continue
            players[name] = player
            entries[name] = {"seconds": [], "tokens": introduction["tokens"]}
            known += [f"{package} {version}" for package, version in introduction["versions"].items()]
        for number, name, answer in take_turns(players, bench.rounds):
            entries[name]["seconds"].append(answer["seconds"])
            entries[name]["tokens"] = entries[name]["tokens"] or answer["tokens"]
            progress(f"round {number + 1}/{bench.rounds}, {name}: {answer['seconds']:.2f} s")
    return entries


def _memory(bench: Bench) -> dict[str, Answer]:
    answers = {}
    for megabytes in bench.size.megabytes:
        corpus = bench.scratch / f"{megabytes}.jsonl"
        progress(f"making up {megabytes} MB of text")
        make_up_corpus(corpus, megabytes)
        (answers[str(megabytes)],) = bench.alone("memory", corpus=corpus)
        corpus.unlink()
    return answers


def _resume(bench: Bench) -> list[Answer] | dict[str, str]:
    store = bench.scratch / "simulated"
    try:
        simulate_store(store, documents=bench.size.documents, tokens_of_each=bench.size.tokens_of_each)
    except OSError as error:
        return {NOT_MEASURED: f"{bench.scratch} takes no sparse file of that size: {error.strerror}; try --scratch"}
    # a process of its own for every round: the second opening would find everything warm
    return [answer for _ in range(bench.rounds) for answer in bench.alone("resume", corpus=store)]


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("data_speed", __doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    add_rounds(parser, 5, quick=2)
    parser.add_argument("--threads", type=positive, default=threads_available(), help="of each (%(default)s)")
    parser.add_argument("--scratch", type=Path, metavar="PATH", help="where the work goes on (the system's /tmp)")
    add_report_options(parser, quick="a tiny corpus")
    return parser


if __name__ == "__main__":
    sys.exit(main())
