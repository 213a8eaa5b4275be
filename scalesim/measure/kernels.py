"""The kernels that the cost model prices, timed on the default device: what is drawn, and what runs.

Each is timed in a loop whose turns depend on one another, as a model's layers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.measure.clock import Timer, loop_timer
from scalesim.model import ModelOptions, attend_cached
from scalesim.model.attention import EVERYWHERE, attend, rope, rope_tables
from scalesim.model.mixing import Projected, rms_norm

__all__ = ["CASES", "TIMERS", "Limits", "read_timer"]

Case = dict[str, int]


@dataclass(frozen=True)
class Limits:
    """What a kernel may take: an estimate of its time, from rates known so far, keeps the sizes in bounds.

    Attributes:
        peak, bandwidth: FLOP/s and bytes/s, roughly.
        seconds: no kernel that is estimated to take longer is drawn.
        value_bytes: bytes a value.
    """

    peak: float
    bandwidth: float
    seconds: float
    value_bytes: float

    def estimate(self, flops: float, values: float) -> float:
        """Return seconds at the rates known."""
        return flops / self.peak + self.value_bytes * values / self.bandwidth + 1e-7


def _between(random: np.random.Generator, low: float, high: float, multiple: int = 1) -> int:
    """Draw evenly in the logarithm."""
    value = np.exp(random.uniform(np.log(low), np.log(high)))
    return max(multiple, multiple * round(float(value) / multiple))


def _gemms(random: np.random.Generator, limits: Limits) -> Iterator[Case]:
    """Products of every size that the limits allow, every other one with as few rows as decoding has."""
    few = False
    while True:
        few = not few
        m = _between(random, 1, 16) if few else _between(random, 17, 16384)
        k = _between(random, 32, 8192, 8)
        n = _between(random, max(32, k / 8), 8 * k, 8)  # a model's matrices are not much longer than wide
        if limits.estimate(4.0 * m * n * k, 2.0 * n * k) <= limits.seconds:
            yield {"m": m, "n": n, "k": k}


def _heads(random: np.random.Generator) -> Case:
    n_kv_head = int(random.choice([1, 2, 4, 8]))
    group = int(random.choice([1, 2, 4, 7, 8, 16]))
    return {
        "n_head": min(n_kv_head * group, 64 // n_kv_head * n_kv_head),
        "n_kv_head": n_kv_head,
        "head_dim": int(random.choice([8, 16, 32, 64, 128])),
    }


def _decodes(random: np.random.Generator, limits: Limits) -> Iterator[Case]:
    while True:
        heads, batch = _heads(random), int(random.choice([1, 1, 1, 4, 16]))
        length, layers = _between(random, 64, 131072), int(random.choice([1, 6]))
        if layers * limits.estimate(*_decode_work(batch, length, **heads)) <= limits.seconds:
            yield {"batch": batch, "length": length, "layers": layers, **heads}


def _decode_work(batch: int, length: int, n_head: int, n_kv_head: int, head_dim: int) -> tuple[float, float]:
    return 4.0 * batch * length * n_head * head_dim, 2.0 * batch * length * n_kv_head * head_dim


def _prefills(random: np.random.Generator, limits: Limits) -> Iterator[Case]:
    while True:
        heads, batch = _heads(random), int(random.choice([1, 1, 2]))
        new = _between(random, 32, 16384)
        if limits.estimate(_prefill_flops(batch, new, **heads), 0.0) <= limits.seconds:
            yield {"batch": batch, "new": new, **heads}


def _prefill_flops(batch: int, new: int, n_head: int, n_kv_head: int, head_dim: int) -> float:
    return 2.0 * batch * new**2 * n_head * (head_dim + 16.0)


def _layers(random: np.random.Generator, limits: Limits) -> Iterator[Case]:
    """What a layer does beside its products and attention, for one token or many."""
    few = False
    while True:
        few = not few
        tokens = 1 if few else _between(random, 2, 16384)
        width = _between(random, 32, 8192, 8)
        head_dim = int(random.choice([8, 16, 32, 64, 128]))
        n_kv_head = max(1, width // head_dim // 4)
        case = {"tokens": tokens, "d_model": width, "d_ff": 8 * max(1, round(width / 3))}
        if limits.estimate(0.0, 16.0 * tokens * width) <= limits.seconds:
            yield {**case, "n_head": 4 * n_kv_head, "n_kv_head": n_kv_head, "head_dim": head_dim}


CASES: dict[str, Callable[[np.random.Generator, Limits], Iterator[Case]]] = {
    "gemm": _gemms,
    "decode": _decodes,
    "prefill": _prefills,
    "layer": _layers,
}
"""For each kind of kernel, an endless draw of sizes within limits."""


def _values(*sizes: int, dtype: str, scale: float = 1.0) -> jax.Array:
    """Return an array of waves: constants would let a GPU draw less power than it does at work.

    It is made where it is needed: a cache of some GB would take long to be sent there.
    """
    phase = sum(
        (axis + 1.3) * jax.lax.broadcasted_iota(jnp.float32, sizes, axis) for axis in range(len(sizes))
    )
    return (2**0.5 * scale * jnp.sin(phase)).astype(dtype)


def _time_gemm(limits: Limits, dtype: str, *, m: int, n: int, k: int) -> Timer:
    """A pair, [m, k] x [k, n] and its result x [n, k]: the second turns the first's result back."""

    def make() -> Any:
        pair = _values(k, n, dtype=dtype, scale=k**-0.5), _values(n, k, dtype=dtype, scale=n**-0.5)
        return _values(m, k, dtype=dtype), pair

    estimate = limits.estimate(4.0 * m * n * k, 2.0 * n * k)
    return loop_timer(lambda x, pair: (x @ pair[0]) @ pair[1], make, estimate=estimate)


