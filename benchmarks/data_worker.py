"""One contender of ``data_speed`` in a process of its own; started by it."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import data_encoding, data_loader, data_memory
from benchmarks.turns import Answer, serve


def main() -> None:
    """Read from the command line what to do, and take turns until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="what to do")
    for name in ("corpus", "tokenizer", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="of those that take none from outside")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.name in ("loaders", "mask"):
        import torch

        torch.set_num_threads(args.threads)
    serve(_work(args))


def _work(args: argparse.Namespace) -> Callable[[], tuple[Answer, Callable[[], Answer]]]:
    places = (args.corpus, args.tokenizer, args.scratch)
    return {
        "xlab": partial(data_encoding.prepare_xlab, *places),
        "encode_batch_fast": partial(data_encoding.prepare_bare, *places, fast=True),
        "encode_batch": partial(data_encoding.prepare_bare, *places, fast=False),
        "datasets": partial(data_encoding.prepare_datasets, *places),
        "train-xlab": partial(data_encoding.train_xlab, args.corpus, args.vocab_size),
        "train-tokenizers": partial(data_encoding.train_bare, args.corpus, args.vocab_size),
        "memory": partial(data_memory.prepare_growth, *places),
        "resume": partial(data_memory.prepare_resume, args.corpus),
        "loaders": partial(data_loader.prepare_loaders, *places),
        "mask": partial(data_loader.prepare_masks, args.rounds, quick=args.quick),
    }[args.name]


if __name__ == "__main__":
    main()
