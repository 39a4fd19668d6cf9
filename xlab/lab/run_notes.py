"""What people say of their runs: tags and a note, in notes.json beside the run's own files."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from xlab.errors import ConfigError

NOTES = "notes.json"


@dataclass(frozen=True)
class Notes:
    """What was said of a run.

    Attributes:
        tags: words, each once, in the order in which they were given.
        note: a text; empty for none.
    """

    tags: list[str] = field(default_factory=list)
    note: str = ""


def read_notes(folder: Path) -> Notes:
    """Read what was said of a run; nothing where there is no file, or none that can be read."""
    try:
        found = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        return Notes([str(tag) for tag in found.get("tags", [])], str(found.get("note", "")))
    except (OSError, ValueError, AttributeError, TypeError):
        return Notes()


def change_notes(
    folder: Path, *, add: Sequence[str] = (), remove: Sequence[str] = (), note: str | None = None
) -> Notes:
    """Change what is said of a run; the file is whole at every moment.

    Args:
        folder: the run's.
        add: tags to give it.
        remove: tags to take from it.
        note: replaces the old one; "" removes it, None keeps it.

    Raises:
        ConfigError: for a tag that is no single word.
    """
    if bad := [tag for tag in add if not tag or "," in tag or tag != "".join(tag.split())]:
        raise ConfigError(f"the tag {bad[0]!r} is no single word; write it without spaces and commas")
    old = read_notes(folder)
    tags = [tag for tag in dict.fromkeys([*old.tags, *add]) if tag not in remove]
    new = Notes(tags, old.note if note is None else note)
    scratch = folder / f".{NOTES}.{os.getpid()}"
    try:
        scratch.write_text(json.dumps(asdict(new), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(scratch, folder / NOTES)
    finally:
        scratch.unlink(missing_ok=True)
    return new
