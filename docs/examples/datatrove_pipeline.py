"""Tokenize a corpus with datatrove into shards that ``data.train_data_prefix`` reads as one dataset.

    python docs/examples/datatrove_pipeline.py texts tokenizer.json tokens/train --tasks 4 --workers 2

Each task reads its share of the files and writes one shard, PREFIX-00000-of-00004.bin and .idx. On a cluster, only the
executor changes: see docs/datatrove.md.
"""

import argparse
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.executor import LocalPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import JsonlReader

from xlab.data.token_store import TokenStoreWriter
from xlab.data.tokenizers import Tokenizer


class TokenShards(PipelineStep):
    """Write each task's documents as one shard of a token store, ``sos, tokens, eos`` each, and pass them on.

    Args:
        prefix: What all shards are called, before ``-00000-of-00004``.
        tokenizer: A tokenizer.json, such as train-tokenizer writes.
        batch_size: Documents that are encoded side by side.
    """

    name = "XLab's token store"
    type = "✍️ - WRITER"

    def __init__(self, prefix: str, tokenizer: str, batch_size: int = 1000) -> None:
        super().__init__()
        self.prefix = prefix
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write shard ``rank`` of ``world_size``; its files appear when the task is done, and not before."""
        tokenizer = Tokenizer.from_file(self.tokenizer)
        shard = Path(f"{self.prefix}-{rank:05}-of-{world_size:05}")
        shard.parent.mkdir(parents=True, exist_ok=True)
        documents = iter(data)
        # a task without a file writes an empty shard: a set with a missing one is refused
        with TokenStoreWriter(shard, vocab_size=len(tokenizer)) as store:
            while batch := list(islice(documents, self.batch_size)):
                with self.track_time(unit="batch"):
                    self._write(batch, tokenizer, store)
                yield from batch

    def _write(self, documents: list[Document], tokenizer: Tokenizer, store: TokenStoreWriter) -> None:
        # pieces, so that a document of any length is encoded on all cores
        pieces = [(number, text) for number, one in enumerate(documents) for text in tokenizer.pieces(one.text)]
        encoded = tokenizer.encode_batch([text for _, text in pieces])
        ids: list[list[int]] = [[] for _ in documents]
        for (number, _), some in zip(pieces, encoded, strict=True):
            ids[number] += some
        for document in ids:
            store.write([tokenizer.sos_id, *document, tokenizer.eos_id])
            store.end_document()
            self.stat_update("tokens", value=len(document) + 2)


def pipeline(texts: str, tokenizer: str, prefix: str) -> list[PipelineStep]:
    """Read JSON Lines, and write shards. Filters and deduplication go in between."""
    return [JsonlReader(texts, text_key="text"), TokenShards(prefix, tokenizer)]


def local(texts: str, tokenizer: str, prefix: str, *, tasks: int, workers: int, logs: str) -> PipelineExecutor:
    """Run the pipeline on this machine: ``tasks`` shards, ``workers`` of them at a time."""
    return LocalPipelineExecutor(
        pipeline(texts, tokenizer, prefix), tasks=tasks, workers=workers, logging_dir=logs, start_method="spawn"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", help="a folder of .jsonl files, compressed or not")
    parser.add_argument("tokenizer", help="a tokenizer.json")
    parser.add_argument("prefix", help="what the shards are called, such as tokens/train")
    parser.add_argument("--tasks", type=int, default=4, help="shards")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--logs", help="where datatrove notes which tasks are done; by default PREFIX.logs")
    given = parser.parse_args()
    logs = given.logs or f"{given.prefix}.logs"  # one for each set, or the next would find its tasks done already
    run = local(given.texts, given.tokenizer, given.prefix, tasks=given.tasks, workers=given.workers, logs=logs)
    run.run()
    # beside the shards, train_data_prefix finds it
    shutil.copy(given.tokenizer, Path(given.prefix).parent / "tokenizer.json")


if __name__ == "__main__":  # each worker imports this file again
    main()
