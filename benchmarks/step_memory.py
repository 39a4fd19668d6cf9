"""Peak memory of a training step with a vocabulary of 50,000: XLab's chunks of logits beside other ways to the loss.

Each way is a process of its own that builds the same model with the same optimiser and makes two steps; what is
measured is the most memory it held above its imports. docs/benchmarks.md says what is equal between them.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.data_memory import resident
from benchmarks.layout import as_columns, as_markdown_table
from benchmarks.machine import describe_commit, describe_machine, threads_available, today
from benchmarks.options import add_report_options, parser_of, positive, progress, write_report
from benchmarks.train_shape import TINY, Shape
from benchmarks.turns import Answer, Player, PlayerError, serve

ROOT = Path(__file__).parent.parent
SHAPE = Shape(vocab_size=50_304, seq_len=512)  # GPT-2's vocabulary, rounded up as is usual
WAYS = ("chunked", "unfused", "linear_cross_entropy")
OWN, PLAIN = WAYS[:2]
MARK = 0.5  # of the unfused way's peak
HEADINGS = ("way to the loss", "peak, MB", "÷ unfused", "at rest, MB", "a step, s")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print its table and write its JSON; a process of it prepares itself instead.

    Returns:
        0, or 1 when a way could not be measured.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    if args.worker:
        serve(lambda: prepare(args.worker, Shape(**json.loads(args.shape)), threads=args.threads))
        return 0
    if args.markdown:
        print(as_text(json.loads(args.markdown.read_text()), table=as_markdown_table))
        return 0
    shape = TINY if args.quick else SHAPE
    machine, ways = describe_machine(), {}
    try:
        for way in WAYS:
            progress(f"{way}: two steps")
            ways[way] = measure(way, shape, threads=args.threads)
    except PlayerError as error:
        print(f"{way} could not be measured: {error}", file=sys.stderr)
        return 1
    report = {
        "benchmark": "step_memory",
        "command": shlex.join(["python", "-m", "benchmarks.step_memory", *arguments]),
        "date": today(),
        "commit": describe_commit(ROOT),
        "machine": machine,
        "threads": args.threads,
        "shape": asdict(shape),
        "ways": ways,
    }
    print(as_text(report))
    write_report(report, args.json)
    return 0


def measure(way: str, shape: Shape, *, threads: int) -> Answer:
    """Measure one way in a process of its own.

    Raises:
        PlayerError: when it stops before the end.
    """
    command = [sys.executable, "-m", "benchmarks.step_memory", f"--worker={way}", f"--threads={threads}"]
    # what is freed goes back to the system at once, and is not counted twice
    environment = {"OMP_NUM_THREADS": str(threads), "MALLOC_MMAP_THRESHOLD_": "1048576"}
    player = Player([*command, f"--shape={json.dumps(asdict(shape))}"], cwd=ROOT, env=environment)
    try:
        introduction = player.answer()
        if "missing" in introduction:
            raise PlayerError(introduction["missing"])
        return introduction | player.turn()
    finally:
        player.close()


def prepare(way: str, shape: Shape, *, threads: int) -> tuple[Answer, Callable[[], Answer]]:
    """Import what a step takes; the work builds the model and makes two steps."""
    import torch
    import torch._dynamo  # an optimiser's first step would import it
    import torch.nn.functional as F
    from torch import Tensor

    from benchmarks.train_worker import matmul_dtype
    from xlab.training.objectives import NextToken
    from xlab.transformer.decoder import Decoder

    torch.set_num_threads(threads)
    dtype = matmul_dtype()
    objective = NextToken()

    def loss_of(model: Decoder, inputs: Tensor, targets: Tensor) -> Tensor:
        hidden = model.hidden(inputs)  # (B, T, D)
        if way == "chunked":
            loss: Tensor = objective(hidden, model.head, {"inputs": inputs, "targets": targets})
            return loss / targets.numel()
        if way == "unfused":
            return F.cross_entropy(model.logits(hidden).float().flatten(0, 1), targets.flatten())
        states = hidden.flatten(0, 1)
        return F.linear_cross_entropy(states, model.unembedding.to(states.dtype), targets.flatten())

    def work() -> Answer:
        before = resident("VmRSS")
        torch.manual_seed(0)
        model = Decoder(
            shape.vocab_size, shape.seq_len, shape.d_model, shape.n_layers, shape.n_heads, shape.d_ff
        ).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
        ids = torch.randint(shape.vocab_size, (shape.batch_size, shape.seq_len + 1))
        for _ in range(2):  # the first makes the optimiser's buffers, which the second has to bear
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                loss = loss_of(model, ids[:, :-1], ids[:, 1:])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds = time.perf_counter() - began
        state = sum(weight.nbytes for weight in model.parameters()) * 3  # and Adam's two moments
        peak = resident("VmHWM") - before
        return {"megabytes": peak, "at_rest": state / 1e6, "seconds": seconds, "loss": loss.item()}

    return {"precision": f"{dtype} autocast" if dtype is torch.bfloat16 else str(dtype)}, work


def as_text(report: dict[str, Any], *, table: Callable[..., str] = as_columns) -> str:
    """The setting, the table and the conclusion."""
    machine, shape, ways = report["machine"], report["shape"], report["ways"]
    setting = [
        f"{report['date']}, commit {report['commit']}: `{report['command']}`.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {report['threads']} threads.",
        f"{shape['n_layers']} layers, d {shape['d_model']}, vocabulary {shape['vocab_size']} (tied), "
        f"{shape['batch_size']} × {shape['seq_len']} tokens, {ways[OWN]['precision']}.",
    ]
    share = {way: figures["megabytes"] / ways[PLAIN]["megabytes"] for way, figures in ways.items()}
    rows = [
        (
            way,
            f"{figures['megabytes']:.0f}",
            f"{share[way]:.2f}",
            f"{figures['at_rest']:.0f}",
            f"{figures['seconds']:.2f}",
        )
        for way, figures in ways.items()
    ]
    verdict = "reached" if share[OWN] <= MARK else "not reached"
    end = f"A step of XLab's takes {share[OWN]:.2f} × the unfused one's memory; the mark, {MARK} ×, is {verdict}."
    return "\n\n".join(["\n".join(setting), table(HEADINGS, rows), end])


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("step_memory", __doc__)
    parser.add_argument("--threads", type=positive, default=threads_available(), help="of each (%(default)s)")
    add_report_options(parser)
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
