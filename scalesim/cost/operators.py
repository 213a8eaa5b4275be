"""A forward pass as a list of operators, each with its FLOPs, bytes and seconds on one device.

This is to time what `parameter_table` is to size: latency sums it, reports print it.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add as operator_add

import jax
import jax.numpy as jnp

from scalesim.cost.cache import kv_cache_bytes
from scalesim.cost.chosen import cache_constants
from scalesim.cost.flops import attended_pairs, score_flops
from scalesim.cost.fused import Part, delta_parts, experts_part, latent_parts
from scalesim.cost.kernels import decode_attention_time, p_norm, prefill_attention_time
from scalesim.cost.memory import weight_bytes
from scalesim.cost.numbers import larger, smaller, to_float
from scalesim.cost.parallel import (
    ONE_DEVICE,
    Parallel,
    all_reduce_time,
    all_to_all_time,
    held_heads,
    send_time,
    split,
)
from scalesim.cost.passes import Operator, Pass
from scalesim.hardware import Hardware
from scalesim.shape import Mixer, MixtureOfExperts, Shape
from scalesim.shape.ffn import FFN
from scalesim.shape.mixers import DeltaNet, LatentAttention, Scores
from scalesim.types import Num
from scalesim.workload import Workload

__all__ = ["Operator", "elementwise_values", "forward_operators"]


# Reads and writes of a sampler as engines have it (vLLM's `Sampler`): to float32 1.5, temperature 2,
# softmax 2, log-softmax 2, exponential noise 1, the division by it 3, argmax 1.
_SAMPLING_PASSES = 12.5


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
    s, w, batch, new, past = to_float((shape, workload, batch_size, new, past))
    tokens = batch * new
    p = Pass(
        s,
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
    found: list[Operator] = p.gemms(1.0, s.extras)
    for block in s.blocks:
        found += _mix(p, block.mixer, block.count, batch, new, past, decode=decode)
        found += _ffn(p, block.ffn, block.count)
        found += p.gemms(block.count, block.extras)
    once, head = (1.0 / p.chunks, batch * p.chunks), (s.vocab_size / parallel.tensor, s.d_model)
    return _merged(
        [
            *found,
            _elementwise(p),
            p.gemm("logits", *once, *head, 1.0, larger(p.weight, 2.0), "bf16"),
            _sampling(p, batch),
            *_communication(p),
            _engine(p, batch, decode=decode),
        ]
    )


def _mix(
    p: Pass, mixer: Mixer | None, layers: Num, batch: Num, new: Num, past: Num, *, decode: bool
) -> list[Operator]:
    """A mixer's operators: as one measured block where there is one, else matrix by matrix."""
    if mixer is None:
        return []
    where, d = (p.hardware, p.parallel, p.formats), p.shape.d_model
    # Sub-passes of a prompt, each with its share of the sequences.
    part = batch / p.chunks
    if isinstance(mixer, LatentAttention):
        parts = latent_parts(mixer, d, part, new, past, *where, decode=decode)
        if parts is not None:
            gate = [t for t in mixer.tensors(d) if t.operator == "attention gate"]
            return [*(p.times(layers * p.chunks, one) for one in parts), *p.gemms(layers, gate)]
    tensors = mixer.tensors(d)
    found = p.gemms(layers, [t for t in tensors if t.operator != "output projection"])
    for score in mixer.scores(decode=decode):
        found.append(_attend(p, score, layers, batch, new, past, decode=decode))
    known = delta_parts(mixer, part, new, *where, decode=decode) if isinstance(mixer, DeltaNet) else None
    if known is not None:
        found += [p.times(layers * p.chunks, one) for one in known]
    elif not (isinstance(mixer.step_flops, int) and mixer.step_flops == 0):
        found.append(_recurrence(p, mixer, layers, batch))
    return found + p.gemms(layers, [t for t in tensors if t.operator == "output projection"])


def _ffn(p: Pass, ffn: FFN | None, layers: Num) -> list[Operator]:
    """A feed-forward block's operators: routed experts as one, where they were measured."""
    if ffn is None:
        return []
    tensors = ffn.tensors(p.shape.d_model)
    if isinstance(ffn, MixtureOfExperts):
        tokens = p.tokens / p.chunks
        routed = experts_part(ffn, p.shape.d_model, tokens, p.hardware, p.parallel, p.formats)
        if routed is not None:
            others = p.gemms(layers, [t for t in tensors if t.visited is None])
            return [*others, p.times(layers * p.chunks, routed)]
    return p.gemms(layers, tensors)


def _merged(operators: Sequence[Operator]) -> tuple[Operator, ...]:
    """Return operators with those of one name, of several blocks, as one."""
    found: dict[str, Operator] = {}
    for operator in operators:
        known = found.get(operator.name)
        found[operator.name] = operator if known is None else jax.tree.map(operator_add, known, operator)
    return tuple(found.values())


def _bandwidth(
    shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel, batch: Num, length: Num
) -> Num:
    """Bytes a second at which weights and KV cache come: what one pass reads, the next reads again."""
    if hardware.cache_mb is None:
        return hardware.bandwidth
    weights = weight_bytes(shape, weight_bits=workload.weight_bits, parallel=parallel)
    kept = batch * kv_cache_bytes(shape, length, kv_bits=workload.kv_bits, parallel=parallel)
    return hardware.bandwidth_at(weights + kept)


