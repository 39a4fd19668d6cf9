"""What a run shows while it goes on."""

from pathlib import Path

import pytest

from tests.tiny import LIGHTNING_NOISE
from tests.training.fitting import fit
from xlab.training.progress import Progress
from xlab.training.throughput import Throughput

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


def test_without_a_terminal_progress_is_a_line_a_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, Progress(), enable_progress_bar=True)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in shown] == ["4/10", "8/10"]
    assert all("val loss" in line and "val bits/byte" in line for line in shown)
    assert "left" in shown[0]


def test_on_a_terminal_it_is_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(tmp_path, Throughput(), Progress(), enable_progress_bar=True, max_steps=20)
    last = capsys.readouterr().err.rpartition("Training:")[2]
    assert "20/20" in last
    assert all(figure in last for figure in ("loss", "tokens/s", "val bits/byte", "<00:00"))
