"""`scalesim cost`: what one shape costs, on named hardware and by the paper's formulas."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scalesim.cli.common import parse, print_json
from scalesim.cli.engine import Engine, engine_lines, engine_report
from scalesim.cli.given import Given, given_shape, whole
from scalesim.cli.options import Count, File, Flag, Number, Text, Tokens
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput

if TYPE_CHECKING:
    from scalesim.cost.parallel import Parallel
    from scalesim.hardware import Hardware
    from scalesim.workload import Workload

__all__ = ["EXAMPLES", "Options", "run"]

_LONGEST = 131072


EXAMPLES = (
    ("scalesim cost qwen3-30b-a3b --context 32K", "a known model on an H100: counts, bytes, times, dollars"),
    ("scalesim cost path/to/config.json --hardware h200-sxm --batch-size 32", "a model of your own"),
    ("scalesim cost 16x2048x32x8 --kv-bits 8 --tensor 2", "sizes, an 8-bit cache, two accelerators"),
    (
        "scalesim cost llama-3-8b --context 4K --generated 512 --batch 64 --target-tpot 0.02",
        "users at a time that keep 20 ms a token",
    ),
    (
        "scalesim cost llama-3-8b --plot roofline.png",
        "which operators the memory bounds, and which the units",
    ),
)


@dataclass(frozen=True)
class Model:
    """Whose cost: one of these."""

    design: Annotated[File, tyro.conf.Positional, tyro.conf.arg(metavar="[DESIGN]")] = None
    """A known model, a config.json, its folder, a hub id in your cache, or sizes such as 16x2048x32x8."""
    shape: Text = None
    """Layers x width x query heads x KV heads, and x FFN width if that is not 8/3 of the width."""
    model: Text = None
    """A known model, such as llama-3.1-8b."""
    config: File = None
    """A Hugging Face config.json."""


@dataclass(frozen=True)
class Serving:
    """Where and how it serves."""

    hardware: str = "h100-sxm"
    """An accelerator of the catalogue, or a JSON file with its figures."""
    context: Tokens = None
    """Tokens of context, prompt and generated together; K is 1024 (default: the model's, at most 128K)."""
    batch_size: Annotated[float, tyro.conf.arg(aliases=["--batch"])] = 1.0
    """Sequences served at a time."""
    generated: Tokens = None
    """Tokens generated a sequence; the rest of the context is the prompt."""
    prefix: Tokens = None
    """Tokens of the prompt that all sequences share."""
    weight_bits: Number = None
    """Bits a value of the layers' matrices (default: as the checkpoint is stored)."""
    activation_bits: float = 16.0
    """Bits an activation."""
    kv_bits: float = 16.0
    """Bits a value of the KV cache."""
    kv_pool: Flag = False
    """Count the pool that an engine sets aside for caches, rather than what they need."""
    compute: Literal["bf16", "fp8", "int8", "fp4"] = "bf16"
    """Number format of the matrix units."""
    tensor: int = 1
    """Accelerators that split each matrix."""
    pipeline: int = 1
    """Accelerators that split the layers."""
    expert: int = 1
    """Accelerators that split the experts."""
    best_plan: Flag = False
    """Choose tensor, pipeline and expert parallelism, replicas and their batch: the cheapest way to serve
    --batch-size sequences at a time."""


@dataclass(frozen=True)
class Paper:
    """How the paper's costs are counted, and how the model is trained."""

    flops_per: Literal["sequence", "token"] = "sequence"
    """Count the paper's inference FLOPs over the whole sequence, or for one token."""
    causal_halving: bool = False
    """In the paper's FLOPs, a token attends to half the context on average."""
    weights: float = 0.9
    """Weight of memory in the paper's Z, 0 to 1; FLOPs have the rest."""
    tokens: Count = None
    """Training tokens (default: 20 for each parameter)."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    plot: File = None
    """Write a roofline figure: .png, .svg or .pdf."""
    write_config: File = None
    """Write the shape as a Hugging Face config.json."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True)
class Options(Model, Serving, Engine, Paper, Output):
    """What one shape costs to serve and to train: bytes, milliseconds, dollars, and what bounds them."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "cost", args, examples=EXAMPLES)
    use_compilation_cache()
    from scalesim.cost.capacity import check_fits
    from scalesim.cost.counts import counts
    from scalesim.cost.deployment import serve_plan
    from scalesim.cost.engines import with_engine
    from scalesim.cost.explain import serving_cost
    from scalesim.cost.parallel import Parallel
    from scalesim.errors import Unreachable
    from scalesim.hardware import load_hardware
    from scalesim.report.serving_table import print_serving, serving_json

    given = _given(options)
    workload = _workload(options, given)
    engine = None if options.engine == "as-calibrated" else options.engine
    hardware = with_engine(load_hardware(options.hardware), engine, enforce_eager=options.enforce_eager)
    parallel = Parallel(tensor=options.tensor, pipeline=options.pipeline, expert=options.expert)
    best = None
    if options.best_plan:
        if parallel.devices > 1:
            raise InvalidInput(
                "--best-plan chooses the parallelism: leave out --tensor, --pipeline and --expert."
            )
        best = serve_plan(given.shape, workload, hardware)
        parallel = best.deployment.parallel
        workload = dataclasses.replace(workload, batch_size=whole(best.deployment.batch_size))
    parallel.check(given.shape)
    unfit = None
    try:
        check_fits(given.shape, workload, hardware, parallel)
    except Unreachable as error:
        unfit = str(error)
    cost = serving_cost(given.shape, workload, hardware, parallel)
    bits = dict.fromkeys((workload.weight_bits, 16, 8, 4))
    found = counts(given.shape, weight_bits=tuple(bits), kv_bits=workload.kv_bits)
    report = {
        **_head(given, workload, hardware, parallel),
        **serving_json(cost),
        "plan": None if best is None else best.to_dict(),
        "engine": engine_report(options, given.shape, workload, hardware, parallel)
        if unfit is None
        else None,
        "fits": unfit is None,
        "unfit": unfit,
        "counts": found.to_dict(),
        "training": _training(options, given, workload, hardware),
        "paper": _paper(options, given, workload) if given.shape.is_plain else None,
    }
    if unfit is not None:
        # What does not fit is not served: it has no times.
        of_times = ("ttft_s", "tpot_s", "throughput_tokens_per_s", "prefill_tokens_per_s", "operators",
                    "dollars_per_million_tokens", "joules_per_million_tokens")  # fmt: skip
        report |= dict.fromkeys(of_times)
    if options.write_config is not None:
        from scalesim.interop import write_config

        write_config(
            given.shape, options.write_config, max_context=given.max_context or workload.context_length
        )
    if options.plot is not None:
        from scalesim.report.figure import save
        from scalesim.report.roofline import draw_roofline

        save(draw_roofline(cost, hardware, compute=options.compute), options.plot)
    if options.json:
        print_json(report)
    else:
        if best is not None:
            print(f"{best}\nOne replica of it:")
        print_serving(report, cost, hardware, found)
        for line in engine_lines(report["engine"] or {}):
            print(line)
    return 0


def _given(options: Options) -> Given:
    stated = [
        text for text in (options.design, options.shape, options.model, options.config) if text is not None
    ]
    if len(stated) > 1:
        raise InvalidInput("only one of --shape, --model and --config can be given, or a design by itself.")
    own = options.config
    if own is not None and not own.endswith(".json"):
        from scalesim.interop.huggingface import find_config

        if find_config(own) is None:
            raise InvalidInput(f"config {own!r} must be a .json file, its folder, or a hub id in your cache.")
    return given_shape(stated[0] if stated else "16x2048x32x8")


def _workload(options: Options, given: Given) -> Workload:
    from scalesim.units import parse_context
    from scalesim.workload import Workload

    limit = given.max_context
    context = min(limit or _LONGEST, _LONGEST)
    if options.context is not None:
        context = parse_context(options.context)
    if limit is not None and context > limit:
        raise InvalidInput(
            f"context must be at most {limit}, what {given.name} was made for, but is {context}."
        )
    generated = None if options.generated is None else parse_context(options.generated, "generated")
    return Workload(
        context_length=context,
        batch_size=whole(options.batch_size),
        generated_length=generated,
        prefix_length=0 if options.prefix is None else parse_context(options.prefix, "prefix"),
        prefill_chunk=8192
        if options.max_num_batched_tokens is None
        else parse_context(options.max_num_batched_tokens, "max_num_batched_tokens"),
        weight_bits=whole(given.weight_bits if options.weight_bits is None else options.weight_bits),
        kv_pool=options.kv_pool,
        activation_bits=whole(options.activation_bits),
        kv_bits=whole(options.kv_bits),
        compute=options.compute,
    )


def _head(given: Given, workload: Workload, hardware: Hardware, parallel: Parallel) -> dict[str, Any]:
    from scalesim.report.design_table import shape_json

    return {
        "name": given.name,
        "shape": shape_json(given.shape),
        "hardware": hardware.name,
        "devices": parallel.devices,
        **dataclasses.asdict(workload),
        "n_params_total": given.shape.n_params_total,
        "n_params_active": given.shape.n_params_active,
        "n_params_non_embedding": given.shape.n_params_non_embedding,
    }


def _tokens(options: Options, given: Given) -> float:
    from scalesim.shape import count_params
    from scalesim.units import parse_count

    if options.tokens is not None:
        return parse_count(options.tokens, "tokens")
    return 20.0 * count_params(given.shape, "paper")


def _training(options: Options, given: Given, workload: Workload, hardware: Hardware) -> dict[str, Any]:
    from scalesim.cost.training import training_flops, training_price, training_seconds
    from scalesim.workload import TrainingPlan

    plan = TrainingPlan(n_tokens=_tokens(options, given), context_length=min(workload.context_length, 8192))
    seconds = training_seconds(given.shape, plan, hardware, 1.0)
    out: dict[str, Any] = {
        "n_tokens": plan.n_tokens,
        "context_length": plan.context_length,
        "flops": float(training_flops(given.shape, plan)),
        "device_hours": [float(s) / 3600 for s in dataclasses.astuple(seconds)],
    }
    if hardware.price_typical is not None:
        out["dollars"] = [float(x) for x in dataclasses.astuple(training_price(given.shape, plan, hardware))]
    return out


def _paper(options: Options, given: Given, workload: Workload) -> dict[str, Any]:
    """The paper's costs, which are of a plain decoder."""
    from scalesim.cost import HardwareAwareCost, paper_training_flops, paper_training_memory

    context, shape = float(workload.context_length), given.shape
    job = dataclasses.replace(workload, context_length=context)
    z = HardwareAwareCost(
        memory_weight=options.weights,
        flops_per=options.flops_per,
        causal_halving=options.causal_halving,
    )
    parts = {
        "memory_bytes": z.memory(shape, job),
        "flops": z.flops(shape, job),
        "training_flops": paper_training_flops(shape, _tokens(options, given), context),
        "training_memory_bytes": paper_training_memory(shape, context, bytes_per_value=2.0),
    }
    return {
        "n_params": float(_paper_count(given)),
        "z": float(z(shape, job)),
        **{
            name: {"time_invariant": float(p.time_invariant), "time_variant": float(p.time_variant),
                   "total": float(p.total)}
            for name, p in parts.items()
        },
    }  # fmt: skip


def _paper_count(given: Given) -> float:
    from scalesim.shape import count_params

    return count_params(given.shape, "paper")
