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
from xlab.data.sources import ChatRecords, Filtered, Message, PromptResponses, Source
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
