"""The loop that ``fit_speed`` holds ``./xlab.py fit`` against: a run's model, data and optimiser, nothing around them.

A process of its own, started by ``fit_speed`` with the folder of a run; what it answers is a JSON object on stdout.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from xlab import factories
from xlab.data.packing import IGNORED
from xlab.datamodules import XLabDataModule
from xlab.models import XLabModel
from xlab.training.allocator import keep_freed_memory
from xlab.training.compiling import CompiledPass
from xlab.training.optimizers import decay_groups, scale_rates


def main() -> None:
    """Train as many steps as are asked for, and print the rate of the later half."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run of fit, for its settings")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--clip", type=float, help="largest norm of the gradients")
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    print(json.dumps(train(args.run, steps=args.steps, clip=args.clip, bf16=args.bf16, compiled=args.compile)))


def train(run: Path, *, steps: int, clip: float | None, bf16: bool, compiled: bool) -> dict[str, float]:
    """Train a run's model on its batches, by a loop that anyone would write.

    Args:
        run: folder of a run of fit.
        steps: how many, of a micro-batch each.
        clip: largest norm of the gradients; None leaves them.
        bf16: whether to compute under autocast.
        compiled: whether as one graph.

    Returns:
        ``tokens_per_s`` of the later half, and the last ``loss``, nats per token.
    """
    keep_freed_memory()
    model = XLabModel.load_from_checkpoint(str(run)).train()
    data = XLabDataModule.load_from_checkpoint(str(run))
    data.prepare_data()
    data.setup("fit")
    loss_of = CompiledPass(model.decoder, model.objective) if compiled else model.training_pass
    optimizer = factories.build(model.hparams["optimizer"], decay_groups(model))
    scale_rates(optimizer)
    # before the clock: data are opened, and the first steps compile and make the optimiser's buffers
    done, tokens, began = 0, 0, 0.0
    while True:
        for batch in data.train_dataloader():
            if done == steps // 2:
                tokens, began = 0, time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = loss_of(batch) / (batch["targets"] != IGNORED).sum()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            done, tokens = done + 1, tokens + batch["inputs"].numel()
            if done == steps:
                return {"tokens_per_s": tokens / (time.perf_counter() - began), "loss": loss.item()}


if __name__ == "__main__":
    main()
