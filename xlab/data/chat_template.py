"""Chat templates in Hugging Face's form: messages become one text, in which only the template writes special tokens."""

import re
from collections.abc import Iterable, Iterator, Sequence

from xlab.data.tokenizers import Tokenizer
from xlab.errors import DataError

# A script, for models that bring no template: an answer ends with the end of a document, so generation stops there.
PLAIN = (
    "{% set speakers = {'system': 'System', 'developer': 'System', 'user': 'User', 'assistant': 'Assistant'} %}"
    "{{ bos_token }}{% for message in messages %}"
    "{{ speakers.get(message.role, message.role | capitalize) }}:{{ '\n' }}{{ message.content }}"
    "{{ eos_token if message.role == 'assistant' }}{{ '\n\n' }}{% endfor %}"
    "{{ 'Assistant:\n' if add_generation_prompt }}"
)
_MARK = "\ue000"  # of private use: keeps a special token's spelling in a message from being one


class ChatTemplate:
    """A template: Jinja, with ``messages``, ``add_generation_prompt`` and the special tokens.

    It comes with a checkpoint or a corpus, so it runs in a sandbox. What it writes itself may be special tokens;
    what a message holds is text, and never a special token, whatever it spells.

    Args:
        source: the template.
        tokenizer: the model's.

    Raises:
        DataError: if it is no template.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        from jinja2 import TemplateError

        from xlab.data.template_sandbox import Sandbox

        # RecursionError is a RuntimeError: a macro may call itself; and any text may be asked for, too large for memory
        of_python = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError)
        self._failures = (TemplateError, *of_python)
        self._tokenizer = tokenizer
        self._ids = tokenizer.special_tokens
        self._tokens = {
            "bos_token": tokenizer.sos_token,
            "eos_token": tokenizer.eos_token,
            "pad_token": tokenizer.pad_token,
        }
        # the longest first: one may begin with another
        names = sorted(self._ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)))
        try:
            self._sandbox = Sandbox()
            self._template = self._sandbox.template(source)
        except TemplateError as error:
            raise DataError(f"the chat template is no Jinja: {_one_line(error)}") from error

    def render(self, messages: Iterable[tuple[str, str]], *, asks: bool) -> str:
        """Write messages, each a role and a content, as the model is shown them.

        Args:
            messages: in their order.
            asks: whether the assistant's next turn is begun.

        Returns:
            A text for ``parts`` and ``shown``: special tokens that a message spells are marked as text in it.

        Raises:
            DataError: when the template does not take the messages.
        """
        plain = [{"role": role, "content": self._apart(content)} for role, content in messages]
        try:
            return self._sandbox.write(self._template, messages=plain, add_generation_prompt=asks, **self._tokens)
        except self._failures as error:
            raise DataError(f"the chat template does not take these messages: {_one_line(error)}") from error

    def parts(self, rendered: str) -> Iterator[str | int]:
        """Cut a rendered text into texts and the ids of special tokens that the template wrote."""
        at = 0
        for found in self._special.finditer(rendered):
            if found.start() > at:
                yield shown(rendered[at : found.start()])
            yield self._ids[found[0]]
            at = found.end()
        if at < len(rendered):
            yield shown(rendered[at:])

    def prompt_ids(self, messages: Iterable[tuple[str, str]]) -> tuple[list[int], str]:
        """Make the tokens, and the text, from which the assistant goes on.

        Raises:
            DataError: when the template does not take the messages.
        """
        rendered = self.render(messages, asks=True)
        ids: list[int] = []
        for part in self.parts(rendered):
            ids += [part] if isinstance(part, int) else self._tokenizer.encode(part)
        if ids[:1] != [self._tokenizer.sos_id]:
            ids.insert(0, self._tokenizer.sos_id)  # every text that the model has seen began so
        return ids, shown(rendered)

    def writes_start(self) -> bool:
        """Tell whether it writes the token that begins a text; one that takes no plain question is taken to."""
        try:
            return self.render([("user", "What was said?")], asks=True).startswith(self._tokenizer.sos_token)
        except DataError:
            return True

    def turn_ends(self) -> Sequence[int]:
        """Find the special token that the template writes behind what the assistant says, if it does: its id.

        A conversation that the template does not take tells nothing.
        """
        probe = "What was said."
        try:
            text = self.render([("user", probe), ("assistant", probe)], asks=False)
        except DataError:
            return ()
        behind = list(self.parts(text[text.rindex(probe) + len(probe) :])) if probe in text else []
        return [part for part in behind if isinstance(part, int)][:1]

    def _apart(self, text: str) -> str:
        return self._special.sub(
            lambda found: "".join(f"{letter}{_MARK}" for letter in found[0]), text.replace(_MARK, "")
        )


def shown(rendered: str) -> str:
    """A rendered text as people read it, or a part of it as it is encoded."""
    return rendered.replace(_MARK, "")


def _one_line(error: Exception) -> str:
    """What a failure says, which the template or a message may have made long."""
    return f"{' '.join(shown(str(error)).split()) or type(error).__name__:.300}"
