"""From the options of `scalesim design` to the question it asks: workloads, objective, constraints."""

from __future__ import annotations

import dataclasses
from typing import Any

from scalesim.errors import InvalidInput

__all__ = ["OBJECTIVES", "constraints_of", "objective_of", "parallel_of", "workloads_of"]

OBJECTIVES = {
    "z": "Z",
    "z-figure1": "Z (GiB, causal)",
    "memory": "memory (bytes)",
    "flops": "FLOPs",
    "ttft": "seconds to first token",
    "tpot": "seconds per token",
    "price": "$ a million requests",
}
"""Each objective of the command line, and what reports call it."""

_ON_HARDWARE = {"ttft": "TimeToFirstToken", "tpot": "TimePerToken", "price": "RequestPrice"}


def parallel_of(options: Any) -> Any:
    """Return over how many accelerators the options split a model."""
    from scalesim.cost.parallel import Parallel

    return Parallel(tensor=getattr(options, "tensor", 1))  # a sweep has no such option


def workloads_of(options: Any, objective: Any) -> list[Any]:
    """Return a workload for each context asked for (for a mix of contexts, one at their mean)."""
    from scalesim.units import parse_context
    from scalesim.workload import Workload

    if options.context_mix:
        contexts = [float(objective.lengths.mean)]
    else:
        contexts = [float(parse_context(context)) for context in options.context]
    generated = None if options.generated is None else float(parse_context(options.generated, "generated"))
    return [
        Workload(
            context_length=context,
            batch_size=options.batch_size,
            generated_length=generated,
            weight_bits=8 * options.bytes_per_weight,
            kv_bits=8 * options.bytes_per_kv,
        )
        for context in contexts
    ]


def constraints_of(options: Any) -> list[Any]:
    """Return the constraints that the options name."""
    from scalesim.design import fits, max_memory, max_params, max_time_per_token, max_time_to_first_token
    from scalesim.design.candidate import reported_cost
    from scalesim.units import parse_count

    found = []
    if options.max_params is not None:
        found.append(max_params(parse_count(options.max_params, "max-params")))
    if options.max_memory_gib is not None:
        counted = reported_cost(objective_of(options))
        found.append(max_memory(options.max_memory_gib * 2.0**30, counted))
    if options.fits or options.max_tpot is not None or options.max_ttft is not None:
        from scalesim.hardware import load_hardware

        on = (load_hardware(options.hardware), parallel_of(options))
        if options.fits:
            found.append(fits(*on))
        if options.max_tpot is not None:
            found.append(max_time_per_token(options.max_tpot, *on))
        if options.max_ttft is not None:
            found.append(max_time_to_first_token(options.max_ttft, *on))
    return found


def objective_of(options: Any) -> Any:
    """Return the cost that the options describe."""
    from scalesim.cost import FIGURE_1, FIGURE_2, ExpectedCost

    if options.objective in _ON_HARDWARE:
        import scalesim as ss

        if options.context_mix:
            raise InvalidInput(f"context-mix does not go with objective {options.objective}; z would do.")
        make = getattr(ss.cost, _ON_HARDWARE[options.objective])
        return make(hardware=ss.load_hardware(options.hardware), parallel=parallel_of(options))
    if not 0 <= options.weights <= 1:
        raise InvalidInput(f"weights must be between 0 and 1 (memory's part of Z), but is {options.weights}.")
    cost = dataclasses.replace(
        FIGURE_1 if options.objective == "z-figure1" else FIGURE_2,
        memory_weight=options.weights,
        bytes_per_weight=options.bytes_per_weight,
        bytes_per_kv=options.bytes_per_kv,
        flops_per=options.flops_per,
    )
    if options.causal_halving != "default":
        cost = dataclasses.replace(cost, causal_halving=options.causal_halving == "yes")
    if options.objective == "memory":
        cost = dataclasses.replace(cost, memory_weight=1.0, memory_exponent=1.0)
    if options.objective == "flops":
        cost = dataclasses.replace(cost, memory_weight=0.0, flops_exponent=1.0)
    if not options.context_mix:
        return cost
    from scalesim.workload import ContextLengths

    return ExpectedCost(cost, ContextLengths.from_histogram(*_mix(options.context_mix)))


def _mix(entries: tuple[str, ...]) -> tuple[list[float], list[float]]:
    from scalesim.units import parse_context

    lengths, weights = [], []
    for entry in entries:
        length, colon, weight = entry.partition(":")
        try:
            weights.append(float(weight) if colon else 1.0)
        except ValueError:
            raise InvalidInput(f"context-mix {entry!r} is not LENGTH:WEIGHT; 8K:0.9 would do.") from None
        lengths.append(float(parse_context(length, "context-mix")))
    return lengths, weights
