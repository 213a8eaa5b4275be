"""What each form predicts for a table of kernels: columns of sizes, brought to the form's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.constants import (
    FORMATS,
    CollectiveConstants,
    DecodeConstants,
    DeltaConstants,
    ExpertConstants,
    GemmConstants,
    LatentDecodeConstants,
    LatentPrefillConstants,
    PrefillConstants,
    kind_class,
)
from scalesim.cost.block_kernels import (
    collective_time,
    delta_time,
    experts_time,
    fullest_experts,
    latent_decode_time,
    latent_prefill_time,
)
from scalesim.cost.flops import attended_pairs
from scalesim.cost.kernels import decode_attention_time, gemm_time, prefill_attention_time
from scalesim.errors import choose
from scalesim.hardware import Hardware

__all__ = ["ENDLESS", "Machine", "Table", "kernel_seconds", "machine_of"]

Table = Mapping[str, np.ndarray]

ENDLESS = 1e9
"""A window that is none."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the forms need to know of a machine.

    Attributes:
        peak: FLOP/s.
        bandwidth: bytes a second at which n bytes that are read over and over come.
        value_bytes: bytes a value of all operands.
        kv_bytes: bytes a value of the KV cache (value_bytes if left out).
        base_peak: FLOP/s of attention, where products have another (peak if left out).
        link: bytes a second between accelerators, one way.
    """

    peak: float
    bandwidth: Callable[[Any], Any]
    value_bytes: float = 2.0
    kv_bytes: float | None = None
    base_peak: float | None = None
    link: float | None = None


def machine_of(hardware: Hardware, kind: str, format: str) -> Machine:
    """Return what the forms need to know of hardware for a kind and a format, as `KernelRows` names them.

    Raises:
        InvalidInput: the hardware has no matrix units for that format, or states no interconnect.
    """
    if kind_class(kind) == "collective":
        link = 1e9 * hardware.need("interconnect_gbs")
        return Machine(peak=1.0, bandwidth=lambda _: hardware.bandwidth, link=link)
    base = hardware.peak_flops("bf16")
    if kind.startswith("latent"):
        weights, kv = format.split("/")[:2]
        compute, size = FORMATS[weights]
        return Machine(
            peak=hardware.peak_flops(compute),
            bandwidth=lambda _: hardware.bandwidth,
            value_bytes=size,
            kv_bytes=FORMATS[kv].weight_bytes,
            base_peak=base,
        )
    if kind in ("decode", "prefill"):
        kv_bytes = FORMATS[format].weight_bytes
        return Machine(peak=base, bandwidth=lambda _: hardware.bandwidth, kv_bytes=kv_bytes)
    compute, size = FORMATS[format or "bf16"]
    return Machine(
        peak=hardware.peak_flops(compute), bandwidth=lambda _: hardware.bandwidth, value_bytes=size
    )


def kernel_seconds(kind: str, table: Table, machine: Machine, constants: Any) -> jax.Array:
    """Return the seconds that a form predicts for the rows of a table.

    Args:
        kind: "gemm" (columns m, n, k: [m, k] x [k, n]), "gemm pair" (the same, and its result times
            [n, k]), "batched gemm" (and products: so many of them), "decode" (batch, length, n_head,
            n_kv_head, head_dim; layers, if caches of several are read in turn; window), "prefill" (batch,
            new, n_head, n_kv_head, head_dim; window, if there is one), "latent decode" and "latent prefill"
            (batch, new, past, n_head), "experts" (tokens, d_model, d_ff, top_k, n_expert, devices, matrices,
            skew), "delta convolution", "delta convolution step", "delta rule", "delta rule step" (batch,
            length, n_key, n_value), "all-reduce", "nccl all-reduce", "nccl all-gather", "nccl reduce-scatter"
            or "nccl all-to-all" (devices, n_bytes; host, the share of the call that is waited for).
        table: the columns.
        machine: where.
        constants: of that kind.
    """
    return _FORMS[choose("kind", kind, _FORMS)](table, machine, constants)


def _reached(machine: Machine, c: Any, n_bytes: Any, steepness: float = 8.0) -> Any:
    """Bytes a second at which a kernel's operands come when it runs over and over."""
    bandwidth = machine.bandwidth(n_bytes)
    if c.cache_mb is None:
        return bandwidth
    hit = jax.nn.sigmoid(-steepness * jnp.log(n_bytes / (1e6 * c.cache_mb)))
    return bandwidth / (1 - hit * c.cache_share)


