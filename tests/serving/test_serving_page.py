"""docs/serving.md: every curl of it works, and so does its Python."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_setup import Running, running

from xlab.serving.keys import Keys

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
DOCUMENTED = "first-key"


def curls() -> list[str]:
    found = []
    lines = iter(PAGE.splitlines())
    for line in lines:
        if line.startswith("curl "):
            while line.endswith("\\"):
                line = line[:-1] + next(lines).strip()
            found.append(line)
    return found


@pytest.fixture(scope="module")
def documented(checkpoint: Path) -> Iterator[Running]:
    with running(checkpoint, keys=Keys([DOCUMENTED]), max_rows=4, name="version_0") as server:
        yield server


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: this test runs the page's commands")
def test_every_curl_works(documented: Running) -> None:
    commands = curls()
    assert len(commands) >= 12
    for command in commands:
        assert "http://127.0.0.1:8000" in command
        command = command.replace("http://127.0.0.1:8000", documented.url)
        if DOCUMENTED not in command:
            command = command.replace("curl ", f"curl -H 'Authorization: Bearer {DOCUMENTED}' ", 1)
        command = command.replace("curl ", "curl -s -m 20 -w '\\n%{http_code}' ", 1)
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout.endswith("\n200"), (command, done.stdout)


def test_the_python_works(documented: Running, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.S | re.M)
    names: dict[str, object] = {}
    exec(example.replace("http://127.0.0.1:8000", documented.url), names)
    assert capsys.readouterr().out
    names["client"].close()  # type: ignore[attr-defined]
