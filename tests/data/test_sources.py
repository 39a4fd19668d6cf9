"""Documents come out of every kind of source as they went in, and bad input is named."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from xlab.data.sources import Document, HubDataset, JsonLines, PythonDocs, Source, TextFiles
from xlab.errors import ConfigError, DataError


def texts(source: Source) -> list[str]:
    return [document.text for document in source.documents()]


class TestPythonDocs:
    def test_it_is_a_corpus_and_imports_nothing_of_it(self) -> None:
        imported = set(sys.modules)
        documents = list(PythonDocs().documents())
        new = {name for name in set(sys.modules) - imported if not name.startswith("encodings.")}  # codecs of the files
        assert new <= {"pydoc_data", "pydoc_data.topics"}
        assert sum(len(document.text.encode()) for document in documents) > 1_500_000
        by_meta = {document.meta: document.text for document in documents}
        assert len(by_meta) == len(documents)
        assert by_meta["module textwrap"].startswith("Module textwrap\n===============\n\nText wrapping and filling.")
        assert "\n\ndef fill(text, width=70, **kwargs):\n    Fill a single paragraph" in by_meta["module textwrap"]
        assert not [meta for meta in by_meta if re.search(r"\btests?\b|site-packages", meta)]

    def test_identity_is_settled(self) -> None:
        assert PythonDocs().identity() == PythonDocs().identity()

    def test_a_python_without_documentation_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("xlab.data.sources.python_docs._library", lambda: tmp_path)
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
        (tmp_path / "broken.py").write_text('def f(:\n    "never parsed"')
        with pytest.raises(DataError, match=r"neither pydoc topics nor library sources; use one from python\.org"):
            list(PythonDocs().documents())


class TestTextFiles:
    def test_globs_are_recursive_sorted_and_without_repeats(self, tmp_path: Path) -> None:
        for name in ["b.txt", "a.txt", "deep/er/c.txt", "other.md"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        source = TextFiles([f"{tmp_path}/**/*.txt", f"{tmp_path}/a.txt"])
        assert texts(source) == ["a.txt", "b.txt", "deep/er/c.txt"]
        assert source.n_bytes() == 5 + 5 + 13

    def test_a_name_with_brackets_is_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "a[1].txt").write_text("odd")
        assert texts(TextFiles(f"{tmp_path}/a[1].txt")) == ["odd"]

    def test_home_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        (tmp_path / "mine.txt").write_text("mine")
        assert texts(TextFiles("~/*.txt")) == ["mine"]

    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_a_line_ends_documents_and_line_ends_stay(self, tmp_path: Path, newline: str) -> None:
        lines = ["one", "<|end|> not alone", "<|end|>", "<|end|>", "", "<|end|>", "two", "<|end|>"]
        (tmp_path / "a.txt").write_bytes(newline.join(lines).encode())
        source = TextFiles(f"{tmp_path}/a.txt", end_of_document="<|end|>")
        assert texts(source) == [f"one{newline}<|end|> not alone{newline}", f"two{newline}"]

    @given(text=st.text(st.sampled_from("ab \n\ré😀"), max_size=60), limit=st.integers(1, 12))
    @settings(deadline=None, max_examples=60)
    def test_sections_joined_are_the_text(
        self, tmp_path_factory: pytest.TempPathFactory, text: str, limit: int
    ) -> None:
        path = tmp_path_factory.mktemp("sections") / "a.txt"
        path.write_bytes(text.encode())
        sections = list(TextFiles(str(path), section_chars=limit)._texts(path))
        assert "".join(sections) == text
        assert all(len(section) <= limit for section in sections)

    def test_sections_end_with_paragraphs_where_they_can(self, tmp_path: Path) -> None:
        paragraphs = ["First line.\nSecond line.\n\n", "Another paragraph.\n\n", "A last one.\n"]
        (tmp_path / "book.txt").write_bytes("".join(paragraphs).encode())
        assert texts(TextFiles(f"{tmp_path}/book.txt", section_chars=30)) == paragraphs

    def test_sections_are_read_as_a_stream(self, tmp_path: Path) -> None:
        line = "x" * 99 + "\n"
        (tmp_path / "big.txt").write_text(line * 60_000 + "\udcff", errors="surrogateescape")
        documents = TextFiles(f"{tmp_path}/big.txt", section_chars=1000).documents()
        assert next(documents).text == line * 10
        with pytest.raises(DataError, match=r"big\.txt is not UTF-8 at byte 6000000 \(0xff: invalid start byte\)"):
            list(documents)

    @pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
    def test_invalid_utf8_is_named_by_its_byte(self, tmp_path: Path, bom: bytes) -> None:
        path = tmp_path / "latin.txt"
        path.write_bytes(bom + "žluť\n---\n".encode() + b"caf\xe9\n")
        for marker in (None, "---"):
            with pytest.raises(DataError, match=rf"latin.txt is not UTF-8 at byte {len(bom) + 14} \(0xe9"):
                texts(TextFiles(str(path), end_of_document=marker))

    def test_a_byte_order_mark_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
        assert texts(TextFiles(f"{tmp_path}/a.txt")) == ["hello"]

    def test_empty_documents_are_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("")
        (tmp_path / "b.txt").write_text(" \n")
        assert texts(TextFiles(f"{tmp_path}/*.txt")) == []

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        source = TextFiles(f"{tmp_path}/*.txt")  # making it looks at no disk
        with pytest.raises(DataError, match=r"No file matches '.*\*\.txt'"):
            texts(source)
        with pytest.raises(DataError, match=r"is a directory, not a file; name the files in it"):
            texts(TextFiles(str(tmp_path)))

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
    def test_a_forbidden_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("secret")
        path.chmod(0)
        with pytest.raises(DataError, match=r"a\.txt cannot be read: Permission denied"):
            texts(TextFiles(str(path)))

    def test_identity_follows_files_and_settings(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("one")
        first = TextFiles(str(path)).identity()
        assert TextFiles([str(path)]).identity() == first
        assert TextFiles(str(path), section_chars=5).identity() != first
        os.utime(path, ns=(1, 1))
        assert TextFiles(str(path)).identity() != first

    def test_senseless_settings(self) -> None:
        with pytest.raises(ConfigError, match="section_chars must be at least 1, got 0"):
            TextFiles("a.txt", section_chars=0)
        with pytest.raises(ConfigError, match="end_of_document is ''"):
            TextFiles("a.txt", end_of_document="")
        with pytest.raises(ConfigError, match="name a file or a glob"):
            TextFiles([])


class TestJsonLines:
    @given(st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=5), st.booleans())
    @settings(deadline=None, max_examples=40)
    def test_rows_come_back(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ascii_only: bool
    ) -> None:
        path = tmp_path_factory.mktemp("rows") / "a.jsonl"
        lines = [json.dumps({"body": text, "title": meta}, ensure_ascii=ascii_only) for text, meta in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
        source = JsonLines(str(path), text_column="body", meta_column="title")
        assert list(source.documents()) == [Document(text, meta) for text, meta in rows]

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ('{"body": "x", "id": 3}', "has no column 'text'; it has body, id. Set data.source.text_column."),
            ("{}", "has no column 'text'; it has none"),
            ('{"text": 3}', "column 'text' holds int, not text"),
            ('["text"]', "holds a list, not an object"),
            ('{"text": "x"', "is not JSON: Expecting"),
            (r'{"text": "ab\ud800"}', r"holds a lone surrogate \ud800 at character 2"),
        ],
    )
    def test_bad_lines_are_named(self, tmp_path: Path, line: str, says: str) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text('{"text": "fine"}\n\n' + line + "\n")
        with pytest.raises(DataError, match=re.escape(f"{path}:3") + ".*" + re.escape(says)):
            texts(JsonLines(str(path)))

    def test_invalid_utf8_is_named_by_its_byte(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
        with pytest.raises(DataError, match=r"a\.jsonl is not UTF-8 at byte 27"):
            texts(JsonLines(f"{tmp_path}/a.jsonl"))

    def test_a_real_corpus(self, shared_data: Path) -> None:
        source = JsonLines(f"{shared_data}/nietzsche.valid.jsonl.xz", text_column="body", meta_column="meta")
        assert len(texts(source)) == 83  # without meta, every one: that is no fault

    def test_meta_may_be_missing_or_structured(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "meta": {"page": 3}}\n')
        source = JsonLines(f"{tmp_path}/a.jsonl", meta_column="meta")
        assert [document.meta for document in source.documents()] == ["", '{"page": 3}']


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory like wikimedia/wikipedia's, two languages of two shards each, without a card."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "wikipedia"
    for language in ("en", "cs"):
        folder = root / f"20231101.{language}"
        folder.mkdir(parents=True)
        for shard in range(2):
            rows = {"title": [f"{language}{shard}{i}" for i in range(3)], "text": [f"text {i}" for i in range(3)]}
            pq.write_table(pa.table(rows), folder / f"train-{shard:05}-of-00002.parquet")
    return root


class TestHubDataset:
    CARD = """---
