"""manage.py inspect: a run, an export, a YAML file; and what is none of these."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from commands_setup import ROOT

from xlab.commands.inspect_checkpoint import inspect


def call(*arguments: object) -> Result:
    return CliRunner().invoke(inspect, list(map(str, arguments)))


@pytest.mark.usefixtures("there")
def test_a_run_is_told_in_words_and_as_json() -> None:
    told = call("logs/version_0")
    assert told.exit_code == 0, told.output
    sections = [line for line in told.stdout.splitlines() if line and not line.startswith(" ")]
    assert sections == ["checkpoint", "tokenizer", "model", "settings that are not the defaults"]
    found = json.loads(call("logs/version_0", "--json").stdout)
    assert f"{found['model']['n_parameters']:,}" in told.stdout
    assert found["model"]["sizes"]["d_model"] == 16
    assert "torch" in found["file"]["versions"]


def test_settings_alone_make_a_model(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text("model: {d_model: 128, n_heads: 2, position: NoPosition}\n", encoding="utf-8")
    found = json.loads(call(path, "--json").stdout)
    assert found["file"] is None
    assert found["model"]["sizes"]["d_model"] == 128
    assert found["model"]["changed"] == {"position": {"value": "NoPosition", "default": "RotaryPosition"}}


def test_a_checkpoint_is_inspected_without_lightning(there: Path) -> None:
    code = (
        "import sys; from xlab.commands.inspect_checkpoint import inspect; "
        "inspect(['logs/version_0'], standalone_mode=False); assert 'lightning' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=there, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.ckpt", None, "there is no checkpoint missing.ckpt"),
        ("notes.pt", "my notes", "notes.pt would have to be unpickled"),
        ("wrong.yaml", "model: {d_modle: 8}", "d_modle"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_text(content, encoding="utf-8")
    result = call(name)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("manage.py inspect: error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
