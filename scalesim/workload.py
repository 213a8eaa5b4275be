"""Where a model will serve: the context it holds, and how many sequences at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalesim.errors import InvalidInput, choose
from scalesim.pytree import register, static

__all__ = ["COMPUTE", "Compute", "ContextLengths", "Workload"]

Num = Any
Compute = Literal["bf16", "fp8", "fp8_block", "int8", "fp4"]
COMPUTE: tuple[str, ...] = ("bf16", "fp8", "fp8_block", "int8", "fp4")


def _check(field: str, value: Num, *, least: int = 1) -> None:
    if isinstance(value, bool | str):
        raise InvalidInput(f"{field} must be a number, but is {value!r}.")
    if isinstance(value, int | float):
        bound = "above 0" if least else "at least 0"
        if not ((value > 0 if least else value >= 0) and value < float("inf")):
            raise InvalidInput(f"{field} must be {bound} and finite, but is {value!r}.")


@register
@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is served: `batch_size` sequences that each hold `context_length` tokens, and in what precision.

    Attributes:
        context_length: tokens a sequence holds at its end, prompt and generated ones together.
        batch_size: sequences served at a time (the concurrency of continuous batching).
        generated_length: tokens generated a sequence; None: one step at the full context is looked at.
        prefix_length: tokens of the prompt that all sequences share: cached once, not computed again.
        prefill_chunk: prompt tokens that the engine computes at a time; bounds the activations' memory.
        weight_bits, activation_bits, kv_bits: bits a value of weights, activations and KV cache.
        compute: number format of the matrix units, whose peak the hardware states; "fp8_block" is FP8 with a
            scale a block of 128 values.

    Raises:
        InvalidInput: a Python number that is not positive and finite, a generated_length or prefix_length
            that leaves no prompt, or an unknown number format.

    >>> chat = Workload(context_length=4096, batch_size=16, generated_length=1024)
    >>> chat.prompt_length
    3072
    """

    context_length: Num
    batch_size: Num = 1
    generated_length: Num | None = None
    prefix_length: Num = 0
    prefill_chunk: Num = 8192
    weight_bits: Num = 16
    activation_bits: Num = 16
    kv_bits: Num = 16
    compute: Compute = static("bf16")

    def __post_init__(self) -> None:
        for name in (
            "context_length",
            "batch_size",
            "prefill_chunk",
            "weight_bits",
            "activation_bits",
            "kv_bits",
        ):
            _check(name, getattr(self, name))
        _check("prefix_length", self.prefix_length, least=0)
        if self.generated_length is not None:
            _check("generated_length", self.generated_length)
        choose("compute", self.compute, COMPUTE)
        # A prompt has a token at least, and one at least that is not shared.
        for name, of in (("generated_length", "context_length"), ("prefix_length", "prompt_length")):
            part, whole = getattr(self, name), getattr(self, of)
            if isinstance(part, int | float) and isinstance(whole, int | float) and part >= whole:
                raise InvalidInput(f"{name} must be below {of} = {whole}, but is {part}.")

    @property
    def prompt_length(self) -> Num:
        """Tokens of the prompt: all that are not generated."""
        if self.generated_length is None:
            return self.context_length
        return self.context_length - self.generated_length


@register
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
