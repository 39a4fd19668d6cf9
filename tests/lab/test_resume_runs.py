"""Processes are started, killed with all their children, and read, whatever they are."""

import fcntl
import sys
from pathlib import Path

import pytest

from xlab.errors import ConfigError
from xlab.lab.resume_runs import Kill, ResumptionError, last_checkpoint, train

# a training process that writes, has a child of its own, and waits for its end
WAITING = """
import fcntl, json, os, pathlib, sys, time
(recorder,) = [a.partition("=")[2] for a in sys.argv if a.startswith("--trainer.callbacks+=")]
folder = pathlib.Path(json.loads(recorder)["init_args"]["folder"])
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
for rank in (0, 1):
    line = {"kind": "start", "n": 4 - rank, "world_size": 2}
    (folder / f"rank-{rank}.jsonl").write_text(json.dumps(line) + '\\n{"kind": "bat')
if os.fork():
    (folder / "held").touch()
time.sleep(60)
"""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_a_kill_reaches_every_process_and_keeps_what_was_written(tmp_path: Path) -> None:
    attempt = train(python(WAITING, tmp_path / "lock"), root=tmp_path, stop_at=4, save_every=1, kill=Kill(1, "batch"))
    assert attempt.was_killed
    assert [(record["rank"], record["n"]) for record in attempt.of("start")] == [(1, 3), (0, 4)]
    assert attempt.records == attempt.of("start")  # the line that was cut short is none
    assert attempt.world_size == 2
    with open(tmp_path / "lock") as lock:  # free when the child, too, is gone
        fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.mark.parametrize(("resumed_from", "error"), [(None, ConfigError), (Path("last.ckpt"), ResumptionError)])
def test_a_process_that_fails_is_quoted_in_one_line(
    tmp_path: Path, resumed_from: Path | None, error: type[Exception]
) -> None:
    code = "import sys; print('a note'); sys.exit('xlab.py fit: error: there is no corpus\\n')"
    with pytest.raises(error, match=r"^training ended with status 1: there is no corpus$") as caught:
        train(python(code), root=tmp_path, stop_at=4, save_every=1, resume_from=resumed_from)
    assert type(caught.value) is error


def test_a_process_that_ends_by_itself_was_not_killed(tmp_path: Path) -> None:
    attempt = train(python(""), root=tmp_path, stop_at=4, save_every=1, kill=Kill(1, "batch"))
    assert not attempt.was_killed
    assert attempt.records == []
    assert attempt.world_size == 0


def test_the_newest_runs_last_one_is_gone_on_from(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for run in (2, 10, 11):  # the newest was killed before it wrote one
        (tmp_path / "logs" / f"version_{run}" / "checkpoints").mkdir(parents=True)
    (tmp_path / "logs" / "version_11" / "checkpoints" / "last.ckpt").mkdir()  # nor are its shards whole
    for run in (2, 10):
        (tmp_path / "logs" / f"version_{run}" / "checkpoints" / "last.ckpt").touch()
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found.parts[-3] == "version_10"
