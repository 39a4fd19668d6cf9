"""Plain settings become objects, and objects become plain settings again."""

import functools
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlab import factories
from xlab.data.sources import PythonDocs
from xlab.data.tokenizers import ByteLevelBPE
from xlab.errors import ConfigError
from xlab.training.schedules import Polynomial
from xlab.transformer.attention import GroupedQueryAttention, MultiHeadAttention
from xlab.transformer.norms import RMSNorm

HERE = __name__
numbers = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.text(max_size=5)
settings = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


class Scale:
    """A user's part that keeps its arguments, one of them under a private name."""

    def __init__(self, width: int, by: float = 1.0) -> None:
        self.width, self._by = width, by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scale) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Tower:
    """A user's part made of others: some it makes itself, some it is given."""

    def __init__(
        self,
        make: Callable[[int], Scale],
        made: Scale | None = None,
        several: list[Any] | None = None,
        maybe: Callable[[int], Scale] | None = None,
    ) -> None:
        self.make, self.made, self.several, self.maybe = make, made, several, maybe


class Open:
    """A user's part that takes any keyword."""

    def __init__(self, first: int, **kwargs: Any) -> None:
        self.first, self.kwargs = first, kwargs


class Forgetful:
    """A user's part that keeps nothing."""

    def __init__(self, secret: int) -> None:
        pass


@given(settings)
def test_plain_data_stay_as_they_are(value: Any) -> None:
    assert factories.plain(value) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Scale, {"class_path": f"{HERE}.Scale"}),
        (Scale(3, by=0.5), {"class_path": f"{HERE}.Scale", "init_args": {"width": 3, "by": 0.5}}),
        ((1, 2.5), [1, 2.5]),
        ({"a": [Scale]}, {"a": [{"class_path": f"{HERE}.Scale"}]}),
        ({3: (True, None)}, {"3": [True, None]}),
        (RMSNorm, {"class_path": "xlab.transformer.norms.RMSNorm"}),
    ],
)
def test_classes_and_instances_become_class_paths(value: Any, expected: Any) -> None:
    assert factories.plain(value) == expected
    assert json.loads(json.dumps(factories.plain(value))) == expected
    assert factories.plain(factories.plain(value)) == expected


def test_an_instance_in_an_instance_is_plain_at_every_depth() -> None:
    tower = Tower(Scale, Scale(2), [Scale(1), {"deep": Scale}])
    made = factories.plain(tower)["init_args"]
    assert made["make"] == {"class_path": f"{HERE}.Scale"}
    assert made["made"]["init_args"] == {"width": 2, "by": 1.0}
    assert made["several"][0]["init_args"]["width"] == 1
    assert made["several"][1] == {"deep": {"class_path": f"{HERE}.Scale"}}


@pytest.mark.parametrize("value", [Scale(3, by=0.5), Polynomial(10, 2, power=3.0), PythonDocs(), ByteLevelBPE(4)])
def test_an_instance_comes_back_from_its_plain_settings(value: Any) -> None:
    again = factories.build(json.loads(json.dumps(factories.plain(value))))
    assert type(again) is type(value)
    assert vars(again) == vars(value)


def test_a_class_that_takes_any_keyword_comes_back_too() -> None:
    again = factories.build(factories.plain(Open(1, colour="red", size=2)))
    assert (again.first, again.kwargs) == (1, {"colour": "red", "size": 2})


@pytest.mark.parametrize(
    "value",
    [
        lambda d_model: RMSNorm(d_model),
        functools.partial(GroupedQueryAttention, n_kv_heads=2),
        len,
        operator.itemgetter(1).__call__,
        factories.plain,
    ],
)
@pytest.mark.parametrize(
    "place", [lambda value: value, lambda value: {"init_args": {"norm": value}}, lambda value: [value]]
)
def test_what_has_no_class_path_is_refused_with_the_remedy(value: Any, place: Callable[[Any], Any]) -> None:
    with pytest.raises(
        ConfigError, match=r'model.* is .*give a class, its path, or \{"class_path": \.\.\., "init_args"'
    ):
        factories.plain(place(value), "model")


def test_the_message_names_the_place_of_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model\.attention\.init_args\.act is "):
        factories.plain({"attention": {"init_args": {"act": abs}}}, "model")


def test_a_class_inside_a_function_is_refused() -> None:
    class Hidden:
        pass

    with pytest.raises(ConfigError, match="class inside a function; move it to the top"):
        factories.plain(Hidden, "model.norm")


