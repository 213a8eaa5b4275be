"""Bytes on one accelerator: of weights, of caches, and of what a step holds beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scalesim.cost.cache import kv_cache_bytes, pool_bytes
from scalesim.cost.numbers import in_bytes, larger, smaller
from scalesim.cost.parallel import ONE_DEVICE, Parallel, held_heads, split
from scalesim.pytree import register
from scalesim.shape import Shape, count_params, parameter_table
from scalesim.types import Num
from scalesim.workload import Workload

__all__ = ["MemoryUse", "activation_bytes", "held_params", "serving_memory", "weight_bytes"]


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


def weight_bytes(shape: Shape, *, weight_bits: Num = 16, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes of the weights on one device, embeddings included.

    weight_bits are those of the layers' matrices, as quantisers mean it; embeddings, the output table, norms
    and other vectors keep 16 (or weight_bits, where those are more). Tensor parallelism splits matrices and
    embedding tables, except that the K and V projections hold max(1, n_kv_head / tensor) heads; pipeline
    stages split the layers (the tables stay with the first and last stage: counted in full on each); expert
    parallelism splits the routed experts alone. Norms and other vectors are not split.

    >>> from scalesim.models import known_model
    >>> weight_bytes(known_model("llama-3-8b").shape) == 2 * 8030261248
    True
    """
    matrices, others = held_params(shape, parallel)
    return in_bytes(matrices, weight_bits) + in_bytes(others, larger(weight_bits, 16))


def held_params(shape: Shape, parallel: Parallel = ONE_DEVICE) -> tuple[Num, Num]:
    """Return the parameters on one device: of the layers' matrices, and of everything else."""
    if not split(parallel.devices):
        matrices = count_params(shape, "paper")
        return matrices, count_params(shape) - matrices
    found: list[Num] = [0.0, 0.0]
    for p in parameter_table(shape):
        size = 1.0 * p.size
        if p.operator or p.name == "embedding":
            for axis, length in zip(p.axes, p.shape, strict=True):
                if axis == "kv_heads":
                    size = size / length * held_heads(length, parallel)
            if _SPLIT.intersection(p.axes):
                size = size / parallel.tensor
        if p.axes[0] == "expert":
            size = size / parallel.expert
        if p.layers is not None:
            size = size * p.layers / parallel.pipeline
        found[p.group not in ("attention", "ffn")] += size
    return found[0], found[1]


_SPLIT = frozenset({"heads", "mlp", "vocab"})


def activation_bytes(shape: Shape, workload: Workload, *, parallel: Parallel = ONE_DEVICE) -> Num:
    """Return the bytes that a forward pass holds at its widest point, on one device.

    Of the tokens computed at a time, min(batch prompt, prefill_chunk): the residual stream twice, queries,
    keys, values and the mixer's result, and the FFN's inner values (of as many experts as a token visits) of
    the widest block; of each sequence, the logits in 32 bits. Attention itself keeps no score matrix. The
    workload's batch is that of this device.
    """
    tokens = smaller(workload.batch_size * workload.prompt_length, workload.prefill_chunk)
    tokens = larger(tokens, workload.batch_size)
    widest: Num = 0
    for block in shape.blocks:
        inner = 0 if block.ffn is None else (2 if block.ffn.gated else 1) * block.ffn.inner
        widest = larger(widest, inner + (0 if block.mixer is None else block.mixer.moved))
    values = 2 * shape.d_model + widest / parallel.tensor
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
    sequences = job.batch_size / parallel.expert if split(parallel.expert) else job.batch_size

    def cache(length: Num) -> Num:
        kept = pool_bytes if job.kv_pool else kv_cache_bytes
        return kept(shape, length, kv_bits=job.kv_bits, parallel=parallel)

    own = cache(job.context_length)
    shared: Num = 0
    if not (isinstance(job.prefix_length, int) and job.prefix_length == 0):
        shared = own - cache(job.context_length - job.prefix_length)
    return MemoryUse(
        weight_bytes(shape, weight_bits=job.weight_bits, parallel=parallel),
        sequences * own - larger(sequences - 1, 0) * shared,
        activation_bytes(shape, replace(job, batch_size=sequences), parallel=parallel),
    )
