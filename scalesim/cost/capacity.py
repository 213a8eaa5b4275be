"""What fits: the largest batch and the longest context, and what is missing where something does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from scalesim.cost.cache import Kept, kept_tokens, pool_layout, state_bytes
from scalesim.cost.latency import RESERVE
from scalesim.cost.memory import activation_bytes, serving_memory, weight_bytes
from scalesim.cost.numbers import larger, to_float
from scalesim.cost.parallel import ONE_DEVICE, Parallel, split
from scalesim.errors import Unreachable
from scalesim.hardware import Hardware
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.units import format_bytes
from scalesim.workload import Workload

__all__ = ["check_fits", "largest_batch", "largest_context", "usable_bytes"]


def usable_bytes(hardware: Hardware, reserve: Num = RESERVE) -> Num:
    """Return the bytes of one accelerator that a model may fill: (1 - reserve) of its memory."""
    return hardware.memory_bytes * (1 - reserve)


def _total(shape: Shape, workload: Workload, parallel: Parallel) -> Num:
    return to_float(serving_memory(shape, workload, parallel)).total


def _solve(memory_at: Any, limit: Num, at: tuple[Num, Num]) -> Num:
    """Return x with memory_at(x) = limit for an affine memory_at, from its values at two points."""
    low, high = (memory_at(x) for x in at)
    slope = (high - low) / (at[1] - at[0])
    return at[0] + (limit - low) / slope


def largest_batch(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    reserve: Num = RESERVE,
) -> Num:
    """Return how many sequences of context_length fit in memory together, not rounded (0 or less: none).

    Counts weights, the KV cache at the full context, activations and a reserve for the runtime. Memory is
    the lesser of two affine functions of the batch (activations are bounded by prefill_chunk), so that the
    answer is the greater of two quotients.

    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> job, a100 = Workload(context_length=4096), load_hardware("a100")
    >>> [int(largest_batch(known_model(m).shape, job, a100)) for m in ("llama-2-7b", "llama-3-8b")]
    [26, 102]
    """
    limit = usable_bytes(hardware, reserve)

    def memory(chunk: Num) -> Any:
        job = replace(workload, prefill_chunk=chunk)
        return lambda batch: _total(shape, replace(job, batch_size=batch * parallel.expert), parallel)

    # Two batches that fill the chunk with two tokens a sequence or more, but with one do not exceed it.
    chunk = workload.prefill_chunk * 1.0
    bounded = _solve(memory(chunk), limit, (chunk / 2, chunk))
    unbounded = _solve(memory(1e18), limit, (1.0, 1e6))
    return larger(bounded, unbounded) * parallel.expert


def largest_context(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    reserve: Num = RESERVE,
) -> Num:
    """Return the context length at which batch_size sequences just fit in memory, not rounded.

    Infinite where every layer has a sliding window and the caches of full windows fit. Whether the model
    was trained for that context is not asked.
    """
    limit = usable_bytes(hardware, reserve)
    job = replace(workload, generated_length=None, prefix_length=0)
    sequences = job.batch_size / parallel.expert if split(parallel.expert) else job.batch_size
    kept = kept_tokens(to_float(shape), kv_bits=job.kv_bits, parallel=parallel)
    fixed = weight_bytes(to_float(shape), weight_bits=job.weight_bits, parallel=parallel)
    if job.kv_pool:
        layout = pool_layout(to_float(shape), kv_bits=job.kv_bits, parallel=parallel)
        kept, held_state = [Kept(layout.per_token, None)], layout.per_sequence
    else:
        held_state = state_bytes(to_float(shape), parallel=parallel)
    fixed = fixed + sequences * held_state

    def held(length: Num, chunk: Num) -> Num:
        one = replace(job, prefill_chunk=chunk, context_length=length, batch_size=sequences)
        return fixed + activation_bytes(to_float(shape), to_float(one), parallel=parallel)

    # Memory is concave in the context (windows fill, the chunk is reached), so the answer is the greatest
    # root of its affine pieces: from each window's length on, chunk reached or not.
    best: Num = float("-inf")
    windows = [one.window for one in kept if one.window is not None]
    for beyond in (0.0, *windows):
        slope, at = 0.0, 0.0
        for one in kept:
            full = False if one.window is None else one.window <= beyond
            slope = slope + _where(full, 0.0, one.n_bytes)
            at = at + _where(full, one.n_bytes * (0.0 if one.window is None else one.window), 0.0)
        for chunk in (job.prefill_chunk * 1.0, 1e18):
            start = 1.0 * job.prefill_chunk * parallel.expert + beyond
            grows = sequences * slope + (held(2 * start, chunk) - held(start, chunk)) / start
            room = limit - held(start, chunk) - sequences * (at + slope * start)
            # What no longer grows fits at any length, or at none.
            endless = _where(room >= 0, float("inf"), float("-inf"))
            best = larger(best, _where(grows > 0, start + room / _where(grows > 0, grows, 1.0), endless))
    return best


def _where(condition: Any, yes: Num, no: Num) -> Num:
    if isinstance(condition, bool):
        return yes if condition else no
    return jnp.where(condition, yes, no)


def check_fits(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    reserve: float = RESERVE,
) -> None:
    """Raise Unreachable where a real workload does not fit: how much is missing, and what would fit."""
    need, have = float(_total(shape, workload, parallel)), float(usable_bytes(hardware, reserve))
    if need <= have:
        return
    ways = []
    batch = int(largest_batch(shape, workload, hardware, parallel, reserve=reserve))
    if batch >= 1:
        ways.append(f"batch_size {batch}")
    context = float(largest_context(shape, workload, hardware, parallel, reserve=reserve))
    if 1 <= context < workload.context_length:
        ways.append(f"context_length {int(context)}")
    for bits in ("kv_bits", "weight_bits"):
        less = replace(workload, **{bits: 8})  # type: ignore[arg-type]
        if getattr(workload, bits) > 8 and float(_total(shape, less, parallel)) <= have:
            ways.append(f"{bits} 8")
    tensor = parallel.tensor * 2
    while tensor <= 64 and shape.n_head % tensor == 0:
        more = replace(parallel, tensor=tensor)
        if float(_total(shape, workload, more)) <= have:
            ways.append(f"tensor {tensor}")
            break
        tensor *= 2
    use = to_float(serving_memory(shape, workload, parallel))
    raise Unreachable(
        f"batch_size {workload.batch_size} at context_length {workload.context_length} does not fit on "
        f"{parallel.devices} x {hardware.name}: {format_bytes(need)} are needed (weights "
        f"{format_bytes(use.weights)}, KV cache {format_bytes(use.kv_cache)}, activations "
        f"{format_bytes(use.activations)}) of {format_bytes(have)} usable, "
        f"{format_bytes(need - have)} too much; "
        + (
            f"{', or '.join(ways)} would fit."
            if ways
            else "the weights alone leave no room for one sequence."
        )
    )
