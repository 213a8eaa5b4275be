"""From the options of `scalesim design` and `sweep` to the question: workloads, plan, objective, limits."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from scalesim.cli.options import Contexts, Count, Tokens
from scalesim.errors import InvalidInput

if TYPE_CHECKING:
    from scalesim.cost import AtMost, Measure, Parallel
    from scalesim.workload import TrainingPlan, Workload

__all__ = [
    "Cost",
    "Objective",
    "baseline_of",
    "constraints_of",
    "objective_of",
    "parallel_of",
    "plan_of",
    "target_losses",
    "workloads_of",
]

Objective = Literal["z", "z-figure1", "memory", "flops", "ttft", "tpot", "price"]
_ON_HARDWARE = ("ttft", "tpot", "price")


@dataclass(frozen=True)
class Cost:
    """What is minimised, and what it is counted for."""

    objective: Objective = "z"
    """What is minimised: the paper's Z in Figure 2's or Figure 1's units, memory or FLOPs; on --hardware also
    seconds to the first token, seconds per token, or dollars a million requests."""
    hardware: str = "h100-sxm"
    """For ttft, tpot and price: an accelerator of the catalogue, or a JSON file with its figures."""
    batch_size: float = 1.0
    """Sequences served at a time."""
    generated: Tokens = None
    """Tokens of the context that are generated, for --objective price."""
    context_mix: Contexts = ()
    """Instead of --context: a distribution of lengths, LENGTH:WEIGHT ..., for the expected cost."""
    weight_bits: float = 16.0
    """Bits a weight."""
    kv_bits: float = 16.0
    """Bits a value of the KV cache."""
    tokens: Count = None
    """Training tokens, such as 15T, for laws and limits that see them."""
    tokens_per_param: float = 20.0
    """Instead of --tokens: training tokens for each parameter."""
    weights: float = 0.9
    """Weight of memory in Z, 0 to 1; FLOPs have the rest."""
    flops_per: Literal["sequence", "token"] = "sequence"
    """Count FLOPs over the whole sequence, or for one token."""
    causal_halving: Literal["default", "yes", "no"] = "default"
    """Whether a token attends to half the context on average (default: as the objective's figure)."""


def parallel_of(options: Any) -> Parallel:
    """Return over how many accelerators the options split a model."""
    from scalesim.cost.parallel import Parallel

    return Parallel(tensor=getattr(options, "tensor", 1))  # a sweep has no such option


def plan_of(options: Any) -> TrainingPlan:
    """Return how the models are trained: stated tokens, or so many a parameter."""
    from scalesim.units import parse_count
    from scalesim.workload import TrainingPlan

    tokens = None if options.tokens is None else parse_count(options.tokens, "tokens")
    return TrainingPlan(n_tokens=tokens, tokens_per_param=options.tokens_per_param)


def workloads_of(options: Any) -> list[Workload]:
    """Return a workload for each context asked for (for a mix of contexts, one at their mean)."""
    from scalesim.units import parse_context
    from scalesim.workload import ContextLengths, Workload

    if options.context_mix:
        contexts = [float(ContextLengths.from_histogram(*_mix(options.context_mix)).mean)]
    else:
        contexts = [float(parse_context(context)) for context in options.context]
    generated = None if options.generated is None else float(parse_context(options.generated, "generated"))
    return [
        Workload(
            context_length=context,
            batch_size=options.batch_size,
            generated_length=generated,
            weight_bits=options.weight_bits,
            kv_bits=options.kv_bits,
            kv_pool=getattr(options, "kv_pool", False),
        )
        for context in contexts
    ]


def constraints_of(options: Any) -> list[AtMost]:
    """Return the constraints that the options name."""
    from scalesim.cost import (
        fits,
        max_memory,
        max_params,
        max_time_per_token,
        max_time_to_first_token,
        max_training_flops,
    )
    from scalesim.units import parse_count

    found = []
    if options.max_params is not None:
        found.append(max_params(parse_count(options.max_params, "max-params")))
    if options.max_memory_gib is not None:
        found.append(max_memory(options.max_memory_gib * 2.0**30, objective_of(options)))
    if options.max_training_flops is not None:
        found.append(max_training_flops(options.max_training_flops))
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


def objective_of(options: Any) -> Measure:
    """Return the measure that the options describe."""
    from scalesim.cost import FIGURE_1, FIGURE_2, ExpectedCost, Measure, as_measure, named_measure

    if options.objective in _ON_HARDWARE:
        from scalesim.hardware import load_hardware

        if options.context_mix:
            raise InvalidInput(f"context-mix does not go with objective {options.objective}; z would do.")
        return named_measure(
            options.objective, hardware=load_hardware(options.hardware), parallel=parallel_of(options)
        )
    if not 0 <= options.weights <= 1:
        raise InvalidInput(f"weights must be between 0 and 1 (memory's part of Z), but is {options.weights}.")
    cost: Any = dataclasses.replace(
        FIGURE_1 if options.objective == "z-figure1" else FIGURE_2,
        memory_weight=options.weights,
        flops_per=options.flops_per,
    )
    if options.causal_halving != "default":
        cost = dataclasses.replace(cost, causal_halving=options.causal_halving == "yes")
    if options.objective == "memory":
        cost = dataclasses.replace(cost, memory_weight=1.0, memory_exponent=1.0)
    if options.objective == "flops":
        cost = dataclasses.replace(cost, memory_weight=0.0, flops_exponent=1.0)
    if options.context_mix:
        from scalesim.workload import ContextLengths

        cost = ExpectedCost(cost, ContextLengths.from_histogram(*_mix(options.context_mix)))
    named: dict[str, Any] = {
        "memory": {"name": "memory", "unit": "B"},
        "flops": {"name": "flops", "label": "FLOPs", "unit": "FLOP"},
        "z-figure1": {"name": "Z", "label": "Z (GiB, causal)"},
    }
    if options.objective in named:
        return Measure(function=cost, **named[options.objective])
    return as_measure(cost)


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


def target_losses(texts: Sequence[str], law: Any, workload: Workload) -> list[float]:
    """Return the losses to reach: numbers, or those that the law predicts for models (`like:MODEL[@TOKENS]`).

    Raises:
        InvalidInput: neither, or a model whose loss the law cannot tell.
    """
    return [_like(text[5:], law, workload) if text.startswith("like:") else _loss(text) for text in texts]


def _loss(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(
            "target-loss must be in nats a token, or like:MODEL@TOKENS (such as like:llama-3.1-8b@15T), but "
            f"is {text!r}."
        ) from None


def _like(text: str, law: Any, workload: Workload) -> float:
    from scalesim.cli.given import given_shape
    from scalesim.design.problem import Problem, Query
    from scalesim.units import parse_count
    from scalesim.workload import TrainingPlan

    model, at, tokens = text.partition("@")
    given, own = given_shape(model), law.law
    n_tokens = parse_count(tokens, "tokens of target-loss") if at else None
    if "n_tokens" in own.fields and n_tokens is None:
        raise InvalidInput(f"target-loss like:{model} needs its training tokens, such as like:{model}@15T.")
    if "n_tokens" not in own.fields and n_tokens is not None:
        print(
            f"scalesim: the law does not see training tokens: {given.name} is taken at the law's own 20 a "
            "parameter. `scalesim redesign` sees them.",
            file=sys.stderr,
        )
    plan = TrainingPlan(n_tokens=n_tokens)
    query = Query(workload=workload, target_loss=1.0, plan=plan)
    loss = float(Problem(law=own).loss_of(given.shape, query))
    print(f"scalesim: the law predicts {loss:.4f} nats a token for {given.name}.", file=sys.stderr)
    return loss


def baseline_of(text: str) -> Any:
    """Return what designs are compared with: a rule's name as it is, or a model's shape."""
    from scalesim.families import named_baseline

    try:
        named_baseline(text)
    except InvalidInput as error:
        from scalesim.cli.given import given_shape

        try:
            return given_shape(text).shape
        except InvalidInput as other:
            raise InvalidInput(f"{error} Or a model: {other}") from None
    return text
