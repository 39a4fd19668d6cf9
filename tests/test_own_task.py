"""The objective, the source and the module of examples/ do what docs/tasks.md says, each by its own command."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from examples.own_objective import ContextWeighted
from examples.own_source import Docstrings
from tests.conftest import ROOT
from xlab import checkpoints, factories
from xlab.commands.lightning_cli import run
from xlab.data.packing import IGNORED
from xlab.errors import ConfigError, DataError
from xlab.transformer.head import Head

SMALL = ["--model.d_model=16", "--model.n_layers=1", "--model.n_heads=2", "--model.schedule.warmup_steps=1"]
SMALL += ["--data.vocab_size=300", "--data.seq_len=16", "--data.batch_size=4", "--trainer.max_steps=2"]
SMALL += ["--trainer.val_check_interval=2", "--trainer.accelerator=cpu"]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.txt").write_text("".join(f"The {i}th line of {i * i} says {i % 7}.\n\n" for i in range(300)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TEXT = ["--data.source=TextFiles", "--data.source.paths=text.txt", "--data.source.section_chars=64"]


def test_the_objective_weighs_by_what_stands_before() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 6, 8), Head(torch.randn(11, 8))
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    targets = torch.randint(11, (2, 6))
    targets[0, 1] = IGNORED
    batch = {"inputs": torch.randint(11, (2, 6)), "targets": targets, "documents": documents}
    weights = torch.tensor([[1, 2, 3, 1, 2, 3], [1, 2, 3, 4, 4, 4]]) / 4
    each = F.cross_entropy(head(hidden).transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(ContextWeighted(ramp=4)(hidden, head, batch), (weights * each).sum())
    with pytest.raises(ConfigError, match=r"objective\.ramp must be at least 1"):
        ContextWeighted(ramp=0)


def test_an_objective_without_what_it_needs_ends_the_run_in_one_line(there: Path) -> None:
    with pytest.raises(ConfigError, match=r"ContextWeighted needs 'documents' in each batch.*set data.document_mask"):
        run("fit", [*TEXT, *SMALL, "--model.objective=examples.own_objective.ContextWeighted"])


def test_the_source_gives_docstrings_and_counts(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""The file itself, told."""\n\ndef f():\n    """Too short."""\n')
    source = Docstrings(str(tmp_path / "*.py"))
    assert [(d.text, d.meta) for d in source.documents()] == [("The file itself, told.\n", "a")]
    assert source.report()["too_short"] == 1
    before = source.identity()
    again = factories.build(factories.plain(source))
    assert again.identity() == before
    (tmp_path / "b.py").write_text('"""Another file\'s first words."""')
    assert source.identity() != before
    (tmp_path / "c.py").write_text("def :")
    with pytest.raises(DataError, match=r"c\.py is no Python of this version"):
        list(source.documents())


def own_script(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """Run ``python -m examples.own_module``, in this process; give its exit status."""
    monkeypatch.setattr(sys, "argv", ["own_module", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("examples.own_module", run_name="__main__")
    return end.value.code or 0


def test_the_module_trains_by_its_own_script_and_writes_by_anyone_s(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = ["-c", str(ROOT / "examples/own_module.yaml")]
    assert own_script(monkeypatch, "fit", *yaml, *TEXT, *SMALL) == 0
    checkpoint = checkpoints.read("logs/version_0")
    assert checkpoint.model["noise"] == 0.2
    decoder, tokenizer = checkpoints.load("logs/version_0")
    assert torch.isfinite(decoder(torch.tensor([tokenizer.encode("The line")]))).all()
    assert own_script(monkeypatch, "validate", "--ckpt_path=logs/version_0") == 0
    capsys.readouterr()
    assert own_script(monkeypatch, "fit", "--model.noise=2", *TEXT, *SMALL) == 2
    assert capsys.readouterr().err.endswith("model.noise must be in [0, 1), got 2.0\n")


@pytest.mark.parametrize("example", ["own_objective", "own_source"])
def test_the_yaml_trains(there: Path, example: str) -> None:
    words = TEXT if example == "own_objective" else [f"--data.source.paths={ROOT}/xlab/data/*.py"]
    run("fit", ["-c", str(ROOT / "examples" / f"{example}.yaml"), *words, *SMALL])
    assert checkpoints.read("logs/version_0").info["step"] == 2
