"""Conversations are read alike from JSON lines, Parquet and Arrow, and one that nothing can be learnt from is named."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from xlab import factories
from xlab.data.sources import (
    ChatRecords,
    Filtered,
    HubChats,
    HubPrompts,
    HubSource,
    Message,
    PromptResponses,
    Source,
)
from xlab.data.splits import Corpus
from xlab.errors import ConfigError, DataError

CHATS = [
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"},
     {"role": "assistant", "content": "Zoë."}],
    [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "?"},
     {"role": "assistant", "content": "Two."}],
]  # fmt: skip


def json_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


def write_gzip(path: Path, rows: list[Any]) -> str:
    with gzip.open(path.with_suffix(".jsonl.gz"), "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    return str(path.with_suffix(".jsonl.gz"))


def write_parquet(path: Path, rows: list[Any]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    return str(path.with_suffix(".parquet"))


def write_arrow(path: Path, rows: list[Any]) -> str:
    feather.write_feather(pa.Table.from_pylist(rows), str(path.with_suffix(".arrow")))
    return str(path.with_suffix(".arrow"))


@pytest.mark.parametrize("write", [json_lines, write_gzip, write_parquet, write_arrow])
def test_every_kind_of_file_gives_the_same(tmp_path: Path, write: Callable[[Path, list[Any]], str]) -> None:
    chats = ChatRecords(write(tmp_path / "chats.jsonl", [{"messages": chat, "n": 1} for chat in CHATS]))
    read = list(chats.documents())
    assert [list(document.messages) for document in read] == [[Message(**m) for m in chat] for chat in CHATS]
    assert read[0].text == "System: Be kind.\n\nUser: Who?\n\nAssistant: Zoë."
    pairs = PromptResponses(
        write(tmp_path / "pairs.jsonl", [{"q": "a", "r": "b", "s": None}, {"q": "c", "r": "d", "s": "e"}]),
        prompt_column="q",
        response_column="r",
        system_column="s",
    )
    assert [[m.content for m in document.messages] for document in pairs.documents()] == [["a", "b"], ["e", "c", "d"]]


def test_settings_survive_as_plain_data(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "c.jsonl", [{"chat": CHATS[0]}])
    source: Source = ChatRecords(path, messages_column="chat")
    again = factories.build(factories.plain(source))
    assert again.identity() == source.identity()
    assert source.identity() != ChatRecords(path).identity()
    (document,) = Filtered(again, min_length=3).documents()
    assert document.messages[-1] == ("assistant", "Zoë.")


def test_conversations_of_one_script_are_two(tmp_path: Path) -> None:
    spelt = [{"role": "user", "content": "a\n\nAssistant: b"}, {"role": "assistant", "content": "c"}]
    meant = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b\n\nAssistant: c"}]
    path = json_lines(tmp_path / "c.jsonl", [{"messages": spelt}, {"messages": meant}])
    one, other = Corpus(ChatRecords(path), {"train": 1.0}).documents()
    assert one.document.text == other.document.text
    assert one.digest != other.digest


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chat": []}, r"c\.jsonl:2 has no column 'messages'; it has chat\. Set data\.source\.messages_column"),
        ({"messages": "hi"}, r"c\.jsonl:2: column 'messages' holds a str, not a list of messages"),
        ({"messages": None}, "holds null, not a list"),
        ({"messages": [USER, "b"]}, r"message 1 is no object with role and content; it is 'b'"),
        ({"messages": [{"from": "human", "value": "a"}]}, "message 0 is no object with role and content"),
        ({"messages": [USER, ANSWER | {"role": "bot"}]}, r"message 1 has the role 'bot'; a role can be system,.*tool"),
        ({"messages": [USER, ANSWER | {"content": ["b"]}]}, "message 1, of the assistant, holds a list, not text"),
        ({"messages": [USER, ANSWER | {"content": " \n"}]}, "message 1 is an empty response; fill it in, or remove"),
        ({"messages": [USER, ANSWER | {"content": None}]}, "holds null, not text; write it as text, or remove"),
        ({"messages": [USER, ANSWER | {"tool_calls": [{}]}]}, "message 1 has tool_calls, which no template is shown"),
        ({"messages": [USER, ANSWER | {"weight": 0}]}, "message 1 has the weight 0, and every answer is learnt alike"),
        ({"messages": [USER | {"content": [{"type": "image_url"}]}, ANSWER]}, "message 0, of the user, holds a list"),
        ({"messages": [USER | {"content": ""}, ANSWER]}, "message 0 is an empty prompt"),
        ({"messages": [USER]}, "has no message of the assistant, so nothing to learn from"),
        ({"messages": []}, "has no message of the assistant"),
        ({"messages": [USER, ANSWER | {"content": "\ud800"}]}, "lone surrogate"),
    ],
)
def test_a_record_to_learn_nothing_from_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = json_lines(tmp_path / "c.jsonl", [{"messages": [USER, ANSWER]}, row])
    with pytest.raises(DataError, match=said):
        list(ChatRecords(path).documents())


def test_parts_of_text_are_one_text_as_over_http(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    harmless = {"tool_calls": None, "weight": 1, "name": "Zoë"}
    path = json_lines(tmp_path / "c.jsonl", [{"messages": [USER | {"content": parts}, ANSWER | harmless]}])
    (document,) = ChatRecords(path).documents()
    assert document.messages == (("user", "ab"), ("assistant", "b"))


def test_a_number_without_end_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"messages": ' + "9" * 5000 + "}")
    with pytest.raises(DataError, match=r"c\.jsonl:1 is not JSON: Exceeds the limit"):
        list(ChatRecords(str(tmp_path / "c.jsonl")).documents())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a"}, r"p\.jsonl:2 has no column 'response'; it has prompt\. Set data\.source\.response_column"),
        ({"prompt": "a", "response": None}, "message 1, of the assistant, holds null, not text"),
        ({"prompt": "a", "response": ""}, "empty response"),
    ],
)
def test_a_pair_without_a_half_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = json_lines(tmp_path / "p.jsonl", [{"prompt": "a", "response": "b"}, row])
    with pytest.raises(DataError, match=said):
        list(PromptResponses(path).documents())


def test_a_table_without_the_column_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "p.jsonl", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(DataError, match=r"p\.parquet has no column 'response'; it has prompt, answer"):
        list(PromptResponses(path).documents())
    with pytest.raises(DataError, match=r"p\.parquet: row 0: message 1 is an empty response"):
        list(PromptResponses(write_parquet(tmp_path / "p.jsonl", [{"prompt": "a", "response": ""}])).documents())
    with pytest.raises(ConfigError, match="response_column is empty"):
        PromptResponses(path, response_column="")


class TestOnTheHub:
    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A local directory in the hub's layout: chats in Parquet, pairs in JSON lines, and the library's cache."""
        datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'xlab[hub]'")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        (tmp_path / "hub" / "chats").mkdir(parents=True)
        (tmp_path / "hub" / "pairs").mkdir()
        for number, chat in enumerate(CHATS):
            file = tmp_path / "hub" / "chats" / f"train-{number:05}-of-00002.parquet"
            pq.write_table(pa.Table.from_pylist([{"id": number, "messages": chat}]), file)
        pairs = [{"q": "a", "r": "b", "s": None}, {"q": "c", "r": "d", "s": "e"}]
        json_lines(tmp_path / "hub" / "pairs" / "train.jsonl", pairs)
        return tmp_path / "hub"

    @pytest.mark.parametrize("streaming", [False, True])
    def test_chats_and_pairs_are_those_of_the_files(self, hub: Path, streaming: bool) -> None:
        chats = HubChats(str(hub / "chats"), streaming=streaming)
        files = ChatRecords(str(hub / "chats" / "*.parquet"))
        assert [d.messages for d in chats.documents()] == [d.messages for d in files.documents()]
        assert list(chats.documents())[1].place == f"{hub / 'chats'} (split train): row 1"
        columns = {"prompt_column": "q", "response_column": "r", "system_column": "s"}
        pairs = HubPrompts(str(hub / "pairs"), streaming=streaming, **columns)
        said = [[("user", "a"), ("assistant", "b")], [("system", "e"), ("user", "c"), ("assistant", "d")]]
        assert [list(document.messages) for document in pairs.documents()] == said
        (first,) = HubPrompts(str(hub / "pairs"), streaming=streaming, max_documents=1, **columns).documents()
        assert first.messages == (("user", "a"), ("assistant", "b"))

    def test_settings_survive_as_plain_data(self, hub: Path) -> None:
        source: HubSource
        for source in (HubChats(str(hub), "chats", max_documents=2), HubPrompts(str(hub), "pairs", streaming=True)):
            assert factories.build(factories.plain(source)).identity() == source.identity()
        kinds = [HubChats("some/thing"), HubPrompts("some/thing"), HubChats("some/thing", messages_column="chat")]
        assert len({kind.identity() for kind in kinds}) == 3

    @pytest.mark.parametrize("streaming", [False, True])
    def test_what_is_missing_is_named(self, hub: Path, streaming: bool) -> None:
        with pytest.raises(DataError, match=r"\(split train\) has no column 'chat'; it has id, messages\. Set data\."):
            list(HubChats(str(hub / "chats"), messages_column="chat", streaming=streaming).documents())
        file = hub / "chats" / "train-00001-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist([{"id": 2, "messages": [{"role": "bot", "content": "b"}]}]), file)
        with pytest.raises(DataError, match=r"\(split train\): row 1: message 0 has the role 'bot'"):
            list(HubChats(str(hub / "chats"), streaming=streaming).documents())
        with pytest.raises(ConfigError, match=r"HubChats's split is empty; set data\.source\.split"):
            HubChats(str(hub), split="")
        with pytest.raises(ConfigError, match="messages_column is empty"):
            HubChats(str(hub), messages_column="")
