"""Text that must match a regular expression or a JSON schema: which tokens may come next, at every step.

The automata are llguidance's, an extra: ``pip install llguidance``. It works on the bytes of tokens, builds its states
as they are visited, and counts what they cost, so that no grammar takes long to compile. Letters: V vocabulary.
"""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from xlab.errors import GenerationError
from xlab.inference.intersections import n_patterns, patterns_at_once

if TYPE_CHECKING:
    from xlab.data.tokenizers import Tokenizer

_Self = TypeVar("_Self", bound="GrammarConstraint")

_MOST_PATTERNS = 12  # that one string has to match: compiled in a hundredth of a second
# as Python's json.dumps writes, which models have read most; free white space could go on for ever
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarConstraint:
    """The tokens that keep a text a beginning of one that the grammar holds.

    Where the text is whole, eos may come; where nothing else may, ``is_finished``. Special tokens never come, but eos
    at a whole text. A copy (``copy.deepcopy``) goes on by itself from the same place.

    Args:
        grammar: llguidance's.
        description: what the user gave, for messages.
        tokenizer: whose tokens are generated.
        vocab_size: V, where the model has more ids than the tokenizer; the others never come.

    Raises:
        GenerationError: for a grammar that is wrong, that no text matches, or that is too large; without llguidance.
    """

    def __init__(
        self, grammar: str, description: str, tokenizer: "Tokenizer", *, vocab_size: int | None = None
    ) -> None:
        llguidance = _llguidance()
        self._description = description
        self._vocab_size = len(tokenizer) if vocab_size is None else vocab_size
        if self._vocab_size < len(tokenizer):
            raise GenerationError(f"vocab_size is {vocab_size}, but the tokenizer has {len(tokenizer)} tokens")
        limits = llguidance.LLParserLimits(verbose_errors=False)
        self._matcher = llguidance.LLMatcher(_vocabulary(tokenizer), grammar, log_level=0, limits=limits)
        self._check()
        self._try_one_step()

    def mask(self, tokens_so_far: Sequence[int] = ()) -> Tensor:
        """Which tokens may come next, bool (V,), on the CPU; never none.

        Raises:
            GenerationError: when the grammar cannot be followed any further.
        """
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) != 0
        self._check()
        return torch.nn.functional.pad(allowed, (0, self._vocab_size - len(allowed)))

    def accept(self, token: int) -> None:
        """Go on with a token.

        Raises:
            GenerationError: when it was not allowed.
        """
        if not 0 <= token < self._vocab_size or not self._matcher.validate_tokens([token]):
            raise GenerationError(f"token {token} does not fit {self._description} here; take one that mask() allows")
        self._matcher.consume_token(token)
        self._check()

    @property
    def is_finished(self) -> bool:
        """Whether the text is whole and nothing more may come."""
        return bool(self._matcher.is_stopped())

    @property
    def is_whole(self) -> bool:
        """Whether the text matches as it stands; more may come."""
        return bool(self._matcher.is_accepting())

    def __deepcopy__(self: _Self, memo: dict[int, Any]) -> _Self:
        twin = copy.copy(self)
        twin._matcher = self._matcher.deep_copy()
        return twin

    def _try_one_step(self) -> None:
        """Find at once what a first mask and a first token find too large, or empty."""
        trial = copy.deepcopy(self)
        trial.accept(int(trial.mask().int().argmax()))

    def _check(self) -> None:
        if not self._matcher.is_error() and (self.is_whole or not self.is_finished):
            return
        lines = [line.strip() for line in self._matcher.get_error().splitlines()] or [""]
        if lines[0].startswith("NoExtension"):
            raise GenerationError(f"no text matches {self._description}")
        # of a regular expression's many lines, the one that names the cause
        causes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise GenerationError(f"{self._description} cannot be followed: {(causes or lines)[0]}")