def _time_decode(
    limits: Limits,
    dtype: str,
    *,
    batch: int,
    length: int,
    layers: int,
    n_head: int,
    n_kv_head: int,
    head_dim: int,
) -> Timer:
    """One token's attention in one layer as the model has it, the writing of its key and value included.

    With several layers, each has its own cache: together they may leave the processor's, as a model's do.
    """
    options = ModelOptions(dtype=dtype)  # type: ignore[arg-type]
    sizes = (batch, length, n_kv_head, head_dim)

    def make() -> Any:
        caches = [(_values(*sizes, dtype=dtype), _values(*sizes, dtype=dtype)) for _ in range(layers)]
        return (_values(batch, 1, n_head, head_dim, dtype=dtype), caches), jnp.asarray(length - 1)

    def body(state: Any, past: Any) -> Any:
        q, caches = state
        kept = []
        for keys, values in caches:
            k = q[:, :, :n_kv_head]
            q, cache = attend_cached(Projected(q, k, k), keys, values, past, EVERYWHERE, options)
            kept.append(cache)
        return q, kept

    estimate = layers * limits.estimate(*_decode_work(batch, length, n_head, n_kv_head, head_dim))
    timer = loop_timer(body, make, estimate=estimate)
    return lambda: timer() / layers


def _time_prefill(
    limits: Limits, dtype: str, *, batch: int, new: int, n_head: int, n_kv_head: int, head_dim: int
) -> Timer:
    options = ModelOptions(dtype=dtype)  # type: ignore[arg-type]

    def make() -> Any:
        kv = [_values(batch, new, n_kv_head, head_dim, dtype=dtype) for _ in range(2)]
        return _values(batch, new, n_head, head_dim, dtype=dtype), kv

    def body(q: Any, kv: Any) -> Any:
        return attend(q, kv[0], kv[1], EVERYWHERE, options)

    estimate = limits.estimate(_prefill_flops(batch, new, n_head, n_kv_head, head_dim), 0.0)
    return loop_timer(body, make, estimate=estimate)


def _time_layer(
    limits: Limits,
    dtype: str,
    *,
    tokens: int,
    d_model: int,
    d_ff: int,
    n_head: int,
    n_kv_head: int,
    head_dim: int,
) -> Timer:
    """Norms, rotations, the gate and the residuals of one layer."""
    options = ModelOptions(dtype=dtype)  # type: ignore[arg-type]

    def make() -> Any:
        tables = rope_tables(jnp.arange(tokens), head_dim, options.rope_theta)
        state = (
            _values(1, tokens, d_model, dtype=dtype),
            _values(1, tokens, n_head, head_dim, dtype=dtype),
            _values(1, tokens, n_kv_head, head_dim, dtype=dtype),
            _values(1, tokens, d_ff, dtype=dtype),
        )
        return state, (tables, _values(d_model, dtype=dtype), _values(1, tokens, d_ff, dtype=dtype))

    def body(state: Any, operands: Any) -> Any:
        (x, q, k, gate), (tables, weight, up) = state, operands
        x = x + rms_norm(x, weight, options)
        # 1 keeps the gate away from ever smaller numbers, which processors are slow at.
        gate = jax.nn.silu(gate) * up + 1
        return x + rms_norm(x, weight, options), rope(q, tables), rope(k, tables), gate

    estimate = limits.estimate(0.0, 16.0 * tokens * d_model)
    return loop_timer(body, make, estimate=estimate)


TIMERS: dict[str, Callable[..., Timer]] = {
    "gemm": _time_gemm,
    "decode": _time_decode,
    "prefill": _time_prefill,
    "layer": _time_layer,
}
"""For each kind of kernel, TIMER(limits, dtype, **case): what gives the seconds of one."""


def read_timer(limits: Limits, dtype: str, width: int) -> Timer:
    """Return what times the reading of two square matrices of `width`: one row times each, in turn."""
    return _time_gemm(limits, dtype, m=1, n=width, k=width)
