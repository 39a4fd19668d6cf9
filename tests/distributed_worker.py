"""One of the ranks that train small models in every way that spreads them; the first writes down what it saw.

python -m tests.distributed_worker FOLDER      in the environment that torchrun gives: one of two ranks
python -m tests.distributed_worker FOLDER 4    four ranks, who take up what the two saved
"""

import json
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.tiny import Recorder, make_data, make_model, make_trainer
from xlab.checkpoint_files import BackgroundFiles, WholeFiles
from xlab.data.packing import OneDocument
from xlab.strategies import Sharded

STEPS, SAVED_AT = 6, 3
# between them every part that tensor parallelism divides, and every one of the default recipe
MODELS: dict[str, dict[str, Any]] = {
    "gated": {
        "n_heads": 4,
        "attention": {
            "class_path": "xlab.transformer.GroupedQueryAttention",
            "init_args": {"n_kv_heads": 2, "qk_norm": {"class_path": "xlab.transformer.HeadQKNorm"}},
        },
        "value_mix": {"class_path": "xlab.transformer.ValueEmbeddings", "init_args": {"gate_width": 8, "every": 1}},
        "d_ff": 24,
        "block": {"class_path": "xlab.transformer.EmbeddingShortcutBlock", "init_args": {"embedding_scale": 0.1}},
        "norm": "xlab.transformer.PlainRMSNorm",
        "embedding_norm": "xlab.transformer.PlainRMSNorm",
        "logit_cap": 15.0,
        "initialisation": "xlab.transformer.ZeroOutputInitialisation",
        "optimizer": {
            "class_path": "xlab.training.muon.MuonAdamW",
            "init_args": {"lr": 0.01, "embedding_factor": 10.0, "eps": 1e-5},  # rounding alone moves nothing
        },
    },
    "biased": {
        "n_heads": 2,
        "attention": {"class_path": "xlab.transformer.MultiHeadAttention", "init_args": {"bias": True}},
        "feed_forward": {"class_path": "xlab.transformer.ReLUSquaredFeedForward", "init_args": {"bias": True}},
        "position": "xlab.transformer.ALiBi",
        "value_mix": "xlab.transformer.ValueResidual",
        "tie_embeddings": False,
        "dropout": 0.0,
    },
}


def train(
    folder: Path,
    name: str,
    *,
    strategy: Any = "auto",
    batch_size: int = 8,
    plugin: Any = None,
    save: bool = False,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train one of MODELS on ragged batches, and give its losses; ``save`` writes ``name.STRATEGY.ckpt`` on the way."""
    model = make_model(**MODELS[name], **settings.pop("model", {}))
    data = make_data(folder / "corpus.jsonl", batch_size=batch_size, packing=OneDocument())
    own = folder / f"{name}.{settings.pop('saved_as', 'one')}.ckpt"
    recorder = Recorder({SAVED_AT: own} if save else {})
    validating = {"val_check_interval": STEPS, "check_val_every_n_epoch": None, "limit_val_batches": 1.0}
    trainer = make_trainer(
        folder, STEPS, recorder, strategy=strategy, plugins=[plugin or WholeFiles()], gradient_clip_val=0.5,
        **{**validating, **settings},
    )  # fmt: skip
    with (
        # what differs in fp32's last bit would differ in bf16's, now and then
        mock.patch("xlab.training.muon.fast_dtype", return_value=torch.float32),
        mock.patch("xlab.training.layouts.AT_ONCE", 600),  # of 768 elements at most: rounds of one to three matrices
    ):
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return {"losses": recorder.losses, "val": float(trainer.callback_metrics["val/loss"]), "steps": trainer.global_step}


def two(folder: Path) -> dict[str, Any]:
    """Train in each way, and take up with each what another saved."""
    ranks = {"devices": int(os.environ["LOCAL_WORLD_SIZE"]), "num_nodes": int(os.environ["GROUP_WORLD_SIZE"])}
    seen: dict[str, Any] = {}
    for name in MODELS:
        seen[f"{name} fsdp"] = train(
            folder, name, strategy=Sharded(), batch_size=4, save=True, saved_as="fsdp", **ranks
        )
        seen[f"{name} tp"] = train(folder, name, strategy=Sharded(2), save=True, saved_as="tp", **ranks)
    # what one way has saved, the others take up
    for saved in ("fsdp", "tp", "one"):
        path = folder / f"gated.{saved}.ckpt"
        seen[f"fsdp from {saved}"] = train(folder, "gated", strategy=Sharded(), batch_size=4, ckpt_path=path, **ranks)
        seen[f"tp from {saved}"] = train(folder, "gated", strategy=Sharded(2), ckpt_path=path, **ranks)
    background = BackgroundFiles()
    seen["fsdp in the background"] = train(
        folder, "gated", strategy=Sharded(), batch_size=4, plugin=background, save=True, saved_as="background", **ranks
    )
    return seen


def four(folder: Path) -> dict[str, Any]:
    """Train with pairs of ranks that share layers, two of which share the data."""
    both: dict[str, Any] = {"batch_size": 4, "devices": 4}
    seen = {
        f"{name} both": train(folder, name, strategy=Sharded(2), save=True, saved_as="both", **both) for name in MODELS
    }
    for saved in ("fsdp", "tp", "one"):
        path = folder / f"gated.{saved}.ckpt"
        seen[f"both from {saved}"] = train(folder, "gated", strategy=Sharded(2), ckpt_path=path, **both)
    return seen


def main(folder: Path, n_forked: int = 0) -> None:
    """Train in each way, and write what was seen into ``seen.N.json``, of N ranks."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if n_forked:
        fork(n_forked)
    seen = four(folder) if n_forked else two(folder)
    if torch.distributed.get_rank() == 0:
        (folder / f"seen.{torch.distributed.get_world_size()}.json").write_text(json.dumps(seen))
    torch.distributed.barrier()  # who ends while another still talks to it may abort it
    torch.distributed.destroy_process_group()


def fork(n_ranks: int) -> None:
    """Go on as one of so many ranks: to start a process for each would take longer than what they do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # the first is the process that was started; when it ends, the others have nobody to talk to, and end as well
    rank = next((rank for rank in range(1, n_ranks) if not os.fork()), 0)
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": n_ranks, "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in world.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
