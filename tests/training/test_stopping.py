"""How runs end."""

import signal
from pathlib import Path

import pytest

from tests.tiny import LIGHTNING_NOISE
from tests.training.fitting import fit, lines
from xlab.training.stopping import WATCHED, StopSignals, ValidateAtEnd

pytestmark = [pytest.mark.filterwarnings(noise) for noise in LIGHTNING_NOISE]


def test_the_last_step_is_validated_wherever_the_interval_falls(tmp_path: Path) -> None:
    run = fit(tmp_path, ValidateAtEnd())
    validated = [line["step"] + 1 for line in lines(run / "metrics.jsonl") if "val/loss" in line]
    assert validated == [4, 8, 10]


@pytest.mark.parametrize("number", WATCHED)
def test_the_first_signal_is_remembered_and_the_second_obeyed(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    obeyed: list[int] = []
    before = [signal.signal(each, lambda which, frame: obeyed.append(which)) for each in WATCHED]
    signals = StopSignals()
    try:
        signals.watch()
        signal.raise_signal(number)
        assert (signals.received, obeyed) == (number, [])
        signal.raise_signal(number)
        assert obeyed == [number]
        assert "stopping behind this step" in capfd.readouterr().err
        signals.watch()
        signals.release()
        signal.raise_signal(number)
        assert obeyed == [number, number]
    finally:
        for each, handler in zip(WATCHED, before, strict=True):
            signal.signal(each, handler)
