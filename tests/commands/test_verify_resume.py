"""manage.py verify-resume, with real processes and real kills: exact where it is, and not fooled where it is not."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import options, small

from xlab.commands.verify_resume import facts_of, fit_command, verify_resume
from xlab.lab.resume import Trial, verify

FORGETFUL = '''"""A sampler that does not know where a resumed run goes on."""

from lightning.pytorch import Callback

from xlab.data.sampler import TrainBatchSampler


class Forgets(Callback):
    """Begin a resumed epoch anew."""

    def setup(self, *_: object, **__: object) -> None:
        TrainBatchSampler.resume = lambda self, epoch, batch: None
'''
RANKS = {"trainer.accelerator": "cpu", "trainer.devices": 2, "trainer.strategy": "ddp"}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose cache the runs of all tests share."""
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(autouse=True)
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(prepared)
    return prepared


def call(*arguments: object) -> Result:
    return CliRunner().invoke(verify_resume, list(map(str, arguments)))


def settings(corpus: Path, **changes: object) -> list[str]:
    return small(corpus, **{"trainer.max_steps": 50, "trainer.accelerator": "cpu", **changes})


def table(result: Result) -> list[list[str]]:
    """The rows of the printed table, without its head."""
    rows = [re.split(r" {2,}", line) for line in result.stdout.split("\n\n")[0].splitlines()]
    assert rows[0] == ["run", "ranks", "micro-batches", "steps", "end"]
    return rows[1:]


class TestExact:
    def test_with_accumulation_and_loader_processes(self, corpus: Path, here: Path) -> None:
        run = settings(corpus, **{"trainer.accumulate_grad_batches": 3, "data.num_workers": 2})
        result = call("--steps=5", "--kills=2", *run)
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith("exact: the same batches, losses, weights and optimiser, bit for bit\n")
        whole, *parts = table(result)
        assert whole[1:] == ["1", "1–14", "1–5", "finished"]  # an epoch of 11 ends amid the fourth step
        ends = [part[-1].partition(",")[0] for part in parts]
        assert ends == ["killed amid a step", "killed while saving", "finished"]
        assert not (here / "logs").exists()  # where the user stands, no run is left

    def test_on_two_ranks_with_dropout(self, corpus: Path) -> None:
        run = settings(corpus, **{"trainer.accumulate_grad_batches": 3, "model.dropout": 0.2, "data.batch_size": 4})
        result = call("--steps=4", "--kills=1", "--seed=1", *run, *options(RANKS))
        assert result.exit_code == 0, result.output
        assert "bit for bit" in result.stdout
        assert {row[1] for row in table(result)} == {"2"}
        assert "killed in a validation" in result.stdout

    def test_on_two_ranks_what_began_on_one_with_shards(self, corpus: Path) -> None:
        sharded = {"trainer.strategy": "{class_path: xlab.strategies.Sharded}"}
        run = settings(corpus, **{"trainer.accumulate_grad_batches": 2, **sharded})
        result = call("--steps=4", "--kills=1", "--resume-devices=2", *run)
        assert result.exit_code == 0, result.output
        assert "the same windows in every step, losses and weights equal to rounding (1e-05)" in result.stdout
        assert [row[1] for row in table(result)] == ["1", "1", "2"]


def test_a_sampler_that_forgets_its_place_is_seen(corpus: Path, here: Path) -> None:
    (here / "forgetful.py").write_text(FORGETFUL)
    run = [*settings(corpus), "--trainer.callbacks+=forgetful.Forgets"]
    fixed, facts = facts_of(tuple(run))
    verdict = verify(Trial([*fit_command(), *run, *fixed], steps=4, kills=1, **facts))
    killed, resumed = verdict.attempts
    assert killed.was_killed
    assert verdict.difference is not None
    begun = resumed.of("batch")[0]
    at, again = (
        run["tensors"]["inputs"] for run in (verdict.whole.of("batch")[begun["n"]], verdict.whole.of("batch")[0])
    )
    assert verdict.difference.where == f"step {begun['step'] + 1}, micro-batch {begun['n'] + 1} of the run"
    assert verdict.difference.what == "inputs"
    assert (verdict.difference.expected, verdict.difference.found) == (at, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.batchsize=3"], "did you mean 'data.batch_size'"),
        (["--ckpt_path=last.ckpt"], "there is no checkpoint last.ckpt"),
        (["--steps=2"], "--steps must be at least 4, got 2"),
        (["--data.seq_len=100000"], "too few for one window"),  # known to the training process alone
    ],
)
def test_what_cannot_be_tried_is_one_line(corpus: Path, arguments: list[str], message: str) -> None:
    result = call(*settings(corpus), *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("manage.py verify-resume: error: ")
    assert message in line


def test_a_run_is_seeded_whatever_its_settings_say(corpus: Path) -> None:
    assert facts_of(tuple(settings(corpus)))[0] == []
    assert facts_of((*settings(corpus), "--seed_everything=true"))[0] == ["--seed_everything=0"]