def test_an_instance_that_forgets_its_arguments_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not keep its argument 'secret'"):
        factories.plain(Forgetful(3), "data.source")


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("MultiHeadAttention", "xlab.transformer.attention.MultiHeadAttention"),
        ("RMSNorm", "xlab.transformer.norms.RMSNorm"),
        ("Cosine", "xlab.training.schedules.Cosine"),
        ("NextToken", "xlab.training.objectives.NextToken"),
        ("PythonDocs", "xlab.data.sources.PythonDocs"),
        ("ByteLevelBPE", "xlab.data.tokenizers.ByteLevelBPE"),
        ("AdamW", "torch.optim.AdamW"),
    ],
)
def test_xlab_s_own_parts_have_short_names(short: str, full: str) -> None:
    assert factories.find_class(short) is factories.find_class(full)


def test_a_full_path_that_plain_gave_finds_the_class() -> None:
    for kind in (MultiHeadAttention, PythonDocs, torch.optim.AdamW, Scale):
        assert factories.find_class(factories.class_path(kind)) is kind


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("MultiHedAttention", "no part 'MultiHedAttention'; did you mean 'MultiHeadAttention'"),
        ("Adam_W", "did you mean 'AdamW'"),
        ("Tensor", "a class of your own needs its full path"),  # a part's module imports it, but it is no part
        ("Zzzzz", "no part 'Zzzzz'; a class of your own needs its full path"),
        ("xlab.transformer.norms.RMSNrm", "has no class 'RMSNrm'; did you mean 'RMSNorm'"),
        ("xlab.training.schedules.math", "has no class 'math'"),
        ("no_such_module.Thing", "cannot import 'no_such_module'"),
        ("xlab.factories.plain", "has no class 'plain'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(path: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        factories.find_class(path)
    assert says in str(refused.value)


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Scale has no option 'widht'; did you mean 'width'"):
        factories.build({"class_path": f"{HERE}.Scale", "init_args": {"widht": 3}})


@pytest.mark.parametrize("settings", [3, None, ["RMSNorm"], {"init_args": {}}, {"class_path": 5}])
def test_what_describes_no_class_is_refused(settings: Any) -> None:
    with pytest.raises(ConfigError, match="describes no class"):
        factories.build(settings)


def test_arguments_come_before_the_settings_own() -> None:
    made = factories.build({"class_path": f"{HERE}.Scale", "init_args": {"by": 0.5}}, 7)
    assert made == Scale(7, by=0.5)
    assert factories.factory(f"{HERE}.Scale")(7) == Scale(7)


@pytest.mark.parametrize("init_args", [{}, {"init_args": None}, {"init_args": {}}])
def test_a_class_without_settings_takes_its_defaults(init_args: dict[str, Any]) -> None:
    assert factories.build({"class_path": f"{HERE}.Scale", **init_args}, 2) == Scale(2)


@pytest.mark.parametrize("argument", ["make", "maybe"])
@pytest.mark.parametrize("form", ["dict", "path"])
def test_a_part_that_is_annotated_as_callable_stays_a_factory(argument: str, form: str) -> None:
    scale: Any = f"{HERE}.Scale" if form == "path" else {"class_path": f"{HERE}.Scale", "init_args": {"by": 2.0}}
    tower = factories.build({"class_path": f"{HERE}.Tower", "init_args": {"make": f"{HERE}.Scale", argument: scale}})
    make = getattr(tower, argument)
    assert make(5) == Scale(5, by=1.0 if form == "path" else 2.0)
    assert make(5) is not make(5)


def test_a_part_that_is_not_becomes_an_instance() -> None:
    scale = {"class_path": f"{HERE}.Scale", "init_args": {"width": 3}}
    init_args = {"make": f"{HERE}.Scale", "made": scale, "several": [scale, 4, "text"]}
    tower = factories.build({"class_path": f"{HERE}.Tower", "init_args": init_args})
    assert tower.made == Scale(3)
    assert tower.several == [Scale(3), 4, "text"]


def test_factories_nest(tmp_path: Path) -> None:
    inner = {"class_path": f"{HERE}.Tower", "init_args": {"make": {"class_path": f"{HERE}.Scale"}}}
    outer = factories.build({"class_path": f"{HERE}.Tower", "init_args": {"make": inner}})
    # the inner factory's own argument takes the place of `make`, so it is given by name only
    with pytest.raises(ConfigError, match="multiple values for argument 'make'"):
        outer.make(1)
    assert outer.make().make(3) == Scale(3)


def test_a_class_that_takes_any_keyword_is_given_any() -> None:
    made = factories.build({"class_path": f"{HERE}.Open", "init_args": {"first": 1, "colour": "red"}})
    assert made.kwargs == {"colour": "red"}


def test_the_options_of_all_parts_are_known_for_suggestions() -> None:
    names = factories.option_names()
    assert {"n_kv_heads", "warmup_steps", "text_column", "min_frequency"} <= names
    assert "foreach" not in names  # torch.optim's


def test_the_parts_that_have_an_option_are_known() -> None:
    assert factories.parts_with("every") == ["ValueEmbeddings"]
    assert factories.parts_with("foreach") == []
