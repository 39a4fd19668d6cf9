"""What may be generated, checked against the vocabulary that the logits reveal."""

import pytest
import torch

from xlab.errors import GenerationError
from xlab.inference.vocabulary import Vocabulary


def test_excluded_ids_become_impossible_and_the_others_keep_their_logits() -> None:
    logits = torch.randn(2, 4)
    restricted = Vocabulary(exclude_classes=[3, 1, 3]).restrict(logits)
    assert torch.equal(restricted[:, [0, 2]], logits[:, [0, 2]])
    assert (restricted[:, [1, 3]] == -torch.inf).all()


def test_a_nan_at_an_excluded_id_is_not_hidden() -> None:
    assert Vocabulary(exclude_classes=[1]).restrict(torch.tensor([[0.0, torch.nan]])).isnan().any()


def test_ids_may_come_as_a_tensor() -> None:
    assert Vocabulary(torch.tensor(2), torch.tensor([0, 1])).exclude_classes == [0, 1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Vocabulary(1.5), "eos_class takes whole numbers, the ids of tokens, got 1.5"),
        (lambda: Vocabulary(None, [True]), "exclude_classes takes whole numbers, the ids of tokens, got True"),
        (lambda: Vocabulary(None, "ab"), "exclude_classes takes whole numbers, .* got 'a'"),
        (lambda: Vocabulary(None, 3), "exclude_classes must be a list of token ids, got 3"),
    ],
)
def test_what_is_no_id_is_refused_at_once(make, says: str) -> None:
    with pytest.raises(GenerationError, match=says):
        make()


@pytest.mark.parametrize(
    ("vocabulary", "says"),
    [
        (Vocabulary(eos_class=4), "eos_class is 4, outside the model's vocabulary of 4"),
        (Vocabulary(exclude_classes=[-1]), "exclude_classes contains -1, outside"),
        (Vocabulary(exclude_classes=range(4)), "exclude_classes contains all 4 classes"),
    ],
)
def test_ids_that_cannot_be_are_refused(vocabulary: Vocabulary, says: str) -> None:
    with pytest.raises(GenerationError, match=says):
        vocabulary.restrict(torch.zeros(1, 4))
