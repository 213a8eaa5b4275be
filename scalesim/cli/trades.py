"""`scalesim design --frontier` and `--map`: what a design trades, and where which one is best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalesim.cli.common import print_json, working
from scalesim.cli.question import parallel_of
from scalesim.errors import InvalidInput

if TYPE_CHECKING:
    from scalesim.design import Frontier, Lattice, Pick

__all__ = ["report_frontiers", "report_map"]

CONTEXTS, LOSSES = (4096.0, 1048576.0), 0.35
"""What a map covers by default: contexts, and nats on either side of the target."""
POINTS, FEWER = (161, 141), (81, 71)
"""Contexts and losses of a map; fewer where the resamples are asked too."""


def _one(lattices: list[Lattice], flag: str) -> Lattice:
    if len(lattices) > 1:
        raise InvalidInput(
            f"--{flag} takes one lattice, but {', '.join(one.name for one in lattices)} were given."
        )
    return lattices[0]


def report_frontiers(
    law: Any, workloads: list[Any], lattices: list[Lattice], options: Any, how: dict[str, Any]
) -> None:
    """Find a frontier at each context, print or draw it, and say why its named designs were picked."""
    from scalesim.design import frontier
    from scalesim.hardware import load_hardware
    from scalesim.report.figure import save
    from scalesim.report.frontier_table import frontier_json, print_frontier

    if options.plot is not None and len(workloads) > 1:
        raise InvalidInput("--plot draws the frontier of one context; give one --context.")
    losses = sorted(set(options.target_loss))
    target: Any = losses[0] if len(losses) == 1 else (losses[0], losses[-1])
    with working("comparing designs (the first call compiles)"):
        found = [
            frontier(
                law,
                workload,
                target,
                options.frontier,
                lattice=_one(lattices, "frontier"),
                hardware=load_hardware(options.hardware),
                parallel=parallel_of(options),
                **how,
            )
            for workload in workloads
        ]
    picks = [_picks(front, losses, options.marginal_value) for front in found]
    if options.plot is not None:
        with working("drawing"):
            save(found[0].plot(picks[0]), options.plot)
    if options.report is not None:
        _write_report(
            [("", front, front.plot(picked)) for front, picked in zip(found, picks, strict=True)], options
        )
    if options.json:
        answers = [frontier_json(front, picked) for front, picked in zip(found, picks, strict=True)]
        print_json(answers[0] if len(answers) == 1 else {"frontiers": answers})
        return
    for front, picked in zip(found, picks, strict=True):
        print_frontier(front, picked)
    if options.plot is not None:
        print(f"Figure: {options.plot}")


def _write_report(results: list[tuple[str, Any, Any]], options: Any) -> None:
    """Write frontiers or a map as one page."""
    from scalesim.report.web import results_page, write_page

    with working("writing the report"):
        write_page(results_page("What a design trades", "", results), options.report)


def _picks(front: Frontier, losses: list[float], marginal_value: float | None) -> list[Pick]:
    """Return the knee, what is cheapest at the loss asked for, and the one of a stated marginal value."""
    names = [m.name for m in front.measures]
    picks = [front.pick()]
    if "loss" in names and len(losses) == 1:
        least = next(name for name in names if name != "loss")
        picks.append(front.pick(least=least, limits={"loss": losses[0]}))
    if marginal_value is not None:
        picks.append(front.pick(marginal_value=marginal_value))
    return picks


def report_map(law: Any, workload: Any, lattices: list[Lattice], options: Any, how: dict[str, Any]) -> None:
    """Find the cheapest configuration over contexts and losses, and print or draw the map."""
    import dataclasses

    import numpy as np

    from scalesim.design import design_map
    from scalesim.report.figure import save
    from scalesim.report.frontier_table import map_json, print_map
    from scalesim.units import parse_context

    contexts = sorted({float(parse_context(context)) for context in options.context})
    losses = sorted(set(options.target_loss))
    low, high = (contexts[0], contexts[-1]) if len(contexts) > 1 else CONTEXTS
    least, most = (losses[0], losses[-1]) if len(losses) > 1 else (losses[0] - LOSSES, losses[0] + LOSSES)
    points = FEWER if options.uncertainty else POINTS
    with working("searching the whole map"):
        found = design_map(
            law,
            dataclasses.replace(workload, context_length=low),
            np.geomspace(low, high, points[0]),
            np.linspace(least, most, points[1]),
            lattice=_one(lattices, "map"),
            resamples=len(law.bootstrap) if options.uncertainty and getattr(law, "bootstrap", None) else 0,
            **how,
        )
    if options.plot is not None:
        with working("drawing"):
            save(found.plot(), options.plot)
    if options.report is not None:
        _write_report([("", found, found.plot())], options)
    if options.json:
        print_json(map_json(found))
        return
    print_map(found)
    if options.plot is not None:
        print(f"Figure: {options.plot}")
