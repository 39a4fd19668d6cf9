"""serve.py: its help is light, and its options reach the server."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from xlab.commands.serve import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", [["--help"], ["http", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom xlab.commands.serve import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "print([name for name in ('torch', 'fastapi', 'uvicorn', 'pydantic', 'aiogram') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.endswith("[]\n")


def test_both_ways_to_serve_are_named() -> None:
    listed = CliRunner().invoke(main, ["--help"]).output
    for name in ("http", "telegram"):
        assert f"\n  {name} " in listed
    assert CliRunner().invoke(main, ["carrier-pigeon"]).exit_code == 2


def test_options_reach_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from xlab.serving import start

    monkeypatch.delenv("XLAB_API_KEY", raising=False)
    told: dict[str, Any] = {}

    def load(checkpoint: str, settings: Any) -> Any:
        told.update(checkpoint=checkpoint, settings=settings)

    monkeypatch.setattr(start, "load", load)
    monkeypatch.setattr(start.logs, "set_up", lambda: None)
    monkeypatch.setattr(start, "serve", lambda service, listener, **how: told.update(how))
    options = ["--max-rows", 3, "--max-queue", 5, "--max-tokens", 7, "--deadline", 9, "--drain", 2, "--bf16"]
    options += ["--name", "mine", "--cors", "https://a.example", "--cors", "https://b.example", "--log-prompts"]
    result = CliRunner().invoke(main, ["http", "run", "--port", "0", *map(str, options)])
    assert result.exit_code == 0, result.output
    settings = told["settings"]
    assert (settings.max_rows, settings.max_queue, settings.max_tokens, settings.deadline) == (3, 5, 7, 9)
    assert (settings.name, settings.precision, settings.log_prompts, settings.compile) == ("mine", "bf16", True, False)
    assert told["origins"] == ("https://a.example", "https://b.example")
    assert told["drain"] == 2
    assert not told["keys"]
