"""manage.py batch-size finds a batch by training, each time in a process of its own, and writes nothing."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import small

from xlab.commands.batch_size import batch_size
from xlab.lab.plan_time import MemoryShortageError, measure_memory


def call(*arguments: object) -> Result:
    return CliRunner().invoke(batch_size, list(map(str, arguments)))


def test_the_largest_batch_and_the_accumulation_that_keeps_the_step(
    there: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[str]] = []

    def measured(words: list[str], **_: object) -> int:
        tried.append(words[-3:])
        windows = int(words[-3].rpartition("=")[2])
        if windows > 5:
            raise MemoryShortageError("a step was killed")
        return windows * 2**20

    monkeypatch.setattr("xlab.lab.plan_time.measure_memory", measured)
    before = sorted(there.rglob("*"))
    result = call(*small(corpus, trainer__accumulate_grad_batches=3), "--memory=4")
    assert result.exit_code == 0, result.output
    assert "--data.batch_size 4 --trainer.accumulate_grad_batches 6" in result.stdout
    assert "384 tokens" in result.stdout
    assert ": 5 windows" in result.stdout
    assert tried[0] == ["--data.batch_size=1", "--trainer.accumulate_grad_batches=2", "--compile=false"]
    assert sorted(there.rglob("*")) == before


def test_a_real_step_s_memory(there: Path, corpus: Path) -> None:
    words = small(corpus, **{"data.batch_size": 512})
    assert measure_memory(words) > 512 * 16 * 300 * 4  # of a batch's logits alone


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--margin=1"], "--margin must be in [0, 1), got 1"),
        (["--memory=0"], "--memory must be above 0"),
        (["--memory=nan"], "--memory must be above 0"),
        (["--memory=0.001"], "no memory is left for training"),
        (["--data.packing=TokenBudget", "--data.packing.max_tokens=64"], "data.packing makes whole batches"),
        (["--modle.d_model=1"], "there is no setting 'modle.d_model'"),
    ],
)
def test_bad_input_is_one_line(there: Path, corpus: Path, options: list[str], says: str) -> None:
    result = call(*small(corpus), *options)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