class RegexConstraint(GrammarConstraint):
    """Text that matches a regular expression from its beginning to its end, as by ``re.fullmatch``.

    Args:
        pattern: in the dialect of Rust's ``regex``: Python's, without looking around, back references and ``\\b``;
            ``\\d`` and ``\\w`` are Unicode's.
        tokenizer: whose tokens are generated.
        vocab_size: V, where the model has more ids than the tokenizer.

    Raises:
        GenerationError: for a pattern that is wrong, that no text matches, or that is too large.
    """

    def __init__(self, pattern: str, tokenizer: "Tokenizer", *, vocab_size: int | None = None) -> None:
        if not isinstance(pattern, str):
            raise GenerationError(f"a pattern must be a string, got {pattern!r}")
        description = f"the pattern {_short(pattern)}"
        compiler = _llguidance().LLMatcher
        try:
            grammar = compiler.grammar_from_regex(pattern)
        except ValueError as error:
            raise GenerationError(f"{description} is not UTF-8: {error}") from error
        super().__init__(grammar, description, tokenizer, vocab_size=vocab_size)


class JsonSchemaConstraint(GrammarConstraint):
    """JSON that a schema allows, written as ``json.dumps`` does: ``{"a": 1, "b": [2, 3]}``.

    Args:
        schema: as JSON text, or as the object it stands for. A keyword that llguidance does not know is refused.
        tokenizer: whose tokens are generated.
        vocab_size: V, where the model has more ids than the tokenizer.

    Raises:
        GenerationError: for a schema that is wrong, that nothing satisfies, or that is too large.
    """

    def __init__(
        self, schema: str | Mapping[str, Any] | bool, tokenizer: "Tokenizer", *, vocab_size: int | None = None
    ) -> None:
        compiler = _llguidance().LLMatcher
        try:
            text = schema if isinstance(schema, str) else json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise GenerationError(f"the schema is not JSON: {error}") from error
        description = f"the schema {_short(text)}"
        try:
            parsed = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise GenerationError(f"{description} is not JSON: {error}") from error
        if parsed is False:
            raise GenerationError(f"no text matches {description}")
        if not isinstance(parsed, dict | bool):
            raise GenerationError(f"{description} is no JSON schema: it must be an object")
        text = json.dumps({} if parsed is True else parsed)
        try:
            grammar = compiler.grammar_from_json_schema(text, overrides=_JSON_STYLE)
        except ValueError as error:  # nested deeper than it follows, or a number of its own kind
            raise GenerationError(f"{description} cannot be followed: {error}") from error
        at_once = patterns_at_once(parsed) if n_patterns(parsed) > _MOST_PATTERNS else 0
        if at_once is None or at_once > _MOST_PATTERNS:
            found = "too many combinations" if at_once is None else f"{at_once} patterns"
            raise GenerationError(
                f"{description} has {found} for one string to match at once, which may compile for ever; "
                f"{_MOST_PATTERNS} patterns are allowed"
            )
        super().__init__(grammar, description, tokenizer, vocab_size=vocab_size)


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise GenerationError(
            "constrained text needs llguidance, which is not installed: pip install llguidance"
        ) from error
    return llguidance


@lru_cache(maxsize=2)
def _vocabulary(tokenizer: "Tokenizer") -> Any:
    """The tokenizer as llguidance takes it; making it for 50,000 tokens takes a tenth of a second."""
    llguidance = _llguidance()
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes(tokenizer)), n_vocab=len(tokenizer))


class _Bytes:
    """The bytes of each token; those that stand for no text are special."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.sos_id
        self.tokens = [tokenizer.token_bytes(token) for token in range(len(tokenizer))]
        self.special_token_ids = [token for token, stands_for in enumerate(self.tokens) if not stands_for]
        for token in self.special_token_ids:
            self.tokens[token] = f"<|special {token}|>".encode()

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _short(text: str) -> str:
    line = re.sub(r"\s+", " ", text)
    return line if len(line) <= 80 else f"{line[:80]}…"
