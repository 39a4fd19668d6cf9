"""fit_speed trains the same by fit and by a bare loop, and its table says how fit does beside it."""

from pathlib import Path

import pytest

from benchmarks.bare_loop import train
from benchmarks.fit_speed import Round, as_markdown
from tests import tiny
from tests.tiny import LIGHTNING_NOISE, Recorder, make_trainer
from xlab.datamodules import XLabDataModule
from xlab.models import XLabModel

pytestmark = [pytest.mark.filterwarnings(line) for line in LIGHTNING_NOISE]


def test_the_bare_loop_trains_what_fit_does(tmp_path: Path) -> None:
    run = str(tiny.train(tmp_path, max_steps=2).trained)
    model = XLabModel.load_from_checkpoint(run, schedule={"class_path": "Constant", "init_args": {}})
    recorder = Recorder()
    settings = {"gradient_clip_val": 0.5}
    make_trainer(tmp_path, 5, recorder, **settings).fit(model, datamodule=XLabDataModule.load_from_checkpoint(run))
    bare = train(Path(run), steps=5, clip=0.5, bf16=False, compiled=False)
    assert bare["loss"] == pytest.approx(recorder.losses[-1], rel=1e-5)  # sums of other orders
    assert bare["tokens_per_s"] > 0


def report(*rounds: Round) -> dict[str, object]:
    machine = {"processor": "p", "cores": 2, "load_before": 0.1}
    about = {"date": "d", "commit": "c", "command": "x", "machine": machine, "threads": 2, "steps": 80}
    return {**about, "rounds": [vars(one) for one in rounds]}


def test_the_table_has_a_row_for_each_case_and_the_mark_names_what_misses_it() -> None:
    rounds = [Round("a", 990, 1000), Round("b", 96, 100), Round("a", 980, 1000), Round("b", 94, 100)]
    page = as_markdown(report(*rounds))
    assert "| a | 985 | 1,000 | 0.985 | 0.980 – 0.990 |" in page
    assert "80 steps a run, 2 rounds" in page
    assert "The mark of 0.97 is missed by b." in page
    assert "The mark of 0.97 is reached." in as_markdown(report(rounds[0]))
