"""Tables and figures of results."""

from scalesim.report.cost_table import print_cost
from scalesim.report.design_figure import draw_designs
from scalesim.report.design_table import design_json, print_designs, print_sensitivity, shape_json
from scalesim.report.sweep_report import draw_sweeps, print_sweep, sweep_json

__all__ = [
    "design_json",
    "draw_designs",
    "draw_sweeps",
    "print_cost",
    "print_designs",
    "print_sensitivity",
    "print_sweep",
    "shape_json",
    "sweep_json",
]
