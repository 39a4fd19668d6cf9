"""A checkpoint file is whole, or what stood there before."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.changed_checkpoints import content
from xlab.checkpoint_writing import write
from xlab.errors import CheckpointError


def test_a_written_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write({"a": 1}, tmp_path / "new" / "a.ckpt")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "other", tmp_path / "new" / "a.ckpt")}
    assert len(modes) == 1
    assert content(tmp_path / "new" / "a.ckpt") == {"a": 1}


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "cannot write .*: No space left on device"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3"), CheckpointError, "is the disk full"),
        (RuntimeError("something else"), RuntimeError, "something else"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
@pytest.mark.parametrize("old", [b"what stood there", None])
def test_a_failure_midway_leaves_what_stood_there_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
    says: str | None,
    old: bytes | None,
) -> None:
    def save_half(content: Any, file: Any) -> None:
        file.write(b"half of it")
        raise error

    target = tmp_path / "last.ckpt"
    if old is not None:
        target.write_bytes(old)
    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(raised, match=says):
        write({"a": 1}, target)
    assert (target.read_bytes() if target.exists() else None) == old
    assert os.listdir(tmp_path) == (["last.ckpt"] if old is not None else [])


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        write({}, tmp_path / "file" / "last.ckpt")
