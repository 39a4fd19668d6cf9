"""Where commands write pages: over an older one of the same kind, and over nobody else's file."""

import os
from pathlib import Path

from xlab.errors import ConfigError


def page_place(output: str, mark: str, example: str) -> Path:
    """Refuse what cannot be written to, before the work for it.

    Args:
        output: what the user gave.
        mark: how an older page of the kind begins.
        example: a name to propose.

    Raises:
        ConfigError: for a folder, a file in a folder that is not there, or a file that is no older page.
    """
    path = Path(output).expanduser()
    if path.is_dir():
        raise ConfigError(f"--output {output} is a folder; name a file, such as {path / example}")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {output} is in a folder that does not exist; make {path.parent} first")
    if path.exists() and not path.read_bytes().startswith(mark.encode()):
        kind = mark.partition("XLab ")[2].removesuffix(" -->")
        raise ConfigError(f"{path} is there already, and no {kind}, so it stays; give --output another name")
    return path


def write_whole(text: str, path: Path) -> None:
    """Write a file whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
