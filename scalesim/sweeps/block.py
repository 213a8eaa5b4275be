"""What the engine sweeps: blocks of designs, from a product of ranges or from a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["SIZES", "Block", "Source"]

SIZES = ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff")
"""The sizes that make a design, in the order of every table of designs."""


@dataclass(frozen=True)
class Block:
    """Some designs that are evaluated in one call.

    Attributes:
        number: the block's place in the sweep.
        start: index of its first design.
        count: designs in it; `fields` may go on beyond, with repeats.
        fields: `SIZES` as arrays that broadcast together: bodies (1, B) and heads (H, 1), or all (1, B).
        pick: flat positions in the broadcast arrays -> (index of each design, its sizes [n, 5]); positions
            beyond `count` are left out.
    """

    number: int
    start: int
    count: int
    fields: dict[str, np.ndarray]
    pick: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Source(Protocol):
    """Where designs come from, numbered from 0, in blocks of one size."""

    @property
    def count(self) -> int | None:
        """All designs, or None where that is not known before the end."""

    @property
    def identity(self) -> str:
        """What tells this source from another, for checkpoints."""

    def block(self, number: int) -> Block | None:
        """Return a block, or None beyond the last. Streams are read forwards only."""

    def sample(self, n: int) -> np.ndarray:
        """Return indices and sizes [n, 6] of some designs spread over all, the same in every call."""
