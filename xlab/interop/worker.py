"""Ask a process of its own: what proves a conversion must not be the process that made it.

The process reads JSON from its standard input and prints its answer, JSON again, as its last line.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xlab
from xlab.errors import XLabError
from xlab.interop.errors import ConversionError


def ask(module: str, question: Mapping[str, Any], *, purpose: str) -> dict[str, Any]:
    """Have a module of XLab's, whose ``main`` calls ``answer``, answer in a fresh process.

    Args:
        module: its name.
        question: plain data.
        purpose: how the message begins when it ends without an answer.

    Raises:
        ConversionError: then, with the process's last words.
    """
    # the process must find this very XLab, wherever it is started, and look for nothing on the net
    paths = [str(Path(xlab.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **offline},
        check=False,
    )
    if ended.returncode != 0:
        raise ConversionError(f"{purpose}: {_last_words(ended.stderr, ended.returncode)}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def answer(find: Callable[..., Mapping[str, Any]]) -> None:
    """Answer what standard input asks; what a user can mend ends the process in one line."""
    try:
        found = find(**json.load(sys.stdin))
    except XLabError as error:
        sys.exit(" ".join(str(error).split()))
    print(json.dumps(found))


def _last_words(said: str, status: int) -> str:
    if status < 0:
        return f"the process that reads it was ended by signal {-status}; is there memory for the model twice?"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with status {status}"
