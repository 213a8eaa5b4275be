"""`scalesim redesign`: what to build instead of a model that one would copy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scalesim.cli.common import parse, print_json, working
from scalesim.cli.given import Given, given_shape, whole
from scalesim.cli.options import Contexts, File, Flag, Folder, Number, Tokens, Whole, Words
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput

if TYPE_CHECKING:
    from scalesim.workload import ContextLengths, TrainingPlan, Workload

__all__ = ["EXAMPLES", "Options", "run"]


EXAMPLES = (
    (
        "scalesim redesign llama-3.1-8b --tokens 15T --context 128K --batch 16 --kv-bits 8",
        "what to build instead, on the same training compute, for least dollars a token",
    ),
    (
        "scalesim redesign config.json --tokens 2T --context 8K:0.7 64K:0.3 --traffic 1T --out better/",
        "for a mixture of contexts, training and serving paid together; a folder with config.json and report",
    ),
    (
        "scalesim redesign qwen3-30b-a3b --tokens 36T --objective tpot --max-devices 4 --loss -0.5%",
        "least time a token on at most four accelerators, at half a per cent less loss",
    ),
    ("scalesim redesign llama-3.1-8b --tokens 15T --runs mine.csv", "sharpened by small runs of your own"),
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """The model to be replaced, how it is trained, and how good its redesign must be."""

    model: tyro.conf.Positional[str]
    """A known model, a config.json, its folder, a hub id in your cache, or sizes such as 16x2048x32x8."""
    tokens: Tokens = None
    """Training tokens of the model, such as 15T."""
    training_flops: Number = None
    """Instead of --tokens: its training FLOPs, such as 7.7e23."""
    training_dollars: Number = None
    """Instead of --tokens: the $ of its training on --hardware."""
    free_kv_bits: tuple[float, ...] = ()
    """Precisions in which a redesign may keep its cache beside --kv-bits, such as 8 4."""
    training_context: str = "8K"
    """Tokens of a training sequence."""
    same: Literal["flops", "tokens", "free"] = "flops"
    """What a redesign spends on training: the model's FLOPs, its tokens whatever they cost, or any part of
    its FLOPs."""
    loss: str = "+0%"
    """Quality against the model's own: +0%, -1% (of loss), or 1.2x (as if on so much more compute)."""
    min_kv_heads: Whole = None
    """Fewest KV heads that a redesign may have (default: 1)."""
    mixers: Words = ("own",)
    """What attention may become: own, latent, shared (keys and values of two layers), linear (gated delta
    nets in three layers of four)."""


@dataclass(frozen=True)
class Serving:
    """Where it serves."""

    context: Contexts = ("128K",)
    """Tokens of context, prompt and generated together; or a mixture, such as 8K:0.7 64K:0.3."""
    batch_size: Annotated[float, tyro.conf.arg(aliases=["--batch"])] = 16.0
    """Sequences served at a time, by all replicas together."""
    generated: Tokens = None
    """Tokens generated a sequence, the rest being the prompt; default: answers alone are priced."""
    prefix: Tokens = None
    """Tokens of the prompt that all sequences share."""
    hardware: str = "h100-sxm"
    """An accelerator of the catalogue, or a JSON file with its figures."""
    weight_bits: Number = None
    """Bits a value of the layers' matrices (default: as the model is stored)."""
    kv_bits: float = 16.0
    """Bits a value of the KV cache."""
    compute: Literal["bf16", "fp8", "int8", "fp4"] = "bf16"
    """Number format of the matrix units."""


@dataclass(frozen=True)
class Cost:
    """What is minimised, and limits on how it is served."""

    traffic: Tokens = None
    """Tokens served in the model's life, such as 1T: training and serving are then paid together."""
    objective: Literal["auto", "lifetime", "price", "tpot", "ttft", "memory", "energy"] = "auto"
    """What is minimised (auto: lifetime with --traffic, else price)."""
    max_tpot: Number = None
    """At most so many seconds between two tokens."""
    max_ttft: Number = None
    """At most so many seconds to the first token of a prompt alone."""
    max_devices: Whole = None
    """At most so many accelerators in all."""


@dataclass(frozen=True)
class Evidence:
    """The law of heads, and what you know yourself."""

    law: str = "default"
    """The law of heads: default, or a saved fit of AttentionLaw with samples."""
    contrasts: File = None
    """Comparisons of your own (loss_a, loss_b, heads): the law's samples count by how well they predict."""
    runs: File = None
    """Instead of --contrasts: a run table, whose runs of one size are compared."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    out: Folder = None
    """Write config.json of the best design, a report (HTML and Markdown), a figure, and runs that decide."""
    plot: File = None
    """Draw the savings over context with both intervals."""
    report: File = None
    """Write the one-page report with the figure within, readable without a server."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True)
