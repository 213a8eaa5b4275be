"""`scalesim design`: the main job."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scalesim.cli.common import parse, print_json, working
from scalesim.cli.options import Contexts, Count, File, Flag, Number, Words
from scalesim.cli.question import (
    Cost,
    baseline_of,
    constraints_of,
    objective_of,
    plan_of,
    target_losses,
    workloads_of,
)
from scalesim.cli.trades import report_frontiers, report_map
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput, Unreachable, choose

if TYPE_CHECKING:
    from scalesim.design import Design

__all__ = ["EXAMPLES", "Options", "run"]

_REPEATS = ("--context", "--target-loss", "--lattice", "--context-mix", "--free", "--frontier")


EXAMPLES = (
    ("scalesim design --context 128K --target-loss 2.615", "the demo's question, with whole sizes"),
    (
        "scalesim design --objective tpot --hardware h200-sxm --batch-size 32 --fits",
        "least milliseconds a token on named hardware, in whose memory it fits",
    ),
    (
        "scalesim design --budget 57000 --max-params 3B --tensor 4",
        "the least loss within a budget, on four accelerators",
    ),
    (
        "scalesim design --context 8K 128K 1M --uncertainty",
        "an answer for each context, and how likely each is the best",
    ),
    ("scalesim design --frontier loss memory --plot f.png", "all that nothing betters, and which to take"),
    ("scalesim design --map --plot m.png", "the best heads over context and loss"),
    ("scalesim design --law mine.json --json", "with a law of your own, for a script to read"),
)


@dataclass(frozen=True)
class Question:
    """What the model must do."""

    context: Contexts = ("128K",)
    """Context lengths in tokens; K is 1024. Several give an answer each."""
    target_loss: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NATS ...")] = ("2.615",)
    """Losses to reach, nats a token; or that which the law predicts for a model, as like:llama-3.1-8b@15T.
    Several give an answer each, at every context."""
    budget: Number = None
    """Instead of --target-loss: the most the objective may be; the design of least loss is found."""
    law: str = "default"
    """The loss law: default (runs and ablations), paper, points (its runs alone), or a saved fit."""
    runs: File = None
    """Instead of --law: fit the joint head law to this run table (n_params, n_head, n_kv_head, loss)."""
    baseline: str = "llama3-gqa"
    """llama3-gqa, mha, mqa, a shape such as 16x2048x32x8, a known model, or a config.json."""


@dataclass(frozen=True)
class Limits:
    """What the design may at most be, and the designs to choose among."""

    max_params: Count = None
    """At most so many parameters, embeddings included, such as 3B."""
    max_memory_gib: Number = None
    """At most so many GiB of weights and KV cache."""
    max_training_flops: Number = None
    """At most so many FLOPs of training, such as 1e22."""
    max_tpot: Number = None
    """At most so many seconds between two tokens on --hardware."""
    max_ttft: Number = None
    """At most so many seconds to the first token on --hardware, without queueing."""
    fits: Flag = False
    """Must fit in the memory of one accelerator of --hardware, less a tenth for its runtime."""
    kv_pool: Flag = False
    """In --fits, count the pool that an engine sets aside for caches, rather than what they need."""
    tensor: int = 1
    """Accelerators that split each matrix: the heads and widths of a buildable shape must divide."""
    lattice: Words = ()
    """Designs to choose among: buildable (whole shapes; the default) or paper (21 candidates; that of --map);
    several side by side."""
    free: Words = ()
    """Instead of --lattice: search a space of these fields, each as far as the law sees it: d_model (width
    against depth), d_ff, n_head, n_kv_head, head_dim, n_tokens, kv_bits; or all that it sees."""
    max_head: int = 32
    """Most query heads of the buildable lattice; the evidence ends at 32."""
    min_kv_heads: int = 1
    """Fewest KV heads of a design."""
    tile: int = 64
    """Widths of a buildable shape are multiples of this."""
    family: str = "figure"
    """Depth against width: figure (d_model = 128 n_layer), table, or a ratio."""


@dataclass(frozen=True)
class Answer:
    """What is said of the optimum, or what is answered instead of one."""

    uncertainty: Flag = False
    """Ask every law of the fit's bootstrap too: how likely each configuration is the best."""
    sensitivity: Flag = False
    """How the optimum moves with context, loss, prices and coefficients, by implicit differentiation."""
    frontier: Words = ()
    """Instead of one design: all that nothing betters in two or three of loss, memory, flops, objective,
    n_params, training-flops, tpot, ttft, price; two --target-loss give the range of losses."""
    marginal_value: Number = None
    """With --frontier: pick the design beyond which 1% more of the second measure buys less of the first
    than this (nats, if it is loss; else a fraction)."""
    map: Flag = False
    """Instead of one design: the cheapest heads at every context and loss; two of each give the ranges."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    plot: File = None
    """Draw the answer: loss against memory, FLOPs and the objective; the frontier; or the map."""
    plot_uncertainty: File = None
    """Draw the distribution of designs and savings under the bootstrap (implies --uncertainty)."""
    report: File = None
    """Write the answer as one self-contained page, with its figures within."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True)
