"""The order of windows goes on where a checkpoint was taken, on other ranks and in other micro-batches too."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.tiny import BATCH_SIZE, LIGHTNING_NOISE, Recorder, make_data, make_model, make_trainer, write_corpus
from tests.tiny_data import on_rank, ready, rows
from xlab.data.packing import ContiguousWindows, OneDocument, Packing, TokenBudget
from xlab.errors import DataError

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus.jsonl")


@pytest.mark.parametrize("packing", [ContiguousWindows(), TokenBudget(40)], ids=lambda packing: type(packing).__name__)
@pytest.mark.parametrize(("before", "after"), [((2, 3), (1, 6)), ((1, 6), (2, 3)), ((2, 3), (3, 2)), ((6, 1), (1, 6))])
def test_a_run_goes_on_at_another_world_size(
    packing: Packing, before: tuple[int, int], after: tuple[int, int], corpus: Path
) -> None:
    ranks, accumulated = before
    whole = rows(on_rank(ready(corpus, packing=packing), 0, 1, accumulated=6).train_dataloader())
    saved = on_rank(ready(corpus, packing=packing), 0, ranks, accumulated=accumulated, ready=2 * accumulated)
    n_seen = sum(len(rank_rows) for rank_rows in _first_rows(corpus, packing, before, 2 * accumulated))
    saved.train_dataloader()
    state = saved.state_dict()
    ranks, accumulated = after
    rest = [on_rank(ready(corpus, packing=packing), rank, ranks, accumulated=accumulated) for rank in range(ranks)]
    for datamodule in rest:
        datamodule.load_state_dict(state)
    together = [rows(batches) for batches in zip(*(data.train_dataloader() for data in rest), strict=True)]
    assert [row for step in together for row in step] == whole[n_seen:]


def _first_rows(corpus: Path, packing: Packing, shape: tuple[int, int], n: int) -> list[list[tuple[int, ...]]]:
    ranks, accumulated = shape
    data = [on_rank(ready(corpus, packing=packing), rank, ranks, accumulated=accumulated) for rank in range(ranks)]
    return [rows(list(each.train_dataloader())[:n]) for each in data]


def test_lightnings_counts_are_turned_into_this_run_s(corpus: Path) -> None:
    saved = on_rank(ready(corpus), 0, 2, accumulated=3, ready=12)
    saved.train_dataloader()

    def checkpoint() -> dict[str, Any]:
        # saved at a batch's end, before it counts as completed
        current = {"ready": 12, "started": 12, "processed": 12, "completed": 11}
        total = {"ready": 32, "started": 32, "processed": 32, "completed": 31}
        progress = {"epoch_loop.batch_progress": {"current": current, "total": total, "is_last_batch": False}}
        return {"XLabDataModule": saved.state_dict(), "loops": {"fit_loop": progress}}

    for ranks, ready_here, all_ready in ((1, 24, 64), (2, 12, 32), (4, 6, 16)):
        content = checkpoint()
        on_rank(ready(corpus), 0, ranks).count_as_here(content)
        progress = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts, number in ((progress["current"], ready_here), (progress["total"], all_ready)):
            assert counts == {"ready": number, "started": number, "processed": number, "completed": number - 1}
    with pytest.raises(DataError, match=r"96 windows into its epoch, .* of 4 on each of 5 ranks.*take 8 at once"):
        on_rank(ready(corpus), 0, 5).count_as_here(checkpoint())


def test_a_state_from_before_world_sizes_were_told_is_taken_as_it_is(corpus: Path) -> None:
    whole = rows(ready(corpus).train_dataloader())
    resumed = ready(corpus)
    resumed.count_as_here({"XLabDataModule": {"epoch": 0, "batch": 3}})
    resumed.load_state_dict({"epoch": 0, "batch": 3})
    assert rows(resumed.train_dataloader()) == whole[3 * BATCH_SIZE :]


class SaveAmidStep(Callback):
    """Save at the first validation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("after", [(2, 6), (6, 2), (12, 1)])
def test_a_run_goes_on_amid_a_step_with_other_micro_batches(after: tuple[int, int], tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    whole, rest = Recorder(), Recorder()
    # a step is 12 windows, and the first validation, with its checkpoint, comes after 18
    validating = {"check_val_every_n_epoch": None, "limit_val_batches": 1}

    def fit(batch_size: int, accumulated: int, *callbacks: Callback, seed: int = 0, **resumed: Any) -> None:
        own = {"accumulate_grad_batches": accumulated, "val_check_interval": 18 // batch_size, **validating}
        trainer = make_trainer(tmp_path, 16, *callbacks, **own)
        trainer.fit(make_model(seed=seed), datamodule=make_data(corpus, batch_size=batch_size), **resumed)

    fit(2, 6, whole, SaveAmidStep(tmp_path / "a.ckpt"))
    resumed = {"ckpt_path": tmp_path / "a.ckpt", "weights_only": True}
    if 18 % after[0]:
        with pytest.raises(DataError, match=r"18 windows into its epoch, in the middle .* of 12 on each of 1 ranks"):
            fit(*after, rest, seed=9, **resumed)
        return
    fit(*after, rest, seed=9, **resumed)
    assert _joined(rest.batches) == _joined(whole.batches)[18:]
    assert rest.losses == pytest.approx(whole.losses[1:], rel=1e-5)  # fp32 sums in another order


def _joined(batches: list[list[list[int]]]) -> list[list[int]]:
    return [row for batch in batches for row in batch]


def test_another_packing_cannot_go_on(corpus: Path) -> None:
    saved = on_rank(ready(corpus), 0, 1, ready=2)
    saved.train_dataloader()
    resumed = ready(corpus, packing=OneDocument())
    resumed.load_state_dict(saved.state_dict())
    with pytest.raises(
        DataError, match=r"had \d+ windows, these data make \d+: its order cannot go on\. Keep data\.pack"
    ):
        resumed.train_dataloader()


def test_another_seeds_order_cannot_go_on(corpus: Path) -> None:
    saved = on_rank(ready(corpus), 0, 1, ready=2)
    saved.train_dataloader()
    resumed = ready(corpus, seed=7)
    resumed.load_state_dict(saved.state_dict())
    with pytest.raises(DataError, match=r"had data\.seed 0, this one has 7: its order cannot go on"):
        resumed.train_dataloader()
