"""What a document mask costs: training steps of one decoder with and without it, in turns, over packed documents.

    python -m benchmarks.data_mask

Letters: B batch, T positions.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import describe_machine, threads_available, today
from xlab.transformer.decoder import Decoder


@dataclass(frozen=True)
class Work:
    """A step's batch, and how long its documents are on average."""

    batch_size: int
    seq_len: int
    mean_length: int


@dataclass(frozen=True)
class Cost:
    """Seconds of a step, the median of the rounds, without a mask and with it."""

    work: Work
    plain: float
    masked: float


WORKS = [Work(8, 256, 64), Work(8, 256, 512), Work(1, 2048, 64), Work(1, 2048, 512), Work(1, 2048, 4096)]


def measure(works: list[Work], rounds: int = 9) -> Iterator[Cost]:
    """Time steps of the default model, forward and backward in float32; one road after the other in every round."""
    for work in works:
        torch.manual_seed(0)
        decoder = Decoder(vocab_size=4096, max_len=work.seq_len, d_model=192, n_layers=4, n_heads=4)
        ids = torch.randint(4096, (work.batch_size, work.seq_len + 1))
        roads = {"plain": None, "masked": packed_documents(work)}
        seconds: dict[str, list[float]] = {name: [] for name in roads}
        for number in range(rounds + 1):
            for name, documents in roads.items():
                took = _step(decoder, ids, documents)
                if number:  # the first warms up
                    seconds[name].append(took)
        yield Cost(work, *(statistics.median(seconds[name]) for name in roads))


def packed_documents(work: Work) -> Tensor:
    """The documents' numbers in a batch, (B, T): lengths vary as they do among texts, exponentially."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.empty(work.batch_size, work.seq_len).exponential_(1 / work.mean_length, generator=generator)
    ends = lengths.ceil().cumsum(dim=1)  # each row has more documents than fit
    return torch.searchsorted(ends, torch.arange(work.seq_len).expand(work.batch_size, -1).contiguous(), right=True)


def table(costs: list[Cost]) -> str:
    """Lay out the costs in Markdown."""
    lines = ["| B × T | mean document | no mask, ms | mask, ms | ratio |", "|---|---|---|---|---|"]
    for cost in costs:
        shape = f"{cost.work.batch_size} × {cost.work.seq_len}"
        times = f"{1e3 * cost.plain:.1f} | {1e3 * cost.masked:.1f} | {cost.masked / cost.plain:.2f}"
        lines.append(f"| {shape} | {cost.work.mean_length} | {times} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    torch.set_num_threads(threads_available())
    machine = describe_machine()
    costs = list(measure(WORKS))
    print(f"{today()}, {machine['processor']}, {machine['cores']} cores, load {machine['load_before']}\n")
    print(table(costs))


def _step(decoder: Decoder, ids: Tensor, documents: Tensor | None) -> float:
    began = time.perf_counter()
    logits = decoder(ids[:, :-1], documents=documents)
    F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    decoder.zero_grad()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