class Options(Question, Cost, Limits, Answer, Output):
    """The cheapest shape that reaches a loss at a context length, beside a baseline."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "design", args, _REPEATS, EXAMPLES)
    _check(options)
    names = options.lattice or (("paper",) if options.map else ("buildable",))
    for name in names:
        choose("lattice", name, ("paper", "buildable"))
    use_compilation_cache()
    from scalesim.design import least_loss, named_lattice, search
    from scalesim.families import named_family
    from scalesim.fitting import named_fit

    law = named_fit(options.law) if options.runs is None else _fitted(options.runs)
    how: dict[str, Any] = {
        "objective": objective_of(options),
        "family": named_family(options.family),
        "constraints": constraints_of(options),
        "plan": plan_of(options),
    }
    workloads = workloads_of(options)
    losses: Any = target_losses(options.target_loss, law, workloads[0])
    options = dataclasses.replace(options, target_loss=tuple(losses))
    lattices: list[Any] = [
        named_lattice(name, options.max_head, options.tile, options.tensor, options.min_kv_heads)
        for name in names
    ]
    if options.frontier:
        report_frontiers(law, workloads, lattices, options, how)
        return 0
    if options.map:
        report_map(law, workloads[0], lattices, options, how)
        return 0
    how["baseline"] = baseline_of(options.baseline)
    if options.free:
        lattices = [_space(law, options)]
    with working("searching (the first call compiles)"):
        if options.budget is None:
            by_lattice = [search(law, workloads, losses, lattice=lattice, **how) for lattice in lattices]
        else:
            by_lattice = [
                [least_loss(law, workload, options.budget, lattice=lattice, **how) for workload in workloads]
                for lattice in lattices
            ]
    _report(law, list(zip(*by_lattice, strict=True)), options)
    return 0


def _check(options: Options) -> None:
    """Refuse options that exclude each other."""
    answers = {
        "--frontier": bool(options.frontier),
        "--map": options.map,
        "--budget": options.budget is not None,
    }
    asked = [name for name, given in answers.items() if given]
    if len(asked) > 1:
        raise InvalidInput(f"{' and '.join(asked)} exclude each other: give one of them.")
    if options.context_mix and asked[:1] == ["--map"]:
        raise InvalidInput("--map goes over contexts, so --context-mix does not go with it.")
    if options.free and (options.frontier or options.map):
        raise InvalidInput("--free searches one design of a space: it excludes --frontier and --map.")
    if options.marginal_value is not None and not options.frontier:
        raise InvalidInput("--marginal-value picks a design of a frontier: it needs --frontier.")
    if options.plot_uncertainty is not None and (options.frontier or options.map):
        raise InvalidInput("--plot-uncertainty draws that of one design, not of a frontier or a map.")


def _space(law: Any, options: Options) -> Any:
    """Return the space of the fields that are free."""
    from scalesim.design import design_space

    space = design_space(
        law, None if options.free == ("all",) else options.free, tile=options.tile, tensor=options.tensor
    )
    most = min(options.max_head, 1024)
    if options.min_kv_heads > 1 and space.n_kv_head is None:
        raise InvalidInput("--min-kv-heads needs n_kv_head among the fields that are --free.")
    least = {"n_head": 1, "n_kv_head": options.min_kv_heads}
    limited: dict[str, Any] = {
        name: tuple(range(low, most + 1)) for name, low in least.items() if getattr(space, name) is not None
    }
    return dataclasses.replace(space, **limited)


def _fitted(runs: str) -> Any:
    """Return the joint head law fitted to a user's own runs; what their heads cannot tell is held."""
    from scalesim.data import load_runs
    from scalesim.fitting import Squared, fit
    from scalesim.laws import HeadLaw

    try:
        table = load_runs(runs)
    except InvalidInput as error:
        if "--column" not in str(error) and "--unit" not in str(error):
            raise
        how = f"`scalesim fit {runs} --law head --save LAW.json` has these options; then --law LAW.json."
        raise InvalidInput(f"{error} {how}") from None
    for note in table.notes:
        print(f"scalesim: {note}", file=sys.stderr)
    with working("fitting the law"):
        found = fit(HeadLaw, table, noise=Squared(0.004), fixed={"k": None, "g": None})
    if found.status in ("not_converged", "unidentified"):
        raise Unreachable(f"No law can be searched that {runs} does not determine: {found.message}")
    if found.status != "converged":
        print(f"scalesim: {found.message}", file=sys.stderr)
    return found


