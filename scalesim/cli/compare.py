"""`scalesim compare`: designs side by side over context lengths."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scalesim.cli.common import parse, print_json
from scalesim.cli.given import Given, given_shape, whole
from scalesim.cli.options import Contexts, File, Flag, Number
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput

if TYPE_CHECKING:
    from scalesim.hardware import Hardware

__all__ = ["EXAMPLES", "Options", "run"]


EXAMPLES = (
    ("scalesim compare llama-3-8b qwen3-8b 24x3072x12x1 --context 8K 128K", "two models and a design"),
    ("scalesim compare mine/config.json qwen3-8b --hardware h200-sxm --plot c.png", "a figure over context"),
    ("scalesim compare 16x2048x32x8 16x2048x32x1 --law mine.json", "with losses by a law of your own"),
)


_DESIGNS = tyro.conf.arg(metavar="DESIGN ...", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is compared, at which contexts."""

    designs: Annotated[tuple[str, ...], tyro.conf.Positional, _DESIGNS]
    """Known models, config.json files, or sizes such as 16x2048x32x8."""
    context: Contexts = ("8K", "32K", "128K")
    """Context lengths in tokens; K is 1024."""
    law: str = "default"
    """The law that predicts losses: default, points, or a saved fit."""


@dataclass(frozen=True)
class Cost:
    """Where and how they serve."""

    hardware: str = "h100-sxm"
    """An accelerator of the catalogue, or a JSON file with its figures."""
    batch_size: Annotated[float, tyro.conf.arg(aliases=["--batch"])] = 1.0
    """Sequences served at a time."""
    weight_bits: Number = None
    """Bits a value of the layers' matrices (default: as the checkpoint is stored)."""
    kv_bits: float = 16.0
    """Bits a value of the KV cache."""
    compute: Literal["bf16", "fp8", "int8", "fp4"] = "bf16"
    """Number format of the matrix units."""
    tensor: int = 1
    """Accelerators that split each matrix."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    plot: File = None
    """Write a figure of memory, latency and dollars over context: .png, .svg or .pdf."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Options(Question, Cost, Output):
    """Designs side by side: loss where a law covers them, parameters, FLOPs, memory, latency and dollars."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "compare", args, ("--context",), EXAMPLES)
    use_compilation_cache()
    from scalesim.hardware import load_hardware
    from scalesim.report.comparison import draw_comparison, print_comparison
    from scalesim.report.console import print_remarks
    from scalesim.report.figure import save
    from scalesim.units import parse_context

    if not options.designs:
        raise InvalidInput("designs must name at least one model, config.json or shape, but is empty.")
    contexts = sorted({parse_context(text) for text in options.context})
    hardware = load_hardware(options.hardware)
    given = [given_shape(text) for text in options.designs]
    designs = [_design(options, one, contexts, hardware) for one in given]
    report = {
        "hardware": hardware.name,
        "devices": options.tensor,
        "batch_size": options.batch_size,
        "designs": designs,
    }
    if options.plot is not None:
        save(draw_comparison(report), options.plot)
    if options.json:
        print_json(report)
    else:
        print_comparison(report)
        without = [design["name"] for design in designs if design["loss"] is None]
        if without:
            print_remarks(
                [
                    f"No loss of {', '.join(without)}: the law is of plain decoders with gated FFNs and the "
                    "heads of its runs, and a trained model's own data decide its loss."
                ]
            )
    return 0


def _design(options: Options, given: Given, contexts: list[int], hardware: Hardware) -> dict[str, Any]:
    from scalesim.report.design_table import shape_json

    shape = given.shape
    return {
        "name": given.name,
        "shape": shape_json(shape),
        "n_params_total": shape.n_params_total,
        "n_params_active": shape.n_params_active,
        "max_context": given.max_context,
        "loss": _loss(options.law, given),
        "contexts": [_at(options, given, context, hardware) for context in contexts],
    }


def _at(options: Options, given: Given, context: int, hardware: Hardware) -> dict[str, Any]:
    """One design at one context. What does not fit says so and has no times."""
    from scalesim.cost.explain import serving_cost
    from scalesim.cost.flops import forward_flops
    from scalesim.cost.parallel import Parallel
    from scalesim.workload import Workload

    workload = Workload(
        context_length=context,
        batch_size=whole(options.batch_size),
        weight_bits=whole(given.weight_bits if options.weight_bits is None else options.weight_bits),
        kv_bits=whole(options.kv_bits),
        compute=options.compute,
    )
    cost = serving_cost(given.shape, workload, hardware, Parallel(tensor=options.tensor))
    fits = cost.memory.total <= cost.usable_bytes
    dollars = None
    if fits and cost.dollars is not None:
        dollars = {kind: dataclasses.asdict(band) for kind, band in cost.dollars.items()}
    return {
        "context_length": context,
        "beyond_max_context": given.max_context is not None and context > given.max_context,
        "fits": fits,
        "flops_per_token": float(forward_flops(given.shape, 1, past=context - 1).total),
        "memory_bytes": cost.memory.total,
        "kv_cache_bytes": cost.memory.kv_cache,
        "usable_bytes": cost.usable_bytes,
        "ttft_s": cost.serving.ttft_s if fits else None,
        "tpot_s": cost.serving.tpot_s if fits else None,
        "throughput_tokens_per_s": cost.serving.throughput_tokens_per_s if fits else None,
        "dollars_per_million_tokens": dollars,
    }


def _loss(law: str, given: Given) -> dict[str, Any] | None:
    """The law's loss of a shape of the kind that its evidence covers, and how far beyond the evidence."""
    from scalesim.fitting import named_fit
    from scalesim.fitting.predict import evidence_ranges, predict
    from scalesim.laws.base import fields_of

    shape = given.shape
    plain = shape.is_plain and shape.window is None
    # A trained model's own data decide its loss: a law of other data says nothing about it.
    if not plain or not shape.gated_ffn or given.max_context is not None:
        return None
    fit = named_fit(law)
    ranges = evidence_ranges(fit)
    if "head_dim" in ranges and not ranges["head_dim"][0] <= shape.head_dim <= ranges["head_dim"][1]:
        return None
    from scalesim.shape import count_params

    tokens = 20.0 * count_params(shape, "paper")
    context = ranges.get("context_length", (8192.0, 8192.0))[1]
    found = predict(fit, fields_of(fit.law, shape, tokens, context))
    interval = [float(found.run_low[0]), float(found.run_high[0])]
    return {
        "value": float(found.loss[0]),
        "interval": interval if all(map(math.isfinite, interval)) else None,
        "extrapolation": {name: float(factor[0]) for name, factor in found.beyond.items()},
        "law": law,
        "n_tokens": tokens,
    }
