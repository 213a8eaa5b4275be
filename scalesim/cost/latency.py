"""Seconds: to the first token, for every further token, and for a whole batch; and tokens a second."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from scalesim.cost.cache import kv_cache_bytes
from scalesim.cost.memory import serving_memory
from scalesim.cost.numbers import larger, to_float
from scalesim.cost.operators import forward_operators
from scalesim.cost.parallel import ONE_DEVICE, Parallel, split
from scalesim.cost.passes import Operator
from scalesim.errors import InvalidInput
from scalesim.hardware import Hardware
from scalesim.pytree import register
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.workload import Workload

__all__ = [
    "RESERVE",
    "Serving",
    "decode_operators",
    "generation_time",
    "mean_length",
    "prefill_operators",
    "prefill_time",
    "serving",
    "step_time",
    "time_to_first_token",
]


RESERVE = 0.1
"""Share of memory that an engine leaves free for its runtime, graphs and fragmentation (vLLM's default)."""


def _sum(operators: tuple[Operator, ...]) -> Num:
    return sum(operator.time_s for operator in operators)


def prefill_operators(
    shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel = ONE_DEVICE
) -> tuple[Operator, ...]:
    """Return the operators that compute all batch_size prompts together, less the shared prefix."""
    batch = larger(workload.batch_size / parallel.expert, 1)
    new = workload.prompt_length - workload.prefix_length
    return forward_operators(
        shape,
        workload,
        hardware,
        parallel,
        batch_size=batch,
        new=larger(new, 1),
        past=workload.prefix_length,
        decode=False,
    )


def prefill_time(
    shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel = ONE_DEVICE
) -> Num:
    """Return the seconds to compute all batch_size prompts together."""
    return _sum(prefill_operators(shape, workload, hardware, parallel))


def time_to_first_token(
    shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel = ONE_DEVICE
) -> Num:
    """Return TTFT: the seconds from the start of one prompt's prefill, alone, to its first token.

    Without queueing: what a request waits for others under load depends on arrivals and on the engine's
    scheduling, which nothing here knows.
    """
    return prefill_time(shape, replace(workload, batch_size=1), hardware, parallel)


def mean_length(workload: Workload) -> Num:
    """Return the tokens a decoding sequence holds, on average."""
    if workload.generated_length is None:
        return workload.context_length
    return workload.context_length - workload.generated_length / 2


def decode_operators(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    length: Num | None = None,
) -> tuple[Operator, ...]:
    """Return the operators of one token of every sequence, at `length` tokens each (the mean if left out).

    A pipeline takes the batch in as many parts as it has stages; the operators are those of one part, all
    stages one after the other, which is also the time between two tokens of a sequence.
    """
    share = parallel.expert * parallel.pipeline
    batch = workload.batch_size if not split(share) else larger(workload.batch_size / share, 1)
    length = mean_length(workload) if length is None else length
    return forward_operators(
        shape, workload, hardware, parallel, batch_size=batch, new=1, past=length - 1, decode=True
    )


def step_time(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    length: Num | None = None,
) -> Num:
    """Return TPOT: the seconds between two tokens of a sequence while batch_size sequences decode.

    At the mean length of the generated part (a step's time is nearly affine in it), or at the full context
    where the workload states no generated_length. Prompts that interrupt decoding are not in it: they are in
    the throughput.
    """
    return _sum(decode_operators(shape, workload, hardware, parallel, length=length))


@register
@dataclass(frozen=True)
class Serving:
    """How fast a workload is served on all its accelerators together.

    Attributes:
        ttft_s: seconds from the start of one prompt's prefill, alone, to its first token; no queueing.
        tpot_s: seconds between two tokens of a sequence while batch_size sequences decode.
        throughput_tokens_per_s: generated tokens a second of all sequences together, in the steady state of
            continuous batching: each sequence that ends makes room for the next, whose prompt takes its time.
            batch_size generated / (prefill of batch_size prompts + generated tpot_s); without a
            generated_length, of decoding alone: batch_size / tpot_s.
        prefill_tokens_per_s: prompt tokens a second while only prompts are computed.
    """

    ttft_s: Num
    tpot_s: Num
    throughput_tokens_per_s: Num
    prefill_tokens_per_s: Num


def serving(shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel = ONE_DEVICE) -> Serving:
    """Return latency and throughput of a workload whose batch_size sequences fit in memory.

    Whether they fit is `largest_batch`'s to say.

    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> job = Workload(context_length=2048, batch_size=16, generated_length=1024)
    >>> result = serving(known_model("llama-3-8b").shape, job, load_hardware("h100"))
    >>> 0.004 < float(result.tpot_s) < 0.02
    True
    """
    tpot = step_time(shape, workload, hardware, parallel)
    # Stages of a pipeline compute different prompts at the same time.
    prefill = prefill_time(shape, workload, hardware, parallel) / parallel.pipeline
    batch = workload.batch_size
    if workload.generated_length is None:
        throughput = batch / tpot
    else:
        tokens = workload.generated_length * 1.0
        throughput = batch * tokens / (prefill + tokens * tpot)
    new = workload.prompt_length - workload.prefix_length
    return Serving(
        time_to_first_token(shape, workload, hardware, parallel),
        tpot,
        throughput,
        batch * 1.0 * new / prefill,
    )


def generation_time(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    reserve: Num = RESERVE,
) -> Num:
    """Return the seconds in which a batch of prompts that starts together has all its tokens.

    prefill + the sum over generated tokens of (B / c) step(c), where c is as many of the B sequences as
    fit in memory at that length, B and the fitting number joined by a smooth minimum: what does not fit
    waits (preemption), so that every token takes B / c steps of c sequences.

    Args:
        shape: the model.
        workload: generated_length must be given.
        hardware: where.
        parallel: over how many accelerators.
        reserve: share of memory not to be used.
    """
    generated = workload.generated_length
    if generated is None:
        raise InvalidInput("generated_length must be given for the time of a whole generation, but is None.")
    batch = workload.batch_size * 1.0
    use = to_float(serving_memory(shape, workload, parallel))
    free = hardware.memory_bytes * (1 - reserve) - use.weights - use.activations
    # Gauss-Legendre: three lengths integrate a step's time, nearly affine in the length, to 1e-4.
    nodes, weights = np.polynomial.legendre.leggauss(3)
    total = prefill_time(shape, workload, hardware, parallel)
    for node, weight in zip(nodes, weights, strict=True):
        length = workload.prompt_length + generated * float(node + 1) / 2
        one = kv_cache_bytes(shape, length, kv_bits=workload.kv_bits, parallel=parallel)
        room = larger(free / one, 1e-3) * parallel.expert
        running = batch / jnp.exp(jnp.log1p(jnp.exp(12 * jnp.log(batch / room))) / 12)
        part = replace(to_float(workload), batch_size=running)
        step = step_time(shape, part, hardware, parallel, length=length)
        total = total + generated * float(weight) / 2 * batch / running * step
    return total
