"""Random walks under the masks, judged by ``re`` and ``jsonschema``: always a beginning, at the end a whole."""

import copy
import itertools
import json
import math
import random
import re
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("llguidance", reason="llguidance is an extra: pip install llguidance")
pytest.importorskip("jsonschema", reason="jsonschema is in requirements-dev.txt")

import jsonschema

from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.errors import GenerationError
from xlab.inference import Engine, Request
from xlab.inference.constraints import GrammarConstraint, JsonSchemaConstraint, RegexConstraint
from xlab.inference.intersections import n_patterns, patterns_at_once
from xlab.transformer.decoder import Decoder

LETTERS, MOST_MISSING = "abc", 5  # a pattern of five leaves misses five letters at most


@cache
def tokenizer() -> Tokenizer:
    texts = [
        "abc abc bca cab aab ccb",
        '{"name": "Zoë", "size": 12, "tags": ["old", "king"]}',
        "2024-05-17 the cat",
    ] * 3
    return ByteLevelBPE().make(iter(texts), 300)


def walk(constraint: GrammarConstraint, seed: int, limit: int = 400) -> tuple[str, list[bytes]]:
    """Take allowed tokens at random until eos, the end or the limit; give how it ended, and every text on the way."""
    draw, text, texts = random.Random(seed), b"", [b""]
    never = [tokenizer().sos_id, tokenizer().pad_id]
    for _ in range(limit):
        if constraint.is_finished:
            assert constraint.mask().nonzero().flatten().tolist() == [tokenizer().eos_id]
            return "finished", texts
        allowed = constraint.mask()
        assert allowed.dtype == torch.bool
        assert allowed.shape == (len(tokenizer()),)
        assert allowed.any()
        assert not allowed[never].any()
        assert allowed[tokenizer().eos_id] == constraint.is_whole
        token = draw.choice(allowed.nonzero().flatten().tolist())
        constraint.accept(token)
        if token == tokenizer().eos_id:
            assert constraint.is_finished
            return "eos", texts
        text += tokenizer().token_bytes(token)
        texts.append(text)
    return "limit", texts


def patterns() -> st.SearchStrategy[str]:
    """Expressions of a few strings over three letters."""
    letters = st.sampled_from([*LETTERS, "[ab]", "[^ab]"])
    return st.recursive(
        letters,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
            st.tuples(inner, inner).map("".join),
            inner.map(lambda one: f"(?:{one})?"),
            inner.map(lambda one: f"(?:{one})+"),
        ),
        max_leaves=5,
    )


@given(patterns(), st.integers(0, 5))
def test_a_walk_is_always_the_beginning_of_a_match_and_at_its_end_a_match(pattern: str, seed: int) -> None:
    how, texts = walk(RegexConstraint(pattern, tokenizer()), seed, limit=30)
    if how != "limit":
        assert re.fullmatch(pattern, texts[-1].decode())
    for text in texts:
        assert completes(pattern, text), text


def completes(pattern: str, text: bytes) -> bool:
    """Whether a few letters, by trying them all, make the text a match; it may end within a character."""
    whole = text.decode("utf-8", "ignore")
    is_broken = whole.encode() != text  # its last character may be anything that is no letter of ours
    tails = ("".join(tail) for n in range(MOST_MISSING + 1) for tail in itertools.product(LETTERS + "é", repeat=n))
    return any(re.fullmatch(pattern, whole + "é" * is_broken + tail) for tail in tails)


@pytest.mark.parametrize(
    "pattern",
    [
        r"[0-9]{4}-(0[1-9]|1[0-2])-[0-3][0-9]",
        r"(the cat|a dog) (sees|follows) (the (old )+king|🐈)\.",
        r"[a-zé]{2,5}@[a-z]{1,4}\.(com|org)",
        r"(?i)yes|no",
        r"^(abc)*$",
        r"",
    ],
)
@pytest.mark.parametrize("seed", range(8))
def test_a_walk_to_its_end_matches(pattern: str, seed: int) -> None:
    how, texts = walk(RegexConstraint(pattern, tokenizer()), seed)
    assert how != "limit"
    assert re.fullmatch(pattern, texts[-1].decode())


SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "size": {"type": "integer", "minimum": 0, "maximum": 40},
            "tags": {"type": "array", "items": {"enum": ["old", "king", None, 1.5]}, "maxItems": 3},
            "is": {"type": "boolean"},
        },
        "required": ["name", "tags"],
        "additionalProperties": False,
    },
    {"anyOf": [{"type": "string", "pattern": "^[a-c]{1,4}$"}, {"type": "number", "minimum": -1, "maximum": 1}]},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}}},
    {"const": {"Zoë": "🐈"}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("seed", range(8))
def test_json_that_ends_satisfies_its_schema(schema: dict[str, Any], seed: int) -> None:
    how, texts = walk(JsonSchemaConstraint(schema, tokenizer()), seed, limit=600)
    assert how != "limit"
    value = json.loads(texts[-1])
    jsonschema.validate(value, schema)
    if not re.search(rb"[\\.eE]", texts[-1]):  # numbers and escapes have other spellings
        assert texts[-1].decode() == json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 5, 8, 200])
def test_the_engine_writes_a_match_or_whatever_length_stops_it_a_beginning_of_one(n_tokens: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(vocab_size=300, max_len=208, d_model=16, n_layers=1, n_heads=2).eval().requires_grad_(False)
    words = [f"{first} {second}." for first in ("the cat", "Zoë", "🐈 king") for second in ("sees", "counts 12")]
    ids = [tokenizer().sos_id]
    engine = Engine(decoder, tokenizer())
    for seed in range(6):
        constraint = RegexConstraint("|".join(map(re.escape, words)), tokenizer())
        request = Request(
            ids, max_new_tokens=n_tokens, seed=seed, n=2, constraint=constraint, eos_ids=[tokenizer().eos_id]
        )
        (result,) = engine.generate([request])
        for text in result.completions:
            written = b"".join(map(tokenizer().token_bytes, text.tokens))
            assert any(word.encode().startswith(written) for word in words)
            assert text.finish_reason == "length" or written.decode() in words


def test_a_schema_may_be_text_and_true_allows_everything() -> None:
    for schema in (json.dumps(SCHEMAS[3]), SCHEMAS[3]):
        _, texts = walk(JsonSchemaConstraint(schema, tokenizer()), 0)
        assert json.loads(texts[-1]) == {"Zoë": "🐈"}
    allowed = JsonSchemaConstraint(True, tokenizer()).mask()
    assert all(allowed[tokenizer().encode(start)[0]] for start in ('"', "[", "{", "1", "null"))


def test_a_copy_goes_on_by_itself() -> None:
    one = RegexConstraint("(ab|ba)c", tokenizer())
    one.accept(token := tokenizer().encode("b")[0])
    other = copy.deepcopy(one)
    before = one.mask()
    _, texts = walk(other, 0)
    assert texts[-1] == b"ac"
    assert torch.equal(one.mask(), before)
    assert not one.is_finished
    with pytest.raises(GenerationError, match=rf"token {token} does not fit the pattern \(ab\|ba\)c here"):
        one.accept(token)
    assert torch.equal(one.mask(), before)  # a refused token changes nothing


def test_a_model_may_have_more_ids_than_the_tokenizer() -> None:
    allowed = RegexConstraint("a", tokenizer(), vocab_size=320).mask()
    assert allowed.shape == (320,)
    assert not allowed[300:].any()
    with pytest.raises(GenerationError, match="vocab_size is 299, but the tokenizer has 300 tokens"):
        RegexConstraint("a", tokenizer(), vocab_size=299)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(a|b", "the pattern (a|b cannot be followed: unclosed group"),
        (r"(?=a)b", "look-behind, is not supported"),
        (r"a\b", "lookarounds not supported"),
        (r"[^\x00-\U0010ffff]", "no text matches the pattern"),
        ("(a{1000}){1000}", "too many expressions"),
        ("a" * 300 + "(", "a" * 80 + "…"),
        ("a\ud800", "is not UTF-8"),
    ],
)
def test_a_pattern_that_cannot_be_is_one_line_at_once(pattern: str, says: str) -> None:
    with pytest.raises(GenerationError, match=re.escape(says)) as caught:
        RegexConstraint(pattern, tokenizer())
    assert "\n" not in str(caught.value)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def patterns_of(n: int) -> list[dict[str, str]]:
    return [{"type": "string", "pattern": f"a{{{i}}}.*b"} for i in range(n)]


def chain_of(n: int) -> dict[str, Any]:
    """Schemas that each refer to the next, so that the first is all of them."""
    links = [{**schema, "$ref": f"#/$defs/{i + 1}"} for i, schema in enumerate(patterns_of(n))]
    return {**{str(i): link for i, link in enumerate(links)}, str(n): True}


def test_many_patterns_for_many_strings_are_fine() -> None:
    properties = {f"k{i}": {"allOf": patterns_of(3)} for i in range(9)}
    schema = {"anyOf": [{"type": "object", "properties": properties}, {"$ref": "#"}, {"type": "array", "items": True}]}
    assert JsonSchemaConstraint(schema, tokenizer()).mask().any()


P = {"type": "string", "pattern": "a"}
NODES = {
    str(i): {**P, "$ref": f"#/$defs/{i + 1}", "properties": {"x": {"$ref": f"#/$defs/{i - 1}"}}} for i in range(1, 30)
}


@pytest.mark.parametrize(
    ("schema", "most"),
    [
        (True, 0),
        (P, 1),
        ({"anyOf": [P] * 30}, 1),
        ({**P, "format": "date", "anyOf": [True, {"oneOf": [P, {"allOf": [dict(P), dict(P)]}]}]}, 4),
        ({"properties": {"a": P, "pattern": P}, "items": P, "required": ["pattern"]}, 1),
        ({"allOf": [{"properties": {"a": dict(P)}} for _ in range(5)]}, 5),
        ({"allOf": [{"properties": {str(i): dict(P)}} for i in range(5)]}, 1),
        ({"allOf": [{"items": {"properties": {"a": {"items": dict(P)}}}} for _ in range(5)]}, 5),
        ({"allOf": [{"prefixItems": [True, dict(P)]}, {"items": dict(P)}]}, 2),
        ({"properties": {"a": P}, "patternProperties": {"a": dict(P), "b": dict(P)}, "additionalProperties": P}, 3),
        # a class in a class in a class, each with what their base has
        (
            {
                "$defs": {"base": {"properties": {"id": P}}}
                | {
                    str(i): {"allOf": [{"$ref": "#/$defs/base"}], "properties": {"inner": {"$ref": f"#/$defs/{i + 1}"}}}
                    for i in range(30)
                },
                "$ref": "#/$defs/0",
            },
            1,
        ),
        (
            {"$defs": {"tree": {"properties": {"name": P, "child": {"$ref": "#/$defs/tree"}}}}, "$ref": "#/$defs/tree"},
            1,
        ),
        ({"$ref": "#/$defs/29", "$defs": NODES}, 29),  # round and round, and each time one more
        ({"$ref": "#/allOf/0/a~1b%20c", "allOf": [{"a/b c": dict(P)}, dict(P)]}, 2),
        ({"$ref": "#/allOf/9", "allOf": "x", "properties": [1], "items": 3, "anyOf": {"a": 1}}, 0),
        ({"allOf": [{"anyOf": [{"minimum": i}, {"maximum": i}]} for i in range(40)]}, None),
        ({"$ref": "#a", "$defs": {"x": {**P, "$anchor": "a"}, "y": dict(P)}}, 2),  # not followed: all there are
    ],
)
def test_how_many_patterns_one_string_must_match(schema: Any, most: int | None) -> None:
    assert patterns_at_once(schema) == most
    assert n_patterns(schema) >= (most or 0)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ('{"type": ', "is not JSON"),
        ("[1]", "it must be an object"),
        ({"type": "nope"}, "Invalid type: nope"),
        (False, "no text matches the schema false"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
        ({"type": "string", "pattern": "^a$", "minLength": 3}, "Unsatisfiable schema"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "Too many items"),  # it would have to be endless
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        (nested(300), "cannot be followed: recursion limit exceeded"),
        (nested(5000), "the schema is not JSON: maximum recursion depth"),
        ({"const": {1}}, "the schema is not JSON: Object of type set"),
        ({"const": math.nan}, "cannot be followed: expected value"),
        ({"allOf": patterns_of(50)}, "has 50 patterns for one string to match at once, which may compile for ever"),
        ({"$ref": "#/$defs/0", "$defs": chain_of(50)}, "has 50 patterns for one string"),
    ],
)
def test_a_schema_that_cannot_be_is_one_line_at_once(schema: Any, says: str) -> None:
    with pytest.raises(GenerationError, match=re.escape(says)) as caught:
        JsonSchemaConstraint(schema, tokenizer())
    assert "\n" not in str(caught.value)


def test_without_llguidance_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(GenerationError, match="not installed: pip install llguidance"):
        RegexConstraint("a", tokenizer())
