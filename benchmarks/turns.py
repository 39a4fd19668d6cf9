"""Let processes take turns, so that only one computes at a time and all see the same machine.

The parent holds one ``Player`` per contender. A player's process answers on its stdout, one JSON object a line: first
what it is (or what it misses), then one object for every ``go`` line on its stdin. Between turns it blocks on stdin and
costs nothing. Standard library only: the two ends may live in different environments.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


class PlayerError(RuntimeError):
    """A player that could not start or that stopped; the message is the last line of what it said."""


class Player:
    """The parent's end of one contender.

    Args:
        command: starts the process, whose ``main`` ends in :func:`serve`.
        env: added to this process's environment.

    Raises:
        PlayerError: when the program is not there.
    """

    def __init__(self, command: list[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, closed in close()
        try:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
            )
        except OSError as error:
            self._stderr.close()
            raise PlayerError(f"{command[0]}: {error.strerror}") from error

    def answer(self) -> Answer:
        """Wait for the next line of the process.

        Raises:
            PlayerError: when the process ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PlayerError(self._last_words())
        answer: Answer = json.loads(line)
        return answer

    def turn(self) -> Answer:
        """Let the process work once, and wait for what it answers."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PlayerError(self._last_words()) from error
        return self.answer()

    def close(self) -> None:
        """End the process: at once, since between turns it only waits."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def _last_words(self) -> str:
        status = self._process.wait()
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()]
        return f"exit status {status}: {lines[-1]}" if lines else f"exit status {status}, without a word"


def take_turns(players: Mapping[str, Player], rounds: int) -> Iterable[tuple[int, str, Answer]]:
    """Yield ``(round, name, answer)`` in the order A B C A B C …, one process at work at a time."""
    for number in range(rounds):
        for name, player in players.items():
            yield number, name, player.turn()


def serve(prepare: Callable[[], tuple[Answer, Callable[[], Answer]]]) -> None:
    """Be a contender's end: prepare, say who you are, then work once for every line on stdin.

    ``prepare`` gives the introduction and the work. A module it cannot import is answered as ``{"missing": …}``.
    """
    # Libraries print. Only answers may reach the parent, so everyone else's stdout becomes stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Answer) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        introduction, work = prepare()
    except ImportError as error:
        say({"missing": str(error)})
        return
    say(introduction)
    for _ in sys.stdin:
        say(work())
