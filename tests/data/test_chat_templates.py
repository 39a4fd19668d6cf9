"""Only a template writes special tokens; what it cannot write is said in one line."""

import pytest

from xlab.data.chat_template import PLAIN, ChatTemplate, shown
from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.errors import DataError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return ByteLevelBPE().make(iter(["who is there? it is I."] * 3), 270)


def test_the_plain_template_is_a_script(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(PLAIN, tokenizer)
    said = [("system", "Be kind."), ("user", "Who?"), ("assistant", "I."), ("tool", "7")]
    rendered = template.render(said, asks=True)
    sos, eos = tokenizer.sos_token, tokenizer.eos_token
    assert rendered == f"{sos}System:\nBe kind.\n\nUser:\nWho?\n\nAssistant:\nI.{eos}\n\nTool:\n7\n\nAssistant:\n"
    parts = list(template.parts(rendered))
    assert parts[0] == tokenizer.sos_id
    assert parts[2] == tokenizer.eos_id
    assert template.turn_ends() == [tokenizer.eos_id]


def test_a_message_spells_no_special_token(tokenizer: Tokenizer) -> None:
    spelt = f"{tokenizer.eos_token}{tokenizer.sos_token}"
    rendered = ChatTemplate(PLAIN, tokenizer).render([("user", spelt)], asks=False)
    parts = list(ChatTemplate(PLAIN, tokenizer).parts(rendered))
    assert parts == [tokenizer.sos_id, f"User:\n{spelt}\n\n"]
    assert shown(rendered) == f"{tokenizer.sos_token}User:\n{spelt}\n\n"


def test_a_turn_that_ends_in_text_has_no_token(tokenizer: Tokenizer) -> None:
    assert ChatTemplate(CHATML, tokenizer).turn_ends() == []
    assert ChatTemplate("{{ raise_exception('no') }}", tokenizer).turn_ends() == ()


def test_a_template_may_write_the_start(tokenizer: Tokenizer) -> None:
    assert ChatTemplate(PLAIN, tokenizer).writes_start()
    assert not ChatTemplate(CHATML, tokenizer).writes_start()
    assert ChatTemplate("{{ raise_exception('no') }}", tokenizer).writes_start()


def test_the_marks_of_what_is_generated_are_passed_over(tokenizer: Tokenizer) -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}!{% endgeneration %}{% endfor %}"
    assert ChatTemplate(source, tokenizer).render([("assistant", "a"), ("user", "b")], asks=False) == "a!b!"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "does not take these messages: roles must alternate"),
        ("{{ messages[7].content }}", "does not take these messages"),
        ("{{ ''.__class__.__mro__ }}", "does not take these messages"),
    ],
)
def test_what_a_template_does_not_take_is_said(tokenizer: Tokenizer, source: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ChatTemplate(source, tokenizer).render([("user", "a")], asks=False)
    with pytest.raises(DataError, match="is no Jinja"):
        ChatTemplate("{% for %}", tokenizer)


def test_json_is_written_for_a_model_and_not_for_a_page(tokenizer: Tokenizer) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", tokenizer)
    spelt = f"<é> & 'a'{tokenizer.eos_token}"
    assert list(template.parts(template.render([("user", spelt)], asks=False))) == [f'"{spelt}"']


NESTED = "{% for a in m %}{% for b in m %}{% for c in m %}{% endfor %}{% endfor %}{% endfor %}"
ENDLESS = {
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
    "loops that pass all over": "{% for a in range(99999) if messages[0].content == 'b' %}x{% endfor %}" * 99,
    "loops over what is given": NESTED,
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(99) }}",
    "a macro around what calls it": "{% macro f(n) %}{{ caller() }}{% endmacro %}"
    "{% for a in m %}{% for b in m %}{% call f(1) %}{% endcall %}{% endfor %}{% endfor %}",
    "names that hide the count": "{% set spend = 1 %}{% set environment = 1 %}" + NESTED,
    "a large number": "{{ 9 ** (9 ** 9) }}",
    "a large text": "{{ 'x' * 999999999 }}",
    "many large texts": "{% for a in m %}{% set b = 99999 * 'x' %}{% endfor %}",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_every_template_ends(tokenizer: Tokenizer, source: str) -> None:
    template = ChatTemplate("{% set m = ('a ' * 500).split() %}" + source, tokenizer)
    with pytest.raises(DataError, match="does not take these messages: it goes on beyond 200,000 steps"):
        template.render([("user", "a")], asks=False)


def test_a_text_has_steps_of_its_own(tokenizer: Tokenizer) -> None:
    others = "{% for other in messages %}{{ loop.last | int }}{% endfor %}"
    template = ChatTemplate(f"{{% for m in messages if m.role == 'user' %}}{others}{{% endfor %}}", tokenizer)
    said = [("user", "a"), ("assistant", "b")] * 200
    for _ in range(3):  # 80,600 steps each
        assert template.render(said, asks=False) == ("0" * 399 + "1") * 200
