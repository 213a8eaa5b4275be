"""Blocks that an engine runs as one kernel or a few: routed experts, latent attention, delta nets.

Each gives parts, as a pass's operators are: a name, FLOPs, bytes and seconds of one layer. None where no
accelerator has constants for it: then its matrices and scores are priced one by one.
"""

from __future__ import annotations

from typing import NamedTuple

from scalesim.cost.block_kernels import (
    delta_time,
    experts_time,
    latent_decode_time,
    latent_prefill_time,
    visited_experts,
)
from scalesim.cost.chosen import ALIKE, between_caches
from scalesim.cost.numbers import larger
from scalesim.cost.parallel import Parallel
from scalesim.hardware import Hardware
from scalesim.shape import MixtureOfExperts
from scalesim.shape.mixers import DeltaNet, LatentAttention
from scalesim.types import Num
from scalesim.workload import Compute

__all__ = ["Bytes", "Part", "delta_parts", "experts_part", "latent_parts"]


class Part(NamedTuple):
    """A part of one layer: its name, the kind of its kernel ("experts bf16"), and what it takes."""

    name: str
    kind: str
    flops: Num
    n_bytes: Num
    seconds: Num


class Bytes(NamedTuple):
    """The formats of a pass: of products, and bytes a value of weights, activations and cache."""

    compute: Compute
    weight: Num
    act: Num
    kv: Num


def experts_part(
    ffn: MixtureOfExperts, d_model: Num, tokens: Num, hardware: Hardware, parallel: Parallel, b: Bytes
) -> Part | None:
    """The routed experts of one layer, for `tokens` of this device (its share, where experts are split)."""
    # FP8 experts are published with scales by block, and engines' kernels for those are the tuned ones.
    formats = list(ALIKE["fp8_block" if b.compute == "fp8" else b.compute])
    if b.compute == "bf16" and isinstance(b.weight, int | float) and b.weight <= 0.75:
        formats.insert(0, "int4")  # weights of four bits, unpacked as they are read
    name = next((f for f in formats if hardware.efficiency.of("experts", f) is not None), None)
    if name is None:
        return None
    width = d_model if ffn.d_expert is None else ffn.d_expert
    inner, matrices, devices = ffn.d_ff / parallel.tensor, 3.0 if ffn.gated else 2.0, 1.0 * parallel.expert
    everyone = tokens * devices
    seconds = experts_time(
        everyone,
        width,
        inner,
        ffn.top_k,
        ffn.n_expert,
        hardware.peak_flops(b.compute),
        hardware.bandwidth,
        hardware.efficiency.of("experts", name),
        matrices=matrices,
        devices=devices,
        weight_bytes=b.weight,
        launch=hardware.efficiency.engine.launch,
    )
    weights, visits = matrices * width * inner, tokens * ffn.top_k
    read = b.weight * weights * visited_experts(everyone, ffn.top_k, ffn.n_expert) / devices
    moved = b.act * visits * (2 * width + matrices * inner)
    return Part("experts", f"experts {name}", 2 * weights * visits, read + moved, seconds)


def latent_parts(
    mixer: LatentAttention,
    d_model: Num,
    batch: Num,
    new: Num,
    past: Num,
    hardware: Hardware,
    parallel: Parallel,
    b: Bytes,
    *,
    decode: bool,
) -> list[Part] | None:
    """Latent attention of one layer with its projections: None where an indexer picks what is attended to."""
    e, kind = hardware.efficiency, "latent decode" if decode else "latent prefill"
    product = {"bf16": "bf16", "fp4": "fp4"}.get(b.compute, "fp8_block")
    found = None
    for name in (product, "fp8_block", "bf16"):
        tail = "" if decode else "/bf16"
        wide, narrow = e.of(kind, f"{name}/bf16{tail}"), e.of(kind, f"{name}/fp8{tail}")
        if wide is not None:
            found = between_caches(wide, narrow, b.kv)
            break
    if found is None or mixer.index_top_k is not None:
        return None
    nope = mixer.head_dim - mixer.rope_dim
    sizes = (d_model, mixer.q_lora_rank, mixer.kv_lora_rank, mixer.rope_dim, nope, mixer.v_head_dim)
    peaks = (hardware.peak_flops(b.compute), hardware.peak_flops("bf16"))
    heads, rank = mixer.n_head / parallel.tensor, mixer.kv_lora_rank + mixer.rope_dim
    more = {"value_bytes": b.weight, "launch": e.engine.launch}
    where = (heads, sizes, peaks, hardware.bandwidth, found)
    if decode:
        seconds = latent_decode_time(batch, past + new, *where, kv_bytes=b.kv, **more)
    else:
        seconds = latent_prefill_time(batch, new, past, *where, **more)
    tokens, low = batch * new, mixer.q_lora_rank
    queries = d_model * heads * mixer.head_dim if low is None else low * (d_model + heads * mixer.head_dim)
    weights = queries + d_model * rank + heads * mixer.v_head_dim * d_model
    up = heads * mixer.kv_lora_rank * (nope + mixer.v_head_dim)
    cache = b.kv * batch * (past + new) * rank
    span = past + (new + 1) / 2
    pairs = rank + mixer.kv_lora_rank if decode else mixer.head_dim + mixer.v_head_dim
    widths = {
        "projections": (2 * tokens * weights, b.weight * weights + b.act * tokens * 2 * d_model),
        "attention": (2 * tokens * span * heads * pairs, cache + 2 * b.act * tokens * heads * rank),
        "launches": (0.0, 0.0),
    }
    folded = (2 * tokens * up, b.weight * up)
    names = {"launches": "latent attention, launches", "attention": "attention"}
    return [
        Part(
            names.get(part, f"latent {part}"),
            f"{kind} {product}/bf16",
            *widths.get(part, folded),
            seconds[part],
        )
        for part in seconds
    ]


def delta_parts(
    mixer: DeltaNet,
    batch: Num,
    new: Num,
    hardware: Hardware,
    parallel: Parallel,
    b: Bytes,
    *,
    decode: bool,
) -> list[Part] | None:
    """The filter and the rule of one gated delta net, beside its projections."""
    e, t = hardware.efficiency, parallel.tensor
    kernels = ("convolution step", "rule step") if decode else ("convolution", "rule")
    if any(e.of(f"delta {kernel}") is None for kernel in kernels):
        return None
    key, value, size = mixer.n_k_head / t, mixer.n_v_head / t, mixer.k_head_dim * 1.0
    peak, bandwidth = hardware.peak_flops("bf16"), hardware.bandwidth
    filtered = (2 * mixer.n_k_head * mixer.k_head_dim + mixer.n_v_head * mixer.v_head_dim) / t
    state = mixer.n_v_head * mixer.k_head_dim * mixer.v_head_dim / t
    tokens = batch * new
    work = {
        kernels[0]: (2 * tokens * mixer.kernel * filtered, 2 * b.act * tokens * filtered),
        kernels[1]: (7 * tokens * state, 2 * batch * state * (mixer.state_bits // 8)),
    }
    out = []
    for kernel in kernels:
        kind = f"delta {kernel}"
        seconds = delta_time(
            kernel,
            batch,
            larger(new, 1.0),
            key,
            value,
            peak,
            bandwidth,
            e.of(kind),
            head_dim=size,
            launch=e.engine.launch,
        )
        out.append(Part(f"delta net, {kernel.split()[0]}", kind, *work[kernel], seconds))
    return out
