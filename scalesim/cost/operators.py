"""A forward pass as a list of operators, each with its FLOPs, bytes and seconds on one device.

This is to time what `parameter_table` is to size: latency sums it, reports print it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from scalesim.cost.chosen import cache_constants, format_of, product_constants
from scalesim.cost.flops import attended_pairs
from scalesim.cost.kernels import decode_attention_time, gemm_time, prefill_attention_time
from scalesim.cost.memory import kv_cache_bytes, weight_bytes
from scalesim.cost.numbers import larger, smaller, to_float
from scalesim.cost.parallel import (
    ONE_DEVICE,
    Parallel,
    all_reduce_time,
    all_to_all_time,
    kv_heads_per_device,
    send_time,
)
from scalesim.hardware import Hardware
from scalesim.pytree import register, static
from scalesim.shape import LayerCounts, Shape, layer_counts
from scalesim.workload import Compute, Workload

__all__ = ["Operator", "elementwise_values", "forward_operators"]

Num = Any

# Reads and writes of a sampler as engines have it (vLLM's `Sampler`): to float32 1.5, temperature 2,
# softmax 2, log-softmax 2, exponential noise 1, the division by it 3, argmax 1.
_SAMPLING_PASSES = 12.5


@register
@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of a forward pass: all its layers together, on one device.

    Attributes:
        name: what it is.
        flops: floating-point operations.
        n_bytes: bytes to and from memory.
        compute_s, memory_s: seconds at the data sheet's peaks.
        link_s: seconds of communication.
        time_s: predicted seconds.
    """

    name: str = static("")
    flops: Num = 0.0
    n_bytes: Num = 0.0
    compute_s: Num = 0.0
    memory_s: Num = 0.0
    link_s: Num = 0.0
    time_s: Num

    def bound(self) -> str:
        """Say what bounds it: "compute", "memory", "link", or "overhead" where fixed times are over half."""
        resources = {"compute": self.compute_s, "memory": self.memory_s, "link": self.link_s}
        name = max(resources, key=lambda key: float(resources[key]))
        return name if float(resources[name]) > 0.4 * float(self.time_s) else "overhead"


class _Pass(NamedTuple):
    """What every operator of one pass needs to know."""

    shape: Shape
    counts: LayerCounts
    hardware: Hardware
    parallel: Parallel
    peak: Num
    bandwidth: Num  # at which the pass's weights and caches come, bytes a second
    tokens: Num  # of all sequences on this device, in all its sub-passes
    chunks: Num  # sub-passes that the tokens are computed in
    weight: Num  # bytes a value
    act: Num
    kv: Num
    compute: Compute

    def gemm(
        self, name: str, layers: Num, tokens: Num, width: Num, depth: Num, *, weights: Num = 1.0
    ) -> Operator:
        """A product [tokens, depth] x [depth, width], `layers` times; `weights` matrices are read."""
        e = self.hardware.efficiency
        rows = tokens / self.chunks
        flops = 2.0 * rows * width * depth
        matrix = self.weight * weights * width * depth
        constants = product_constants(e, self.compute)
        # In a narrow format activations are rounded before a product reads them.
        narrow = None if self.compute == "bf16" else format_of(self.compute).weight_bytes
        inputs = self.act if narrow is None else smaller(self.act, narrow)
        n_bytes = rows * (inputs * depth + self.act * width) + matrix
        more = {
            "packed": matrix * (1 - 1 / rows),
            "launch": e.engine.launch,
            "host": e.engine.host,
            "rows": rows,
            "value_bytes": inputs,
        }
        once = gemm_time(flops, n_bytes, depth, self.peak, self.bandwidth, constants, **more)
        times = layers * self.chunks
        return self.operator(name, times * flops, times * n_bytes, times * once)

    def operator(self, name: str, flops: Num, n_bytes: Num, seconds: Num) -> Operator:
        hw = self.hardware
        scaled = seconds * hw.efficiency.engine.scale
        return Operator(
            name=name,
            flops=flops,
            n_bytes=n_bytes,
            compute_s=flops / self.peak,
            memory_s=n_bytes / self.bandwidth,
            time_s=scaled,
        )


