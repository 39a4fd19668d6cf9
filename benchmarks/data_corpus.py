"""What ``data_speed`` works on: real texts as JSON Lines, made-up ones of any size, and a simulated store."""

import json
import lzma
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
TEXT_COLUMNS = ("text", "body")
MADE_UP_WORDS = 20_000
WORDS_IN_A_DOCUMENT = 1000


class Written(NamedTuple):
    """A corpus on disk: JSON Lines with ``text``, where the texts come from, and how many they are."""

    path: Path
    origin: str
    documents: int
    n_bytes: int


def write_corpus(path: Path, *, most_characters: int | None = None) -> Written:
    """Write the shared texts as one file, or where they are not there the documentation that every Python carries.

    Args:
        path: of the file.
        most_characters: end behind so many; None writes all.
    """
    files = sorted(SHARED_DATA.glob("*.jsonl.xz")) if SHARED_DATA.is_dir() else []
    origin = ", ".join(file.name for file in files) if files else "PythonDocs, since ../shared/data is not there"
    documents = n_bytes = characters = 0
    with path.open("w", encoding="utf-8") as file:
        for text in _shared(files) if files else _python_docs():
            if most_characters is not None and characters >= most_characters:
                break
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            documents, n_bytes, characters = documents + 1, n_bytes + len(text.encode()), characters + len(text)
    return Written(path, origin, documents, n_bytes)


def read_texts(path: Path) -> list[str]:
    """The texts of a corpus, in memory."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def make_up_corpus(path: Path, megabytes: float) -> None:
    """Write documents of made-up words, few of them frequent and most of them rare, until there are so many MB."""
    chance = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = [
        "".join(chance.choices(letters, range(26, 0, -1), k=1 + int(chance.gammavariate(4, 1.2))))
        for _ in range(MADE_UP_WORDS)
    ]
    weights = [1 / rank for rank in range(1, len(words) + 1)]  # Zipf's law
    left = int(megabytes * 1e6)
    with path.open("w", encoding="utf-8") as file:
        while left > 0:
            stretch = chance.choices(words, weights, k=100 * WORDS_IN_A_DOCUMENT)
            for first in range(0, len(stretch), WORDS_IN_A_DOCUMENT):
                line = json.dumps({"text": " ".join(stretch[first : first + WORDS_IN_A_DOCUMENT])}) + "\n"
                file.write(line)
                left -= len(line)
                if left <= 0:
                    return


def simulate_store(prefix: Path, *, documents: int, tokens_of_each: int) -> None:
    """Make a token store of zeros that takes no room: sparse files, whose index holds only what opening reads.

    The vocabulary is of 16-bit tokens; the index is of Megatron's format, as ``xlab.data.token_store`` describes it.
    """
    last_start = 2 * tokens_of_each * (documents - 1)
    with Path(f"{prefix}.bin").open("wb") as file:
        file.truncate(2 * tokens_of_each * documents)
    with Path(f"{prefix}.idx").open("wb") as file:
        header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, documents, documents + 1)
        file.write(header)
        file.seek(len(header) + 4 * (documents - 1))
        file.write(struct.pack("<i", tokens_of_each))
        file.seek(len(header) + 4 * documents + 8 * (documents - 1))
        file.write(struct.pack("<q", last_start))
        file.seek(len(header) + 12 * documents + 8 * documents)
        file.write(struct.pack("<q", documents))


def _shared(files: list[Path]) -> Iterator[str]:
    for path in files:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield row[next(column for column in TEXT_COLUMNS if column in row)]


def _python_docs() -> Iterator[str]:
    from xlab.data.sources import PythonDocs

    return (document.text for document in PythonDocs().documents())
