"""A step of decoding whose shape never changes, so that it can be compiled once and replayed.

Letters: R rows, S places of the cache, H key-value heads, Dh width of a head, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xlab.transformer.decoder import Decoder
from xlab.transformer.kv_cache import KVCache, Placement


class FixedPlacement(Placement):
    """One token of each row, stored at a place that a tensor says, and a mask over all the capacity.

    Args:
        keys: of each layer, (R, H, S, Dh).
        values: of each layer, (R, H, S, Dh).
        lengths: tokens that each row holds, (R,), int64.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor], lengths: Tensor) -> None:
        self.keys, self.values = keys, values
        self.positions = lengths.unsqueeze(-1)  # (R, 1)
        self.rows = torch.arange(lengths.size(0), device=lengths.device).unsqueeze(-1)

    @property
    def key_positions(self) -> Tensor:
        return torch.arange(self.keys[0].size(2), device=self.positions.device)

    @property
    def is_plain(self) -> bool:
        return False

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self.keys[layer], self.values[layer]
        all_keys[self.rows, :, self.positions] = keys.transpose(1, 2)
        all_values[self.rows, :, self.positions] = values.transpose(1, 2)
        return all_keys, all_values


class FixedStep:
    """Decode one token of each row: tokens and lengths in, logits out, compiled for each power of two of rows.

    Args:
        decoder: with plain weights; inductor packs them itself.
        project: gives logits for hidden states.
        cache: its first rows are those that decode.
        backend: of ``torch.compile``.
    """

    def __init__(
        self, decoder: Decoder, project: Callable[[Tensor], Tensor], cache: KVCache, *, backend: str = "inductor"
    ) -> None:
        self.decoder, self.project, self.cache = decoder, project, cache
        # freezing: weights are constants that the compiler may pack
        options: dict[str, Any] | None = {"freezing": True} if backend == "inductor" else None
        self._step = torch.compile(self._logits, backend=backend, dynamic=False, fullgraph=True, options=options)

    def __call__(self, ids: list[int], lengths: list[int]) -> Tensor:
        """Logits (R, V) for as many ids as there are; the other lengths are of rows beside them, which stay intact.

        Rows that only fill up the shape write where their own next token will be stored over it.
        """
        from torch._dynamo import config  # a second's import, which only compiling needs

        n_rows = 1 << (len(ids) - 1).bit_length()
        n_rows = min(n_rows, self.cache.batch_size)
        device = self.cache.keys[0].device
        padded = ids + [0] * (n_rows - len(ids))
        held = [*lengths, *[0] * n_rows][:n_rows]
        rows = self.cache.rows(0, n_rows)
        # a limit for what recompiles without end: here it is once for each number of rows, but for every engine anew
        with config.patch(recompile_limit=1024):
            logits = self._step(
                torch.tensor(padded, device=device).unsqueeze(-1),
                torch.tensor(held, device=device),
                rows.keys,
                rows.values,
            )
        return logits[: len(ids)]

    def _logits(self, ids: Tensor, lengths: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        hidden = self.decoder.hidden_at(ids, FixedPlacement(keys, values, lengths))
        return self.project(hidden[:, -1])
