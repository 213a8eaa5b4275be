"""How long the fused blocks take: routed experts, latent attention, delta nets, messages between devices.

The same smooth rooflines as `scalesim.cost.kernels`, of operators that an engine runs as one. All times are
seconds. The forms were chosen by their error on measurements held out of the fit
(`experiments/hardware_constants.py`).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from scalesim.constants import (
    CollectiveConstants,
    DeltaConstants,
    ExpertConstants,
    LatentDecodeConstants,
    LatentPrefillConstants,
)
from scalesim.cost.kernels import p_norm
from scalesim.types import Num

__all__ = [
    "SKEW",
    "collective_time",
    "delta_time",
    "experts_time",
    "fullest_experts",
    "latent_decode_time",
    "latent_prefill_time",
    "visited_experts",
]

_US = 1e-6

SKEW = 0.5
"""How skewed routing is: 0 where every expert has as many visits, 1 where they follow a power law."""


def visited_experts(tokens: Num, top_k: Num, n_expert: Num) -> Num:
    """Return how many of n_expert are visited by `tokens` that choose top_k each at random.

    n_expert (1 - (1 - top_k / n_expert)^tokens).
    """
    missed = jnp.log1p(-jnp.minimum(top_k / n_expert, 1 - 1e-6))
    return n_expert * -jnp.expm1(tokens * missed)


def fullest_experts(
    tokens: Num, top_k: Num, n_expert: Num, c: ExpertConstants, *, devices: Num = 1.0, skew: Num = SKEW
) -> Num:
    """Return how many experts are visited on the fullest of the devices: one at the least.

    Even routing visits as many as there are visits, up to all; skewed routing leaves a share `rest` alone and
    visits the others at random (`visited_experts`).
    """
    visits = tokens * top_k / n_expert
    even = n_expert * jnp.exp(-jnp.log1p(jnp.exp(-_FULL * jnp.log(visits))) / _FULL)
    share = jnp.minimum(skew, 1.0)
    at_random = visited_experts(tokens, top_k, n_expert * (1 - c.rest * share))
    visited = (even * (1 - share) + at_random * share) / devices
    return jnp.exp(jnp.log(visited**4 + (1 - 1 / devices)) / 4)


_FULL = 6.0  # how suddenly even visits have reached every expert


def experts_time(
    tokens: Num,
    d_model: Num,
    d_ff: Num,
    top_k: Num,
    n_expert: Num,
    peak: Num,
    bandwidth: Num,
    c: ExpertConstants,
    *,
    matrices: Num = 3.0,
    devices: Num = 1.0,
    skew: Num = SKEW,
    weight_bytes: Num = 2.0,
    launch: Num = 1.0,
) -> Num:
    """Return the seconds of a block of routed experts, on the fullest of the devices that hold them.

    t = launch + sort_us n_expert m / (m + sort_tokens) + 2 m top_k (visit_hidden d_model + visit_inner d_ff)
    / bandwidth + || 2 W rows (1 + fill / d_ff + fill_hidden / d_model) / (compute peak),
    (weight_bytes W visited + 4 inner visits (d_model + matrices d_ff)) / (share bandwidth) ||_p
    with m tokens, W = matrices d_model d_ff, visits = m top_k / devices (1 + skew (devices^skew_growth - 1)),
    one at the least, visited by `fullest_experts` and rows between visits + tile visited (skewed routing) and
    sqrt(visits^2 + (tile visited)^2) (even routing, which fills its tiles).

    Args:
        tokens: m, of all devices that share the experts together.
        d_model: width of the model.
        d_ff: width of one expert, on this device.
        top_k, n_expert: experts a token visits, and there are.
        peak, bandwidth: FLOP/s and bytes/s.
        c: the measured constants, of the weights' format.
        matrices: of one expert: 3 for a gated one.
        devices: over which the experts are split.
        skew: 0 where every expert has as many visits, else the exponent of the power law that they follow.
        weight_bytes: bytes a weight.
        launch: share of the fixed times that counts.
    """
    visited = fullest_experts(tokens, top_k, n_expert, c, devices=devices, skew=skew)
    apart = 1 - 1 / devices
    growth: Num = apart
    if c.skew_growth is not None:
        growth = jnp.expm1(c.skew_growth * jnp.log(devices * 1.0))
    visits = tokens * top_k / devices * (1 + c.skew * skew * growth)
    visits = jnp.sqrt(jnp.square(visits) + apart)
    # Even visits fill their tiles; others leave a part of each expert's last one empty.
    share = jnp.minimum(skew, 1.0)
    filled = jnp.sqrt(jnp.square(visits) + jnp.square(visited * c.tile))
    rows = (1 - share) * filled + share * (visits + visited * c.tile)
    weights = matrices * d_model * d_ff
    work = 2 * weights * rows * (1 + c.fill / d_ff + c.fill_hidden / d_model)
    moved = weight_bytes * weights * visited + 4 * c.inner * visits * (d_model + matrices * d_ff)
    passes = 2 * tokens * top_k * (c.visit_hidden * d_model + c.visit_inner * d_ff) / bandwidth
    fixed = c.launch_us + 1e-3 * c.sort_us * n_expert * tokens / (tokens + c.sort_tokens)
    long = p_norm(c.sharpness, work / (c.compute * peak), moved / (c.bandwidth * bandwidth))
    return launch * fixed * _US + passes + long


def _projection(
    tokens: Num, width: Num, depth: Num, peak: Num, bandwidth: Num, c: Any, value_bytes: Num
) -> Num:
    work = 2 * tokens * width * depth * (1 + c.fill / depth)
    moved = value_bytes * depth * (width + tokens) + 2 * tokens * width + c.latency_bytes
    return p_norm(2.0, work / (c.compute * peak), moved / (c.bandwidth * bandwidth))


def latent_decode_time(
    batch: Num,
    length: Num,
    n_head: Num,
    sizes: tuple[Num, Num | None, Num, Num, Num, Num],
    peaks: tuple[Num, Num],
    bandwidth: Num,
    c: LatentDecodeConstants,
    *,
    value_bytes: Num = 2.0,
    kv_bytes: Num = 2.0,
    launch: Num = 1.0,
) -> dict[str, Num]:
    """Return the seconds of the parts of a latent attention block that computes one token a sequence.

    Queries are brought into the latent's space and attend to it as to one KV head of its size, for keys and
    values at once: || (kv_bytes r b (T + tile) + 4 b h r) / (share bandwidth),
    2 b (T + tile) sqrt(h^2 + head_tile^2) (2 kv_rank + rope) / (compute peak), serial T ||_p with
    r = kv_rank + rope.

    Args:
        batch, length: sequences b, and cached tokens T of each.
        n_head: query heads h on this device.
        sizes: d_model, rank of the queries (None: not split), rank of keys and values, head_dim of the
            rotated part, of the other, and of values.
        peaks: FLOP/s of the projections' format, and of attention's.
        bandwidth: bytes/s.
        c: the measured constants.
        value_bytes, kv_bytes: bytes a value of the weights, and of the cache.
        launch: share of the fixed time that counts.

    Returns:
        Seconds of "projections", "absorbed products", "attention" and "launches".
    """
    kv_rank, rope_dim, nope_dim, v_dim = sizes[2:]
    rank = kv_rank + rope_dim
    parts = [
        _projection(batch, width, depth, peaks[0], bandwidth, c, value_bytes)
        for width, depth in _latent_products(n_head, sizes)
    ]
    absorbed = 2 * n_head * kv_rank * (nope_dim + v_dim)
    both = p_norm(2.0, batch * absorbed / (c.compute * peaks[1]), absorbed / (c.bandwidth * bandwidth))
    tokens = batch * (length + c.tile)
    heads = jnp.sqrt(jnp.square(n_head) + jnp.square(c.head_tile))
    attention = p_norm(
        c.sharpness,
        (kv_bytes * rank * tokens + 4 * batch * n_head * rank) / (c.attention_bandwidth * bandwidth),
        2 * tokens * heads * (rank + kv_rank) / (c.attention_compute * peaks[1]),
        c.serial_us * _US * length,
    )
    fixed = launch * (c.launch_us + c.sequence_us * batch) * _US
    return {
        "projections": sum(parts),
        "absorbed products": both,
        "attention": attention,
        "launches": fixed,
    }


def _latent_products(n_head: Num, sizes: tuple[Num, Num | None, Num, Num, Num, Num]) -> list[tuple[Num, Num]]:
    """Width and depth of the projections that both phases have."""
    d_model, q_rank, kv_rank, rope_dim, nope_dim, v_dim = sizes
    queries, down = n_head * (nope_dim + rope_dim), kv_rank + rope_dim
    result = (d_model, n_head * v_dim)
    if q_rank is None:
        return [(queries + down, d_model), result]
    return [(q_rank + down, d_model), (queries, q_rank), result]


def latent_prefill_time(
    batch: Num,
    new: Num,
    past: Num,
    n_head: Num,
    sizes: tuple[Num, Num | None, Num, Num, Num, Num],
    peaks: tuple[Num, Num],
    bandwidth: Num,
    c: LatentPrefillConstants,
    *,
    value_bytes: Num = 2.0,
    launch: Num = 1.0,
) -> dict[str, Num]:
    """Return the seconds of the parts of a latent attention block that computes `new` tokens a sequence.

    Keys and values are expanded from the latent, then attended to as by heads of their own: || 2 b h rows
    (past + (new + 1) / 2 + span_pad) (rope + nope + v + head_pad) / (compute peak), serial (past + new) ||_p
    with rows = sqrt(new^2 + tile_rows^2).

    Args and results as of `latent_decode_time`; `past` tokens are cached before.
    """
    kv_rank, rope_dim, nope_dim, v_dim = sizes[2:]
    tokens = batch * new
    parts = [
        _projection(tokens, width, depth, peaks[0], bandwidth, c, value_bytes)
        for width, depth in _latent_products(n_head, sizes)
    ]
    wide = n_head * (nope_dim + v_dim)
    expand = _projection(batch * (past + new), wide, kv_rank, peaks[1], bandwidth, c, 2.0)
    copies = 8 * c.copies * tokens * n_head * (rope_dim + nope_dim) / bandwidth
    rows = jnp.sqrt(jnp.square(new * 1.0) + jnp.square(c.tile_rows))
    span = past + (new + 1) / 2 + c.span_pad
    work = 2 * batch * n_head * rows * span * (rope_dim + nope_dim + v_dim + c.head_pad)
    attention = p_norm(c.sharpness, work / (c.attention_compute * peaks[1]), c.serial_us * _US * (past + new))
    return {
        "projections": sum(parts),
        "expanded keys and values": expand + copies,
        "attention": attention,
        "launches": launch * c.launch_us * _US,
    }


def delta_time(
    kernel: str,
    batch: Num,
    length: Num,
    n_key: Num,
    n_value: Num,
    peak: Num,
    bandwidth: Num,
    c: DeltaConstants,
    *,
    head_dim: Num = 128.0,
    launch: Num = 1.0,
) -> Num:
    """Return the seconds of one kernel of a gated delta net, in one layer.

    t = launch + || flops / (compute peak), bytes / (share bandwidth), serial length, unit units ||_p.

    Args:
        kernel: "convolution" or "rule" of a prompt, "convolution step" or "rule step" of one token.
        batch, length: sequences, and tokens of each (1 in a step).
        n_key, n_value: heads of keys (and of queries) and of values, on this device.
        peak, bandwidth: FLOP/s and bytes/s.
        c: the measured constants of that kernel.
        head_dim: values of a head of keys and of values.
        launch: share of the fixed time that counts.
    """
    tokens, channels = batch * length, (2 * n_key + n_value) * head_dim
    flops: Num = 0.0
    units = tokens
    if kernel == "convolution":
        moved = 4 * tokens * channels
    elif kernel == "convolution step":
        moved = 12 * tokens * channels
    elif kernel == "rule step":
        moved, units = 8 * batch * n_value * head_dim**2, batch * n_value
    else:
        rows = jnp.sqrt(jnp.square(length * 1.0) + jnp.square(c.tile))
        flops = 8 * batch * rows * n_value * head_dim**2
        moved, units = 4 * tokens * (n_key + n_value) * head_dim, 0.0
    times = [moved / (c.bandwidth * bandwidth), 1e-9 * c.serial_ns * length]
    if kernel == "rule":
        times.append(flops / (c.compute * peak))
    else:
        times.append(1e-9 * c.unit_ns * units)
    return launch * c.launch_us * _US + p_norm(c.sharpness, *times)


def collective_time(
    n_bytes: Num, devices: Num, link: Num, c: CollectiveConstants, *, rounds: Num = 2.0, host: Num = 0.0
) -> Num:
    """Return the seconds in which `devices` exchange a message of `n_bytes`.

    || launch + log2(n) (hop + step x / (1 + x)) + rounds (n - 1) / n bytes / (share link), host ||_4 with
    x = bytes / step_kb; rounds is 2 where every device ends with the sum of all, else 1.

    Args:
        n_bytes: of the whole message.
        devices: n.
        link: bytes a second one way between them.
        c: the measured constants.
        rounds: times that the message passes the link.
        host: share of the call's own time that is waited for: 0 in captured graphs.
    """
    doublings = jnp.log2(devices * 1.0)
    part = n_bytes / (1e3 * c.step_kb)
    fixed = c.launch_us + doublings * (c.hop_us + c.step_us * part / (1 + part))
    time = fixed * _US + rounds * (1 - 1 / devices) * n_bytes / (c.link * link)
    if c.host_us is None or (isinstance(host, int | float) and host == 0):
        return time
    return p_norm(4.0, time, host * c.host_us * _US + 1e-9)
