"""Tables and figures of results."""

from scalesim.report.cost_table import print_cost
from scalesim.report.design_figure import draw_designs
from scalesim.report.design_table import design_json, print_designs, print_sensitivity, shape_json

__all__ = ["design_json", "draw_designs", "print_cost", "print_designs", "print_sensitivity", "shape_json"]
