"""The contenders of ``serve_load``: how each is started, and how they take turns under one load, the others asleep."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.decode_shape import Shape
from benchmarks.options import progress
from benchmarks.serve_report import NOT_MEASURED, OFFLINE, OURS, PEER, Match, figures
from benchmarks.serve_servers import Server, ServerError, free_port, running
from benchmarks.serve_shape import Load, Plan
from benchmarks.turns import Answer, Player, PlayerError, take_turns

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / ".bench-venv" / "bin" / "python"
WORKERS = {OFFLINE: "offline", OURS: "xlab", PEER: "litgpt"}
FLAGS = {"fp32": [], "bf16": ["--bf16"], "int8": ["--int8"]}  # of ./serve.py http
PATIENCE = 300.0  # seconds in which the model must be made
# imports nothing heavy: it only looks at what is installed
VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def make_model(folder: Path, shape: Shape, *, precision: str, expect: int) -> None:
    """Write checkpoint, tokenizer and prompts, and with ``expect`` right answers of so many tokens.

    Raises:
        ServerError: when that fails.
    """
    command = [sys.executable, "-m", "benchmarks.serve_models", str(folder), f"--shape={json.dumps(asdict(shape))}"]
    command += [f"--expect={expect}", f"--precision={precision}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    if made.returncode:
        raise ServerError(f"the model could not be made: {(made.stderr.strip().splitlines() or ['?'])[-1]}")


class Field:
    """What the contenders of a precision have in common, and how each comes to its start.

    Args:
        folder: with what ``serve_models`` wrote.
        plan: what is served, and with how many rows and places in the queue.
        precision: of all contenders.
        threads: of each while it works; the clients have one.
        peers_python: the interpreter of the environment that holds the peers.
    """

    def __init__(self, folder: Path, plan: Plan, precision: str, *, threads: int, peers_python: Path) -> None:
        self.folder, self.plan, self.precision, self.threads = folder, plan, precision, threads
        self.peers_python = peers_python
        self._shape = f"--shape={json.dumps(asdict(plan.shape))}"
        self._peer_versions: dict[str, str] = {}
        self._env = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

    def start(self, name: str, stack: ExitStack) -> Server | dict[str, Any]:
        """Start a contender's server for as long as ``stack`` stands, or say why there is none."""
        progress(f"{name}: starting")
        if name == PEER and (missing := self._missing()):
            return {NOT_MEASURED: missing}
        try:
            server = stack.enter_context(self._serve() if name == OURS else self._serve_peer())
            server.sleep()
            return server
        except (ServerError, OSError) as error:
            return {NOT_MEASURED: str(error), "broken": True}

    def _serve(self) -> AbstractContextManager[Server]:
        port = free_port()
        command = [sys.executable, "serve.py", "http", str(self.folder / "xlab.pt"), f"--port={port}"]
        command += [f"--max-rows={self.plan.max_rows}", f"--max-queue={self.plan.max_queue}", *FLAGS[self.precision]]
        return running(command, port=port, health="/health/ready", cwd=ROOT, env=self._env)

    def _serve_peer(self) -> AbstractContextManager[Server]:
        port = free_port()
        command = [str(self.peers_python), "-m", "benchmarks.serve_litgpt", str(self.folder), self._shape]
        command += [f"--precision={self.precision}", f"--port={port}"]
        return running(command, port=port, health="/health", cwd=ROOT, env=self._env)

    def _missing(self) -> str | None:
        """Why the peer cannot take part; None if it can, and its versions are then known."""
        if self.precision == "int8":
            return "it has no int8 on a CPU"
        if not self.peers_python.exists():
            return f"there is no {self.peers_python}; `make bench-env` makes it"
        command = [str(self.peers_python), "-c", VERSIONS, "litgpt", "litserve"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        if told.returncode:
            return f"{told.stderr.strip().splitlines()[-1]}; `make bench-env` installs the peers"
        self._peer_versions = json.loads(told.stdout)
        return None

    def play(
        self, names: list[str], servers: Mapping[str, Server | dict[str, Any]], load: Load, *, rounds: int
    ) -> tuple[Match, list[str]]:
        """Let contenders take turns under one load.

        Returns:
            The match, and the versions of everything that took part.

        Raises:
            PlayerError: when a contender that had started stops later.
        """
        entries: dict[str, dict[str, Any]] = {}
        introductions: dict[str, Answer] = {}
        versions: dict[str, str] = {}
        with ExitStack() as stack:
            players: dict[str, Player] = {}
            for name in names:
                server = servers.get(name)
                if isinstance(server, dict):
                    entries[name] = server
                    continue
                progress(f"{name}: warming up")
                player = self._player(name, server, load)
                stack.callback(player.close)
                try:
                    with server.awake() if server is not None else nullcontext():
                        introduction = player.answer()
                except PlayerError as error:
                    entries[name] = {NOT_MEASURED: str(error), "broken": True}
                    continue
                versions |= introduction.pop("versions", {}) | (self._peer_versions if name == PEER else {})
                players[name], introductions[name] = player, introduction
            turns: dict[str, list[Answer]] = {name: [] for name in players}
            for number, name, answer in take_turns(players, rounds):
                turns[name].append(answer)
                progress(f"round {number + 1}/{rounds}, {name}: {answer['seconds']:.3f} s")
        for name, introduction in introductions.items():
            tokens = load.texts * self.plan.shape.new_tokens
            entries[name] = {**introduction, **figures(turns[name], tokens=tokens)}
        match = {"precision": self.precision, **asdict(load), "contenders": {name: entries[name] for name in names}}
        return match, [f"{name} {number}" for name, number in versions.items()]

    def _player(self, name: str, server: Server | None, load: Load) -> Player:
        command = [sys.executable, "-m", "benchmarks.serve_worker", WORKERS[name], str(self.folder), self._shape]
        command += [f"--load={json.dumps(asdict(load))}", f"--precision={self.precision}", f"--threads={self.threads}"]
        if server is None:
            return Player(command, cwd=ROOT, env=self._env)
        return Clients([*command, f"--port={server.address[1]}"], server, cwd=ROOT, env=self._env)


class Clients(Player):
    """Clients whose server sleeps between their turns."""

    def __init__(self, command: list[str], server: Server, *, cwd: Path, env: Mapping[str, str]) -> None:
        super().__init__(command, cwd=cwd, env=env)
        self._server = server

    def turn(self) -> Answer:
        with self._server.awake():
            return super().turn()
