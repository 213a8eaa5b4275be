"""Continuous batching: prompts computed in chunks beside sequences that decode, at a load that is given.

A step of the engine computes one token of every decoding sequence and, where a prompt waits, as many of its
tokens as `prefill_chunk` leaves room for (vLLM's max_num_batched_tokens). With P prompt tokens to compute, G
generated ones and c = prefill_chunk - batch, a prompt takes n = max(1, P / c) steps. Where r requests are
served a step, r (G - 1) sequences decode, a share f of the steps computes prompts, and a step takes

    t = (1 - f) step(decode) + f step(decode, r P / f), f = r n / (1 + (r n)^4)^(1/4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.capacity import largest_batch
from scalesim.cost.latency import decode_operators, mean_length
from scalesim.cost.numbers import larger, smaller, to_float
from scalesim.cost.operators import Chunk, forward_operators
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.errors import InvalidInput, Unreachable
from scalesim.hardware import Hardware
from scalesim.programs import kept_jit
from scalesim.pytree import register
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.workload import Workload

__all__ = ["UnderLoad", "at_concurrency", "at_request_rate", "largest_request_rate", "mixed_step_time"]


def mixed_step_time(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    prompt_tokens: Num,
    length: Num | None = None,
) -> Num:
    """Return the seconds of a step that decodes batch_size sequences and computes `prompt_tokens` beside.

    Every matrix is read once for both (chunked prefill); attention of the two is computed apart.

    Args:
        shape, workload, hardware, parallel: as `step_time` takes them.
        prompt_tokens: of all prompts in the step; a chunk stands, on average, half way in its prompt.
        length: of the decoding sequences (their mean if left out).

    >>> from scalesim.cost.latency import step_time
    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> model, h100 = known_model("llama-3-8b").shape, load_hardware("h100")
    >>> job = Workload(context_length=4096, generated_length=512, batch_size=32)
    >>> mixed = float(mixed_step_time(model, job, h100, prompt_tokens=2048))
    >>> 2 < mixed / float(step_time(model, job, h100)) < 10
    True
    """
    share = parallel.expert * parallel.pipeline
    whole = larger(workload.prompt_length - workload.prefix_length, 1)
    tokens = prompt_tokens / parallel.expert
    new = smaller(tokens, whole)
    operators = forward_operators(
        shape,
        workload,
        hardware,
        parallel,
        batch_size=workload.batch_size / share,
        new=1,
        past=(mean_length(workload) if length is None else length) - 1,
        decode=True,
        beside=Chunk(tokens / new, new, workload.prefix_length + (whole - new) / 2),
    )
    return sum(o.time_s for o in operators)


@register
@dataclass(frozen=True)
class UnderLoad:
    """How a workload is served while requests come and go.

    Attributes:
        concurrency: requests in the engine, decoding or not.
        running: sequences that decode.
        requests_per_s: served.
        ttft_s: mean seconds from a request's arrival to its first token, what it waits for others counted.
        tpot_s: mean seconds between two tokens of a sequence.
        throughput_tokens_per_s: generated tokens a second.
        busy: share of the time that all prompts would take in full chunks; near 1 requests queue.
    """

    concurrency: Num
    running: Num
    requests_per_s: Num
    ttft_s: Num
    tpot_s: Num
    throughput_tokens_per_s: Num
    busy: Num


class _Steps(NamedTuple):
    """What steps take where a number of requests is served in each."""

    running: Num
    mean: Num
    mixed: Num
    others: Num  # a step of a sequence that decodes, its own prompt's left out
    prompt: Num  # steps a prompt takes
    busy: Num  # share of the time that full chunks of all prompts would take


def _shared(workload: Workload, parallel: Parallel) -> tuple[Workload, Num]:
    """The workload of one group of sequences, which take turns (pipeline) or run apart (expert); how many."""
    groups = parallel.expert * parallel.pipeline
    return replace(workload, batch_size=larger(workload.batch_size / groups, 1)), groups


def _tokens(workload: Workload) -> tuple[Num, Num, Num]:
    """Prompt tokens to compute, tokens to decode, and those of a prompt that one step has room for."""
    if workload.generated_length is None:
        raise InvalidInput("generated_length must be given for a load of requests, but is None.")
    prompt = larger(workload.prompt_length - workload.prefix_length, 1)
    decoded = larger(workload.generated_length - 1, 1e-3)
    return prompt * 1.0, decoded * 1.0, larger(workload.prefill_chunk - workload.batch_size, 16) * 1.0


def _at_most_one(x: Num, sharpness: int) -> Num:
    """The lesser of x and 1, bent: x / (1 + x^p)^(1/p)."""
    return x * jnp.exp(-jnp.log1p(jnp.exp(sharpness * jnp.log(x))) / sharpness)


def _steps(shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel, per_step: Num) -> _Steps:
    prompt, decoded, room = _tokens(workload)
    n = larger(prompt / room, 1.0)
    running = per_step * decoded
    occupied = per_step * n
    f = _at_most_one(occupied, 4)
    groups = parallel.expert * parallel.pipeline
    job = replace(workload, batch_size=running * groups)
    plain = sum(o.time_s for o in decode_operators(shape, job, hardware, parallel))
    tokens = per_step * prompt / f * parallel.expert
    mixed, full = (
        mixed_step_time(shape, job, hardware, parallel, prompt_tokens=t)
        for t in (tokens, room * parallel.expert)
    )
    mean, others = ((1 - share) * plain + share * mixed for share in (f, f * (1 - 1 / workload.batch_size)))
    return _Steps(running, mean, mixed, others, n, jnp.minimum(per_step / mean * prompt / room * full, 0.99))


def at_concurrency(
    shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel = ONE_DEVICE
) -> UnderLoad:
    """Return how fast batch_size requests are served at a time, each that ends replaced by the next.

    r = B / (n + w + G - 1) requests a step, at most c / P (joined by a smooth minimum), where w = n (1 - 1
    / B) / 2 times r P / c steps are waited for another's prompt; a request stays for B t / r seconds.
    Steps are as the module has them: prompts in chunks beside decoding (vLLM's default), no preemption.

    Args:
        shape, workload, hardware, parallel: as `serving` takes them; workload.batch_size is the concurrency,
            workload.prefill_chunk the most tokens a step computes.

    Raises:
        InvalidInput: no generated_length.

    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> job = Workload(context_length=2048, generated_length=256, batch_size=32)
    >>> found = at_concurrency(known_model("llama-3-8b").shape, job, load_hardware("h100"))
    >>> 0.01 < float(found.tpot_s) < 0.04
    True
    """
    job, groups = _shared(workload, parallel)
    prompt, decoded, room = _tokens(job)
    held, n = job.batch_size * 1.0, larger(prompt / room, 1.0)
    others = 1 - 1 / held
    free = held / (n + decoded)
    wait = n * _at_most_one(free * prompt / room, 4) * others / 2
    free, most = held / (n + wait + decoded), room / prompt
    per_step = most * _at_most_one(free / most, 24)
    steps = _steps(shape, job, hardware, parallel, per_step)
    # A request's steps: those of its prompt are mixed ones, of the others it meets what all meet.
    whole = held / per_step * steps.mean
    queue = held / per_step - n - decoded
    first = (n + queue) * steps.mixed
    later = larger((whole - first) / decoded, 0.0)
    return UnderLoad(
        concurrency=held * groups,
        running=steps.running * groups,
        requests_per_s=groups * per_step / steps.mean,
        ttft_s=first,
        tpot_s=later,
        throughput_tokens_per_s=groups * per_step * (decoded + 1) / steps.mean,
        busy=steps.busy,
    )


_GRID = 96  # rates that are looked at, evenly in their logarithm


@partial(kept_jit, static_argnums=3)
def _rates(shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel) -> UnderLoad:
    """Loads of Poisson arrivals, from a few requests at a time to as many as can be served."""
    job, groups = _shared(workload, parallel)
    prompt, decoded, room = _tokens(job)
    seats = job.batch_size
    most = 0.99 * jnp.minimum(room / prompt, seats / (decoded + larger(prompt / room, 1.0)))
    per_step = most * jnp.exp(jnp.linspace(-6.0, 0.0, _GRID))

    def at(r: Num) -> UnderLoad:
        s = _steps(shape, job, hardware, parallel, r)
        rate, service = r / s.mean, s.prompt * s.mixed
        # Its own prompt, and those before (M/D/1) of others that have seats.
        ttft = service * (1 + (1 - 1 / seats) * s.busy / (2 * (1 - s.busy)))
        # Until one of the seats is free (M/G/c by Sakasegawa 1977, answers of about one length).
        stay = ttft + decoded * s.others
        taken = jnp.minimum(rate * stay / seats, 0.99)
        wait = stay / seats * taken ** (jnp.sqrt(2 * (seats + 1)) - 1) / (1 - taken) / 2
        # Half a step until the next begins, if one is under way.
        ttft = ttft + wait + s.mean / 2 * jnp.minimum(rate * stay, 1.0)
        return UnderLoad(
            groups * rate * (ttft + decoded * s.others), groups * s.running, groups * rate, ttft, s.others,
            groups * rate * (decoded + 1), s.busy,
        )  # fmt: skip

    return jax.vmap(at)(per_step)


def _table(
    shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel
) -> tuple[UnderLoad, float]:
    """Loads by rising request rate, of what memory holds, and the number of sequences it holds."""
    parallel.check(shape)
    fits = float(largest_batch(shape, workload, hardware, parallel))
    if fits < 1:
        raise Unreachable("No sequence of this context fits in memory; more accelerators would do.")
    most = min(float(workload.batch_size), fits)
    job = to_float(replace(workload, batch_size=most))
    with jax.enable_x64(True):
        return jax.device_get(_rates(to_float(shape), job, hardware, parallel)), most


def _between(table: UnderLoad, rate: float) -> UnderLoad:
    return jax.tree.map(lambda v: float(np.interp(rate, table.requests_per_s, v)), table)


def at_request_rate(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    requests_per_s: float,
) -> UnderLoad:
    """Return TTFT and TPOT where requests arrive at random (a Poisson process) at a given rate.

    A queueing approximation: half a step passes until the next begins, prompts are served one after the
    other (M/D/1: a wait of service busy / (2 (1 - busy))), where batch_size requests are in the engine
    another waits for a seat (M/G/c, Sakasegawa 1977, Ann. Inst. Statist. Math. 29:67), and the sequences
    that decode are as many as arrive while one does. Means, of requests that are all alike; how far they lie
    from a simulation of the scheduler `experiments/serving_load.py` says, and docs/hardware.md states.

    Args:
        shape, workload, hardware, parallel: as `at_concurrency` takes them; workload.batch_size is the most
            requests at a time (vLLM's max_num_seqs), or as many as fit in memory.
        requests_per_s: the rate.

    Raises:
        Unreachable: more requests than can be served.
        InvalidInput: a rate that is not positive, or no generated_length.

    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> job = Workload(context_length=2048, generated_length=256, batch_size=256)
    >>> at = dict(shape=known_model("llama-3-8b").shape, workload=job, hardware=load_hardware("h100"))
    >>> few, many = (at_request_rate(**at, requests_per_s=rate) for rate in (1, 8))
    >>> few.tpot_s < many.tpot_s, few.ttft_s < many.ttft_s
    (True, True)
    """
    if not 0 < requests_per_s < float("inf"):
        raise InvalidInput(f"requests_per_s must be above 0 and finite, but is {requests_per_s!r}.")
    table, held = _table(shape, workload, hardware, parallel)
    if requests_per_s > table.requests_per_s[-1]:
        raise Unreachable(
            f"{requests_per_s:g} requests a second are more than can be served: "
            f"{table.requests_per_s[-1]:.3g} at {held:.0f} at a time. A larger batch_size or prefill_chunk, "
            "or more accelerators would do."
        )
    return _between(table, requests_per_s)


def largest_request_rate(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
) -> UnderLoad:
    """Return the load of the most requests a second whose mean TTFT and TPOT keep their targets.

    Its `concurrency` is the users that are served at a time. The approximation of `at_request_rate`.

    Args:
        shape, workload, hardware, parallel: as `at_request_rate` takes them.
        ttft_s, tpot_s: the most seconds; None: any.

    Raises:
        Unreachable: a single request at a time already takes longer.
    """
    table, _ = _table(shape, workload, hardware, parallel)
    best = float(table.requests_per_s[-1])
    for name, most in (("ttft_s", ttft_s), ("tpot_s", tpot_s)):
        values: Any = np.maximum.accumulate(getattr(table, name))
        if most is None:
            continue
        if values[0] > most:
            raise Unreachable(
                f"{name} must be at least {values[0]:.4g}, what a request alone takes, but is {most:g}."
            )
        best = min(best, float(np.interp(most, values, table.requests_per_s)))
    return _between(table, best)
