"""Bring a published model's vocabulary and its tokenizer to one size: a token for every row, a row for every token.

Published embeddings are often padded to a round number of rows, and published tokenizers often have no token that
starts, or pads, a document.
"""

from collections.abc import Mapping

import tokenizers
import torch
from torch import Tensor

from xlab.data.tokenizers import HubTokenizer, Tokenizer
from xlab.data.tokenizers.special_tokens import choose, combined
from xlab.errors import DataError
from xlab.interop.errors import ConversionError
from xlab.interop.families.conversion import claims_too_much
from xlab.interop.published import PublishedModel

EMBEDDING, OUTPUT = "embedding.weight", "output.weight"


class PretrainedTokenizer(HubTokenizer):
    """The tokenizer of a published model, with a token for every row of its embedding.

    A start, an end and a padding token that it lacks come behind its own tokens, then tokens without a meaning for the
    rows that are left.

    Args:
        path: A model's name on the hub, or a local folder with config.json, weights and tokenizer.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)

    def read(self) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
        backend, proposed = super().read()
        model = PublishedModel(self._path)
        for role, token_id in (("eos_token", model.token_id("eos")), ("sos_token", model.token_id("bos"))):
            if token_id is not None:
                proposed.setdefault(role, backend.id_to_token(token_id))
        n_own, n_rows = own_size(backend), model.settings["vocab_size"]
        if n_own > n_rows:
            raise DataError(
                f"the tokenizer of {self._path} has {n_own} tokens, and the model's vocab_size is {n_rows}; they do "
                "not belong together"
            )
        # every row that is claimed gets a token
        if too_large := claims_too_much(model.settings, model.weights().shapes):
            raise ConversionError(f"{self._path}: the configuration claims {too_large}")
        roles = combined(dict.fromkeys(("sos_token", "eos_token", "pad_token")), proposed, backend)
        chosen = choose(backend, **roles)
        backend.add_special_tokens([_special(token) for token in (chosen.pad, chosen.sos, chosen.eos)])
        unused = range(own_size(backend), n_rows)
        backend.add_special_tokens([_special(f"<|reserved_{number}|>") for number in unused])
        return backend, dict(roles)

    def n_own(self) -> int:
        """Tell how many tokens the published files have."""
        return own_size(super().read()[0])


def own_size(backend: tokenizers.Tokenizer) -> int:
    """Tell how many ids a tokenizer needs."""
    return max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def with_rows(
    weights: Mapping[str, Tensor], n_tokens: int, *, new_start: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Give a decoder's weights a row for every token.

    Rows that are added are the mean of all (Hewitt 2021, "Initializing new word embeddings for pretrained language
    models"): a row of zeros would have the largest logit wherever all others are negative.

    Args:
        weights: as the model was published.
        n_tokens: of the tokenizer, at least as many as the embedding has rows.
        new_start: the token that starts a document, where the model was published without it, and the one whose row it
            takes, so that the model reads what it read there before.

    Raises:
        ConversionError: if the embedding has more rows than there are tokens.
    """
    found = dict(weights)
    for name in (EMBEDDING, OUTPUT):
        if name not in found:
            continue
        rows = found[name]
        if len(rows) > n_tokens:
            raise ConversionError(f"the vocabulary of {n_tokens} tokens is smaller than the model's, {len(rows)}")
        if len(rows) < n_tokens:
            mean = rows.float().mean(0, keepdim=True).to(rows.dtype)
            found[name] = torch.cat([rows, mean.expand(n_tokens - len(rows), -1)])
    if new_start is not None:
        start, like = new_start
        found[EMBEDDING] = found[EMBEDDING].clone()
        found[EMBEDDING][start] = found[EMBEDDING][like]
    return found


def new_start(tokenizer: Tokenizer, n_own: int, model: PublishedModel) -> tuple[int, int] | None:
    """Give the start token that a published model lacks, and the token that it knows at the beginning of a text."""
    like = model.token_id("bos")
    like = model.token_id("eos") if like is None else like
    return (tokenizer.sos_id, like) if tokenizer.sos_id >= n_own and like is not None else None


def _special(token: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(token, special=True, normalized=False)
