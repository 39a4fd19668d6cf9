"""Write a checkpoint file whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from xlab.errors import CheckpointError


def write(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint file whole or not at all: under a temporary name first, then renamed.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written; what stood there before still does.
    """
    path = Path(path)
    try:
        with renamed_when_whole(path) as temporary, open(temporary, "wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        reason = _disk_error(error)
        if reason is None:
            raise
        raise CheckpointError(f"cannot write {path}: {reason}; nothing that was there has changed") from error


@contextlib.contextmanager
def renamed_when_whole(path: Path) -> Iterator[str]:
    """Give a temporary file's name beside ``path``, which becomes ``path`` at the end, or goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        # mkstemp makes files that only their owner reads; a checkpoint is as readable as any other file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _disk_error(error: BaseException) -> str | None:
    """Say what the disk refused; torch's writer wraps the system's error, or reports a short write of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        if "PytorchStreamWriter" in str(cause):
            return "the file could not be written whole (is the disk full?)"
        cause = cause.__cause__ or cause.__context__
    return None
