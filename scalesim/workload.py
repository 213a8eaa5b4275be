"""Where a model will serve: the context it holds, and how many sequences at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalesim.errors import InvalidInput

__all__ = ["ContextLengths", "Workload"]

Num = Any


def _check(field: str, value: Num) -> None:
    if isinstance(value, bool | str):
        raise InvalidInput(f"{field} must be a number, but is {value!r}.")
    if isinstance(value, int | float) and not 0 < value < float("inf"):
        raise InvalidInput(f"{field} must be above 0 and finite, but is {value!r}.")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is served: `batch_size` sequences that each hold `context_length` tokens.

    Raises:
        InvalidInput: a Python number that is not positive and finite.
    """

    context_length: Num
    batch_size: Num = 1

    def __post_init__(self) -> None:
        _check("context_length", self.context_length)
        _check("batch_size", self.batch_size)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ContextLengths:
    """A distribution of context lengths: `lengths` in tokens, `weights` that sum to one.

    >>> mixed = ContextLengths.from_histogram([8192, 131072], [9, 1])
    >>> round(float(mixed.mean))
    20480
    """

    lengths: Num
    weights: Num

    @property
    def mean(self) -> Num:
        """Mean length in tokens."""
        return (self.lengths * self.weights).sum(-1)

    @classmethod
    def from_samples(cls, samples: Any) -> ContextLengths:
        """Return the empirical distribution of sampled lengths, repeated values merged."""
        values, counts = np.unique(_lengths("samples", samples), return_counts=True)
        return cls(values, counts / counts.sum())

    @classmethod
    def from_histogram(cls, lengths: Any, counts: Any) -> ContextLengths:
        """Return the distribution with `counts` (any scale) at `lengths`.

        Raises:
            InvalidInput: lengths not positive, counts negative or all zero, or not as many of each.
        """
        lengths, counts = _lengths("lengths", lengths), np.asarray(counts, float)
        if lengths.shape != counts.shape:
            raise InvalidInput(f"counts must be as many as lengths ({lengths.size}), but are {counts.size}.")
        if not np.isfinite(counts).all() or (counts < 0).any() or counts.sum() == 0:
            raise InvalidInput(f"counts must be finite, at least 0 and not all 0, but are {counts.tolist()}.")
        return cls(lengths, counts / counts.sum())


def _lengths(field: str, values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all() or (array <= 0).any():
        raise InvalidInput(f"{field} must be a list of positive lengths in tokens, but is {values!r}.")
    return array
