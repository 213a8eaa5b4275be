"""Whole models, timed as `scalesim.model.generate` runs them: one prompt, and the tokens after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.calibration import Timing
from scalesim.errors import InvalidInput
from scalesim.measure.clock import Timer, ahead, best_of
from scalesim.model import (
    ModelOptions,
    ServingParams,
    decode,
    empty_cache,
    extend,
    init_params,
    serving_params,
)
from scalesim.shape import Shape
from scalesim.workload import Workload

__all__ = ["decode_seconds", "prefill_seconds", "time_models"]

_ENOUGH = 20e-3  # seconds of decoding that tell a step's time
_FEW, _MOST = 4, 64  # tokens of the two timings whose difference is a step's time


def _params(shape: Shape, options: ModelOptions) -> Any:
    """Return the compiled program that makes a model's tensors."""

    def make() -> ServingParams:
        return serving_params(init_params(shape, jax.random.key(0)), shape, options)

    return jax.jit(make).lower().compile()


def prefill_seconds(
    shape: Shape, context: int, options: ModelOptions | None = None, *, batch_size: int = 1
) -> float:
    """Return the seconds from a prompt of `context` tokens to the logits after it, the cache filled.

    >>> shape = Shape(n_layer=1, d_model=16, n_head=2, n_kv_head=1, head_dim=8, d_ff=32, vocab_size=64)
    >>> 0 < prefill_seconds(shape, 16) < 10
    True
    """
    return _prefill_timer(shape, context, options or ModelOptions(), batch_size)()


def _prefill_timer(shape: Shape, context: int, options: ModelOptions, batch_size: int = 1) -> Timer:
    def prefill(params: ServingParams, prompt: jax.Array) -> Any:
        return extend(params, empty_cache(shape, context, batch_size, options), 0, prompt, shape, options)

    sizes = jax.ShapeDtypeStruct((batch_size, context), jnp.int32)
    made = _params(shape, options)
    compiled = jax.jit(prefill).lower(made.out_info, sizes).compile()

    def seconds() -> float:
        params, prompt = made(), jnp.zeros(sizes.shape, sizes.dtype)
        return best_of(lambda: compiled(params, prompt), longest=2.0)

    return seconds


def decode_seconds(
    shape: Shape, context: int, options: ModelOptions | None = None, *, batch_size: int = 1
) -> float:
    """Return the seconds of one more token of each sequence, at the end of `context` tokens.

    The difference of two runs of the loop of `generate`, over that of their tokens: what a call costs
    beyond its tokens is not in it. The cache is donated, and so written in place.

    Raises:
        InvalidInput: a context too short to decode eight tokens in.

    >>> shape = Shape(n_layer=1, d_model=16, n_head=2, n_kv_head=1, head_dim=8, d_ff=32, vocab_size=64)
    >>> 0 < decode_seconds(shape, 16) < 10
    True
    """
    return _decode_timer(shape, context, options or ModelOptions(), batch_size)()


def _decode_timer(shape: Shape, context: int, options: ModelOptions, batch_size: int = 1) -> Timer:
    if context < 2 * _FEW:
        raise InvalidInput(f"context must be {2 * _FEW} or more to time decoding, but is {context}.")
    key = jax.random.key(0)

    def several(n_tokens: int) -> Any:
        @partial(jax.jit, donate_argnums=1)
        def run(params: ServingParams, cache: Any, logits: jax.Array) -> Any:
            return decode(
                params, cache, logits, context - n_tokens, n_tokens, shape, options, key=key, temperature=0.0
            )

        cache = jax.eval_shape(partial(empty_cache, shape, context, batch_size, options))
        logits = jax.ShapeDtypeStruct((batch_size, shape.vocab_size), jnp.float32)
        return run.lower(made.out_info, cache, logits).compile()

    made = _params(shape, options)
    few = several(_FEW)
    # On an accelerator a step takes far less than a program's compilation, and all is compiled ahead.
    most = several(min(_MOST + _FEW, context)) if jax.default_backend() != "cpu" else None

    def seconds() -> float:
        params, cache = made(), [empty_cache(shape, context, batch_size, options)]
        logits = jnp.zeros((batch_size, shape.vocab_size), jnp.float32)

        def best(program: Any) -> float:
            def once() -> jax.Array:
                cache[0], tokens = program(params, cache[0], logits)
                return tokens

            return best_of(once, longest=1.0)

        begun = best(few)
        wanted = _MOST if most is not None else int(np.clip(_ENOUGH * _FEW / begun, _FEW, _MOST))
        more = min(wanted, context - _FEW)
        return max(best(several(_FEW + more) if most is None else most) - begun, 1e-9) / more

    return seconds


def call_seconds(dtype: str) -> float:
    """Return the seconds of calling a compiled program with a small model's tensors doing next to nothing."""
    shape = Shape(n_layer=4, d_model=8, n_head=1, n_kv_head=1, head_dim=8, d_ff=8, vocab_size=8)
    params = _params(shape, ModelOptions(dtype=dtype))()  # type: ignore[arg-type]
    compiled = jax.jit(lambda params: jax.tree.map(lambda x: x.reshape(-1)[:1], params))
    return best_of(lambda: compiled(params))


def time_models(
    shapes: Sequence[Shape],
    contexts: Sequence[int],
    dtype: str,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Timing]:
    """Yield prefill and decode of each shape at each context, alone in a batch, as `calibrate` takes them."""
    options = ModelOptions(dtype=dtype)  # type: ignore[arg-type]
    bits = 8 * jnp.dtype(dtype).itemsize
    asked = [
        (shape, context, what, timer)
        for shape in shapes
        for context in contexts
        for what, timer in (("ttft", _prefill_timer), ("tpot", _decode_timer))
    ]
    compiled = ahead(partial(timer, shape, context, options) for shape, context, _, timer in asked)
    for (shape, context, what, _), timer in zip(asked, compiled, strict=True):
        if progress is not None:
            progress(f"{shape.n_layer} x {shape.d_model} at {context} tokens")
        job = Workload(context_length=context, weight_bits=bits, activation_bits=bits, kv_bits=bits)
        yield Timing(shape=shape, workload=job, seconds=timer()(), what=what)
