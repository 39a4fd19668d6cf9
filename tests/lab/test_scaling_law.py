"""Widths keep the shape of a model, and a law's page and words say what was found."""

from typing import Any

import pytest

from xlab.errors import ConfigError, DataError
from xlab.lab.scaling import Scaling, Size, scaling, words_of
from xlab.lab.scaling_page import MARK, page
from xlab.lab.scaling_text import formula, verdict

SETTINGS: dict[str, Any] = {
    "model": {
        "d_model": 256,
        "n_heads": 8,
        "d_ff": 768,
        "attention": {"class_path": "GroupedQueryAttention", "init_args": {"n_kv_heads": 2}},
        "optimizer": {"class_path": "AdamW", "init_args": {"lr": 1e-3}},
    }
}


def test_heads_keep_their_width_and_the_rest_its_proportion() -> None:
    assert words_of(128, SETTINGS) == [
        *("--model.d_model=128", "--model.n_heads=4", "--model.d_ff=384", "--model.attention.n_kv_heads=1")
    ]
    assert "--model.optimizer.lr=0.002" in words_of(128, SETTINGS, rate_rule="inverse")
    assert "--model.optimizer.lr=0.00141421" in words_of(128, SETTINGS, rate_rule="inverse-sqrt")


@pytest.mark.parametrize(
    ("width", "named"),
    [(100, "is no multiple of 32"), (256, "is not below 256"), (96, "2 key-value heads at width 256")],
)
def test_a_width_that_cannot_be_is_said(width: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        words_of(width, SETTINGS)


def found(seen: tuple[float, ...] = (), n: int = 5) -> Scaling:
    sizes = [Size(32 * 2**i, 10_000 * 4**i, 10**9 * 4**i) for i in range(n + 1)]
    losses = [1.5 + 20 * size.parameters**-0.3 + 0.001 * (i % 3 - 1) for i, size in enumerate(sizes)]
    points = [(size, 0, loss) for size, loss in zip(sizes[:-1], losses, strict=False)]
    return scaling(points, sizes[-1], axis="parameters", budget="2M-tokens", runs=1, seen=seen, lost=["width-9: bad"])


def test_the_words_say_the_promise_and_the_miss() -> None:
    (promise,) = verdict(found())
    assert "width 1024 is promised a loss of 1.6" in promise
    assert "4 times the parameters beside embeddings" in promise
    assert "95 %" in promise
    _, miss = verdict(found((9.0,)))
    assert "it came to 9.000 (1 run): a miss of +7.3" in miss
    assert "outside the interval" in miss
    assert formula(found()).startswith("L = 1.")


def test_the_page_is_one_file_that_asks_for_nothing() -> None:
    for result in (found(), found((1.7, 1.71)), found(n=2)):
        text = page(result)
        assert text.startswith(MARK)
        assert "http" not in text.replace("http://www.w3.org", "")
        assert text.count("<circle") == len(result.points) + len(result.prediction.seen)
        assert "failed: width-9: bad" in text
        assert "NaN" not in text
        assert "nan" not in text


def test_it_is_plain_data(tmp_path: object) -> None:
    content = found((1.7,)).as_json()
    assert content["prediction"]["miss"] == pytest.approx(1.7 - content["prediction"]["loss"])
    assert len(content["points"]) == 5
    assert content["law"]["intervals"].keys() == {"floor", "amplitude", "exponent"}


def test_without_a_run_there_is_no_law() -> None:
    with pytest.raises(DataError, match="no run came to its end, so there is nothing to fit: a: bad"):
        scaling([], Size(1, 1, 1), axis="flops", budget="1k-tokens", runs=1, lost=["a: bad"])
