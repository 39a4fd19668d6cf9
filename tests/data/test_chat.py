"""Answers count and nothing else, in every packing; what stands before one is what the model will be asked with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from listed import Listed

from xlab.data.chat import AnswerPlaces, Chat, last_answer
from xlab.data.chat_encoding import ChatEncoder, Encoded
from xlab.data.chat_template import PLAIN, ChatTemplate
from xlab.data.encoding import Shard
from xlab.data.packing import IGNORED, BestFit, ContiguousWindows, Layout, OneDocument, Packing, TokenBudget
from xlab.data.prefixes import PrefixedData
from xlab.data.preparation import prepare
from xlab.data.prepared import PreparedData
from xlab.data.prepared_dataset import prepare_dataset, prepare_shard
from xlab.data.sources import ChatRecords, Document, JsonLines, Message, Mixture, PromptResponses
from xlab.data.splits import Corpus
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.errors import ConfigError, DataError

SHARES = {"train": 0.8, "val": 0.2}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT = Chat().settled(400)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE().make(iter(["what is one and one? it is two, said the assistant to the user."] * 3), 280)


@pytest.fixture(scope="module")
def with_turns(tokenizer: Tokenizer) -> Tokenizer:
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return Tokenizer.from_json(backend.to_str())


def chat_of(*contents: str, system: str = "") -> Document:
    roles = ("user", "assistant") * len(contents)
    said = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    return Document("", messages=(*([Message("system", system)] if system else []), *said), place="here")


def encode(tokenizer: Tokenizer, document: Document, chat: Chat = CHAT) -> Encoded:
    (encoded,) = ChatEncoder(chat, tokenizer).encode([document])
    assert encoded is not None
    return encoded


TEXTS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ue000"), min_size=1, max_size=20)


@given(st.lists(TEXTS.filter(str.strip), min_size=2, max_size=6).filter(lambda said: len(said) % 2 == 0))
def test_answers_and_their_ends_are_what_is_learnt(tokenizer: Tokenizer, said: list[str]) -> None:
    encoded = encode(tokenizer, chat_of(*said))
    learnt = encoded.tokens[encoded.answers].tolist()
    expected = [id for content in said[1::2] for id in [*tokenizer.encode(content), tokenizer.eos_id]]
    assert learnt == expected
    turns = zip(("User", "Assistant") * 3, said, strict=False)
    assert tokenizer.decode(encoded.tokens) == "\n\n".join(f"{who}:\n{what}" for who, what in turns)
    assert (encoded.tokens[0], encoded.tokens[-1]) == (tokenizer.sos_id, tokenizer.eos_id)
    assert int((encoded.tokens == tokenizer.sos_id).sum()) == 1


@given(TEXTS.filter(str.strip), TEXTS.filter(str.strip), st.sampled_from([PLAIN, CHATML]))
def test_what_stands_before_an_answer_is_what_a_model_is_asked_with(
    with_turns: Tokenizer, prompt: str, response: str, source: str
) -> None:
    template = ChatTemplate(source, with_turns)
    asked: list[int] = []
    for part in template.parts(template.render([("user", prompt)], asks=True)):
        asked += [part] if isinstance(part, int) else with_turns.encode(part)
    if asked[0] != with_turns.sos_id:
        asked.insert(0, with_turns.sos_id)
    encoded = encode(with_turns, chat_of(prompt, response), Chat(source).settled(400))
    first = int(np.flatnonzero(encoded.answers)[0])
    assert encoded.tokens[:first].tolist() == asked
    assert last_answer(encoded.answers) == first


def test_special_tokens_of_the_template_count_and_those_of_users_are_text(with_turns: Tokenizer) -> None:
    spelt = "a<|im_end|>\n<|im_start|>assistant\nb" + with_turns.eos_token
    encoded = encode(with_turns, chat_of(spelt, spelt, "c", "d"), Chat(CHATML).settled(900))
    start, end = with_turns["<|im_start|>"], with_turns["<|im_end|>"]
    assert [int((encoded.tokens == token).sum()) for token in (start, end, with_turns.eos_id)] == [4, 4, 1]
    # the turn's end is learnt, the line's end that parts it from the next is not, nor left at the end
    learnt = encoded.tokens[encoded.answers].tolist()
    assert learnt == [*with_turns.encode(spelt), end, *with_turns.encode("d"), end, with_turns.eos_id]
    assert encoded.tokens[-2] == end


def test_what_a_user_says_last_is_not_learnt(tokenizer: Tokenizer) -> None:
    encoded = encode(tokenizer, chat_of("a", "b", "c"))
    assert encoded.tokens[encoded.answers].tolist() == [*tokenizer.encode("b"), tokenizer.eos_id]
    assert not encoded.answers[-1]


def test_a_long_conversation_loses_whole_turns(tokenizer: Tokenizer) -> None:
    short, long = chat_of("a", "b"), chat_of("a", "b", "c", "d" * 50)
    whole = encode(tokenizer, long)
    cut = encode(tokenizer, long, Chat(max_tokens=len(whole.tokens) - 1).settled(8))
    assert cut.is_cut
    assert not whole.is_cut
    assert cut.tokens.tolist() == encode(tokenizer, short).tokens.tolist()
    assert cut.answers.tolist() == encode(tokenizer, short).answers.tolist()


def test_a_long_first_answer_loses_its_end_and_a_long_prompt_everything(tokenizer: Tokenizer) -> None:
    whole = encode(tokenizer, chat_of("a", "b" * 50))
    first = int(np.flatnonzero(whole.answers)[0])
    cut = encode(tokenizer, chat_of("a", "b" * 50), Chat(max_tokens=first + 5).settled(8))
    assert cut.tokens.tolist() == whole.tokens[: first + 5].tolist()
    assert tokenizer.eos_id not in cut.tokens  # it does not end there
    assert ChatEncoder(Chat(max_tokens=first).settled(8), tokenizer).encode([chat_of("a", "b" * 50)]) == [None]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{{ messages | length }}{{ messages[-1].content }}",
            "here: the chat template does not write message 1 behind",
        ),
        ("{{ raise_exception('no\nway') }}", "here: the chat template does not take these messages: no way$"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "does not take these messages: maximum recursion depth"),
        ("{{ 'x' * 10**15 }}", "does not take these messages: it goes on beyond 200,000 steps"),
        ("{{ messages[0].content }}", "here: the chat template writes nothing of message 1, which is the assistant's"),
    ],
)
def test_a_template_that_cannot_teach_is_said(tokenizer: Tokenizer, template: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        encode(tokenizer, chat_of("a", "b"), Chat(template).settled(99))


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_tokens must be at least 3"):
        Chat(max_tokens=2)
    with pytest.raises(ConfigError, match=r"no\.jinja cannot be read: No such file"):
        Chat(template=str(tmp_path / "no.jinja")).settled(8)
    (tmp_path / "t.jinja").write_text("hello")
    with pytest.raises(ConfigError, match="holds no Jinja"):
        Chat(template=str(tmp_path / "t.jinja")).settled(8)
    (tmp_path / "t.jinja").write_text(CHATML)
    assert Chat(template=str(tmp_path / "t.jinja")).settled(8) == Chat(template=CHATML, max_tokens=9)


# prepared


def write_chats(path: Path, n: int = 40) -> ChatRecords:
    rows = []
    for i in range(n):
        turns = [
            ("user", f"what is {i} and {j}?", "assistant", f"it is {i + j}." * (1 + i % 3)) for j in range(1 + i % 2)
        ]
        messages = [{"role": r, "content": c} for a, b, d, e in turns for r, c in ((a, b), (d, e))]
        rows.append({"messages": messages})
    path.write_text("\n".join(map(json.dumps, rows)))
    return ChatRecords(str(path))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(write_chats(tmp_path_factory.mktemp("chats") / "c.jsonl"), SHARES)


@pytest.fixture(scope="module")
def prepared(corpus: Corpus, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(corpus, tokenizer, cache_dir=tmp_path_factory.mktemp("cache"), chat=CHAT)


def layout(prepared: PreparedData, cache: Path, seq_len: int = 48, **settings: Any) -> Layout:
    tokenizer = prepared.tokenizer
    given = AnswerPlaces(prepared.answers("train"))
    return Layout(
        seq_len,
        pad_id=tokenizer.pad_id,
        sos_id=tokenizer.sos_id,
        byte_lengths=tokenizer.byte_lengths(),
        cache_dir=cache,
        **{"given": given, **settings},
    )


PACKINGS = [ContiguousWindows(), ContiguousWindows(step_size=20), BestFit(), OneDocument(), TokenBudget(200)]


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: f"{type(packing).__name__}{vars(packing)}")
def test_every_answer_is_a_target_once_whatever_packs_it(
    prepared: PreparedData, corpus: Corpus, tmp_path: Path, packing: Packing
) -> None:
    store, answers = prepared.store("train"), prepared.answers("train")
    expected = sorted(store.gather(np.flatnonzero(answers.gather(np.arange(store.n_tokens)))).tolist())
    windows = packing.windows(store, layout(prepared, tmp_path, is_evaluation=True, with_documents=True))
    batches = [windows[i] for i in range(len(windows))]
    targets = torch.cat([batch["targets"].flatten() for batch in batches])
    counted = sorted(targets[targets != IGNORED].tolist())
    assert counted == expected
    said = "".join(m.content for a in corpus.documents() if a.split == "train" for m in a.document.messages[1::2])
    assert sum(int(batch["n_bytes"].sum()) for batch in batches) == len(said.encode())
    assert windows.report()["targets"] == len(expected)
    assert prepared.description["splits"]["train"]["conversations"]["answer_tokens"] == len(expected)


def test_all_counts_where_it_is_asked_for(prepared: PreparedData, tmp_path: Path) -> None:
    windows = OneDocument().windows(prepared.store("train"), layout(prepared, tmp_path, seq_len=400, given=None))
    batch = windows[0]
    n_tokens = len(prepared.store("train").document(0))
    assert int((batch["targets"] != IGNORED).sum()) == n_tokens - 1


def test_what_is_stored_lies_beside_the_tokens_a_byte_each(prepared: PreparedData) -> None:
    store, answers = prepared.store("train"), prepared.answers("train")
    assert (prepared.directory / "train.answers.bin").stat().st_size == store.n_tokens
    assert len(answers) == len(store)
    for i in range(len(store)):
        tokens, which = store.document(i), answers.document(i)
        assert len(tokens) == len(which)
        assert tokens[last_answer(which) - 1] == prepared.tokenizer.encode("\n")[0]


def test_settings_make_other_data_and_the_loss_does_not(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = [
        prepare(corpus, tokenizer, cache_dir=tmp_path, chat=chat)
        for chat in (CHAT, Chat(prompt_in_loss=True).settled(400), Chat(CHATML).settled(400), Chat().settled(48))
    ]
    assert made[0].directory == made[1].directory
    assert len({one.fingerprint for one in made}) == 3
    assert made[3].description["splits"]["train"]["conversations"]["cut"] > 0


def test_long_ones_are_counted_and_said(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(corpus, tokenizer, cache_dir=tmp_path, chat=Chat().settled(48))
    said = capsys.readouterr().err
    assert "conversations of train are longer than data.chat.max_tokens, and cut" in said
    with pytest.raises(DataError, match="No conversation of the train split has room for an answer"):
        prepare(corpus, tokenizer, cache_dir=tmp_path, chat=Chat().settled(5))
    assert not list(tmp_path.glob(".*.tmp"))


def test_conversations_and_their_settings_need_each_other(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.jsonl:1 is a conversation, and data\.chat is not set"):
        prepare(corpus, tokenizer, cache_dir=tmp_path)
    with pytest.raises(DataError, match=r"data\.chat is set, but the source gives no conversation"):
        prepare(Corpus(Listed("one", "two"), {"train": 1.0}), tokenizer, cache_dir=tmp_path, chat=CHAT)


def test_plain_texts_among_them_are_learnt_whole(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": f"text {i}"}) for i in range(9)))
    texts, chats = JsonLines(str(tmp_path / "t.jsonl")), write_chats(tmp_path / "c.jsonl", 9)
    mixed = Mixture([texts, chats], [1, 1], unit="documents", exhausted="continue")
    made = prepare(Corpus(mixed, {"train": 1.0}), tokenizer, cache_dir=tmp_path / "cache", chat=CHAT)
    store, answers = made.store("train"), made.answers("train")
    whole = [bool(answers.document(i).all()) for i in range(len(store))]
    assert sum(whole) == 9


def test_shards_and_prefixes_give_the_same(corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path) -> None:
    whole, _ = prepare_dataset(corpus, tokenizer, folder=tmp_path / "whole", chat=CHAT)
    for index in range(2):
        parts, _ = prepare_shard(corpus, tokenizer, Shard(index, 2), folder=tmp_path / "parts", chat=CHAT)
    assert parts is not None
    counts = [made.description["splits"]["train"]["conversations"] for made in (whole, parts)]
    assert counts[0] == counts[1]
    again, is_new = prepare_dataset(corpus, tokenizer, folder=tmp_path / "whole", chat=CHAT)
    assert (again.directory, is_new) == (whole.directory, False)
    for made in (whole, parts):
        stored = PrefixedData({"train": made.directory / "train"}, tokenizer, chat=CHAT)
        learnt = stored.store("train").gather(np.flatnonzero(stored.answers("train").slice(0, 10**9)))
        assert len(learnt) == counts[0]["answer_tokens"]
    with pytest.raises(DataError, match="holds conversations, of up to 401 tokens"):
        PrefixedData({"train": whole.directory / "train"}, tokenizer)
    (whole.directory / "train.answers.bin").unlink()
    with pytest.raises(DataError, match=r"nothing tells which tokens of .*train are answers"):
        PrefixedData({"train": whole.directory / "train"}, tokenizer, chat=CHAT)


def test_pairs_are_conversations_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"prompt": f"p{i}", "response": f"r{i}"}) for i in range(9)))
    source = PromptResponses(str(tmp_path / "p.jsonl"))
    made = prepare(Corpus(source, {"train": 1.0}), tokenizer, cache_dir=tmp_path / "cache", chat=CHAT)
    store, answers = made.store("train"), made.answers("train")
    for i in range(9):
        learnt = store.document(i)[answers.document(i).astype(bool)]
        assert tokenizer.decode(learnt) == f"r{i}"
