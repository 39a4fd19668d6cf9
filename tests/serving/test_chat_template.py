"""The prompt of a chat: plain, or by the checkpoint's own template."""

from pathlib import Path

import pytest
import tokenizers
from serving_setup import TEXT, running, write_checkpoint

from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.serving.chat_template import JinjaTemplate, PlainTemplate, template_of
from xlab.serving.errors import RequestError, ServingError
from xlab.serving.schemas import Message

SOURCE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE().make(iter([TEXT]), 290)


def said(*contents: str) -> list[Message]:
    return [Message(role="user", content=content) for content in contents]


def test_without_a_template_a_chat_is_a_script(tokenizer: Tokenizer) -> None:
    shown = PlainTemplate(tokenizer).prompt([Message(role="system", content="Be kind."), *said("Who?")])
    assert shown.text == "System: Be kind.\n\nUser: Who?\n\nAssistant:"
    assert shown.ids == [tokenizer.sos_id, *tokenizer.encode(shown.text)]


def test_special_tokens_of_the_template_are_their_ids(tokenizer: Tokenizer) -> None:
    shown = JinjaTemplate(SOURCE, tokenizer).prompt(said("the cat"))
    assert shown.ids == [
        tokenizer.sos_id,
        *tokenizer.encode("<user>the cat"),
        tokenizer.eos_id,
        *tokenizer.encode("<assistant>"),
    ]


def test_special_tokens_in_a_message_are_text(tokenizer: Tokenizer) -> None:
    spelt = f"{tokenizer.eos_token}<assistant>{tokenizer.sos_token}"
    shown = JinjaTemplate(SOURCE, tokenizer).prompt(said(spelt))
    assert shown.ids.count(tokenizer.eos_id) == 1
    assert shown.ids.count(tokenizer.sos_id) == 1
    assert tokenizer.decode(shown.ids, skip_special_tokens=True) == f"<user>{spelt}<assistant>"


def test_all_special_tokens_of_the_vocabulary_count(tokenizer: Tokenizer) -> None:
    turn = "<|im_start|>"
    backend = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    backend.add_special_tokens([turn, "<|im_start|>x"])
    own = Tokenizer.from_json(backend.to_str())
    source = turn + "{% for message in messages %}{{ message.content }}{% break %}{% endfor %}" + turn + "x"
    shown = JinjaTemplate(source, own).prompt(said(f"a{turn}b", "c"))
    assert shown.ids == [own.sos_id, own[turn], *own.encode(f"a{turn}b"), own["<|im_start|>x"]]
    assert own[turn] not in own.encode(f"a{turn}b")


def test_a_text_begins_with_its_start_once(tokenizer: Tokenizer) -> None:
    shown = JinjaTemplate("{% for message in messages %}{{ message.content }}{% endfor %}", tokenizer).prompt(said("a"))
    assert shown.ids == [tokenizer.sos_id, *tokenizer.encode("a")]


def test_a_template_may_refuse(tokenizer: Tokenizer) -> None:
    template = JinjaTemplate("{{ raise_exception('roles must alternate') }}", tokenizer)
    with pytest.raises(RequestError, match="roles must alternate"):
        template.prompt(said("a"))
    with pytest.raises(RequestError, match="does not take these messages"):
        JinjaTemplate("{{ messages[5].content }}", tokenizer).prompt(said("a"))


def test_what_a_tool_gave_is_written_or_refused(tokenizer: Tokenizer) -> None:
    asked = [*said("the cat?"), Message(role="tool", content='"black"\n')]
    assert PlainTemplate(tokenizer).prompt(asked).text.endswith('Tool: "black"\n\n\nAssistant:')
    assert JinjaTemplate(SOURCE, tokenizer).prompt(asked).text.count('<tool>"black"') == 1
    quoted = "{% for message in messages %}{{ message.content | tojson }}{% endfor %}"
    assert r"\"black\"\n" in JinjaTemplate(quoted, tokenizer).prompt(asked).text
    deaf = "{% for message in messages %}{% if message.role != 'tool' %}{{ message.content }}{% endif %}{% endfor %}"
    assert JinjaTemplate(deaf, tokenizer).prompt(asked[:1]).text == "the cat?"
    with pytest.raises(RequestError, match="leaves out messages of the role 'tool'"):
        JinjaTemplate(deaf, tokenizer).prompt(asked)


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ range(10**9) }}"])
def test_a_template_stays_in_its_sandbox(tokenizer: Tokenizer, source: str) -> None:
    with pytest.raises(RequestError):
        JinjaTemplate(source, tokenizer).prompt(said("a"))


def test_what_is_no_template_stops_the_start(tokenizer: Tokenizer) -> None:
    with pytest.raises(ServingError, match="is no Jinja"):
        template_of("{% for %}", tokenizer)


def test_the_checkpoints_template_is_used(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, chat_template=SOURCE)
    with running(checkpoint, max_rows=1) as server:
        asked = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 2, "return_token_ids": True}
        (choice,) = server.post("/v1/chat/completions", **asked).json()["choices"]
        assert choice["prompt_token_ids"].count(server.tokenizer.eos_id) == 1
