"""One contender of ``decode_speed`` in a process of its own: build, warm up, then write one text for every turn.

Started by ``decode_speed`` with XLab's interpreter or with the peers'.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch

from benchmarks.decode_engines import ENGINES
from benchmarks.decode_report import LIMITS
from benchmarks.decode_shape import Shape, Work
from benchmarks.train_worker import versions
from benchmarks.turns import Answer, serve

WARM_UPS = 2  # the first compiles; the second finds the memory that the first made


def main() -> None:
    """Read the contender's name, shape and work from the command line, and take turns until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="engine, precision and, it may be, 'compiled': xlab-bf16-compiled")
    parser.add_argument("--shape", type=json.loads, required=True, help="the fields of Shape as JSON")
    parser.add_argument("--work", type=json.loads, required=True, help="the fields of Work as JSON")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    serve(lambda: prepare(args.name, Shape(**args.shape), Work(**args.work)))


def prepare(name: str, shape: Shape, work: Work) -> tuple[Answer, Callable[[], Answer]]:
    """Build and warm up; the work of a turn is the whole text of every prompt, the prompt's own pass included."""
    engine, precision, *mode = name.split("-")
    torch.manual_seed(0)
    parameters, write = ENGINES[engine](shape, work, precision, mode == ["compiled"])
    generator = torch.Generator().manual_seed(0)
    # from 3 on: what the ids below may mean to an engine is left out
    prompts = torch.randint(3, shape.vocab_size, (work.batch_size, shape.prompt_len), generator=generator)
    started = time.perf_counter()
    for _ in range(WARM_UPS):
        texts = write(prompts)
    warm_up = time.perf_counter() - started
    lengths = [len(text) for text in texts]
    if lengths != [shape.new_tokens] * work.batch_size:
        raise RuntimeError(f"{name} wrote texts of {lengths} tokens, not {work.batch_size} of {shape.new_tokens}")

    def turn() -> Answer:
        started = time.perf_counter()
        write(prompts)
        return {"seconds": time.perf_counter() - started}

    package = "torch" if engine in LIMITS else engine
    return {"parameters": parameters, "warm_up_seconds": warm_up, "versions": versions(package)}, turn


if __name__ == "__main__":
    main()