class Options(Question, Serving, Cost, Evidence, Output):
    """What to build instead of a model, as good by the law and cheapest where it serves."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "redesign", args, ("--context", "--mixers", "--free-kv-bits"), EXAMPLES)
    use_compilation_cache()
    from scalesim.fitting import named_fit
    from scalesim.redesigns import redesign
    from scalesim.redesigns.asked import quality_of

    given = given_shape(options.model)
    workload, contexts = _serving(options, given)
    loss, factor = quality_of(options.loss)
    with working("redesigning (the first call compiles)"):
        found = redesign(
            given.shape,
            _plan(options, given),
            workload,
            hardware=options.hardware,
            objective=None if options.objective == "auto" else options.objective,
            same=options.same,
            loss=loss,
            equivalent_compute=factor,
            traffic=_traffic(options),
            contexts=contexts,
            max_tpot=options.max_tpot,
            max_ttft=options.max_ttft,
            max_devices=options.max_devices,
            min_kv_heads=options.min_kv_heads or 1,
            mixers=options.mixers,
            kv_bits=options.free_kv_bits,
            law=named_fit(options.law),
            contrasts=_contrasts(options),
            detail=contexts is None,
            name=given.name,
        )
    written = found.save(options.out) if options.out is not None else []
    if options.plot is not None:
        from scalesim.report.figure import save

        save(found.plot(), options.plot)
    if options.report is not None:
        from scalesim.report.web import write_page

        write_page(found.report(html=True), options.report)
    if options.json:
        print_json(found.to_dict())
        return 0
    _print(found)
    for path in (*written, *(name for name in (options.plot, options.report) if name is not None)):
        print(f"Written: {path}")
    return 0


def _print(found: Any) -> None:
    from scalesim.report.console import broken, stated_width

    print(found._face().within(stated_width()))
    if found.over_context:
        print(broken(found.flip_text()))
    for row in found.what_if[1:]:
        if row.get("n_head") is None:
            print(broken(f"  {row['changed']}: nothing will do"))
        elif row.get("saved") is not None:
            saved = f"{row['saved']:.0%} saved ({row['low']:.0%} .. {row['high']:.0%})"
            print(broken(f"  {row['changed']}: {row['heads']}, {saved}"))


def _plan(options: Options, given: Given) -> TrainingPlan:
    """Return the training of the model: from tokens, FLOPs or dollars."""
    from scalesim.cost import training_flops, training_price
    from scalesim.hardware import load_hardware
    from scalesim.units import parse_context, parse_count
    from scalesim.workload import TrainingPlan

    names = ("tokens", "training_flops", "training_dollars")
    asked = [name for name in names if getattr(options, name) is not None]
    if len(asked) != 1:
        options_text = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise InvalidInput(
            f"one of {options_text} must say how the model is trained, but "
            f"{'none is' if not asked else f'{len(asked)} are'} given. Llama 3.1 was trained on 15T tokens."
        )
    one = TrainingPlan(
        n_tokens=1.0, context_length=parse_context(options.training_context, "training-context")
    )
    if options.tokens is not None:
        tokens = parse_count(options.tokens, "tokens")
    else:
        flops = options.training_flops
        for name in asked:
            if not getattr(options, name) > 0:
                raise InvalidInput(
                    f"{name.replace('_', '-')} must be above 0, but is {getattr(options, name):g}."
                )
        if options.training_dollars is not None:
            hardware = load_hardware(options.hardware)
            price = training_price(given.shape, one, hardware).typical / training_flops(given.shape, one)
            flops = options.training_dollars / float(price)
        assert flops is not None
        tokens = flops / float(training_flops(given.shape, one))
        print(f"scalesim: {given.name} gets {tokens:.3g} training tokens of that.", file=sys.stderr)
    return TrainingPlan(n_tokens=tokens, context_length=one.context_length)


def _serving(options: Options, given: Given) -> tuple[Workload, ContextLengths | None]:
    """Return the workload, and the mixture of contexts if one is given."""
    from scalesim.redesigns.asked import contexts_of
    from scalesim.units import parse_context
    from scalesim.workload import Workload

    context, contexts = contexts_of(options.context)
    bits = given.weight_bits if options.weight_bits is None else options.weight_bits
    workload = Workload(
        context_length=context,
        batch_size=whole(options.batch_size),
        generated_length=None if options.generated is None else parse_context(options.generated, "generated"),
        prefix_length=0 if options.prefix is None else parse_context(options.prefix, "prefix"),
        weight_bits=whole(bits),
        kv_bits=whole(options.kv_bits),
        compute=options.compute,
    )
    return workload, contexts


def _traffic(options: Options) -> float | None:
    from scalesim.units import parse_count

    return None if options.traffic is None else parse_count(options.traffic, "traffic")


def _contrasts(options: Options) -> Any:
    from scalesim.data import load_contrasts, load_runs
    from scalesim.redesigns.deciding import contrasts_of_runs

    if options.contrasts is not None and options.runs is not None:
        raise InvalidInput("--contrasts and --runs exclude each other: give one of them.")
    if options.contrasts is not None:
        return load_contrasts(options.contrasts)
    return None if options.runs is None else contrasts_of_runs(load_runs(options.runs))
