"""What a request may ask: everything else is one line that names the setting, at once, and touches nobody."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from toy_decoder import make_decoder, recomputed
from toy_models import Fixed

from xlab.errors import GenerationError
from xlab.inference import BeamSettings, Engine, Request
from xlab.inference.shaping import NoRepeatNgram

V = 17
decoder = make_decoder()
SETTINGS = [field.name for field in fields(Request)]


class Odd:
    """What no setting can be."""

    def __repr__(self) -> str:
        return "<odd>"


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("value", [Odd(), 1j, [[1]], {"a": "b"}, b"ab", math.nan, "\ud800 a\nb"])
def test_every_setting_of_a_wrong_type_is_one_line_that_names_it(setting: str, value: object) -> None:
    with pytest.raises(GenerationError, match=f"^(the )?{setting}") as caught:
        Request(**{"prompt": [1], setting: value}).check(V)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", [field.name for field in fields(Request) if field.default is not None])
def test_nothing_is_no_setting_where_it_is_not_the_default(setting: str) -> None:
    with pytest.raises(GenerationError, match=f"^(the )?{setting}"):
        Request(**{"prompt": [1], setting: None}).check(V)


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name not in ("truncate", "rolling")])
def test_a_truth_value_is_no_number(setting: str) -> None:
    with pytest.raises(GenerationError, match=f"^(the )?{setting}"):
        Request(**{"prompt": [1], setting: True}).check(V)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prompt": [1.5]}, "the prompt must be a list of token ids, and holds 1.5"),
        ({"prompt": [1, True]}, "the prompt must be a list of token ids, and holds True"),
        ({"prompt": "abc"}, "the prompt must be a list of token ids, got 'abc'"),
        ({"prompt": {1, 2}}, "the prompt must be a list of token ids, got {1, 2}"),
        ({"prompt": torch.tensor([0.5])}, "the prompt must be a list of token ids, and holds 0.5"),
        ({"prompt": torch.tensor([[1]])}, r"the prompt must be a list of token ids, and holds \[1\]"),
        ({"prompt": np.zeros(0, dtype=int)}, "the prompt is empty"),
        ({"prompt": [2**70]}, f"the prompt contains token id {2**70}, outside the model's vocabulary of 17"),
        ({"seed": 1.5}, "seed must be a whole number of at least 0, got 1.5; leave it out to draw anew"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": 2**63}, "seed must be below 2[*][*]63, got 9223372036854775808"),
        ({"max_new_tokens": 2.0}, "max_new_tokens must be a whole number of at least 1, got 2.0"),
        ({"top_k": 2.0}, "top_k must be a whole number of at least 1, got 2.0"),
        ({"temperature": math.inf}, "temperature must be a finite number"),
        ({"presence_penalty": math.inf}, "presence_penalty must be from"),
        ({"frequency_penalty": -1e31}, r"frequency_penalty must be from -1e\+30 to 1e\+30, got -1e\+31"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty is 1e-300, beyond float32"),
        ({"logit_bias": {3: math.inf}}, r"logit_bias must be from -1e\+30 to 1e\+30, got inf; 100 is as good as"),
        ({"logit_bias": {3: 1e39}}, r"logit_bias must be from -1e\+30 to 1e\+30, got 1e\+39"),
        ({"logit_bias": {3: "a"}}, "logit_bias must be a number, got 'a'"),
        ({"logit_bias": {"3": 1.0}}, "logit_bias must be a list of token ids, and holds '3'"),
        ({"logit_bias": [(3, 1.0)]}, "logit_bias must be a dict of token ids and numbers"),
        ({"banned_ids": [0.0]}, "banned_ids must be a list of token ids, and holds 0.0"),
        ({"banned_ids": 3}, "banned_ids must be a list of token ids, got 3"),
        ({"eos_ids": ["</s>"]}, "eos_ids must be a list of token ids, and holds '</s>'"),
        ({"eos_ids": [V]}, "eos_ids contains token id 17, outside the model's vocabulary of 17"),
        ({"stop": ["a", b"b"]}, "stop must be a list of strings, none empty"),
        ({"stop": [""]}, "stop must be a list of strings, none empty"),
        ({"n": 10**9, "temperature": 0}, "at temperature 0 all 1000000000 texts would be the same"),
        ({"truncate": "no"}, "truncate must be True or False, got 'no'"),
        ({"constraint": lambda: None}, "constraint must have mask and accept"),
        ({"constraint": "[a-z]+"}, "constraint must have mask and accept"),
        ({"beams": 4}, "beams must be BeamSettings, got 4"),
        ({"beams": BeamSettings(2.0)}, "beams.width must be a whole number of at least 1, got 2.0"),  # type: ignore[arg-type]
        ({"beams": BeamSettings(2), "temperature": 0.5}, "temperature has no meaning in a beam search"),
        ({"stop": ["x" * 9999] * 99 + [3]}, "stop must be .{0,120}$"),
    ],
)
def test_refusals(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(GenerationError, match=f"^{says}"):
        Request(**{"prompt": [1], **settings}).check(V)


@pytest.mark.parametrize(
    ("beams", "says"),
    [
        (BeamSettings(2, length_penalty="a"), "length_penalty must be a number, got 'a'"),  # type: ignore[arg-type]
        (BeamSettings(2, early_stopping=1), "early_stopping must be True, False or"),
        (BeamSettings(2, n_groups=1.0), "n_groups must be a whole number"),  # type: ignore[arg-type]
        (BeamSettings(2, diversity_penalty=math.nan), "diversity_penalty must be from"),
    ],
)
def test_beams_that_cannot_be(beams: BeamSettings, says: str) -> None:
    with pytest.raises(GenerationError, match=says):
        Engine(decoder).submit(Request([1], beams=beams))


@pytest.mark.parametrize("prompt", [[-1], [2**63], np.array([3, -2]), torch.tensor([-1])])
def test_ids_of_no_vocabulary_are_refused_where_its_size_is_not_known(prompt: Any) -> None:
    with pytest.raises(GenerationError, match=r"the prompt contains token id .*; ids start at 0"):
        Request(prompt).check(None)


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": torch.tensor([1, 2])},
        {"prompt": np.array([1, 2], dtype=np.uint16)},
        {"prompt": (1, np.int64(2))},
        {"prompt": range(1, 3)},
        {"max_new_tokens": np.int64(5), "seed": np.int64(3), "top_k": np.int32(2)},
        {"top_p": np.float32(0.5), "temperature": np.float64(0.5), "repetition_penalty": 2},
        {"logit_bias": {np.int64(3): 1, 4: -math.inf, 5: np.float32(-math.inf)}},
        {"banned_ids": {3, 4}, "eos_ids": frozenset({5}), "stop": ("a",)},
        {"max_new_tokens": 10**12},
        {"seed": 2**63 - 1, "top_k": 10**30, "no_repeat_ngram": 10**30, "logprobs": 10**30},
        {"logit_bias": dict.fromkeys(range(V), 1e30)},
    ],
)
def test_what_means_a_number_is_taken_as_one(settings: dict[str, Any]) -> None:
    Request(**{"prompt": [1], **settings}).check(V)


def test_a_length_beyond_the_context_costs_nothing() -> None:
    (result,) = Engine(decoder).generate([Request([1, 2], max_new_tokens=10**12, temperature=0)])
    assert list(result.tokens) == recomputed(decoder, [1, 2], 23)


def test_extreme_settings_that_are_allowed_never_blame_the_model() -> None:
    base = {"prompt": [1, 2, 3], "max_new_tokens": 6, "seed": 0}
    extremes: list[dict[str, Any]] = [
        {"temperature": 1e-45},
        {"temperature": 1e-320, "top_p": 1e-320},
        {"temperature": 1e300},
        {"temperature": 10**400},
        {"repetition_penalty": 1e-30},
        {"repetition_penalty": 1e30, "frequency_penalty": -1e30},
        {"presence_penalty": 1e30, "frequency_penalty": 1e30},
        {"presence_penalty": -1e30, "frequency_penalty": -1e30, "logit_bias": dict.fromkeys(range(V), 1e30)},
        {"logit_bias": dict.fromkeys(range(V - 1), -math.inf)},
        {"logit_bias": dict.fromkeys(range(V), -1e30), "min_p": 1e-320, "typical_p": 1e-320},
    ]
    single = make_decoder().float()
    for result in Engine(single).generate([Request(**base, **extreme) for extreme in extremes]):
        assert result.error is None
        assert len(result.tokens) == 6


def test_forbidding_every_token_is_named() -> None:
    (result,) = Engine(decoder).generate([Request([1], logit_bias=dict.fromkeys(range(V), -math.inf))])
    assert "every allowed token probability 0" in str(result.error)


def test_an_id_that_a_model_of_unknown_vocabulary_has_not_fails_its_own_request() -> None:
    engine = Engine(Fixed([0.0, 1.0, 0.0]), max_len=9)
    wrong, fine, negative = engine.generate(
        [Request([1, 3]), Request([1], temperature=0, max_new_tokens=3), Request([1, -1])]
    )
    assert "token id 3, outside the model's vocabulary of 3" in str(wrong.error)
    assert "token id -1; ids start at 0" in str(negative.error)
    assert fine.tokens == (1, 1, 1)


def test_a_check_does_not_depend_on_how_the_ids_are_held() -> None:
    ids = [3, 1, 4, 1, 5]
    results = Engine(decoder).generate(
        [Request(prompt, temperature=0) for prompt in (ids, tuple(ids), np.array(ids), torch.tensor(ids))]
    )
    assert len({result.tokens for result in results}) == 1


def test_numpys_numbers_are_as_good_as_pythons() -> None:
    plain = {"max_new_tokens": 5, "n": 3, "best_of": 3, "seed": 7, "top_k": 4, "logprobs": 2}
    numpys = {name: np.uint8(value) for name, value in plain.items()} | {"seed": np.int64(7)}
    one, other = Engine(decoder).generate([Request([1, 2], **plain), Request([1, 2], **numpys)])  # type: ignore[arg-type]
    assert [text.tokens for text in one.completions] == [text.tokens for text in other.completions]


def test_an_ngram_longer_than_any_text_forbids_nothing() -> None:
    class Past:
        prompt, tokens = [1, 1, 1], [1, 1]

    assert NoRepeatNgram(10**30)(torch.zeros(V), Past()).isfinite().all()


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_ids_may_be_an_array(make: Any) -> None:
    expected = recomputed(decoder, [1, 2], 5)
    request = Request(
        [1, 2], max_new_tokens=9, temperature=0, eos_ids=make([expected[3]]), banned_ids=make([], dtype=int)
    )
    (result,) = Engine(decoder).generate([request])
    assert result.finish_reason == "eos"
    assert list(result.tokens) == expected[: expected.index(expected[3])]


@pytest.mark.parametrize(
    "settings",
    [{"seed": torch.tensor([3])}, {"seed": np.int64(3)}, {"seed": 3, "temperature": 2**70}, {"top_p": np.float32(0.5)}],
)
def test_numbers_of_any_kind_are_numbers(settings: dict[str, Any]) -> None:
    (result,) = Engine(decoder).generate([Request([1, 2], **{"max_new_tokens": 3, "seed": 3, **settings})])
    assert result.error is None
    assert len(result.tokens) == 3


def test_a_prompt_without_length_is_refused_in_its_own_result() -> None:
    bad, good = Engine(decoder).generate([Request(torch.tensor(1)), Request([1], max_new_tokens=1)])
    assert "the prompt must be a list of token ids" in str(bad.error)
    assert good.error is None
