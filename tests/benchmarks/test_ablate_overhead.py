"""ablate_overhead trains the same settings both ways, and its table says what ablate adds."""

import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import ablate_overhead
from benchmarks.ablate_overhead import QUICK, VARIANTS, Round, Turn, as_markdown, measure
from tests.conftest import ROOT

STAND_IN = """
import sys
sys.path.insert(0, {root!r})
from xlab.commands import verify_resume
verify_resume.fit_command = lambda: {stub!r}
from xlab.commands.manage import main
main()
"""


def report(*rounds: Round) -> dict[str, object]:
    machine = {"processor": "p", "cores": 2, "load_before": 0.1}
    told = [{"ablate": vars(one.ablate), "fit": vars(one.fit)} for one in rounds]
    about = {"date": "d", "commit": "c", "command": "x", "machine": machine, "budget": "1k-tokens"}
    return {**about, "rounds": told}


def test_the_table_has_medians_and_the_mark_is_for_what_grows_with_the_run() -> None:
    fit = Turn(whole=100, process=50, training=40)
    near = Round(Turn(whole=113, process=50.5, training=40), fit)
    page = as_markdown(report(near, near, Round(Turn(whole=200, process=90, training=80), fit)))
    assert "| a run's process | 50.50 | 50.00 | 1.010 | 1.010 – 1.800 |" in page
    assert "takes 12.0 s, however long they are. Training and process reach the mark of 2% more." in page
    assert "miss the mark" in as_markdown(report(Round(Turn(113, 52, 40), fit)))


def test_both_train_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablate is the real one, in a process of its own; a stand-in trains."""
    stub = [sys.executable, str(ROOT / "tests" / "lab" / "stub_fit.py")]
    (tmp_path / "manage.py").write_text(STAND_IN.format(root=str(ROOT), stub=stub))
    monkeypatch.setattr(ablate_overhead, "ROOT", tmp_path)
    monkeypatch.setattr(ablate_overhead, "fit_command", lambda: stub)
    (tmp_path / "text.txt").write_text("".join(f"The {i}th line of {i * i} says {i % 7}.\n\n" for i in range(600)))
    data = ["--data.source=TextFiles", f"--data.source.paths={tmp_path / 'text.txt'}", "--data.source.section_chars=64"]
    (found,) = measure(tmp_path, [*data, *QUICK], budget="1024-tokens", rounds=1)
    assert found.own_start > 0
    assert found.ratio("training") == 1
    texts = [(tmp_path / "round_0" / name / "seed_0" / "settings.yaml").read_text() for name in VARIANTS]
    trained = [(tmp_path / "round_0" / f"fit_{name}" / "logs/version_0/config.yaml").read_text() for name in VARIANTS]
    of_ablate, of_fit = ([yaml.safe_load(text) for text in each] for each in (texts, trained))
    assert of_ablate == of_fit
    assert of_ablate[0] | {"seed_everything": 0} == of_ablate[1] | {"seed_everything": 0}