def _gemm(t: Table, machine: Machine, c: GemmConstants) -> jax.Array:
    m, n, k, size = t["m"], t["n"], t["k"], machine.value_bytes
    result = max(size, 2.0)  # what is computed in a narrow format is written in two bytes
    moved = size * (m * k + k * n) + result * m * n
    # What a cache holds from one run to the next is the matrix: activations pass by (measured on an L40S).
    held = size * k * n if c.cache_mb is None else size * k * n + _PASSING * (size * m * k + result * m * n)
    bandwidth = _reached(machine, c, held)
    packed = size * k * n * (1 - 1 / m)
    more = {"packed": packed, "rows": m, "value_bytes": size, "ragged": 1.0 * (jnp.round(m) % 4 != 0)}
    return gemm_time(2 * m * n * k, moved, k, machine.peak, bandwidth, c, **more)


_PASSING = 0.15  # of a byte of activations, beside one of a matrix, in what a cache must hold


def _pair(t: Table, machine: Machine, c: GemmConstants) -> jax.Array:
    """[m, k] x [k, n] and [m, n] x [n, k], one after the other, on two matrices."""
    both = machine.bandwidth(2 * machine.value_bytes * t["k"] * t["n"])
    there = replace(machine, bandwidth=lambda _: both)
    return _gemm(t, there, c) + _gemm({**t, "n": t["k"], "k": t["n"]}, there, c)


def _batched(t: Table, machine: Machine, c: GemmConstants) -> jax.Array:
    m, n, k, size = t["m"], t["n"], t["k"], machine.value_bytes
    moved = t["products"] * size * (m * k + k * n + m * n)
    bandwidth = _reached(machine, c, moved)
    return gemm_time(2 * t["products"] * m * n * k, moved, k, machine.peak, bandwidth, c)


def _decode(t: Table, machine: Machine, c: DecodeConstants) -> jax.Array:
    heads, size = (t["n_head"], t["n_kv_head"], t["head_dim"]), machine.value_bytes
    kv = machine.kv_bytes or size
    cached = 2 * kv * t["batch"] * t["length"] * t["n_kv_head"] * t["head_dim"]
    # What does not fit is read in turn, and nothing of it is found again.
    bandwidth = _reached(machine, c, cached * t.get("layers", 1), steepness=24.0)
    windowed = t["window"] < ENDLESS if "window" in t else 0.0
    again = bandwidth if c.cache_share is None else machine.bandwidth(cached) / (1 - c.cache_share)
    bits = {"kv_bytes": kv, "activation_bytes": size, "windowed": 1.0 * windowed, "reload_bandwidth": again}
    return decode_attention_time(t["batch"], t["length"], *heads, machine.peak, bandwidth, c, **bits)


def _prefill(t: Table, machine: Machine, c: PrefillConstants) -> jax.Array:
    new, heads, size = t["new"], (t["n_head"], t["n_kv_head"], t["head_dim"]), machine.value_bytes
    kv = machine.kv_bytes or size
    window, past = t.get("window", np.full(len(new), ENDLESS)), t.get("past", np.zeros(len(new)))
    span = attended_pairs(new, past, window=window) / new
    longest = jnp.minimum(new + past, window)
    moved = t["batch"] * t["head_dim"] * (2 * size * new * t["n_head"] + 2 * kv * longest * t["n_kv_head"])
    bandwidth = _reached(machine, c, moved)
    bits = {"kv_bytes": kv, "activation_bytes": size, "windowed": 1.0 * (window < ENDLESS)}
    return prefill_attention_time(
        t["batch"], new, span, *heads, machine.peak, bandwidth, c, longest=longest, **bits
    )


