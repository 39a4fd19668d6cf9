"""What predict lets a model go on from: the beginnings of documents, and conversations up to their last answer."""

import torch
from torch.utils.data import Dataset

from xlab.data.chat import Chat, last_answer
from xlab.data.meta import Meta, body_start
from xlab.data.packing import Batch
from xlab.data.prepared import StoredSplits


class Prompts(Dataset[Batch]):
    """The beginning of each document of a split, its meta before it, one a batch, and how far to continue it.

    Of a conversation that is what comes before its last answer.
    """

    def __init__(
        self,
        prepared: StoredSplits,
        split: str,
        prompt_len: int,
        max_new_tokens: int,
        *,
        meta: Meta | None = None,
        chat: Chat | None = None,
    ) -> None:
        self._store = prepared.store(split)
        self._answers = None if chat is None else prepared.answers(split)
        self._eos_id = prepared.tokenizer.eos_id
        self._sep_id = prepared.tokenizer.sep_id
        self._max_meta_len = 0 if meta is None else meta.max_meta_len
        self._prompt_len = prompt_len
        self._max_new_tokens = max_new_tokens

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Batch:
        # the start and the first tokens, never the end: there would be nothing to continue
        tokens = self._store.document(index)[:-1]
        if self._answers is not None:
            tokens = tokens[: last_answer(self._answers.document(index))]
        else:
            tokens = tokens[: body_start(tokens, self._sep_id, self._max_meta_len) + self._prompt_len]
        numbers = {"index": index, "max_new_tokens": self._max_new_tokens, "eos_id": self._eos_id}
        return {"prompt": torch.tensor(tokens.tolist())} | {key: torch.tensor(value) for key, value in numbers.items()}
