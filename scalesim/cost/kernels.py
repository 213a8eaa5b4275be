"""How long one kernel takes: smooth rooflines whose constants were fitted to measured kernels.

Each is t = fixed + || compute time, memory time, ... ||_p: the p-norm turns the roofline's ridge into a
bend, so that gradients exist everywhere, and p itself is measured. All times are seconds. The forms were
chosen by their error on measurements held out of the fit (`experiments/hardware_constants.py`).
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from scalesim.constants import DecodeConstants, GemmConstants, PrefillConstants
from scalesim.types import Num

__all__ = ["decode_attention_time", "gemm_time", "p_norm", "prefill_attention_time"]

_US = 1e-6
_PI_BY_LOG_2 = math.pi / math.log(2.0)
_ASIDE = 8.0  # exponent of the p-norm of a kernel and the calls beside it
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


def _odd(head_dim: Num) -> Num:
    """0 for powers of two, 1 half way between them (in the logarithm): such heads are padded."""
    return jnp.square(jnp.sin(_PI_BY_LOG_2 * jnp.log(head_dim * 1.0)))


def _wide(head_dim: Num) -> Num:
    """Grows from 0 as heads leave the sizes that kernels are made for."""
    return jnp.log1p(jnp.square(jnp.square(head_dim / 256.0)))


def _by_head(c: DecodeConstants | PrefillConstants, head_dim: Num) -> Num:
    """How many times as long a head of that size takes as its values alone would."""
    factor: Num = 1.0
    if c.wide is not None:
        factor = factor + c.wide * _wide(head_dim)
    if c.odd is not None:
        factor = factor + c.odd * _odd(head_dim)
    return factor


def _calls(c: GemmConstants, rows: Num, depth: Num, columns: Num, ragged: Num) -> Num:
    """Microseconds of the calls around a product; steps a factor of two wide between kinds of calls."""
    out: Num = c.host_us
    if c.host_rows_us is not None:
        out = out + c.host_rows_us / (1 + jnp.exp(-6 * jnp.log(rows / 24.0)))
    if c.host_part_us is not None:
        narrow = (depth / 90.0) ** -6.0 + (columns / 45.0) ** -6.0
        out = out + c.host_part_us * narrow / (1 + narrow)
    if c.host_ragged_us is not None:
        out = out + c.host_ragged_us * ragged
    return out


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
    host: Num = 1.0,
    rows: Num | None = None,
    value_bytes: Num = 2.0,
    ragged: Num = 0.75,
) -> Num:
    """Return the seconds of a matrix product of `flops` that moves `n_bytes`, its inner dimension `depth`.

    t = launch + depth_us k^depth_exponent + || flops (1 + fill / k) / (compute peak),
    (bytes + packing packed + latency_bytes) / (share bandwidth), serial k m / (m + serial_rows) ||_p
    + quantise_us + (2 + value_bytes) m (k + quantise_width) / (quantise bandwidth), with k the depth; the
    last two and `serial` where the constants state them: a format that activations are rounded to first.
    Where calls are stated too, || t, host calls ||_8: the device works while the host calls.

    Args:
        flops: 2 m n k.
        n_bytes: of both inputs and the result.
        depth: k.
        peak: FLOP/s.
        bandwidth: bytes/s.
        c: the measured constants.
        packed: bytes of the matrix that many rows share, times 1 - 1 / rows.
        launch: share of the fixed times that counts (graphs hide a part of them).
        host: share of the calls' time that counts.
        rows: m; needed where the constants have a serial part or round activations.
        value_bytes: bytes a value of the format that activations are rounded to.
        ragged: share of products whose rows are no multiple of four.
    """
    compute = flops * (1 + c.fill / depth) / (c.compute * peak)
    memory = (n_bytes + c.packing * packed + c.latency_bytes) / (c.bandwidth * bandwidth)
    times = [compute, memory]
    chain = c.depth_us * jnp.exp(c.depth_exponent * jnp.log(depth * 1.0))
    fixed = c.launch_us + chain
    before: Num = 0.0
    if c.serial_ns is not None and c.serial_rows is not None:
        assert rows is not None
        times.append(1e-9 * c.serial_ns * depth * rows / (rows + c.serial_rows))
    if c.quantise is not None and c.quantise_width is not None and c.quantise_us is not None:
        assert rows is not None
        fixed = fixed + c.quantise_us
        before = (2 + value_bytes) * rows * (depth + c.quantise_width) / (c.quantise * bandwidth)
    time = launch * fixed * _US + before + p_norm(c.sharpness, *times)
    if c.host_us is None:
        return time
    assert rows is not None
    # The device works while the host calls: what takes longer counts.
    calls = host * _US * _calls(c, rows, depth, flops / (2 * rows * depth), ragged)
    return p_norm(_ASIDE, time, calls + 1e-9)


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
    windowed: Num = 0.0,
    reload_bandwidth: Num | None = None,
) -> Num:
    """Return the seconds of attention of one new token to `length` cached ones, in one layer.

    The cache is read once whatever n_head is, but the bandwidth reached falls with the group size
    g = n_head / n_kv_head: t = launch + split T / (T + 200) + window_us + regroup + joining + by_head ||
    bytes (1 + log(g) / group_scale) / (share bandwidth), serial T (head_dim / 128) g^-serial_exponent,
    (flops (1 + head_pad / head_dim) + unpack values) / (compute peak) ||_p, with
    by_head = 1 + wide log(1 + (head_dim / 256)^4) + odd sin^2(pi log2 head_dim),
    regroup = regroup_us (1 - g^-3) (1 - n_kv_head^-3), joining = combine_us S + second_us S^4 / (S^4 + 4) and
    S^-2 = (batch n_kv_head / parts)^2 + (part / (T head_dim))^2 the parts of one cache. A windowed layer is
    not joined or regrouped to the degree w = window_reload: its bytes and FLOPs grow by w (g - 1).

    Args:
        batch: sequences.
        length: cached tokens T that are attended to.
        n_head, n_kv_head, head_dim: heads on this device.
        peak, bandwidth: FLOP/s and bytes/s.
        c: the measured constants, of the cache's format.
        kv_bytes, activation_bytes: bytes a value.
        caches: values read per KV head, token and unit of head_dim: 2 for K and V, 1 for a latent cache.
        flops: 4 batch n_kv_head sqrt(g^2 + group_tile^2) sqrt((T head_dim)^2 + part^2) unless given.
        launch: share of the fixed times that counts.
        windowed: 1 where the layer has a sliding window.
        reload_bandwidth: bytes/s at which a cache comes again (bandwidth, or the last cache's, if left out).
    """
    group = n_head / n_kv_head
    # How far each query head of a windowed layer is computed by itself, and how far in one piece.
    single: Num = 0.0 if c.window_reload is None else windowed * c.window_reload
    again = reload_bandwidth
    if again is None:
        again = bandwidth if c.cache_share is None else bandwidth / (1 - c.cache_share)
    # A head's cache is read, and computed, in tiles: what is shorter than one costs as much.
    values = caches * batch * n_kv_head * jnp.sqrt(jnp.square(length * head_dim) + jnp.square(c.tile))
    tiles = length * head_dim
    if c.part is not None:
        tiles = jnp.sqrt(jnp.square(tiles) + jnp.square(c.part))
    read = kv_bytes * values * (1 + jnp.log(group) / c.group_scale)
    queries = activation_bytes * 2.0 * batch * n_head * head_dim
    memory = (read + c.query_weight * queries) / (c.bandwidth * bandwidth)
    memory = memory + kv_bytes * values * single * (group - 1) / (c.bandwidth * again)
    whole = single + (1 - single) * jnp.exp(-c.serial_exponent * jnp.log(group))
    serial = c.serial_us * _US * length * (head_dim / 128.0) * whole
    rows = n_head
    if c.group_tile is not None:
        rows = n_kv_head * jnp.sqrt(jnp.square(group) + jnp.square(c.group_tile))
        rows = rows * (1 + single * (group - 1))
    work = 4.0 * batch * tiles * rows if flops is None else flops
    work = work * (1 + c.head_pad / head_dim) + c.unpack * values
    fixed = c.launch_us + c.split_us * length / (length + _LONG)
    if c.window_us is not None:
        fixed = fixed + c.window_us * windowed
    if c.regroup_us is not None:
        fixed = fixed + c.regroup_us * (1 - windowed) * (1 - group**-3.0) * (1 - n_kv_head**-3.0)
    if c.combine_us is not None and c.second_us is not None and c.parts is not None and c.part is not None:
        most = jnp.square(batch * n_kv_head / c.parts) + jnp.square(c.part / (length * head_dim))
        fixed = fixed + (1 - single) * (c.combine_us / jnp.sqrt(most) + c.second_us / (1 + 4 * most * most))
    long = p_norm(c.sharpness, memory, serial, work / (c.compute * peak))
    return launch * fixed * _US + long * _by_head(c, head_dim)


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
    windowed: Num = 0.0,
) -> Num:
    """Return the seconds of attention of `new` tokens a sequence, in one layer.

    t = launch + prompt_us n / (n + prompt_rows) + window_us + || 4 batch rows (span + span_pad
    (1 + reload / g)) (head_dim + head_pad) by_head / (compute peak), bytes / (share bandwidth),
    serial longest (head_dim / 128)^serial_exponent ||_p, with g = n_head / n_kv_head,
    rows = n_head / q (sqrt((q new)^2 + tile_rows^2) + part_rows), q = g^(1 - apart (1 - new^-2)) and
    by_head = 1 + wide log(1 + (head_dim / 256)^4) + odd sin^2(pi log2 head_dim).

    Args:
        batch: sequences.
        new: tokens whose queries are computed.
        span: positions that one of them attends to, on average.
        n_head, n_kv_head, head_dim: heads on this device.
        peak, bandwidth: FLOP/s and bytes/s.
        c: the measured constants, of the cache's format.
        longest: positions that the last of them attends to.
        kv_bytes, activation_bytes: bytes a value.
        launch: share of the fixed time that counts.
        windowed: 1 where the layer has a sliding window.
    """
    group = n_head / n_kv_head
    packed = group
    if c.apart is not None:
        # Kernels for prompts compute each query head by itself; a single token is decoded, heads together.
        packed = jnp.exp((1 - c.apart * (1 - 1 / jnp.square(new * 1.0))) * jnp.log(group))
    rows = jnp.sqrt(jnp.square(new * packed) + jnp.square(c.tile_rows))
    if c.part_rows is not None:
        rows = rows + c.part_rows
    padded = span + c.span_pad * (1 + c.reload / group)
    work = 4.0 * batch * (n_head / packed) * rows * padded * (head_dim + c.head_pad) * _by_head(c, head_dim)
    moved = batch * head_dim * (activation_bytes * 2 * new * n_head + kv_bytes * 2 * longest * n_kv_head)
    serial = c.serial_us * _US * longest * jnp.exp(c.serial_exponent * jnp.log(head_dim / 128.0))
    fixed = c.launch_us
    if c.prompt_us is not None and c.prompt_rows is not None:
        fixed = fixed + c.prompt_us * new / (new + c.prompt_rows)
    if c.window_us is not None:
        fixed = fixed + c.window_us * windowed
    return launch * fixed * _US + p_norm(
        c.sharpness, work / (c.compute * peak), moved / (c.bandwidth * bandwidth), serial
    )