# The latent attention that public tables measure is DeepSeek-V3's, with fewer heads.
_LATENT = (7168.0, 1536.0, 512.0, 64.0, 128.0, 128.0)


def _latent_decode(t: Table, machine: Machine, c: LatentDecodeConstants) -> jax.Array:
    length, peaks = t["past"] + t["new"], (machine.peak, machine.base_peak or machine.peak)
    bandwidth = _reached(machine, c, 1152.0 * t["batch"] * length)
    bits = {"value_bytes": machine.value_bytes, "kv_bytes": machine.kv_bytes or machine.value_bytes}
    parts = latent_decode_time(t["batch"], length, t["n_head"], _LATENT, peaks, bandwidth, c, **bits)
    return jnp.asarray(sum(parts.values()))


def _latent_prefill(t: Table, machine: Machine, c: LatentPrefillConstants) -> jax.Array:
    peaks, size = (machine.peak, machine.base_peak or machine.peak), machine.value_bytes
    bandwidth = _reached(machine, c, 2.0 * t["batch"] * t["new"] * 7168.0)
    where = (t["batch"], t["new"], t["past"], t["n_head"])
    parts = latent_prefill_time(*where, _LATENT, peaks, bandwidth, c, value_bytes=size)
    return jnp.asarray(sum(parts.values()))


def _experts(t: Table, machine: Machine, c: ExpertConstants) -> jax.Array:
    more = {name: t[name] for name in ("matrices", "devices", "skew")}
    sizes = (t["tokens"], t["d_model"], t["d_ff"], t["top_k"], t["n_expert"])
    visited = fullest_experts(t["tokens"], t["top_k"], t["n_expert"], c, devices=t["devices"], skew=t["skew"])
    weights = machine.value_bytes * t["matrices"] * t["d_model"] * t["d_ff"] * visited
    bandwidth = _reached(machine, c, weights)
    return experts_time(*sizes, machine.peak, bandwidth, c, weight_bytes=machine.value_bytes, **more)


def _delta(kind: str) -> Callable[[Table, Machine, Any], jax.Array]:
    kernel = kind.removeprefix("delta ")

    def seconds(t: Table, machine: Machine, c: DeltaConstants) -> jax.Array:
        sizes = (t["batch"], t["length"], t["n_key"], t["n_value"])
        moved = t["batch"] * t["length"] * (2 * t["n_key"] + t["n_value"]) * 512.0
        if kernel == "rule step":
            moved = t["batch"] * t["n_value"] * 131072.0
        return delta_time(kernel, *sizes, machine.peak, _reached(machine, c, moved), c)

    return seconds


def _collective(rounds: float) -> Callable[[Table, Machine, Any], jax.Array]:
    def seconds(t: Table, machine: Machine, c: CollectiveConstants) -> jax.Array:
        assert machine.link is not None
        return collective_time(t["n_bytes"], t["devices"], machine.link, c, rounds=rounds, host=t["host"])

    return seconds


_FORMS: dict[str, Callable[[Table, Machine, Any], jax.Array]] = {
    "gemm": _gemm,
    "gemm pair": _pair,
    "batched gemm": _batched,
    "decode": _decode,
    "prefill": _prefill,
    "latent decode": _latent_decode,
    "latent prefill": _latent_prefill,
    "experts": _experts,
    **{f"delta {k}": _delta(k) for k in ("convolution", "convolution step", "rule", "rule step")},
    "all-reduce": _collective(2.0),
    "nccl all-reduce": _collective(2.0),
    **{f"nccl {k}": _collective(1.0) for k in ("all-gather", "reduce-scatter", "all-to-all")},
}
