"""What a variant changes is read as it was meant, and what it may not change is named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlab.errors import ConfigError
from xlab.lab.overrides import Overrides, changes_data, check, choices, folder_name, leave_one_out, parse_grid, run_seed

BASE = {
    "seed_everything": 0,
    "data": {"seed": 0, "seq_len": 16, "batch_size": 8, "source": {"class_path": "A"}},
    "model": {"d_model": 16},
    "trainer": {"max_steps": 6, "max_epochs": None, "limit_val_batches": None},
}


def changed(**sections: dict[str, object]) -> dict[str, object]:
    return {**BASE, **{name: {**BASE[name], **settings} for name, settings in sections.items()}}  # type: ignore[dict-item]


def test_words_and_files_are_told_apart() -> None:
    assert Overrides.parse("a=--model.d_model 32 --x='b c'") == Overrides("a", ("--model.d_model", "32", "--x=b c"))
    assert Overrides.parse("a=my.yaml --model.d_model 32").words == ("-c", "my.yaml", "--model.d_model", "32")
    assert Overrides.parse("same=") == Overrides("same")
    assert Overrides.parse("a=--x 'b c'").text == "--x 'b c'"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("relu", "has no NAME="),
        ("--model.d_model=3", "is no name for a variant"),
        ("../a=", "is no name for a variant"),
        ("a=d_model 32", "neither a --key value of fit nor a YAML file"),
        ("a=--x 'b", "No closing quotation"),
    ],
)
def test_what_is_no_variant_is_said(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        Overrides.parse(text)
    assert "\n" not in str(error.value)


def test_leave_one_out_leaves_each_out_once() -> None:
    all_three = Overrides("new", ("--a.lr", "1", "--b=2", "--c.lr=3"))
    found = {variant.name: variant.words for variant in leave_one_out(all_three)}
    assert found == {
        "new": all_three.words,
        "new-without-a.lr": ("--b=2", "--c.lr=3"),
        "new-without-b": ("--a.lr", "1", "--c.lr=3"),
        "new-without-c.lr": ("--a.lr", "1", "--b=2"),
    }
    with pytest.raises(ConfigError, match="makes 1 change; it takes two or more"):
        leave_one_out(Overrides("one", ("--a", "1")))


def test_a_file_is_taken_apart_by_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("model: {norm: LayerNorm, optimizer: {class_path: SGD, init_args: {lr: 1}}}")
    found = {variant.name: variant.words for variant in leave_one_out(Overrides("new", ("-c", str(file))))}
    assert found["new-without-optimizer"] == ("-c", '{"model": {"norm": "LayerNorm"}}')
    assert len(found) == 3
    file.write_text("model: other.yaml")
    with pytest.raises(ConfigError, match="write its settings out"):
        leave_one_out(Overrides("new", ("-c", str(file))))
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        leave_one_out(Overrides("new", ("-c", str(tmp_path / "none.yaml"))))


def test_a_grid_has_every_combination() -> None:
    assert parse_grid(["a=1,2", "b=[1,2],c"]) == [
        *[("--a=1", "--b=[1,2]"), ("--a=1", "--b=c"), ("--a=2", "--b=[1,2]"), ("--a=2", "--b=c")]
    ]
    assert parse_grid([]) == []
    for text in ("a", "a=1", "=1,2", "a=1,,2"):
        with pytest.raises(ConfigError, match="two values or more"):
            parse_grid([text])
    with pytest.raises(ConfigError, match=r"data\.seed: it is the trial's seed"):
        parse_grid(["data.seed=1,2"])


def test_a_folder_has_a_name_that_a_file_system_takes() -> None:
    assert folder_name(("--model.optimizer.lr=1e-3", "--data.x=a/b c")) == "lr=1e-3,x=a_b_c"


@given(st.lists(st.sampled_from(["a", "1e-3", "[b]", "[a,b]", "{c: [1,2]}"]), min_size=1))
def test_choices_are_what_was_joined(values: list[str]) -> None:
    assert choices(",".join(values)) == values


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.text(max_size=5), st.text(max_size=5))
def test_seeds_are_of_seed_and_name(one: int, other: int, name: str, another: str) -> None:
    assert 0 <= run_seed(one, name) < 2**32
    assert (run_seed(one, name) == run_seed(other, another)) == ((one, name) == (other, another))


def test_what_decides_the_data_is_not_for_a_variant() -> None:
    check(changed(model={"d_model": 32}), BASE)
    check(changed(data={"batch_size": 4}), BASE)  # the same windows in the same order
    for settings, key in (
        (changed(data={"seq_len": 8}), "data.seq_len is 8, in the base 16"),
        (changed(data={"source": {"class_path": "B"}}), "data.source.class_path is 'B'"),
        (changed(trainer={"limit_val_batches": 3}), "trainer.limit_val_batches is 3"),
    ):
        with pytest.raises(ConfigError, match="it changes the data: ") as error:
            check(settings, BASE)
        assert key in str(error.value)
        check(settings, BASE, allow_data=True)
        assert len(changes_data(settings, BASE)) == 1


@pytest.mark.parametrize("section", [{"data": {"seed": 1}}, {"trainer": {"max_steps": 9}}])
def test_what_the_experiment_decides_is_not_for_a_variant_either(section: dict[str, dict[str, object]]) -> None:
    with pytest.raises(ConfigError, match="cannot be set to"):
        check(changed(**section), BASE, allow_data=True)
