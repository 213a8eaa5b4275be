"""What every mixer says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from scalesim.shape.parameters import Parameter
from scalesim.types import Num

__all__ = ["Cached", "Mixer", "Scores"]


class Cached(NamedTuple):
    """Values that a mixer keeps of a sequence, in the precision of the KV cache.

    `values` for each of the last `window` tokens (None: of all), or for every `every`-th; `heads` is the KV
    heads over which tensor parallelism divides them (None: every device keeps all).
    """

    values: Num
    window: Num | None = None
    every: int = 1
    heads: Num | None = None


class Scores(NamedTuple):
    """Attention of new tokens to cached ones: `n_head` queries of `head_dim`, results of `v_head_dim`.

    `caches` is 2 where keys and values are kept apart, 1 where one vector of head_dim serves as both.
    A token attends to the last `window` tokens, or to one entry for `every` tokens, at most `most` of them.
    """

    name: str
    n_head: Num
    n_kv_head: Num
    head_dim: Num
    v_head_dim: Num
    caches: float = 2.0
    window: Num | None = None
    every: int = 1


class Mixer(ABC):
    """What moves information between tokens: a layer's first half. A kind says what differs from nothing."""

    __slots__ = ()

    @abstractmethod
    def tensors(self, d: Num) -> list[Parameter]:
        """One layer's parameters, at width d."""

    def cached(self) -> tuple[Cached, ...]:
        """What a sequence's tokens leave in the cache."""
        return ()

    def scores(self, *, decode: bool) -> tuple[Scores, ...]:
        """Attention to cached tokens; in decode by the kernels that generate."""
        return ()

    @property
    def state_bytes(self) -> Num:
        """Bytes kept of a sequence whatever its length."""
        return 0

    @property
    def step_flops(self) -> Num:
        """FLOPs a token beside matrices and scores: recurrences and filters."""
        return 0

    @property
    def moved(self) -> Num:
        """Values a token that are held between matrices: queries, keys, values, results."""
        return 0
