"""`scalesim cost`: what one shape costs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from scalesim.cli.common import parse, print_json, use_compilation_cache
from scalesim.errors import InvalidInput

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options:
    """What one shape costs to serve and to train, by the paper's formulas."""

    shape: str = "16x2048x32x8"
    """Layers x width x query heads x KV heads, and x FFN width if that is not 8/3 of the width."""
    context: str = "128K"
    """Context length in tokens; K is 1024."""
    batch_size: float = 1.0
    """Sequences served at a time."""
    bytes_per_weight: float = 2.0
    """Precision of the weights."""
    bytes_per_kv: float = 2.0
    """Precision of the KV cache."""
    flops_per: Literal["sequence", "token"] = "sequence"
    """Count inference FLOPs over the whole sequence, or for one token."""
    causal_halving: bool = False
    """A token attends to half the context on average."""
    weights: float = 0.9
    """Weight of memory in Z, 0 to 1; FLOPs have the rest."""
    tokens: str | None = None
    """Training tokens (default: 20 for each parameter)."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on standard output, and nothing else."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "cost", args)
    use_compilation_cache()
    from scalesim.cost import HardwareAwareCost, training_flops, training_memory
    from scalesim.report import print_cost, shape_json
    from scalesim.search import named_baseline
    from scalesim.shape import Shape, count_params
    from scalesim.units import parse_context, parse_count
    from scalesim.workload import Workload

    shape = named_baseline(options.shape)
    if not isinstance(shape, Shape):
        raise InvalidInput(f"shape {options.shape!r} is a rule, not a shape; 16x2048x32x8 would do.")
    context = float(parse_context(options.context))
    workload = Workload(context_length=context, batch_size=options.batch_size)
    z = HardwareAwareCost(
        memory_weight=options.weights,
        bytes_per_weight=options.bytes_per_weight,
        bytes_per_kv=options.bytes_per_kv,
        flops_per=options.flops_per,
        causal_halving=options.causal_halving,
    )
    tokens = 20.0 * count_params(shape, "paper")
    if options.tokens is not None:
        tokens = parse_count(options.tokens, "tokens")
    parts = {
        "memory_bytes": z.memory(shape, workload),
        "flops": z.flops(shape, workload),
        "training_flops": training_flops(shape, tokens, context),
        "training_memory_bytes": training_memory(shape, context, bytes_per_value=2.0),
    }
    report = {
        "shape": shape_json(shape),
        "context_length": context,
        "n_tokens": tokens,
        "n_params": count_params(shape, "paper"),
        "n_params_non_embedding": shape.n_params_non_embedding,
        "n_params_total": shape.n_params_total,
        "z": float(z(shape, workload)),
        **{name: {**dataclasses.asdict(part), "total": part.total} for name, part in parts.items()},
    }
    if options.json:
        print_json(report)
    else:
        print_cost(report)
    return 0
