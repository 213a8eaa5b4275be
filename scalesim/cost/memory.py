"""Bytes: of weights, of the KV cache at any length, and of what a step holds beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scalesim.cost.numbers import larger, smaller
from scalesim.cost.parallel import ONE_DEVICE, Parallel, kv_heads_per_device
from scalesim.pytree import register
from scalesim.shape import Shape, count_params, layer_counts, parameter_table
from scalesim.types import Num
from scalesim.workload import Workload

__all__ = [
    "MemoryUse",
    "activation_bytes",
    "kv_bytes_per_token",
    "kv_cache_bytes",
    "serving_memory",
    "weight_bytes",
]


@register
@dataclass(frozen=True)
class MemoryUse:
    """Bytes on one accelerator, by what they hold."""

    weights: Num
    kv_cache: Num
    activations: Num

    @property
    def total(self) -> Num:
        """All of them."""
        return self.weights + self.kv_cache + self.activations


def _cached_values(shape: Shape, parallel: Parallel) -> Num:
    """Values that one token leaves in the cache of one layer, on one device."""
    if shape.latent is not None:
        return shape.latent.kv_lora_rank + shape.latent.rope_dim
    return 2 * kv_heads_per_device(shape, parallel) * shape.head_dim


def _in_bytes(values: Num, bits: Num) -> Num:
    """Bytes of so many values: exact where both are whole numbers and the result is one."""
    if isinstance(values, int) and isinstance(bits, int) and bits % 8 == 0:
        return values * (bits // 8)
    return values * (bits / 8)


def kv_bytes_per_token(shape: Shape, *, kv_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes that one token adds to the KV cache, all layers together, on one device.

    2 n_kv_head head_dim values a layer with keys and values of its own (kv_lora_rank + rope_dim with latent
    attention, whatever n_head is). Layers with a sliding window drop as many again once it is full.

    Args:
        shape: the model.
        kv_bits: bits a value.
        parallel: over how many devices; a device holds max(1, n_kv_head / tensor) KV heads, and the whole
            latent.

    >>> llama3_8b = Shape(n_layer=32, d_model=4096, n_head=32, n_kv_head=8, head_dim=128, d_ff=14336)
    >>> kv_bytes_per_token(llama3_8b)
    131072
    """
    values = layer_counts(shape).caches * _cached_values(shape, parallel)
    if parallel.pipeline > 1:
        values = values / parallel.pipeline
    return _in_bytes(values, kv_bits)


def kv_cache_bytes(shape: Shape, length: Num, *, kv_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes of one sequence's KV cache at `length` tokens, on one device.

    Global layers keep all tokens, sliding-window layers the last min(length, window).

    >>> from scalesim.models import known_model
    >>> kv_cache_bytes(known_model("gemma-3-1b").shape, 32768) / 2**20
    139.0
    """
    counts = layer_counts(shape)
    tokens = counts.global_caches * length
    if shape.window is not None:
        tokens = tokens + counts.local_caches * smaller(length, shape.window.window)
    values = tokens * _cached_values(shape, parallel)
    if parallel.pipeline > 1:
        values = values / parallel.pipeline
    return _in_bytes(values, kv_bits)


def weight_bytes(shape: Shape, *, weight_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes of the weights on one device, embeddings included.

    Tensor parallelism splits every matrix and the embedding tables, except that the K and V projections
    hold max(1, n_kv_head / tensor) heads; pipeline stages split the layers (the tables stay with the first
    and last stage: counted in full on each); expert parallelism splits the routed experts alone. Norms and
    biases are not split.

    >>> from scalesim.models import known_model
    >>> weight_bytes(known_model("llama-3-8b").shape) == 2 * 8030261248
    True
    """
    if parallel.devices == 1:
        return _in_bytes(count_params(shape, "total"), weight_bits)
    kept = kv_heads_per_device(shape, parallel) / shape.n_kv_head
    total: Num = 0.0
    for p in parameter_table(shape):
        size = 1.0 * p.size
        if p.name in ("k_proj", "v_proj"):
            size = size * kept
        elif p.group in ("attention", "ffn", "embedding", "unembedding") and p.name not in _WHOLE:
            size = size / parallel.tensor
        if p.axes[0] == "expert":
            size = size / parallel.expert
        if p.per_layer:
            size = size * (shape.n_layer if p.layers is None else p.layers) / parallel.pipeline
        total = total + size
    return _in_bytes(total, weight_bits)


_WHOLE = ("q_a_proj", "kv_a_proj", "router", "positions")


def activation_bytes(shape: Shape, workload: Workload, *, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes that a forward pass holds at its widest point, on one device.

    Of the tokens computed at a time, min(batch prompt, prefill_chunk): the residual stream twice, queries,
    keys, values and the attention's result, and the FFN's inner values (of as many experts as a token
    visits); of each sequence, the logits in 32 bits. Attention itself keeps no score matrix. The workload's
    batch is that of this device.
    """
    tokens = smaller(workload.batch_size * workload.prompt_length, workload.prefill_chunk)
    tokens = larger(tokens, workload.batch_size)
    inner = (2 if shape.gated_ffn else 1) * shape.d_ff
    if shape.moe is not None:
        routed = (shape.moe.top_k + shape.moe.n_shared) * shape.moe.d_ff
        inner = larger(inner, (2 if shape.gated_ffn else 1) * routed)
    heads = 2 * shape.n_head * shape.head_dim + 2 * shape.n_kv_head * shape.head_dim
    values = 2 * shape.d_model + (inner + heads) / parallel.tensor
    logits = workload.batch_size * shape.vocab_size * 4.0 / parallel.tensor
    return tokens * 1.0 * values * (workload.activation_bits / 8) + logits


def serving_memory(shape: Shape, workload: Workload, parallel: Parallel = ONE_DEVICE) -> MemoryUse:
    """Return the bytes on one device that serve a workload at its full context.

    batch_size sequences of context_length tokens, whose first prefix_length tokens are held once for all.
    Beside these an engine reserves a share for its runtime: see `largest_batch`.

    Expert parallelism leaves each device its share of the batch.

    >>> from scalesim.models import known_model
    >>> job = Workload(context_length=4096, batch_size=16)
    >>> round(serving_memory(known_model("llama-2-7b").shape, job).kv_cache / 2**30)
    32
    """
    parallel.check(shape)
    job = workload
    # Each pipeline stage holds its layers' cache of the whole batch; each expert replica its own share.
    sequences = job.batch_size / parallel.expert if parallel.expert > 1 else job.batch_size

    def cache(length: Num) -> Num:
        return kv_cache_bytes(shape, length, kv_bits=job.kv_bits, parallel=parallel)

    own = cache(job.context_length)
    shared: Num = 0
    if not (isinstance(job.prefix_length, int) and job.prefix_length == 0):
        shared = own - cache(job.context_length - job.prefix_length)
    return MemoryUse(
        weight_bytes(shape, weight_bits=job.weight_bits, parallel=parallel),
        sequences * own - larger(sequences - 1, 0) * shared,
        activation_bytes(shape, replace(job, batch_size=sequences), parallel=parallel),
    )
