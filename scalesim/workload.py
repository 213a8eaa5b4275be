"""Where a model will serve, how it is trained, and how much it will be asked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from scalesim.errors import InvalidInput, check_number, choose
from scalesim.pytree import register, static
from scalesim.schema import boolean
from scalesim.shape import Shape, count_params
from scalesim.types import Num

__all__ = ["COMPUTE", "Compute", "ContextLengths", "Traffic", "TrainingPlan", "Workload"]

Compute = Literal["bf16", "fp8", "fp8_block", "int8", "fp4"]
COMPUTE: tuple[str, ...] = ("bf16", "fp8", "fp8_block", "int8", "fp4")


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
        weight_bits, activation_bits, kv_bits: bits a value of the layers' matrices (embeddings, norms and the
            output table keep 16), of activations and of the KV cache.
        compute: number format of the matrix units, whose peak the hardware states; "fp8_block" is FP8 with a
            scale a block of 128 values.
        kv_pool: count the pool that an engine sets aside for caches, rather than what they need.

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
    kv_pool: bool = static(False)

    def __post_init__(self) -> None:
        for name in (
            "context_length",
            "batch_size",
            "prefill_chunk",
            "weight_bits",
            "activation_bits",
            "kv_bits",
        ):
            check_number(name, getattr(self, name))
        check_number("prefix_length", self.prefix_length, zero=True)
        if self.generated_length is not None:
            check_number("generated_length", self.generated_length)
        choose("compute", self.compute, COMPUTE)
        boolean(self.kv_pool, "kv_pool")
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
@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How a model is trained: on how many tokens, in sequences of what length, held how in memory.

    The one home of training tokens: laws that see tokens, training FLOPs, memory, prices and limits all ask
    the plan. Tokens are stated, or follow from the model's size.

    Attributes:
        n_tokens: tokens in all; None: `tokens_per_param` for each of the paper's parameters.
        tokens_per_param: training tokens for each parameter (20: Chinchilla).
        context_length: tokens of one sequence.
        sequences: sequences that one device holds at a time (its micro-batch).
        data: devices over which the batch is split.
        zero: what those share out instead of each holding it: 0 nothing, 1 the optimiser's states, 2 the
            gradients too, 3 the weights too (ZeRO; 3 is FSDP).
        recompute: "full" keeps a layer's input alone and computes the rest again.
        weight_bytes, gradient_bytes, optimizer_bytes: bytes a parameter; 12 of the optimiser are a 32-bit
            copy and two moments.
        activation_bytes: bytes a value.
        compute: number format of the matrix units.

    Raises:
        InvalidInput: zero or recompute unknown, or a Python number that is not positive and finite.

    >>> from scalesim.shape import Shape
    >>> shape = Shape(n_layer=6, d_model=768, n_head=8, n_kv_head=8, d_ff=2048)
    >>> TrainingPlan().tokens(shape), TrainingPlan(n_tokens=1e9).tokens(shape)
    (754974720.0, 1000000000.0)
    """

    n_tokens: Num | None = None
    tokens_per_param: Num = 20.0
    context_length: Num = 8192
    sequences: Num = 1
    data: Num = 1
    zero: Literal[0, 1, 2, 3] = static(0)
    recompute: Literal["none", "full"] = static("none")
    weight_bytes: Num = 2
    gradient_bytes: Num = 4
    optimizer_bytes: Num = 12
    activation_bytes: Num = 2
    compute: Compute = static("bf16")

    def __post_init__(self) -> None:
        if not isinstance(self.zero, int) or self.zero not in (0, 1, 2, 3):
            raise InvalidInput(f"zero must be 0, 1, 2 or 3, but is {self.zero!r}.")
        choose("recompute", self.recompute, ("none", "full"))
        choose("compute", self.compute, COMPUTE)
        for field in fields(self):
            value = getattr(self, field.name)
            if not field.metadata and not (field.name == "n_tokens" and value is None):
                check_number(field.name, value, zero=field.name.endswith("_bytes"))

    def tokens(self, shape: Shape) -> Num:
        """Return the training tokens of a model of this shape."""
        if self.n_tokens is not None:
            return self.n_tokens
        return self.tokens_per_param * count_params(shape, "paper")


@register
@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Tokens that a model serves in its life.

    Raises:
        InvalidInput: a number of tokens below 0.
    """

    prompt_tokens: Num
    generated_tokens: Num

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "generated_tokens"):
            check_number(name, getattr(self, name), zero=True)


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
