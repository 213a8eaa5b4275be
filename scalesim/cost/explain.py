"""All that serving one real shape costs on real hardware, in one call: for reports and the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from scalesim.cost.cache import kv_bytes_per_token
from scalesim.cost.capacity import largest_batch, largest_context, usable_bytes
from scalesim.cost.latency import RESERVE, Serving, decode_operators, prefill_operators, serving
from scalesim.cost.memory import MemoryUse, serving_memory, weight_bytes
from scalesim.cost.numbers import to_float
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.cost.passes import Operator
from scalesim.cost.price import PerMillion, token_energy, token_price
from scalesim.cost.spread import Interval, pass_interval
from scalesim.cost.training import Band
from scalesim.hardware import Hardware
from scalesim.programs import kept_jit
from scalesim.shape import Shape
from scalesim.workload import Workload

__all__ = ["ServingCost", "serving_cost"]


@dataclass(frozen=True)
class ServingCost:
    """What serving one shape costs; plain numbers.

    Attributes:
        kv_bytes_per_token, weight_bytes: on all accelerators together.
        memory: bytes on one accelerator.
        usable_bytes: bytes that it may fill.
        largest_batch, largest_context: what would just fit, not rounded.
        serving: TTFT, TPOT and throughput.
        dollars: $ a million tokens, "prompt" and "generated" (None: the hardware states no price).
        joules: of a million tokens (None: the hardware states no power).
        prefill, decode: the operators of the first token of one prompt alone, and of one step.
        error: half the width of the time a token's 90% interval, relative to it.
        ttft_interval, tpot_interval: 90% intervals of both times: see `pass_interval`.
    """

    kv_bytes_per_token: float
    weight_bytes: float
    memory: MemoryUse
    usable_bytes: float
    largest_batch: float
    largest_context: float
    serving: Serving
    dollars: dict[str, Band] | None
    joules: PerMillion | None
    prefill: tuple[Operator, ...]
    decode: tuple[Operator, ...]
    error: float
    ttft_interval: Interval
    tpot_interval: Interval


@partial(kept_jit, static_argnums=3)
def _times(shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel) -> Any:
    # One compiled call: op by op, the first answer would take seconds.
    alone = replace(workload, batch_size=1.0)
    prices = None if hardware.price_typical is None else token_price(shape, workload, hardware, parallel)
    joules = None if hardware.power_w is None else token_energy(shape, workload, hardware, parallel)
    return (
        serving(shape, workload, hardware, parallel),
        prices,
        joules,
        prefill_operators(shape, alone, hardware, parallel),
        decode_operators(shape, workload, hardware, parallel),
    )


def serving_cost(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    reserve: float = RESERVE,
) -> ServingCost:
    """Return everything that serving a workload costs.

    Raises:
        InvalidInput: a split that does not divide the shape, or a number format without matrix units.

    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> job = Workload(context_length=8192, batch_size=16, generated_length=512)
    >>> cost = serving_cost(known_model("llama-3-8b").shape, job, load_hardware("h100"))
    >>> cost.kv_bytes_per_token, round(cost.weight_bytes / 1e9, 1)
    (131072, 16.1)
    """
    parallel.check(shape)
    with jax.enable_x64(True):
        times = _times(to_float(shape), to_float(workload), hardware, parallel)
    found, dollars, joules, prefill, decode = jax.tree.map(float, jax.device_get(times))
    first, after = (
        pass_interval(operators, hardware, parallel, float(shape.n_layer)) for operators in (prefill, decode)
    )
    return ServingCost(
        kv_bytes_per_token=kv_bytes_per_token(shape, kv_bits=workload.kv_bits),
        weight_bytes=weight_bytes(shape, weight_bits=workload.weight_bits),
        memory=jax.tree.map(float, serving_memory(shape, workload, parallel)),
        usable_bytes=float(usable_bytes(hardware, reserve)),
        largest_batch=float(largest_batch(shape, workload, hardware, parallel, reserve=reserve)),
        largest_context=float(largest_context(shape, workload, hardware, parallel, reserve=reserve)),
        serving=found,
        dollars=dollars,
        joules=joules,
        prefill=prefill,
        decode=decode,
        error=(after.high - after.low) / 2 / found.tpot_s,
        ttft_interval=first,
        tpot_interval=after,
    )