def forward_operators(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    batch_size: Num,
    new: Num,
    past: Num,
    decode: bool,
) -> tuple[Operator, ...]:
    """Return the operators of one forward pass of all layers, in order, on one device of each stage.

    Args:
        shape: the model.
        workload: its precisions and prefill_chunk.
        hardware: where.
        parallel: over how many devices. The stages of a pipeline work one after the other: their layers'
            times add up.
        batch_size: sequences of the pass, on one device (its share under expert parallelism).
        new: tokens a sequence that are computed (1 in decode).
        past: tokens a sequence that are cached before them.
        decode: one token a sequence, with the decode kernels; else a prompt.
    """
    parallel.check(shape)
    counts = to_float(layer_counts(shape))
    s, w, batch, new, past = to_float((shape, workload, batch_size, new, past))
    t = parallel.tensor
    tokens = batch * new
    p = _Pass(
        s,
        counts,
        hardware,
        parallel,
        hardware.peak_flops(workload.compute),
        _bandwidth(s, w, hardware, parallel, batch, past + new),
        tokens,
        1.0 if decode else larger(tokens / w.prefill_chunk, 1.0),
        w.weight_bits / 8,
        w.activation_bits / 8,
        w.kv_bits / 8,
        workload.compute,
    )
    if s.latent is None:
        kv = kv_heads_per_device(s, parallel) * s.head_dim
        width = s.n_head * s.head_dim / t + 2 * kv * counts.caches / s.n_layer
        before = [p.gemm("qkv projection", s.n_layer, tokens, width, s.d_model)]
        result = s.n_head * s.head_dim / t
    else:
        before = _latent_projections(p)
        result = s.n_head * s.latent.v_head_dim / t
    output = p.gemm("output projection", s.n_layer, tokens, s.d_model, result)
    logits = p.gemm("logits", 1.0 / p.chunks, batch * p.chunks, s.vocab_size / t, s.d_model)
    return (
        *before,
        *_attention(p, batch, new, past, decode=decode),
        output,
        *_ffn(p),
        _elementwise(p),
        logits,
        _sampling(p, batch),
        *_communication(p),
        _engine(p, batch, decode=decode),
    )


def _bandwidth(
    shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel, batch: Num, length: Num
) -> Num:
    """Bytes a second at which weights and KV cache come: what one pass reads, the next reads again."""
    if hardware.cache_mb is None:
        return hardware.bandwidth
    weights = weight_bytes(shape, weight_bits=workload.weight_bits, parallel=parallel)
    kept = batch * kv_cache_bytes(shape, length, kv_bits=workload.kv_bits, parallel=parallel)
    return hardware.bandwidth_at(weights + kept)


def _latent_projections(p: _Pass) -> list[Operator]:
    s, t, latent = p.shape, p.parallel.tensor, p.shape.latent
    assert latent is not None
    q = s.n_head * s.head_dim / t
    down, n = latent.kv_lora_rank + latent.rope_dim, s.n_layer
    up = s.n_head * (s.head_dim - latent.rope_dim + latent.v_head_dim) / t
    if latent.q_lora_rank is None:
        first = [p.gemm("qkv projection", n, p.tokens, q + down, s.d_model)]
    else:
        first = [
            p.gemm("latent down projection", n, p.tokens, latent.q_lora_rank + down, s.d_model),
            p.gemm("query up projection", n, p.tokens, q, latent.q_lora_rank),
        ]
    return [*first, p.gemm("kv up projection", n, p.tokens, up, latent.kv_lora_rank)]


def _attention(p: _Pass, batch: Num, new: Num, past: Num, *, decode: bool) -> list[Operator]:
    counts, window = p.counts, p.shape.window
    if window is None:
        return [_attend(p, "attention", counts.global_, batch, new, past, None, decode=decode)]
    local = _attend(p, "attention, sliding", counts.local, batch, new, past, window.window, decode=decode)
    if window.global_every == 0 and window.n_global is None:
        return [local]
    return [_attend(p, "attention, global", counts.global_, batch, new, past, None, decode=decode), local]


def _attend(
    p: _Pass, name: str, layers: Num, batch: Num, new: Num, past: Num, window: Num | None, *, decode: bool
) -> Operator:
    s, e, t = p.shape, p.hardware.efficiency, p.parallel.tensor
    pairs = attended_pairs(new, past, window=window)
    longest = past + new if window is None else smaller(past + new, window)
    heads = s.n_head / t
    kv_heads = kv_heads_per_device(s, p.parallel)
    head_dim, flops = s.head_dim, 4.0 * batch * pairs * heads * s.head_dim
    caches = 2.0
    if s.latent is not None and decode:
        # The heads attend to the latent itself: one KV head of its size, read once for keys and values.
        head_dim, kv_heads, caches = s.latent.kv_lora_rank + s.latent.rope_dim, 1.0, 1.0
        flops = 2.0 * batch * pairs * heads * (2 * s.latent.kv_lora_rank + s.latent.rope_dim)
    elif s.latent is not None:
        head_dim = (s.head_dim + s.latent.v_head_dim) / 2
        flops = 4.0 * batch * pairs * heads * head_dim
    queries = 2 * batch * new * heads * head_dim * p.act
    if decode:
        n_bytes = queries + p.kv * caches * batch * longest * kv_heads * head_dim
        once = decode_attention_time(
            batch,
            longest,
            heads,
            kv_heads,
            head_dim,
            p.peak,
            p.bandwidth,
            cache_constants(e, "decode", p.kv),
            kv_bytes=p.kv,
            activation_bytes=p.act,
            caches=caches,
            flops=None if caches == 2 else flops,
            launch=e.engine.launch,
            windowed=0.0 if window is None else 1.0,
        )
        once = once * (1 + e.engine.group * jnp.log(heads / kv_heads))
    else:
        # Every new key is read once, and of the cached ones those that a window still holds.
        keys = new + (past if window is None else smaller(past, window))
        n_bytes = queries + p.kv * 2 * batch * keys * kv_heads * head_dim
        once = prefill_attention_time(
            batch,
            new,
            pairs / new,
            heads,
            kv_heads,
            head_dim,
            p.peak,
            p.bandwidth,
            cache_constants(e, "prefill", p.kv),
            longest=longest,
            kv_bytes=p.kv,
            activation_bytes=p.act,
            launch=e.engine.launch,
            windowed=0.0 if window is None else 1.0,
        )
    return p.operator(name, layers * flops, layers * n_bytes, layers * once)


