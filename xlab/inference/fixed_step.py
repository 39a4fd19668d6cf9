"""A step of decoding that is compiled once for each number of rows, and serves contexts of every length.

Letters: R rows, S keys, H key-value heads, Dh width of a head, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from xlab.inference.packed_linear import register
from xlab.transformer.decoder import Decoder
from xlab.transformer.kernels import FusedAttention
from xlab.transformer.kv_cache import KVCache
from xlab.transformer.placements import FUSED, Placement, in_sight, put

_numbers = count()


class FixedPlacement(Placement):
    """One token of each row, stored at a place that a tensor says; the shape of the mask says how far to look.

    Args:
        keys: of each layer, (R, H, capacity, Dh).
        values: of each layer, (R, H, capacity, Dh).
        lengths: tokens that each row holds, (R,), int64.
        seen: which keys each row may see, bool, (R, 1, 1, S).
        rings: of the cache.
    """

    def __init__(
        self, keys: list[Tensor], values: list[Tensor], lengths: Tensor, seen: Tensor, rings: dict[int, int]
    ) -> None:
        self.keys, self.values, self.seen, self.rings = keys, values, seen, rings
        self.positions = lengths.unsqueeze(-1)  # (R, 1)
        self.rows = torch.arange(lengths.size(0), device=lengths.device).unsqueeze(-1)

    @property
    def key_positions(self) -> Tensor:
        return torch.arange(self.seen.size(-1), device=self.positions.device)

    def is_plain(self, window: int | None = None) -> bool:
        return self.seen.size(0) == 1 and window is None  # a row alone sees all that it holds

    def visible(self, window: int | None = None) -> Tensor:
        if window is None:
            return self.seen
        if window in self.rings:
            n_places = self.rings[window]
            seen = in_sight(self.positions, self.positions + 1, n_places, window=window, n_places=n_places)
            return seen.unsqueeze(1)
        return self.seen & (self.key_positions > self.positions[:, None, None] - window)

    def store(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None = None, handed_on: int = 0
    ) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self.keys[layer], self.values[layer]
        n_places = all_keys.size(2)
        slots, next_slots = self.positions % n_places, (self.positions + 1) % n_places
        all_heads = slice(None)
        at, after = (self.rows, all_heads, slots), (self.rows, all_heads, next_slots)
        put(all_keys, keys.transpose(1, 2), handed_on, at, after)
        all_values[self.rows, :, slots] = values.transpose(1, 2)
        if window in self.rings:
            return all_keys, all_values
        end = self.seen.size(-1)
        return all_keys[:, :, :end], all_values[:, :, :end]

    def mix(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        kernel: FusedAttention = FUSED,
        window: int | None = None,
        **settings: Any,
    ) -> Tensor:
        if not queries.is_cpu or not kernel.is_fused:
            mixed: Tensor = kernel(queries, keys, values, **settings)
            return mixed
        # as a formula, which the compiler makes loops of: on a CPU several times as fast as the kernel for one query
        wide = torch.promote_types(queries.dtype, torch.float32)
        products = queries.unsqueeze(-2).to(wide) * keys.unsqueeze(-3).to(wide)  # (R, H, T, S, Dh)
        scores: Tensor = products.sum(-1) * (queries.size(-1) ** -0.5 if kernel.scale is None else kernel.scale)
        mask: Tensor | None = settings["attn_mask"]  # (R or 1, …, S)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        shares = scores.softmax(-1).unsqueeze(-1)
        return (shares * values.unsqueeze(-3).to(wide)).sum(-2).to(values.dtype)


@dataclass
class _Rows:
    """The first rows of the cache, as the compiled step takes them."""

    keys: list[Tensor]
    values: list[Tensor]
    guard: str
    is_compiled: bool = False


class FixedStep:
    """Decode one token of each row: tokens and lengths in, logits out, compiled for each power of two of rows.

    Args:
        decoder: with prepared weights, its parts as they are: the compiler makes them leaner by itself.
        project: gives logits for hidden states.
        cache: its first rows are those that decode.
        backend: of ``torch.compile``.
    """

    def __init__(
        self, decoder: Decoder, project: Callable[[Tensor], Tensor], cache: KVCache, *, backend: str = "inductor"
    ) -> None:
        register()
        self.decoder, self.project, self.cache = decoder, project, cache
        # Hundreds of guards would be looked at in every step, to find that nothing has changed: nothing can, but the
        # number of rows and the engine, and these have keys of their own.
        options: dict[str, Any] = {"guard_filter_fn": lambda guards: [guard.name == "guard" for guard in guards]}
        self._step = torch.compile(self._logits, backend=backend, dynamic=False, fullgraph=True, options=options)
        self._rows: dict[int, _Rows] = {}

    def __call__(self, ids: list[int], lengths: list[int]) -> Tensor:
        """Logits (R, V) for as many ids as there are; the other lengths are of rows beside them, which stay intact.

        Rows that only fill up the shape write where their own next token will be stored over it.
        """
        n_rows = 1 << (len(ids) - 1).bit_length()
        n_rows = min(n_rows, self.cache.batch_size)
        if n_rows not in self._rows:
            view = self.cache.rows(0, n_rows)
            self._rows[n_rows] = _Rows(view.keys, view.values, f"{n_rows} rows of step {next(_numbers)}")
        rows = self._rows[n_rows]
        device = rows.keys[0].device
        padded = torch.tensor(ids + [0] * (n_rows - len(ids)), device=device).unsqueeze(-1)
        held = torch.tensor([*lengths, *[0] * n_rows][:n_rows], device=device)
        end = max(lengths[: len(ids)]) + 1
        seen = (torch.arange(end, device=device) <= held.unsqueeze(-1))[:, None, None]  # (R, 1, 1, S)
        inputs = padded, held, seen, rows.keys, rows.values, rows.guard
        if rows.is_compiled:
            logits = self._step(*inputs)
        elif end == self.cache.capacity:  # from which the compiler would conclude that it always is
            logits = self._logits(*inputs)
        else:
            from torch._dynamo import config, mark_dynamic  # a second's import

            mark_dynamic(seen, 3)
            # limits for what recompiles without end: here it is once for each number of rows, but of every engine
            with config.patch(recompile_limit=4096, accumulated_recompile_limit=4096):
                logits = self._step(*inputs)
            rows.is_compiled = True
        return logits[: len(ids)]

    def _logits(
        self, ids: Tensor, lengths: Tensor, seen: Tensor, keys: list[Tensor], values: list[Tensor], guard: str
    ) -> Tensor:
        assert guard  # the compiler guards what is looked at
        hidden = self.decoder.hidden_at(ids, FixedPlacement(keys, values, lengths, seen, self.cache.rings))
        return self.project(hidden[:, -1])
