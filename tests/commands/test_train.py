"""xlab.py as a user drives it: runs, resumes, repeats, measures, and refuses in one line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands_setup import ROOT, options, small, write_corpus

from xlab import checkpoints
from xlab.commands.lightning_cli import run
from xlab.errors import XLabError


def script(*arguments: object, cwd: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a script as a process of its own."""
    command = [sys.executable, str(ROOT / str(arguments[0])), *map(str, arguments[1:])]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **settings)


def newest_run() -> Path:
    return max(Path("logs").glob("version_*"), key=lambda path: int(path.name.partition("_")[2]))


def logged(run_folder: Path, figure: str) -> list[float]:
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [line[figure] for line in lines if figure in line]


class TestFit:
    def test_a_run_leaves_its_settings_its_curves_and_two_checkpoints(self, there: Path) -> None:
        folder = there / "logs" / "version_0"
        assert (folder / "checkpoints" / "best.ckpt").is_file()
        assert (folder / "checkpoints" / "last.ckpt").is_file()
        assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["seq_len"] == 16
        assert list(folder.glob("events.out.tfevents.*"))
        assert len(logged(folder, "val/loss")) == 2

    def test_it_ends_with_the_figures_the_path_and_the_next_command(
        self, there: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("fit", small(corpus))
        out = capsys.readouterr().out
        for figure in ("val loss", "val perplexity", "val bits per byte", "val accuracy"):
            assert re.search(rf"^{figure} +\d", out, re.MULTILINE), figure
        assert re.search(r"^next +\./infer\.py logs/version_\d+/checkpoints/best\.ckpt", out, re.MULTILINE)

    def test_its_saved_configuration_repeats_it(self, there: Path) -> None:
        run("fit", ["-c", "logs/version_0/config.yaml"])
        assert logged(newest_run(), "val/loss") == logged(Path("logs/version_0"), "val/loss")

    def test_the_last_step_is_validated_and_saved_wherever_the_interval_falls(self, there: Path, corpus: Path) -> None:
        run("fit", small(corpus, trainer__max_steps=5))
        assert len(logged(newest_run(), "val/loss")) == 2
        assert checkpoints.read(newest_run() / "checkpoints" / "last.ckpt").info["step"] == 5

    def test_a_resumed_run_ends_where_an_uninterrupted_one_does(self, there: Path, corpus: Path) -> None:
        run("fit", small(corpus, trainer__max_steps=9))
        whole = checkpoints.read(newest_run() / "checkpoints" / "last.ckpt")
        run("fit", small(corpus, **{"model.schedule": "Constant", "trainer.max_steps": 9}))
        constant = checkpoints.read(newest_run() / "checkpoints" / "last.ckpt")
        run("fit", small(corpus, **{"model.schedule": "Constant"}))
        run("fit", [*small(corpus, trainer__max_steps=9), "--ckpt_path", str(newest_run())])
        resumed = checkpoints.read(newest_run() / "checkpoints" / "last.ckpt")
        assert all(weight.equal(resumed.weights[name]) for name, weight in constant.weights.items())
        assert not all(weight.equal(resumed.weights[name]) for name, weight in whole.weights.items())

    def test_a_new_run_starts_from_the_weights_and_tokenizer_of_another(self, there: Path, corpus: Path) -> None:
        data = [option for option in small(corpus) if "vocab_size" not in option and "model" not in option]
        steps = ["--model.schedule.warmup_steps=1", "--model.init_from=logs/version_0"]
        run("fit", [*data, *steps])
        first = logged(newest_run(), "val/loss")
        assert first[0] < logged(Path("logs/version_0"), "val/loss")[-1]
        before, after = (checkpoints.read(folder) for folder in ("logs/version_0", newest_run()))
        assert before.tokenizer == after.tokenizer
        assert after.model["init_from"] is None

    def test_a_setting_that_a_checkpoint_decides_is_named(
        self, there: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("fit", [*small(corpus, model__d_model=32, trainer__max_steps=7), "--ckpt_path=logs/version_0"])
        assert "note: model.d_model stays 16 as in the checkpoint, not 32" in capsys.readouterr().err

    def test_what_a_killed_run_was_writing_is_removed_when_it_goes_on(self, there: Path, corpus: Path) -> None:
        run("fit", small(corpus))
        record = json.loads((newest_run() / "run.json").read_text())
        half = newest_run() / "checkpoints" / ".last.ckpt.half"
        with subprocess.Popen([sys.executable, "-c", ""]) as gone:
            pass
        for status, is_left in (("finished", True), ("running", False)):
            half.touch()
            (half.parents[1] / "run.json").write_text(json.dumps({**record, "status": status, "process": gone.pid}))
            run("fit", [*small(corpus, trainer__max_steps=7), f"--ckpt_path={half.parents[1]}"])
            assert half.exists() == is_left
        assert json.loads((newest_run() / "run.json").read_text())["peak"] == record["peak"]

    def test_training_on_another_corpus_is_no_resumption(self, there: Path, tmp_path: Path) -> None:
        other = write_corpus(tmp_path / "other.jsonl", 130)
        with pytest.raises(XLabError, match=r"is not the one .* --model\.init_from"):
            run("fit", [*small(other, trainer__max_steps=9), "--ckpt_path=logs/version_0"])

    def test_separate_validation_files(self, there: Path, corpus: Path, tmp_path: Path) -> None:
        own = write_corpus(tmp_path / "valid.jsonl", 10)
        run("fit", [*small(corpus), "--data.val_source=JsonLines", f"--data.val_source.paths={own}"])
        assert logged(newest_run(), "val/loss")

    def test_a_run_without_validation_data_keeps_its_last_state(
        self, there: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("fit", small(corpus, **{"data.splits.val": 0, "trainer.max_steps": 4}))
        assert checkpoints.read(newest_run()).info["step"] == 4
        assert "no validation data" in capsys.readouterr().out

    def test_a_run_without_a_progress_bar_says_nothing_on_its_way(
        self, there: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("fit", small(corpus, **{"trainer.enable_progress_bar": False, "trainer.max_steps": 4}))
        assert "step 4/4" not in capsys.readouterr().err

    def test_a_class_of_the_users_own_file(
        self, there: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "own_parts.py").write_text(OWN_PART)
        monkeypatch.syspath_prepend(tmp_path)
        run("fit", [*small(corpus), "--model.feed_forward=own_parts.Wide", "--model.feed_forward.factor=3"])
        checkpoint = checkpoints.read(newest_run())
        assert checkpoint.weights["blocks.0.feed_forward.up.weight"].shape == (48, 16)


OWN_PART = '''"""A feed-forward of one's own."""

from torch import Tensor, nn

from xlab.transformer import FeedForward


class Wide(FeedForward):
    """Two matrices and a tanh."""

    def __init__(self, d_model: int, d_ff: int | None = None, factor: int = 2) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, factor * d_model)
        self.down = nn.Linear(factor * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).tanh())
'''


RANKS = {"trainer.accelerator": "cpu", "trainer.devices": 2}

PATIENCE = '''"""A corpus that takes longer to read than its ranks have patience."""

import time
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed
from lightning.pytorch.strategies import DDPStrategy

from xlab.data.sources import Document, JsonLines


class SlowLines(JsonLines):
    """JSON Lines from a slow disk."""

    def documents(self) -> Iterator[Document]:
        time.sleep(1.5)  # what is tested is waiting: longer than the collectives' second
        yield from super().documents()


class Impatient(DDPStrategy):
    """Collectives give up after a second until the training itself begins."""

    def setup_environment(self) -> None:
        super().setup_environment()
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1))

    def setup(self, trainer: object) -> None:
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(minutes=2))
        super().setup(trainer)
'''


class TestMeasuring:
    @pytest.mark.parametrize("kind", ["run folder", "exported"])
    def test_validate_alone_repeats_the_logged_figure(self, there: Path, kind: str) -> None:
        path = "logs/version_0" if kind == "run folder" else str(checkpoints.export("logs/version_0", "exports")[0])
        run("validate", ["--ckpt_path", path, "--json", "figures.json"])
        figures = json.loads(Path("figures.json").read_text())
        assert figures["split"] == "val"
        assert figures["loss"] == min(logged(Path("logs/version_0"), "val/loss"))

    def test_test_prints_a_table_and_makes_no_run(self, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = set(Path().rglob("*"))
        run("test", ["--ckpt_path", "logs/version_0"])
        assert re.search(r"^test bits per byte +\d", capsys.readouterr().out, re.MULTILINE)
        assert set(Path().rglob("*")) == before

    def test_predict_continues_every_document_of_its_split(self, there: Path, corpus: Path) -> None:
        run("predict", ["--ckpt_path", "logs/version_0", "--output", "texts/predicted.jsonl"])
        lines = [json.loads(line) for line in Path("texts/predicted.jsonl").read_text().splitlines()]
        texts = {json.loads(line)["text"] for line in corpus.read_text().splitlines()}
        assert lines
        assert all(any(text.startswith(line["prompt"]) for text in texts) for line in lines)

    def test_without_a_checkpoint_there_is_nothing_to_measure(self, there: Path) -> None:
        with pytest.raises(XLabError, match="validate needs a trained model; give --ckpt_path"):
            run("validate", [])


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("--data.batchsize=3", "no setting 'data.batchsize'; did you mean 'data.batch_size'"),
        ("--data.source.pathz=3", "no setting 'pathz'; did you mean"),
        ("--trainer.max_step=3", "no setting 'trainer.max_step'; did you mean 'trainer.max_steps'"),
        ("--model.schedule.warmup=3", "did you mean 'warmup_steps'"),
        ("--data.batch_size=x", "data.batch_size: .*Got value: x"),
        ("--data.batch_size=0", "data.batch_size must be at least 1, got 0"),
        ("--data.source=TextFile", "no part 'TextFile'; did you mean 'TextFiles'"),
        ("--model.attention=LayerNorm", "LayerNorm is not a part that belongs here"),
        ("--model.vocab_size=300", "model.vocab_size is taken from data.vocab_size"),
        ("--model.max_len=16", "model.max_len is taken from data.seq_len"),
        ("--model.n_heads=3", "d_model must be divisible by n_heads, got 16 and 3"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be at least 0, got -1"),
        ("--trainer.precision=7", "trainer.precision is 7; it can be 64"),
        ("--data.vocab_size=99999", "vocabulary of .* tokens, not 99999"),
        ("--data.source.paths=nothing.jsonl", "nothing.jsonl"),
        ("--data.source.text_column=body", r"no column 'body'.*data\.source\.text_column"),
        ("--data.seq_len=100000", "too few for one window"),
        ("--data.splits.val=0.5", "shares sum to"),
        ("--model.schedule.warmup_steps=60", "warmup_steps is 60, which does not fit into a run of 6 steps"),
        ("--ckpt_path=nowhere.ckpt", "there is no checkpoint nowhere.ckpt"),
        ("--model.init_from=nowhere.ckpt", "there is no checkpoint nowhere.ckpt"),
        ("--ckpt_path=https://example.com/x.ckpt", "is an address"),
        ("--trainer.strategy=dpp", "invalid strategy name"),
        ("--trainer.accelerator=cuda", "can not run on your system"),
        ("--config=nowhere.yaml", "does not exist"),
        (
            "--trainer.callbacks=[{class_path: BestAndLast, init_args: {every_n_steps: 0}}]",
            "every_n_steps must be above 0",
        ),
        (
            "--trainer.logger={class_path: CSV, init_args: {flush_every: 0}}",
            "CSV.flush_every must be at least 1, got 0",
        ),
    ],
)
def test_a_mistake_is_one_line(there: Path, corpus: Path, mistake: str, says: str) -> None:
    if "cuda" in mistake and shutil.which("nvidia-smi"):
        pytest.skip("this machine has what the test takes to be missing")
    with pytest.raises(XLabError, match=says) as caught:
        run("fit", [*small(corpus), mistake])
    assert len(" ".join(str(caught.value).split())) < 500


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: {max_len: 99}", "model.max_len is taken from data.seq_len"),
        ("data: {bach_size: 9}", "no setting 'data.bach_size'; did you mean 'data.batch_size'"),
        ("data: [", "cannot read the configuration"),
        ("just words", "holds no settings"),
    ],
)
def test_a_mistake_in_yaml_is_one_line(there: Path, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "conf.yaml"
    file.write_text(text)
    with pytest.raises(XLabError, match=says):
        run("fit", ["-c", str(file)])


def test_an_export_is_no_state_to_resume(there: Path, corpus: Path) -> None:
    path, _ = checkpoints.export("logs/version_0", "exports")
    with pytest.raises(XLabError, match=rf"start a new run from its weights with --model\.init_from {path}"):
        run("fit", [*small(corpus), f"--ckpt_path={path}"])


class TestProcesses:
    def test_an_error_is_one_line_with_status_2_and_debug_shows_more(self, there: Path) -> None:
        quiet = script("xlab.py", "fit", "--data.batchsize=3", cwd=there)
        assert quiet.returncode == 2
        assert quiet.stderr.count("\n") == 1
        assert "Traceback" in script("xlab.py", "fit", "--data.batchsize=3", "--debug", cwd=there).stderr

    def test_two_ranks_at_half_the_batch_give_the_losses_of_one(self, there: Path, corpus: Path) -> None:
        run("fit", small(corpus, trainer__log_every_n_steps=1))
        alone = newest_run()
        halves = small(corpus, **{"trainer.log_every_n_steps": 1, "data.batch_size": 4})
        ddp = ["-c", str(ROOT / "conf" / "extra" / "ddp.yaml")]
        done = script("xlab.py", "fit", *ddp, *halves, *options(RANKS), cwd=there)
        assert done.returncode == 0, done.stderr
        for figure in ("train/loss", "val/loss"):
            # fp32 sums in another order
            assert logged(newest_run(), figure) == pytest.approx(logged(alone, figure), rel=1e-5)

    def test_ranks_wait_for_the_data_without_a_collective(self, there: Path, corpus: Path, tmp_path: Path) -> None:
        (tmp_path / "patience.py").write_text(PATIENCE)
        own = {
            "data.source": "patience.SlowLines",
            "trainer.strategy": '{"class_path": "patience.Impatient"}',
            "data.batch_size": 4,
        }
        ranks = ["-m", "torch.distributed.run", "--nproc-per-node=2", str(ROOT / "xlab.py"), "fit"]
        command = [sys.executable, *ranks, *small(corpus, **own, **RANKS), f"--data.cache_dir={tmp_path / 'cache'}"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Waiting for another process") == 1

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_a_run_that_is_stopped_leaves_the_step_it_was_at(
        self, there: Path, corpus: Path, number: int, status: int, ranks: int
    ) -> None:
        endless = small(corpus, trainer__max_steps=100_000, trainer__val_check_interval=20, data__batch_size=8 // ranks)
        command = [sys.executable, str(ROOT / "xlab.py"), "fit", *endless]
        if ranks > 1:
            command += [*options(RANKS), "--trainer.strategy=ddp"]
        with subprocess.Popen(command, cwd=there, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("step 40/"):
                    break
            os.kill(process.pid, number)
            rest = process.stderr.read()
        assert process.returncode == status
        found = re.search(r"interrupted at step (\d+); go on with \./xlab\.py fit --ckpt_path (\S+)", rest)
        assert found, rest
        step = checkpoints.read(there / found[2]).info["step"]
        assert step == int(found[1])
        run("fit", [*small(corpus, trainer__max_steps=step + 3), f"--ckpt_path={found[2]}"])
        assert checkpoints.read(newest_run() / "checkpoints" / "last.ckpt").info["step"] == step + 3

    @pytest.mark.parametrize("name", ["xlab.py", "infer.py", "manage.py"])
    def test_help_imports_nothing_heavy(self, there: Path, name: str) -> None:
        # what takes the time is torch and Lightning: without them --help answers in a tenth of a second
        check = "import sys; sys.argv = [sys.argv[1], '--help']\n"
        check += "import runpy\ntry:\n    runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit: pass\n"
        check += "print(sorted(set(sys.modules) & {'torch', 'lightning', 'jsonargparse', 'datasets', 'numpy'}))"
        command = [sys.executable, "-c", check, str(ROOT / name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.endswith("[]\n")
        assert "Usage" in done.stdout

    @pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
    def test_a_subcommands_help_fits_two_screens(
        self, there: Path, subcommand: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            run(subcommand, ["--help"])
        lines = capsys.readouterr().out.splitlines()
        assert 30 < len(lines) < 112
        assert max(map(len, lines)) <= 120
        assert any("--data.batch_size" in line for line in lines)


class TestWhatAUserTypesOtherwise:
    @pytest.mark.parametrize("form", ["written out", "one word", "behind a flag"])
    def test_a_linked_setting_is_refused_however_it_is_given(self, there: Path, tmp_path: Path, form: str) -> None:
        (tmp_path / "v.yaml").write_text("model: {vocab_size: 4}")
        given = {
            "written out": ["-c", '{"model": {"vocab_size": 4}}'],
            "one word": [f"-c{tmp_path}/v.yaml"],
            "behind a flag": ["--print_config", "-c", f"{tmp_path}/v.yaml"],
        }
        with pytest.raises(XLabError, match=r"model\.vocab_size is taken from data\.vocab_size"):
            run("fit", given[form])

    @pytest.mark.parametrize("text", ["", "data: me.yaml"])
    def test_yaml_without_settings_is_refused(self, there: Path, tmp_path: Path, text: str) -> None:
        (tmp_path / "me.yaml").write_text(text)
        with pytest.raises(XLabError, match=r"holds no settings|names itself"):
            run("fit", ["-c", str(tmp_path / "me.yaml")])

    @pytest.mark.parametrize("name", ["accumulate_grad_batches", "val_check_interval"])
    def test_nothing_is_divided_by_zero(self, there: Path, corpus: Path, name: str) -> None:
        with pytest.raises(XLabError, match=f"{name} must be above 0"):
            run("fit", [*small(corpus), f"--trainer.{name}=0"])

    def test_an_optimiser_that_cannot_be_is_refused(self, there: Path, corpus: Path) -> None:
        with pytest.raises(XLabError, match=r"^model\.optimizer\.lr must not be negative, got -1"):
            run("fit", [*small(corpus), "--model.optimizer.lr=-1"])
