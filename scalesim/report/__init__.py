"""Tables and figures of results."""

from scalesim.report.design_figure import draw_designs
from scalesim.report.design_table import design_json, print_designs, print_sensitivity, shape_json
from scalesim.report.figure import save
from scalesim.report.frontier_figure import draw_frontier
from scalesim.report.frontier_table import frontier_json, map_json, print_frontier, print_map
from scalesim.report.map_figure import draw_map
from scalesim.report.sweep_report import draw_sweeps, print_sweep, sweep_json
from scalesim.report.uncertainty_figure import draw_distributions

__all__ = [
    "design_json",
    "draw_designs",
    "draw_distributions",
    "draw_frontier",
    "draw_map",
    "draw_sweeps",
    "frontier_json",
    "map_json",
    "print_designs",
    "print_frontier",
    "print_map",
    "print_sensitivity",
    "print_sweep",
    "save",
    "shape_json",
    "sweep_json",
]
