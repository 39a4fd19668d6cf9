"""manage.py export-checkpoint: clean, named by content, never over something else."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from xlab import checkpoints
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
        assert export(first.strip(), "-o", tmp_path).stdout == again.stdout

    def test_other_content_is_never_overwritten(self, tmp_path: Path) -> None:
        path = Path(export("logs/version_0", "-o", tmp_path).stdout.strip())
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
