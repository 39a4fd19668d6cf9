"""Runs that torchrun starts: on two nodes, and anew when a worker is lost."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tiny import write_corpus
from xlab import checkpoints

DYING = '''"""A worker that is lost once."""

import os
import signal

from lightning.pytorch import Callback


class Dies(Callback):
    """Kill the second rank behind a step, in the first attempt."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 5 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
'''


def small(corpus: Path, **settings: object) -> list[str]:
    """Settings of a run of seconds."""
    own: dict[str, object] = {
        **{"data.source": "JsonLines", "data.source.paths": corpus, "data.source.text_column": "body"},
        **{"data.vocab_size": 300, "data.seq_len": 16, "data.batch_size": 4, "data.cache_dir": corpus.parent / "cache"},
        **{"model.d_model": 16, "model.n_heads": 2, "model.n_layers": 1, "model.schedule.warmup_steps": 1},
        **{"trainer.max_steps": 8, "trainer.val_check_interval": 4, "trainer.limit_val_batches": 2},
        **{"trainer.accelerator": "cpu", "trainer.log_every_n_steps": 1, "trainer.logger": False, **settings},
    }
    return [f"--{name}={value}" for name, value in own.items()]


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_lost_worker_of_two_nodes_is_made_up_for(tmp_path: Path, way: str) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    (tmp_path / "dying.py").write_text(DYING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    fit = [str(ROOT / "xlab.py"), "fit", "-c", str(ROOT / "conf" / "extra" / f"{way}.yaml"), *small(corpus)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=1"]
    launch += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = []
    for node in range(2):
        command = [*launch, f"--node-rank={node}", *fit, "--trainer.callbacks+=dying.Dies"]
        log = open(tmp_path / f"node{node}.log", "w")  # noqa: SIM115 (closed with the process)
        nodes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log))
    try:
        statuses = [node.wait(timeout=240) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    said = (tmp_path / "node0.log").read_text()
    assert statuses == [0, 0], said
    assert re.search(
        r"note: started anew by torchrun; the run goes on from logs/version_0/checkpoints/last\.ckpt", said
    )
    first, second = (json.loads((tmp_path / f"logs/version_{n}/run.json").read_text()) for n in range(2))
    assert first["world_size"] == second["world_size"] == 2
    assert (second["first_step"], second["last_step"], second["status"]) == (4, 8, "finished")
    assert checkpoints.read(tmp_path / "logs/version_1/checkpoints/last.ckpt").info["step"] == 8
