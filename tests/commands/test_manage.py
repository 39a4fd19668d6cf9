"""manage.py export-checkpoint: clean, named by content, never over something else; and readers that leave early."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from commands_setup import ROOT

from xlab import checkpoints
from xlab.commands.console import one_line_errors
from xlab.commands.manage import main


def export(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export-checkpoint", *map(str, arguments)])


@pytest.mark.usefixtures("there")
class TestExport:
    def test_the_last_line_is_the_path_of_a_clean_checkpoint(self, tmp_path: Path) -> None:
        path = Path(export("logs/version_0", "-o", tmp_path).stdout.splitlines()[-1])
        content = torch.load(path, weights_only=True)
        assert set(content) == {"xlab", "state_dict"}
        weights = sum(weight.nbytes for weight in content["state_dict"].values())
        assert path.stat().st_size <= 1.02 * (weights + len(content["xlab"]["tokenizer"].encode())) + 8192

    def test_the_same_again_is_already_there(self, tmp_path: Path) -> None:
        first = export("logs/version_0", "-o", tmp_path).stdout
        again = export("logs/version_0", "-o", tmp_path)
        assert again.exit_code == 0
        assert again.stdout == f"the same content is already there\n{first}"
        # an export of the export is the export
        assert export(first.splitlines()[-1], "-o", tmp_path).stdout == again.stdout

    def test_other_content_is_never_overwritten(self, tmp_path: Path) -> None:
        path = Path(export("logs/version_0", "-o", tmp_path).stdout.splitlines()[-1])
        path.write_bytes(b"my notes")
        result = export("logs/version_0", "-o", tmp_path)
        assert result.exit_code == 2
        assert "holds something else" in result.stderr
        assert path.read_bytes() == b"my notes"

    def test_best_and_last_are_different_content(self, tmp_path: Path) -> None:
        folder = checkpoints.find("logs/version_0").parent
        paths = {export(folder / name, "-o", tmp_path).stdout.splitlines()[-1] for name in ("best.ckpt", "last.ckpt")}
        steps = {checkpoints.read(folder / name).info["step"] for name in ("best.ckpt", "last.ckpt")}
        assert len(paths) == len(steps)


def test_a_cache_of_compiled_code_that_cannot_be_made_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "file" / "cache"
    folder.parent.touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    for path, has_remedy in ((folder, True), (tmp_path / "file" / "corpus", False)):
        with pytest.raises(SystemExit), one_line_errors("some.py"):
            path.mkdir()
        assert ("set TORCHINDUCTOR_CACHE_DIR" in capsys.readouterr().err) == has_remedy


def ends(work: str) -> tuple[int, str]:
    """Give the status and the errors of a script whose output nobody reads."""
    lines = ["import sys", "from xlab.commands.console import one_line_errors", "sys.stdin.read()"]
    program = "\n".join([*lines, "with one_line_errors('some.py'):", f"    {work}"])
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate("", timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize(
    "work", ["import click; click.echo('text')", "print('text')", "print('text', flush=True)", "print('x' * 10**6)"]
)
def test_a_reader_who_has_seen_enough_ends_a_script_without_a_word(work: str) -> None:
    assert ends(work) == (141, "")


def test_a_pipe_that_broke_elsewhere_is_told() -> None:
    work = "import os; r, w = os.pipe(); os.close(r); sys.stdout = sys.stderr; os.write(w, b'x')"
    assert ends(work) == (2, "some.py: error: [Errno 32] Broken pipe\n")