def _report(law: Any, answers: list[tuple[Design, ...]], options: Options) -> None:
    """Print the answers, one tuple of designs (a lattice each) to a question, and draw them if asked."""
    from scalesim.design import distribution, sensitivity
    from scalesim.report.console import print_remarks
    from scalesim.report.design_figure import draw_designs
    from scalesim.report.design_table import design_json, print_designs, print_sensitivity
    from scalesim.report.figure import save
    from scalesim.report.uncertainty_figure import draw_distributions

    designs = [design for answer in answers for design in answer]
    found = [design for design in designs if design.reached]
    if not found:
        raise Unreachable(designs[0].status)
    uncertain = options.uncertainty or options.plot_uncertainty is not None
    with working("asking every law of the bootstrap"):
        spreads = {id(d): distribution(law, d) for d in found} if uncertain else {}
    with working("differentiating the optimum"):
        moves = {id(d): sensitivity(d) for d in found} if options.sensitivity else {}
    drawn = {}
    if options.plot is not None:
        drawn[options.plot] = lambda: draw_designs([a for a in answers if all(d.reached for d in a)])
    if options.plot_uncertainty is not None:
        drawn[options.plot_uncertainty] = lambda: draw_distributions(list(spreads.values()))
    for path, draw in drawn.items():
        with working("drawing"):
            save(draw(), path)
    if options.report is not None:
        _write_report(answers, spreads, options.report)
    if options.json:
        rows = [design_json(d, spreads.get(id(d)), moves.get(id(d))) for d in designs]
        print_json(rows[0] if len(rows) == 1 else {"designs": rows})
        return
    for answer in answers:
        print_designs(answer, baseline=options.baseline)
    for design in found:
        if id(design) in spreads:
            print_remarks([f"{design.lattice.name} lattice: {spreads[id(design)].text()}"])
        if id(design) in moves:
            print_sensitivity(moves[id(design)])
    for path in drawn:
        print(f"Figure: {path}")
    if options.report is not None:
        print(f"Report: {options.report}")


def _write_report(answers: list[tuple[Design, ...]], spreads: dict[int, Any], path: str) -> None:
    """Write the answers as one page: the figure beside the first design of each question."""
    from scalesim.report.design_figure import draw_designs
    from scalesim.report.web import results_page, write_page

    parts: list[tuple[str, Any, Any]] = []
    for answer in answers:
        reached = [design for design in answer if design.reached]
        for i, design in enumerate(reached):
            heading = f"{design._face().title}, {design.lattice.name} lattice"
            parts.append((heading, design, draw_designs([reached]) if i == 0 else None))
            if id(design) in spreads:
                parts.append(("", spreads[id(design)], spreads[id(design)].plot()))
    statuses = [design.status for answer in answers for design in answer if not design.reached]
    with working("writing the report"):
        write_page(results_page("The cheapest designs", " ".join(statuses), parts), path)