configs:
- config_name: 20231101.cs
  data_files: [{split: train, path: 20231101.cs/train-*}]
- config_name: 20231101.en
  data_files: [{split: train, path: 20231101.en/train-*}]
---
"""

    @pytest.mark.parametrize("card", [True, False])
    def test_a_local_copy_with_and_without_a_card(self, hub: Path, card: bool) -> None:
        if card:
            (hub / "README.md").write_text(self.CARD)
        source = HubDataset(str(hub), "20231101.en", meta_column="title")
        documents = list(source.documents())
        assert [document.meta for document in documents] == ["en00", "en01", "en02", "en10", "en11", "en12"]
        assert documents[0] == Document("text 0", "en00")
        assert len(texts(HubDataset(str(hub), "20231101.en", split="train[:2]"))) == 2

    def test_a_changed_copy_is_read_anew(self, hub: Path) -> None:
        source = HubDataset(str(hub / "20231101.en"))
        before = source.identity()
        assert len(texts(source)) == 6
        pq.write_table(
            pa.table({"title": ["t"], "text": ["new"]}), hub / "20231101.en" / "train-00000-of-00002.parquet"
        )
        assert source.identity() != before
        assert texts(source) == ["new", "text 0", "text 1", "text 2"]

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"text_column": "body"}, "has no column 'body'; it has title, text. Set data.source.text_column."),
            ({"meta_column": "id"}, "has no column 'id'; it has title, text. Set data.source.meta_column."),
            ({"split": "dev"}, "could not be loaded: Unknown split"),
            (
                {"name": "20231101.de"},
                "no subset '20231101.de'; it has 20231101.cs, 20231101.en. Set data.source.name.",
            ),
        ],
    )
    def test_what_is_missing_is_named(self, hub: Path, settings: dict[str, str], says: str) -> None:
        with pytest.raises(DataError, match=re.escape(says)) as caught:
            texts(HubDataset(**{"path": str(hub), "name": "20231101.en", **settings}))
        assert "\n" not in str(caught.value)

    def test_values_that_are_no_text(self, hub: Path) -> None:
        pq.write_table(pa.table({"text": [1, 2], "gap": ["x", None]}), hub / "train.parquet")
        for shard in hub.glob("2*/*"):
            shard.unlink()
        with pytest.raises(DataError, match="column 'text' holds int64, not text"):
            texts(HubDataset(str(hub)))
        with pytest.raises(DataError, match="row 1 of column 'gap' is null"):
            texts(HubDataset(str(hub), text_column="gap"))

    def test_places_that_are_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file.parquet").write_text("")
        with pytest.raises(DataError, match="is no directory"):
            HubDataset(f"{tmp_path}/nothing").identity()
        with pytest.raises(DataError, match="is a file; HubDataset reads a directory"):
            HubDataset(f"{tmp_path}/file.parquet").identity()

        def unreachable(**_: object) -> None:
            raise ConnectionError("Couldn't reach the Hub\nat all")

        monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", unreachable)
        with pytest.raises(DataError, match=r"could not be fetched: Couldn't reach the Hub\. If the hub is out of"):
            texts(HubDataset("somebody/something"))

    def test_nobody_s_code_is_run(self, hub: Path) -> None:
        (hub / "wikipedia.py").write_text(f"open({str(hub / 'ran')!r}, 'w')")
        with pytest.raises(DataError, match="scripts are no longer supported"):
            texts(HubDataset(str(hub), "20231101.en"))
        assert not (hub / "ran").exists()

    @pytest.mark.parametrize("card", [True, False])
    def test_a_stream_has_the_documents_of_the_copy(self, hub: Path, card: bool) -> None:
        if card:
            (hub / "README.md").write_text(self.CARD)
        settings = {"path": str(hub), "name": "20231101.en", "meta_column": "title"}
        streamed = HubDataset(**settings, streaming=True)
        documents = list(streamed.documents())
        assert list(streamed.documents()) == documents
        assert {path.suffix for path in hub.parent.glob("cache/*")} <= {".lock"}  # nothing is kept
        assert list(HubDataset(**settings).documents()) == documents
        assert [document.meta for document in documents] == ["en00", "en01", "en02", "en10", "en11", "en12"]

    def test_a_stream_of_json_lines(self, hub: Path) -> None:
        root = hub.parent / "lines"
        root.mkdir()
        for shard in range(2):
            rows = [json.dumps({"body": f"text {shard} {i}", "id": i}) for i in range(300)]
            (root / f"train-{shard}.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
        source = HubDataset(str(root), text_column="body", streaming=True)
        assert texts(source) == [f"text {shard} {i}" for shard in range(2) for i in range(300)]
        with pytest.raises(DataError, match="has no column 'text'; it has body, id"):
            texts(HubDataset(str(root), streaming=True))

    @pytest.mark.parametrize("streaming", [True, False])
    def test_max_documents_is_the_beginning(self, hub: Path, streaming: bool) -> None:
        settings = {"path": str(hub), "name": "20231101.en", "meta_column": "title", "streaming": streaming}
        whole = list(HubDataset(**settings).documents())
        for n in (1, 4, 100):
            assert list(HubDataset(**settings, max_documents=n).documents()) == whole[:n]

    def test_a_process_may_end_amid_a_stream(self, hub: Path) -> None:
        rows = {"text": [f"text {i}" * 100 for i in range(20_000)]}
        pq.write_table(pa.table(rows), hub / "20231101.en" / "train-00000-of-00002.parquet", row_group_size=1000)
        source = f"HubDataset({str(hub / '20231101.en')!r}, streaming=True, max_documents=1)"
        script = f"from xlab.data.sources import HubDataset\nprint(len(list({source}.documents())))"
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")

    def test_a_stream_that_breaks_is_one_line(self, hub: Path) -> None:
        shard = hub / "20231101.en" / "train-00001-of-00002.parquet"
        shard.write_bytes(shard.read_bytes()[:-200])
        with pytest.raises(DataError, match=r"20231101\.en \(split train\) could not be loaded: ") as caught:
            texts(HubDataset(str(hub), "20231101.en", streaming=True))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"text_column": "body"}, "has no column 'body'; it has title, text. Set data.source.text_column."),
            ({"split": "dev"}, "(split dev): there is no such split; there is train. Set data.source.split."),
            ({"name": "20231101.de"}, "no subset '20231101.de'"),
        ],
    )
    def test_what_a_stream_misses_is_named(self, hub: Path, settings: dict[str, str], says: str) -> None:
        with pytest.raises(DataError, match=re.escape(says)):
            texts(HubDataset(**{"path": str(hub), "name": "20231101.en", **settings}, streaming=True))

    def test_identity_follows_the_settings(self, hub: Path) -> None:
        sources = [
            HubDataset(str(hub)),
            HubDataset(str(hub), streaming=True),
            HubDataset(str(hub), max_documents=2),
            HubDataset(str(hub), max_documents=3),
            HubDataset(str(hub), "20231101.en"),
            HubDataset("some/thing"),
            HubDataset("some/thing", revision="abc"),
        ]
        assert len({source.identity() for source in sources}) == len(sources)

    def test_senseless_settings(self) -> None:
        with pytest.raises(ConfigError, match=r"a stream has no slices; use max_documents"):
            HubDataset("some/thing", split="train[:1%]", streaming=True)
        with pytest.raises(ConfigError, match="max_documents must be at least 1, got 0"):
            HubDataset("some/thing", max_documents=0)
