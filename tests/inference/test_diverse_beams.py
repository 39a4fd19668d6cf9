"""Groups of beams that avoid each other, and when a search may stop."""

import pytest
import torch
from toy_models import Fixed, Recurrent, Scripted

from xlab.errors import GenerationError
from xlab.inference.beam_search import n_best

one = torch.tensor([1])


def test_groups_without_a_penalty_find_what_each_would_alone() -> None:
    alone = n_best(Recurrent(), one, 2, 5, None, eos_class=0, n=2)
    together = n_best(Recurrent(), one, 6, 5, None, eos_class=0, n=2, n_groups=3)
    assert together == alone


def test_groups_avoid_the_tokens_of_those_before() -> None:
    # at equal worth the lower id wins: the first group takes 0, the second avoids it, the third avoids both
    model = Fixed([0.0, -0.1, -0.2, -9.0])
    found = n_best(model, one, 3, 3, None, n=3, n_groups=3, diversity_penalty=1.0)
    assert [text.tokens for text in found] == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    near = n_best(model, one, 3, 3, None, n=3, n_groups=3, diversity_penalty=0.01)
    assert [text.tokens for text in near] == [[0, 0, 0]]


def test_the_penalty_guides_the_choice_and_not_the_score() -> None:
    for text in n_best(Recurrent(), one, 4, 4, None, n=4, n_groups=2, diversity_penalty=3.0):
        ids, total = [1], 0.0
        for token in text.tokens:
            total += Recurrent()(torch.tensor([ids]))[0, -1].log_softmax(-1)[token].item()
            ids.append(token)
        assert text.log_probability == pytest.approx(total)


def test_the_search_stops_when_it_is_told() -> None:
    # EOS (0) has 0.3 at first, and 1e-6 from then on: under penalty 2 the long text is better in the end
    model = Scripted([-1.2, -0.5, -2.4], *[[-13.8, 0.0, -5.0]] * 6)

    def best(early_stopping: bool | str) -> list[int]:
        return n_best(
            model,
            one,
            1,
            6,
            None,
            eos_class=0,
            length_penalty=2.0,
            n=1,
            early_stopping=early_stopping,  # type: ignore[arg-type]
        )[0].tokens

    assert best("never") == [1] * 6
    wide = {
        kind: n_best(model, one, 2, 6, None, eos_class=0, length_penalty=2.0, n=1, early_stopping=kind)  # type: ignore[arg-type]
        for kind in ("never", True, False)
    }
    assert wide["never"][0].tokens == [1] * 6


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_groups": 0}, "n_groups must be a whole number of at least 1, got 0"),
        ({"n_groups": 3}, "beam_width must be divisible by n_groups, got 4 and 3"),
        ({"n_groups": 2, "diversity_penalty": -1.0}, "diversity_penalty must be at least 0, got -1.0"),
        ({"early_stopping": "soon"}, "early_stopping must be True, False or \"never\", got 'soon'"),
    ],
)
def test_refusals(settings: dict[str, float], says: str) -> None:
    with pytest.raises(GenerationError, match=says):
        n_best(Recurrent(), one, 4, 3, None, n=1, **settings)  # type: ignore[arg-type]
