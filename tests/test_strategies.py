"""What a run with weights in shards says of a checkpoint that it cannot go on from."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import LIGHTNING_NOISE, Run, make_data, make_model, make_trainer, train
from xlab.checkpoint_files import WholeFiles
from xlab.errors import CheckpointError
from xlab.sharded_checkpoints import LAYOUT
from xlab.strategies import Sharded

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one process, whose checkpoint is a file."""
    return train(tmp_path_factory.mktemp("run"), max_steps=2)


def go_on(run: Run, path: Path, **settings: Any) -> None:
    trainer = make_trainer(run.folder, 3, strategy=Sharded(), plugins=[WholeFiles()])
    trainer.fit(make_model(**settings), datamodule=make_data(run.corpus), ckpt_path=path, weights_only=True)
    trainer.save_checkpoint(run.folder / "sharded.ckpt")


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"garbage"])
def test_a_file_that_is_damaged_is_one_line(
    one_rank: None, run: Run, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(damage(run.trained.read_bytes()))
    with pytest.raises(CheckpointError, match="is no checkpoint, or was cut short: ") as refused:
        go_on(run, path)
    assert "\n" not in str(refused.value)


def test_a_file_of_another_model_is_one_line(one_rank: None, run: Run) -> None:
    with pytest.raises(CheckpointError, match=r"last\.ckpt has a weight .* of \(300, 16\), .* of \(300, 8\)"):
        go_on(run, run.trained, d_model=8)


@pytest.mark.parametrize("lost", ["optimizers", "cut", "folder"])
def test_a_folder_whose_table_lacks_something_is_one_line(one_rank: None, run: Run, tmp_path: Path, lost: str) -> None:
    go_on(run, run.trained)
    path = tmp_path / "last.ckpt"
    shutil.copytree(run.folder / "sharded.ckpt", path)
    meta = torch.load(path / "meta.pt", weights_only=True)
    del meta[LAYOUT][lost]
    torch.save(meta, path / "meta.pt")
    with pytest.raises(CheckpointError, match=rf"last\.ckpt is no checkpoint, or was cut short: it has no '{lost}'"):
        go_on(run, path)


def test_a_folder_without_an_optimiser_is_one_line(one_rank: None, run: Run, tmp_path: Path) -> None:
    go_on(run, run.trained)
    path = tmp_path / "last.ckpt"
    shutil.copytree(run.folder / "sharded.ckpt", path)
    meta = torch.load(path / "meta.pt", weights_only=True)
    meta[LAYOUT]["optimizers"] = []
    torch.save(meta, path / "meta.pt")
    with pytest.raises(CheckpointError, match="holds what 0 optimisers keep, and this run has 1"):
        go_on(run, path)
