"""Preparation stores every byte once, is repeated only when it must be, and leaves nothing half done."""

import errno
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xlab.data import preparation, store_writing
from xlab.data.preparation import PreparedData, open_prepared, prepare
from xlab.data.prepared_dataset import prepare_dataset
from xlab.data.sources import Document, JsonLines, Source, TextFiles
from xlab.data.splits import Corpus
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer, TokenizerFile
from xlab.data.tokenizers import tokenizer as tokenizer_module
from xlab.errors import ConfigError, DataError

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [json.dumps({"text": f"Document {i} says: žluťoučký kůň, {i * i} times.\n" * 3}) for i in range(60)]
    path.write_text("\n".join(rows))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def ready(lines: Path, cache: Path) -> PreparedData:
    return prepare(Corpus(JsonLines(str(lines)), SHARES), ByteLevelBPE(), vocab_size=300, cache_dir=cache)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read: an entry for each time that a corpus was begun."""
    begun: list[str] = []
    original = JsonLines.documents

    def documents(self: JsonLines) -> Iterator[Document]:
        begun.append("read")
        return original(self)

    monkeypatch.setattr(JsonLines, "documents", documents)
    return begun


def test_documents_are_stored_whole_in_their_splits(lines: Path, cache: Path) -> None:
    prepared = ready(lines, cache)
    tokenizer = prepared.tokenizer
    corpus = Corpus(JsonLines(str(lines)), SHARES)
    for split in SHARES:
        store = prepared.store(split)
        texts = [assigned.document.text for assigned in corpus.documents() if assigned.split == split]
        assert len(store) == len(texts) == prepared.n_documents(split) > 0
        for i, text in enumerate(texts):
            first, *tokens, last = store.document(i).tolist()
            assert (first, last) == (tokenizer.sos_id, tokenizer.eos_id)
            assert tokenizer.decode(tokens) == text
        described = prepared.description["splits"][split]
        assert described["bytes"] == sum(len(text.encode()) for text in texts)
        assert described["bytes"] == tokenizer.byte_lengths()[store.tokens].sum()
        assert described["tokens"] == store.n_tokens


def test_the_tokenizer_sees_training_documents_only(lines: Path, cache: Path) -> None:
    prepared = ready(lines, cache)
    corpus = Corpus(JsonLines(str(lines)), SHARES)
    texts = [assigned.document.text for assigned in corpus.documents() if assigned.split == "train"]
    assert prepared.tokenizer.fingerprint == ByteLevelBPE().make(iter(texts), 300).fingerprint


def test_long_documents_have_the_tokens_of_the_whole(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"Line {i}, and\twhat 's  in it.\n" + "\n" * (i % 3) for i in range(400))
    (tmp_path / "book.txt").write_text(text)
    short = preparation.pieces
    monkeypatch.setattr(preparation, "pieces", lambda text: short(text, least=50, most=500))
    monkeypatch.setattr(tokenizer_module, "pieces", lambda text: short(text, least=50, most=500))
    monkeypatch.setattr(store_writing, "_CHARACTERS_AT_ONCE", 200)
    corpus = Corpus(TextFiles(f"{tmp_path}/book.txt"), {"train": 1})
    prepared = prepare(corpus, ByteLevelBPE(), vocab_size=300, cache_dir=cache)
    tokenizer = prepared.tokenizer
    assert prepared.store("train").tokens.tolist() == [1, *tokenizer.encode(text), 2]
    assert tokenizer.fingerprint == ByteLevelBPE().make(iter([text]), 300).fingerprint


def test_what_is_ready_is_found_without_reading(lines: Path, cache: Path, reads: list[str]) -> None:
    first = ready(lines, cache)
    assert len(reads) == 2  # for the tokenizer, and for the tokens
    again = ready(lines, cache)
    assert len(reads) == 2
    assert again == first == open_prepared(first.directory)


def test_a_checkpoint_s_tokenizer_finds_what_its_training_prepared(lines: Path, cache: Path, reads: list[str]) -> None:
    first = ready(lines, cache)
    travelled = Tokenizer.from_json(first.tokenizer.to_json())
    found = prepare(Corpus(JsonLines(str(lines)), SHARES), travelled, cache_dir=cache)
    assert found == first
    assert len(reads) == 2


def test_whatever_decides_the_tokens_decides_the_cache(lines: Path, cache: Path) -> None:
    source = JsonLines(str(lines))
    ready(lines, cache).tokenizer.save(lines.parent / "t.json")
    file = TokenizerFile(f"{lines.parent}/t.json")
    made = [
        prepare(Corpus(source, SHARES), ByteLevelBPE(), vocab_size=300, cache_dir=cache),
        prepare(Corpus(source, SHARES), ByteLevelBPE(), vocab_size=310, cache_dir=cache),
        prepare(Corpus(source, {"train": 1}), ByteLevelBPE(), vocab_size=300, cache_dir=cache),
        prepare(Corpus(source, SHARES, {"val": source}), ByteLevelBPE(), vocab_size=300, cache_dir=cache),
        prepare(Corpus(source, {"train": 1}), file, cache_dir=cache),
    ]
    assert len({prepared.directory for prepared in made}) == 5
    assert len({prepared.fingerprint for prepared in made}) == 5


def test_a_changed_corpus_is_never_served_from_the_old_cache(lines: Path, cache: Path) -> None:
    before = ready(lines, cache)
    lines.write_text(lines.read_text() + '\n{"text": "one more, to train or to validate on"}')
    after = ready(lines, cache)
    assert sum(after.n_documents(split) for split in SHARES) == sum(before.n_documents(split) for split in SHARES) + 1
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_is_the_content_s(lines: Path, cache: Path, tmp_path: Path) -> None:
    first = ready(lines, cache)
    elsewhere = tmp_path / "moved.jsonl"
    shutil.copy(lines, elsewhere)
    os.utime(elsewhere, ns=(5, 5))
    assert ready(elsewhere, cache).fingerprint == first.fingerprint
    rows = lines.read_text().splitlines()
    elsewhere.write_text("\n".join(rows[::-1]))
    assert ready(elsewhere, cache).fingerprint != first.fingerprint


def _truncate(directory: Path) -> None:
    os.truncate(directory / "train.bin", 10)


def _lose_the_index(directory: Path) -> None:
    (directory / "val.idx").unlink()


def _garble_the_description(directory: Path) -> None:
    (directory / "description.json").write_text('{"format_version": 1, "sp')


def _empty_the_description(directory: Path) -> None:
    (directory / "description.json").write_text("[]")


def _exchange_the_tokenizer(directory: Path) -> None:
    ByteLevelBPE().make(iter(["x"]), 259).save(directory / "tokenizer.json")


def _exchange_a_store(directory: Path) -> None:
    for suffix in ("bin", "idx"):
        shutil.copy(directory / f"val.{suffix}", directory / f"train.{suffix}")


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _lose_the_index,
        _garble_the_description,
        _empty_the_description,
        _exchange_the_tokenizer,
        _exchange_a_store,
        shutil.rmtree,
    ],
)
def test_a_damaged_cache_is_made_again(lines: Path, cache: Path, damage: Callable[[Path], None]) -> None:
    first = ready(lines, cache)
    damage(first.directory)
    with pytest.raises(DataError):
        open_prepared(first.directory)
    again = ready(lines, cache)
    assert again.description == first.description
    assert open_prepared(again.directory).store("train").n_tokens == first.description["splits"]["train"]["tokens"]


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.glob(".*")] + [path.name for path in cache.glob("*/*.part")]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyboardInterrupt("pressed"), "pressed"),
        (OSError(errno.ENOSPC, "No space left on device"), r"The disk of .* is full; nothing was kept"),
        (DataError("line 9"), "line 9"),
    ],
)
def test_an_interrupted_preparation_leaves_nothing(
    lines: Path, cache: Path, error: BaseException, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("xlab.data.token_store.TokenStoreWriter.end_document", fail)
        with pytest.raises((KeyboardInterrupt, DataError), match=says):
            ready(lines, cache)
    assert leftovers(cache) == []
    assert not list(cache.glob("*/description.json"))
    assert ready(lines, cache).n_documents("train") > 0


def test_what_a_killed_run_left_is_removed(lines: Path, cache: Path) -> None:
    identity = Corpus(JsonLines(str(lines)), SHARES).identity()
    for owner in (identity, "0" * 32):  # this corpus, and another
        (cache / f".{owner}.4711.tmp").mkdir(parents=True)
        (cache / f".{owner}.4711.tmp" / "train.bin.part").write_bytes(b"half")
    ready(lines, cache)
    assert leftovers(cache) == []


def test_what_others_keep_in_the_same_directory_stays(lines: Path, cache: Path) -> None:
    (cache / ".theirs.tmp").mkdir(parents=True)
    ready(lines, cache)
    assert (cache / ".theirs.tmp").is_dir()


def test_a_corpus_that_changes_while_it_is_read_is_refused(lines: Path, cache: Path) -> None:
    class Growing(JsonLines):
        def documents(self) -> Iterator[Document]:
            yield from super().documents()
            os.utime(lines, ns=(7, 7))

    with pytest.raises(DataError, match="The corpus changed while it was read"):
        prepare(Corpus(Growing(str(lines)), SHARES), ByteLevelBPE(), vocab_size=300, cache_dir=cache)
    assert leftovers(cache) == []
    assert not list(cache.glob("*/description.json"))


def test_an_empty_corpus_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    corpus = Corpus(TextFiles(f"{tmp_path}/a.txt"), {"train": 1})
    bytes_only = ByteLevelBPE().make(iter([]), 259)
    for tokenizer in (ByteLevelBPE(), bytes_only):
        with pytest.raises(DataError, match="The corpus is empty"):
            prepare(corpus, tokenizer, vocab_size=300, cache_dir=cache)


def test_an_empty_split_is_refused_when_it_is_asked_for(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "a.txt").write_text("all of it in one document " * 9)
    source = TextFiles(f"{tmp_path}/a.txt")
    prepared = prepare(Corpus(source, {"train": 1.0}), ByteLevelBPE(), vocab_size=259, cache_dir=cache)
    with pytest.raises(DataError, match="The val split has no documents; give it a larger share"):
        prepared.store("val")
    with pytest.raises(DataError, match="The train split is empty"):
        prepare(Corpus(source, {"train": 1e-9, "val": 0.9}), ByteLevelBPE(), vocab_size=259, cache_dir=cache)


def test_settings_are_checked_before_anything_is_read(lines: Path, cache: Path, reads: list[str]) -> None:
    with pytest.raises(ConfigError, match="vocab_size must be at least 259"):
        prepare(Corpus(JsonLines(str(lines)), SHARES), ByteLevelBPE(), vocab_size=5, cache_dir=cache)
    (cache.parent / "file").write_text("")
    with pytest.raises(DataError, match=r"Data cannot be prepared in .*file/cache: .*Set data.cache_dir"):
        ready(lines, cache.parent / "file" / "cache")
    assert reads == []


def test_progress_is_shown_when_asked_for(
    lines: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XLAB_PROGRESS", "1")
    ready(lines, cache)
    shown = capsys.readouterr()
    assert "Reading" in shown.err
    assert "Training a tokenizer of 300 tokens" in shown.err
    assert "Encoding" in shown.err
    assert shown.out == ""


class Slow(Source):
    """Documents that wait, once begun, until the other process waits too."""

    def __init__(self, lines: str, begun: str, other_waits: str) -> None:
        self._lines, self._begun, self._other_waits = JsonLines(lines), Path(begun), Path(other_waits)

    def documents(self) -> Iterator[Document]:
        with self._begun.open("a") as log:
            log.write(f"{os.getpid()}\n")
        while not self._other_waits.exists():
            pass
        yield from self._lines.documents()

    def identity(self) -> str:
        return self._lines.identity()


def _prepare_in(place: str, corpus: Corpus, numbered: bool) -> None:
    if numbered:
        prepare_dataset(corpus, ByteLevelBPE(), vocab_size=262, folder=place)
    else:
        prepare(corpus, ByteLevelBPE(), vocab_size=262, cache_dir=place)


def _prepare_slowly(lines: str, place: str, begun: str, other_waits: str, numbered: bool) -> None:
    import sys

    class Announce:
        def write(self, text: str) -> int:
            if "Waiting for another process" in text:
                Path(other_waits).touch()
            return len(text)

        def flush(self) -> None: ...

    sys.stderr = Announce()  # type: ignore[assignment]
    corpus = Corpus(Slow(lines, begun, other_waits), SHARES)
    _prepare_in(place, corpus, numbered)


@pytest.mark.parametrize("numbered", [False, True])
def test_of_two_processes_one_prepares_and_the_other_waits(lines: Path, tmp_path: Path, numbered: bool) -> None:
    place = tmp_path / "place"
    context = multiprocessing.get_context("spawn")
    arguments = str(lines), str(place), str(tmp_path / "begun"), str(tmp_path / "waits"), numbered
    processes = [context.Process(target=_prepare_slowly, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(set((tmp_path / "begun").read_text().split())) == 1
    (directory,) = [path.parent for path in place.glob("*/description.json")]
    assert open_prepared(directory).n_documents("train") > 0


def _prepare_on_a_small_disk(lines: str, place: str, numbered: bool) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # no file may get larger
    with pytest.raises(DataError, match="is full; nothing was kept"):
        _prepare_in(place, Corpus(JsonLines(lines), {"train": 1.0}), numbered)


@pytest.mark.parametrize("numbered", [False, True])
def test_a_disk_that_fills_is_one_line_and_leaves_nothing(tmp_path: Path, numbered: bool) -> None:
    (tmp_path / "large.jsonl").write_text("\n".join(json.dumps({"text": f"text {i} " * 2000}) for i in range(20)))
    process = multiprocessing.get_context("spawn").Process(
        target=_prepare_on_a_small_disk, args=(f"{tmp_path}/large.jsonl", f"{tmp_path}/place", numbered)
    )
    process.start()
    process.join(timeout=60)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0
    left = {path.name.partition(".")[2] for path in (tmp_path / "place").rglob("*") if path.is_file()}
    assert left <= {"lock", "tokenizer.json"}  # the tokenizer was complete before


def test_separate_files_for_training_and_validation(cache: Path, shared_data: Path) -> None:
    own = {"val": JsonLines(f"{shared_data}/nietzsche.valid.jsonl.xz", "body", "meta")}
    source = JsonLines(f"{shared_data}/nietzsche.train.jsonl.xz", "body", "meta")
    prepared = prepare(Corpus(source, {"train": 0.9, "val": 0.1}, own), ByteLevelBPE(), vocab_size=512, cache_dir=cache)
    assert (prepared.n_documents("train"), prepared.n_documents("val")) == (464, 83)
