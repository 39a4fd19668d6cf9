"""Share a cache directory between processes: one works at a time, and a killed one leaves nothing for good."""

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from xlab.errors import DataError

_SCRATCH = re.compile(r"\.(?P<identity>[0-9a-f]{32})\.\d+\.tmp")
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def locked(cache: Path, identity: str) -> Iterator[None]:
    """Hold the lock of one corpus; whoever comes second waits, and says so."""
    lock = filelock.FileLock(cache / f"{identity}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        # a file lock waits as long as it takes, where a collective would run into the group's time-out
        print(f"Waiting for another process that prepares the same data in {cache} …", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def scratch_directory(cache: Path, identity: str) -> Iterator[Path]:
    """Lend a directory that is gone afterwards, unless it was renamed; call under the lock."""
    _remove_abandoned(cache, identity)
    scratch = cache / f".{identity}.{os.getpid()}.tmp"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_abandoned(cache: Path, identity: str) -> None:
    """Remove what killed processes left: whose lock can be had, nobody works on."""
    for leftover in cache.glob(".*.tmp"):
        if (ours := _SCRATCH.fullmatch(leftover.name)) is None:
            continue  # somebody else's: the cache may be a directory that others use too
        owner = ours["identity"]
        if owner == identity:
            shutil.rmtree(leftover, ignore_errors=True)
            continue
        lock = filelock.FileLock(cache / f"{owner}.lock")
        try:
            with lock.acquire(blocking=False):
                shutil.rmtree(leftover, ignore_errors=True)
        except filelock.Timeout:
            continue


@contextmanager
def disk_errors(cache: Path, setting: str = "data.cache_dir") -> Iterator[None]:
    """Report a full or forbidden disk as what it means to the user, and which ``setting`` would move the data."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_IS_FULL:
            raise DataError(
                f"The disk of {cache.absolute()} is full; nothing was kept. Free some space or set {setting}."
            ) from error
        raise DataError(f"Data cannot be prepared in {cache.absolute()}: {error}. Set {setting}.") from error
