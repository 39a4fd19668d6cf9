"""Differences are those between seeds, and what cannot be told is not told."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.lab.made_up_runs import write_run, write_trial
from xlab.errors import ConfigError, DataError
from xlab.lab import effects
from xlab.lab.comparison import Comparison, compare
from xlab.lab.run_groups import differing, find_groups, flat
from xlab.lab.verdict import decimals, signed, verdicts

FIGURES = st.floats(0.5, 5).map(lambda figure: round(figure, 3))


@given(st.lists(st.tuples(FIGURES, FIGURES), min_size=2, max_size=6), st.sampled_from([0.8, 0.95, 0.99]))
def test_paired_is_students_t(pairs: list[tuple[float, float]], level: float) -> None:
    before, after = (dict(enumerate(column)) for column in zip(*pairs, strict=True))
    effect = effects.paired(before, after, level=level)
    differences = np.array([b - a for a, b in pairs])
    error = differences.std(ddof=1) / math.sqrt(len(pairs))
    assert effect.difference == pytest.approx(differences.mean())
    assert effect.half_width is not None
    assert effect.half_width == pytest.approx(stats.t.ppf((1 + level) / 2, len(pairs) - 1) * error, abs=1e-9)
    assert effect.p is not None
    assert effect.interval is not None
    # the interval and the test say the same
    if error > 1e-9 and abs(effect.p - (1 - level)) > 1e-6:
        assert (effect.interval[0] <= 0 <= effect.interval[1]) == (effect.p > 1 - level)


@given(st.lists(FIGURES, min_size=2, max_size=6, unique=True), st.lists(FIGURES, min_size=2, max_size=6, unique=True))
def test_scipy_finds_the_same(one: list[float], other: list[float]) -> None:
    effect, tested = effects.unpaired(one, other, level=0.9), stats.ttest_ind(other, one, equal_var=False)
    assert effect.interval == pytest.approx(tuple(tested.confidence_interval(0.9)))
    assert effect.p == pytest.approx(tested.pvalue)
    pairs = min(len(one), len(other))
    differences = np.array(other[:pairs]) - np.array(one[:pairs])
    if np.ptp(differences) > 1e-9:
        effect = effects.paired(dict(enumerate(one[:pairs])), dict(enumerate(other[:pairs])), level=0.9)
        tested = stats.ttest_1samp(differences, 0)
        assert effect.interval == pytest.approx(tuple(tested.confidence_interval(0.9)))
        assert effect.p == pytest.approx(tested.pvalue)


def test_only_seeds_of_both_count() -> None:
    effect = effects.paired({0: 1.0, 1: 2.0, 9: 50.0}, {0: 1.1, 1: 2.3, 5: 0.0}, level=0.95)
    assert (effect.n, effect.method) == (2, "paired")
    assert effect.difference == pytest.approx(0.2)


def test_one_seed_has_no_interval() -> None:
    for effect in (effects.paired({0: 1.0}, {0: 2.0}, level=0.95), effects.unpaired([1.0], [2.0, 3.0], level=0.95)):
        assert (effect.half_width, effect.p, effect.interval, effect.method) == (None, None, None, "single")


def test_what_never_varies_is_certain() -> None:
    same = effects.paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, level=0.95)
    assert (same.difference, same.half_width, same.p) == (0, 0, 1)
    assert effects.paired({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5}, level=0.95).p == 0
    assert effects.unpaired([1.0, 1.0], [2.0, 2.0], level=0.95).p == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_never_helps(ps: list[float]) -> None:
    adjusted = effects.holm(ps)
    for p, after in zip(ps, adjusted, strict=True):
        assert after is not None
        assert min(p, 1) <= after <= min(1, p * len(ps)) + 1e-12 or p == max(ps)
    order = np.argsort(ps)
    assert np.all(np.diff([adjusted[i] for i in order]) >= 0)  # type: ignore[arg-type]


def test_holm_by_hand() -> None:
    assert effects.holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, 0.06, 0.06]


def found(root: Path, **how: object) -> Comparison:
    return compare(find_groups([str(root)]), **how)  # type: ignore[arg-type]


def ablation(root: Path, base: list[float], other: list[float]) -> Path:
    for seed, (one, two) in enumerate(zip(base, other, strict=True)):
        write_trial(root, "base", seed, (3.0, one))
        write_trial(root, "other", seed, (3.0, two), model__d_model=64)
    return root


def test_a_difference_that_can_be_told(tmp_path: Path) -> None:
    comparison = found(ablation(tmp_path, [2.0, 2.1, 2.2], [1.979, 2.081, 2.177]))
    (verdict,) = verdicts(comparison)
    half = stats.t.ppf(0.975, 2) * np.std([-0.021, -0.019, -0.023], ddof=1) / math.sqrt(3)
    assert verdict == f"other is better by 0.021 ± {half:.3f} bits per byte after 1.28 k tokens; 95 %; 3 seeds"
    assert comparison.baseline == "base"
    assert differing(comparison.variants) == {"model.d_model": [32, 64]}
    assert {place.axis for place in comparison.contrasts} == {"tokens", "seconds", "flops"}


def test_a_difference_that_cannot(tmp_path: Path) -> None:
    (verdict,) = verdicts(found(ablation(tmp_path, [2.0, 2.1, 2.2], [2.1, 2.0, 2.25])))
    assert verdict.startswith("no difference can be told: other − base is +0.017 ± ")


def test_accuracy_is_better_when_higher(tmp_path: Path) -> None:
    comparison = found(ablation(tmp_path, [2.0, 2.1], [1.0, 1.01]), metric="val/accuracy")
    assert comparison.contrasts[comparison.place][0].is_better


def test_one_seed_is_said_plainly(tmp_path: Path) -> None:
    comparison = found(ablation(tmp_path, [2.0], [1.9]))
    (verdict,) = verdicts(comparison)
    assert verdict == (
        "other is ahead of base by 0.100 bits per byte after 1.28 k tokens; one seed, so no interval: it may be chance"
    )
    assert any(remark.startswith("One seed only (other)") for remark in comparison.remarks)


def test_equal_time_is_not_equal_tokens(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_trial(tmp_path, "fast", seed, (3.0, 2.5, 2.0 + seed / 100), seconds_per_step=0.5)
        write_trial(tmp_path, "slow", seed, (2.9, 2.4, 1.9 + seed / 50), seconds_per_step=1.0, model__d_model=64)
    comparison = found(tmp_path, baseline="fast")
    differences = {place.axis: each[0].effect.difference for place, each in comparison.contrasts.items()}
    assert differences["tokens"] == pytest.approx(-0.095)
    # after 15 s the fast one has done 30 steps and the slow one 15: halfway from 2.9 to 2.4
    assert differences["seconds"] == pytest.approx(2.65 - 2.005)
    at = found(tmp_path, baseline="fast", at=("steps", 15.0))
    assert at.figures["fast"] == [2.75, 2.75]


def test_runs_that_cannot_be_compared_are_left_out_and_named(tmp_path: Path) -> None:
    ablation(tmp_path, [2.0, 2.1], [1.9, 2.0])
    failed = {"status": "failed", "error": "the loss is no number", "last_step": 12}
    write_trial(tmp_path, "bad", 0, (3.0,), record=failed, model__d_model=1)
    (write_trial(tmp_path, "blind", 0, (3.0,), model__d_model=2) / "logs/version_0/metrics.jsonl").write_text("")
    write_trial(tmp_path, "wild", 0, (3.0, math.nan), model__d_model=3)
    comparison = found(tmp_path)
    assert comparison.left_out == [
        "bad seed 0: failed after 12 steps: the loss is no number",
        "blind seed 0: it logged nothing",
        "wild seed 0: its last val/bits_per_byte is no number",
    ]
    assert [contrast.variant for contrast in comparison.contrasts[comparison.place]] == ["other"]
    with pytest.raises(DataError, match=r"the baseline bad has no run to compare \(bad seed 0: failed after 12"):
        found(tmp_path, baseline="bad")


def test_other_data_are_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_trial(tmp_path, "base", seed, (3.0, 2.0 + seed / 10))
        write_trial(tmp_path, "other", seed, (3.0, 1.0), model__d_model=64, record={"data_fingerprint": "another"})
    with pytest.raises(DataError, match=r"base and other saw different data .*--allow-different-data"):
        found(tmp_path)
    comparison = found(tmp_path, allow_different_data=True)
    assert any("DIFFERENT DATA" in remark for remark in comparison.remarks)
    assert comparison.contrasts[comparison.place][0].effect.method == "unpaired"


def test_other_vocabularies_are_compared_by_bits_per_byte(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_trial(tmp_path, "base", seed, (3.0, 2.0 + seed / 10))
        more = {"data__vocab_size": 500, "record": {"data_fingerprint": "another"}}
        write_trial(tmp_path, "other", seed, (3.0, 1.0), **more)
    comparison = found(tmp_path)
    assert any(
        remark.startswith("The vocabularies differ (data.vocab_size: 300, 500)") for remark in comparison.remarks
    )
    with pytest.raises(ConfigError, match="val/loss counts tokens, and the vocabularies differ"):
        found(tmp_path, metric="val/loss")


@pytest.mark.parametrize(("vocab_size", "fingerprint"), [(500, "another"), (300, "another"), (300, None)])
def test_other_sources_are_marked_whatever_else_differs(tmp_path: Path, vocab_size: int, fingerprint: str) -> None:
    for seed in (0, 1):
        more = {"data__source": "JsonLines", "data__vocab_size": vocab_size}
        write_trial(tmp_path, "base", seed, (3.0, 2.0 + seed / 10))
        write_trial(tmp_path, "other", seed, (3.0, 1.0), record={"data_fingerprint": fingerprint}, **more)
    with pytest.raises(DataError, match="saw different data"):
        found(tmp_path)
    comparison = found(tmp_path, allow_different_data=True)
    assert any("DIFFERENT DATA" in remark for remark in comparison.remarks)
    assert comparison.contrasts[comparison.place][0].effect.method == "unpaired"


def test_other_code_is_marked(tmp_path: Path) -> None:
    write_trial(tmp_path, "base", 0, (3.0, 2.0))
    write_trial(tmp_path, "other", 0, (3.0, 1.0), model__d_model=64, record={"commit": "def"})
    assert any("DIFFERENT CODE (abc, def)" in remark for remark in found(tmp_path).remarks)


def test_seeds_that_do_not_meet_are_no_pairs(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", (3.0, 2.0 + seed / 10), seed=seed)
        write_run(tmp_path / f"b{seed}", (3.0, 1.0 + seed / 10), seed=seed + 5, model__d_model=64)
    comparison = found(tmp_path)
    assert comparison.contrasts[comparison.place][0].effect.method == "unpaired"
    assert any(remark.startswith("Not paired by seed (d_model=64)") for remark in comparison.remarks)
    assert [variant.name for variant in comparison.variants] == ["d_model=32", "d_model=64"]


def test_a_run_that_is_repeated_is_one_sample(tmp_path: Path) -> None:
    ablation(tmp_path, [2.0, 2.1], [1.9, 2.0])
    for number in (0, 1):
        write_run(tmp_path / f"again_{number}", (3.0, 9.0 - number), seed=7, model__d_model=16)
    groups = find_groups([f"{tmp_path}/base", f"more={tmp_path}/again_*"])
    comparison = compare(groups)
    assert comparison.figures["more"] == [8.0]
    assert any("one sample" in remark for remark in comparison.remarks)


def test_several_variants_are_corrected_for(tmp_path: Path) -> None:
    for seed in range(3):
        for number, name in enumerate(("base", "b", "c")):
            write_trial(tmp_path, name, seed, (3.0, 2.0 - number / 10 + seed * number / 100), model__d_model=8 * number)
    comparison = found(tmp_path)
    contrasts = comparison.contrasts[comparison.place]
    assert [contrast.variant for contrast in contrasts] == ["b", "c"]
    assert all(contrast.p is not None and contrast.p > (contrast.effect.p or 0) for contrast in contrasts)
    assert any("Holm" in remark for remark in comparison.remarks)


def test_what_only_the_correction_takes_back_is_explained(tmp_path: Path) -> None:
    for seed in range(2):
        write_trial(tmp_path, "base", seed, (3.0, 2.0))
        write_trial(tmp_path, "b", seed, (3.0, 1.98 - seed * 0.0025), model__d_model=8)
        write_trial(tmp_path, "c", seed, (3.0, 2.0 + (-1) ** seed / 10), model__d_model=16)
    comparison = found(tmp_path)
    (contrast, _), (verdict, other) = comparison.contrasts[comparison.place], verdicts(comparison)
    assert contrast.effect.p is not None
    assert contrast.effect.p < 0.05
    assert not contrast.is_told
    assert re.search(r"^no difference can be told: b − base .*; p is 0\.0\d+ by Holm's correction$", verdict)
    assert "Holm" not in other


def test_names_given_by_hand(tmp_path: Path) -> None:
    for name, bits in (("x", 2.0), ("y", 1.9)):
        write_run(tmp_path / name, (3.0, bits))
    groups = find_groups([f"old={tmp_path}/x", f"new={tmp_path}/y"])  # the same settings: an A/A comparison, say
    assert [group.name for group in groups] == ["old", "new"]
    assert compare(groups).baseline == "old"
    with pytest.raises(DataError, match="nothing to compare"):
        found(tmp_path)
    with pytest.raises(ConfigError, match="given both to old and to new"):
        find_groups([f"old={tmp_path}/x", f"new={tmp_path}/x"])


def test_settings_by_dotted_keys() -> None:
    nested = {"model": {"norm": {"class_path": "xlab.RMSNorm", "init_args": {"eps": 1}}, "d": 2}, "empty": {}}
    assert flat(nested) == {"model.norm": "RMSNorm", "model.norm.eps": 1, "model.d": 2, "empty": {}}


@pytest.mark.parametrize(("level", "baseline"), [(0.0, None), (95, None), (0.95, "none")])
def test_what_cannot_be(tmp_path: Path, level: float, baseline: str | None) -> None:
    with pytest.raises(ConfigError, match=r"--level must be|--baseline none is none of the variants: base, other"):
        found(ablation(tmp_path, [2.0], [1.9]), level=level, baseline=baseline)


@given(st.floats(1e-7, 10))
def test_two_digits_are_shown(number: float) -> None:
    assert float(f"{number:.{decimals(number)}f}") == pytest.approx(number, rel=0.2)


def test_signs() -> None:
    assert [signed(number, 2) for number in (-0.5, 0.5, -0.001)] == ["−0.50", "+0.50", "0.00"]