def _ffn(p: _Pass) -> list[Operator]:
    s, t, moe = p.shape, p.parallel.tensor, p.shape.moe
    first = 2.0 if s.gated_ffn else 1.0

    def block(prefix: str, layers: Num, tokens: Num, width: Num, copies: Num = 1.0) -> list[Operator]:
        return [
            p.gemm(prefix + "up projection", layers, tokens, first * width / t, s.d_model, weights=copies),
            p.gemm(prefix + "down projection", layers, tokens, s.d_model, width / t, weights=copies),
        ]

    if moe is None:
        return block("FFN ", s.n_layer, p.tokens, s.d_ff)
    # All replicas' tokens meet at the experts; a device has its share of the experts and of the visits.
    everyone = p.tokens / p.chunks * p.parallel.expert
    own = moe.n_expert / p.parallel.expert
    visited = own * -jnp.expm1(everyone * jnp.log1p(-jnp.minimum(moe.top_k / moe.n_expert, 1 - 1e-6)))
    out = [] if _none(moe.n_dense_layer) else block("FFN ", p.counts.dense, p.tokens, s.d_ff)
    out.append(p.gemm("router", p.counts.moe, p.tokens, moe.n_expert, s.d_model))
    out += block("expert ", p.counts.moe, p.tokens * moe.top_k, moe.d_ff, visited)
    if not _none(moe.n_shared):
        out += block("shared expert ", p.counts.moe, p.tokens, moe.n_shared * moe.d_ff)
    return out


def _none(value: Num) -> bool:
    return isinstance(value, int | float) and value == 0


def _elementwise(p: _Pass) -> Operator:
    """Norms, residuals, rotary embeddings and activation functions: read and written once each."""
    n_bytes = p.act * p.tokens * elementwise_values(p.shape, p.counts, p.parallel.tensor)
    at_once = n_bytes / p.chunks / p.shape.n_layer
    seconds = n_bytes / (p.hardware.efficiency.engine.stream * p.hardware.bandwidth_at(at_once))
    return p.operator("norms and activations", 0.0 * n_bytes, n_bytes, seconds)


def elementwise_values(shape: Shape, counts: LayerCounts, tensor: Num = 1) -> Num:
    """Return the values a token that norms, residuals, rotations and activations move, all layers."""
    s, t = shape, tensor
    width = 2.0 * s.norms_per_layer * s.d_model + 2 * (s.n_head + s.n_kv_head) * s.head_dim / t
    inner = (3.0 if s.gated_ffn else 2.0) / t
    values = s.n_layer * width + counts.dense * inner * s.d_ff
    if s.moe is not None:
        values = values + counts.moe * inner * s.moe.d_ff * (s.moe.top_k + s.moe.n_shared)
    return values


def _sampling(p: _Pass, batch: Num) -> Operator:
    """Temperature, softmax, log-softmax and the draw: passes over each sequence's logits in float32."""
    n_bytes = 4.0 * _SAMPLING_PASSES * batch * p.shape.vocab_size
    stream = p.hardware.efficiency.engine.stream
    seconds = n_bytes / (stream * p.hardware.bandwidth_at(4.0 * batch * p.shape.vocab_size))
    return p.operator("sampling", 0.0 * n_bytes, n_bytes, seconds)


def _communication(p: _Pass) -> list[Operator]:
    s, parallel, hw = p.shape, p.parallel, p.hardware
    residual = p.act * p.tokens / p.chunks * s.d_model
    parts = {}
    if parallel.tensor > 1:
        once = all_reduce_time(residual, parallel.tensor, hw)
        parts["all-reduce"] = 2 * s.n_layer * p.chunks * once
    if parallel.expert > 1 and s.moe is not None:
        once = all_to_all_time(residual * s.moe.top_k, parallel.expert, hw)
        parts["expert all-to-all"] = 2 * p.counts.moe * p.chunks * once
    if parallel.pipeline > 1:
        parts["pipeline"] = send_time(residual, parallel.pipeline, hw) * p.chunks
    return [Operator(name=name, link_s=seconds, time_s=seconds) for name, seconds in parts.items()]


def _engine(p: _Pass, batch: Num, *, decode: bool) -> Operator:
    """What the engine adds beyond its kernels: launches between layers, scheduling, sampling."""
    engine = p.hardware.efficiency.engine
    micro = p.chunks * (engine.layer_us * p.shape.n_layer + engine.step_us) + engine.sequence_us * batch
    return Operator(name="engine", time_s=1e-6 * (micro if decode else micro + engine.prompt_us))
