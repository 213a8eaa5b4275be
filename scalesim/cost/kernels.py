"""How long one kernel takes: smooth rooflines whose constants were fitted to measured kernels.

Each is t = fixed + || compute time, memory time, ... ||_p: the p-norm turns the roofline's ridge into a
bend, so that gradients exist everywhere, and p itself is measured. All times are seconds. The forms were
chosen by their error on measurements held out of the fit (`experiments/hardware_constants.py`).
"""

from __future__ import annotations

import jax.numpy as jnp

from scalesim.efficiency import DecodeConstants, GemmConstants, PrefillConstants
from scalesim.types import Num

__all__ = ["decode_attention_time", "gemm_time", "p_norm", "prefill_attention_time"]

_US = 1e-6
_LONG = 200.0  # cached tokens beyond which decode kernels split a head's cache over several blocks


def p_norm(p: Num, *times: Num) -> Num:
    """Return (sum of t_i^p)^(1/p), at least the largest and at most the sum of `times` for p >= 1.

    Scaled by the sum first, so that neither very short nor very long times leave the range of a float.

    >>> round(float(p_norm(2.0, 3.0, 4.0)), 6)
    5.0
    """
    whole = sum(times) + 1e-30
    # exp(p log x) rather than x**p: the same number, but compiled to vector instructions on a CPU.
    powers = sum(jnp.exp(p * jnp.log(jnp.maximum(t / whole, 1e-18))) for t in times)
    return whole * jnp.exp(jnp.log(powers) / p)


def gemm_time(
    flops: Num,
    n_bytes: Num,
    depth: Num,
    peak: Num,
    bandwidth: Num,
    c: GemmConstants,
    *,
    packed: Num = 0.0,
    launch: Num = 1.0,
) -> Num:
    """Return the seconds of a matrix product of `flops` that moves `n_bytes`, its inner dimension `depth`.

    t = launch + depth_us k^depth_exponent + || flops (1 + fill / k) / (compute peak),
    (bytes + packing packed + latency_bytes) / (share bandwidth) ||_p, with k the depth.

    Args:
        flops: 2 m n k.
        n_bytes: of both inputs and the result.
        depth: k.
        peak: FLOP/s.
        bandwidth: bytes/s.
        c: the measured constants.
        packed: bytes of the matrix that many rows share, times 1 - 1 / rows.
        launch: share of the fixed times that counts (graphs hide a part of them).
    """
    compute = flops * (1 + c.fill / depth) / (c.compute * peak)
    memory = (n_bytes + c.packing * packed + c.latency_bytes) / (c.bandwidth * bandwidth)
    chain = c.depth_us * jnp.exp(c.depth_exponent * jnp.log(depth * 1.0))
    return launch * (c.launch_us + chain) * _US + p_norm(c.sharpness, compute, memory)


def decode_attention_time(
    batch: Num,
    length: Num,
    n_head: Num,
    n_kv_head: Num,
    head_dim: Num,
    peak: Num,
    bandwidth: Num,
    c: DecodeConstants,
    *,
    kv_bytes: Num = 2.0,
    activation_bytes: Num = 2.0,
    caches: Num = 2.0,
    flops: Num | None = None,
    launch: Num = 1.0,
) -> Num:
    """Return the seconds of attention of one new token to `length` cached ones, in one layer.

    The cache is read once whatever n_head is, but the bandwidth reached falls with the group size
    g = n_head / n_kv_head: t = launch + split T / (T + 200) + || bytes (1 + log(g) / group_scale) /
    (share bandwidth), serial T g^-serial_exponent, (flops (1 + head_pad / head_dim) + unpack values) /
    (compute peak) ||_p.

    Args:
        batch: sequences.
        length: cached tokens T that are attended to.
        n_head, n_kv_head, head_dim: heads on this device.
        peak, bandwidth: FLOP/s and bytes/s.
        c: the measured constants.
        kv_bytes, activation_bytes: bytes a value.
        caches: values read per KV head, token and unit of head_dim: 2 for K and V, 1 for a latent cache.
        flops: 4 batch T n_head head_dim unless given.
        launch: share of the fixed times that counts.
    """
    group = n_head / n_kv_head
    # A head's cache is read in tiles: what is shorter than one costs as much.
    values = jnp.sqrt(jnp.square(length * head_dim) + jnp.square(c.tile))
    values = caches * batch * n_kv_head * values
    read = kv_bytes * values * (1 + jnp.log(group) / c.group_scale)
    queries = activation_bytes * 2.0 * batch * n_head * head_dim
    memory = (read + c.query_weight * queries) / (c.bandwidth * bandwidth)
    serial = c.serial_us * _US * length * jnp.exp(-c.serial_exponent * jnp.log(group))
    work = 4.0 * batch * length * n_head * head_dim if flops is None else flops
    work = work * (1 + c.head_pad / head_dim) + c.unpack * values
    fixed = c.launch_us + c.split_us * length / (length + _LONG)
    return launch * fixed * _US + p_norm(c.sharpness, memory, serial, work / (c.compute * peak))


def prefill_attention_time(
    batch: Num,
    new: Num,
    span: Num,
    n_head: Num,
    n_kv_head: Num,
    head_dim: Num,
    peak: Num,
    bandwidth: Num,
    c: PrefillConstants,
    *,
    longest: Num,
    kv_bytes: Num = 2.0,
    activation_bytes: Num = 2.0,
    launch: Num = 1.0,
) -> Num:
    """Return the seconds of attention of `new` tokens a sequence, in one layer.

    t = launch + || 4 batch rows (span + span_pad) (head_dim + head_pad) (1 + reload / g) / (compute peak),
    bytes / (share bandwidth), serial longest (head_dim / 128)^serial_exponent ||_p, with
    rows = n_kv_head sqrt((g new)^2 + tile_rows^2) and g = n_head / n_kv_head.

    Args:
        batch: sequences.
        new: tokens whose queries are computed.
        span: positions that one of them attends to, on average.
        n_head, n_kv_head, head_dim: heads on this device.
        peak, bandwidth: FLOP/s and bytes/s.
        c: the measured constants.
        longest: positions that the last of them attends to.
        kv_bytes, activation_bytes: bytes a value.
        launch: share of the fixed time that counts.
    """
    group = n_head / n_kv_head
    rows = n_kv_head * jnp.sqrt(jnp.square(new * group) + jnp.square(c.tile_rows))
    work = 4.0 * batch * rows * (span + c.span_pad) * (head_dim + c.head_pad) * (1 + c.reload / group)
    moved = batch * head_dim * (activation_bytes * 2 * new * n_head + kv_bytes * 2 * longest * n_kv_head)
    serial = c.serial_us * _US * longest * jnp.exp(c.serial_exponent * jnp.log(head_dim / 128.0))
    return launch * c.launch_us * _US + p_norm(
        c.sharpness, work / (c.compute * peak), moved / (c.bandwidth * bandwidth), serial
    )