def _attend(
    p: Pass, score: Scores, layers: Num, batch: Num, new: Num, past: Num, *, decode: bool
) -> Operator:
    e, t, window = p.hardware.efficiency, p.parallel.tensor, score.window
    pairs = attended_pairs(new, past, window=window) / score.every
    longest = (past + new if window is None else smaller(past + new, window)) / score.every
    heads, kv_heads, caches = score.n_head / t, held_heads(score.n_kv_head, p.parallel), score.caches
    flops = batch * score_flops(score, new, past) / t
    # One vector that serves as key and value is read once, whatever part of it the result is.
    head_dim = (score.head_dim + score.v_head_dim) / 2 if caches == 2 else score.head_dim
    queries = 2 * batch * new * heads * head_dim * p.act
    if decode:
        n_bytes = queries + p.kv * caches * batch * longest * kv_heads * head_dim
        once = decode_attention_time(
            batch,
            longest,
            heads,
            kv_heads,
            head_dim,
            p.hardware.peak_flops("bf16"),
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
        keys = new + (past if window is None else smaller(past, window)) / score.every
        n_bytes = queries + p.kv * caches * batch * keys * kv_heads * head_dim
        once = prefill_attention_time(
            batch,
            new,
            pairs / new,
            heads,
            kv_heads,
            head_dim,
            p.hardware.peak_flops("bf16"),
            p.bandwidth,
            cache_constants(e, "prefill", p.kv),
            longest=longest,
            kv_bytes=p.kv,
            activation_bytes=p.act,
            launch=e.engine.launch,
            windowed=0.0 if window is None else 1.0,
        )
    kind = "decode" if decode else "prefill"
    return p.times(layers, Part(score.name, f"{kind} bf16", flops, n_bytes, once))


def _recurrence(p: Pass, mixer: Mixer, layers: Num, batch: Num) -> Operator:
    """Recurrences and filters: by the roofline of matrix products, whose constants stand for measured ones.

    The state is read and written once a pass, what goes in and comes out once.
    """
    gemm, t = p.hardware.efficiency.gemm, p.parallel.tensor
    flops = p.tokens * mixer.step_flops / t
    n_bytes = (2.0 * p.chunks * batch * mixer.state_bytes + p.act * p.tokens * mixer.moved) / t
    compute, memory = flops / (gemm.compute * p.peak), n_bytes / (gemm.bandwidth * p.bandwidth)
    launch = p.hardware.efficiency.engine.launch * gemm.launch_us * 1e-6 * p.chunks
    seconds = launch + p_norm(gemm.sharpness, compute, memory)
    return p.times(layers, Part("recurrence", "", flops, n_bytes, seconds))


def _elementwise(p: Pass) -> Operator:
    """Norms, residuals, rotary embeddings and activation functions: read and written once each."""
    n_bytes = p.act * p.tokens * elementwise_values(p.shape, p.parallel.tensor)
    at_once = n_bytes / p.chunks / p.shape.n_layer
    seconds = n_bytes / (p.hardware.efficiency.engine.stream * p.hardware.bandwidth_at(at_once))
    return p.times(1.0, Part("norms and activations", "", 0.0 * n_bytes, n_bytes, seconds))


def elementwise_values(shape: Shape, tensor: Num = 1) -> Num:
    """Return the values a token that norms, residuals, rotations and activations move, all layers."""
    values: Num = 0.0
    for block in shape.blocks:
        once = 2.0 * block.norms * shape.d_model
        if block.mixer is not None:
            once = once + block.mixer.moved / tensor
        if block.ffn is not None:
            once = once + (3.0 if block.ffn.gated else 2.0) * block.ffn.inner / tensor
        values = values + block.count * once
    return values


def _sampling(p: Pass, batch: Num) -> Operator:
    """Temperature, softmax, log-softmax and the draw: passes over each sequence's logits in float32."""
    n_bytes = 4.0 * _SAMPLING_PASSES * batch * p.shape.vocab_size
    stream = p.hardware.efficiency.engine.stream
    seconds = n_bytes / (stream * p.hardware.bandwidth_at(4.0 * batch * p.shape.vocab_size))
    return p.times(1.0, Part("sampling", "", 0.0 * n_bytes, n_bytes, seconds))


def _communication(p: Pass) -> list[Operator]:
    s, parallel, hw = p.shape, p.parallel, p.hardware
    residual = p.act * p.tokens / p.chunks * s.d_model
    parts: dict[str, Num] = {}
    if split(parallel.tensor):
        once = all_reduce_time(residual, parallel.tensor, hw)
        parts["all-reduce"] = 2 * s.n_layer * p.chunks * once
    for block in s.blocks:
        if split(parallel.expert) and isinstance(block.ffn, MixtureOfExperts):
            once = all_to_all_time(residual * block.ffn.top_k, parallel.expert, hw)
            parts["expert all-to-all"] = (
                parts.get("expert all-to-all", 0.0) + 2 * block.count * p.chunks * once
            )
    if split(parallel.pipeline):
        parts["pipeline"] = send_time(residual, parallel.pipeline, hw) * p.chunks
    kinds = {"all-reduce": "all-reduce", "expert all-to-all": "nccl all-to-all"}
    return [
        Operator(name=name, kind=kinds.get(name, ""), link_s=seconds, time_s=seconds, launches=2 * s.n_layer)
        for name, seconds in parts.items()
    ]


def _engine(p: Pass, batch: Num, *, decode: bool) -> Operator:
    """What the engine adds beyond its kernels: launches between layers, scheduling, sampling."""
    engine = p.hardware.efficiency.engine
    micro = p.chunks * (engine.layer_us * p.shape.n_layer + engine.step_us) + engine.sequence_us * batch
    return Operator(name="engine", time_s=1e-6 * (micro if decode else micro + engine.prompt_us))
