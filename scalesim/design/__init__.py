"""From a law and measures to a design: `search`, and what can be asked of its answer."""

from scalesim.design.design import Candidate, Design
from scalesim.design.evidence import next_runs, paper_evidence
from scalesim.design.feasibility import FREE, visible, why_not_smooth
from scalesim.design.frontier import Frontier, frontier
from scalesim.design.lattice import (
    PAPER,
    Lattice,
    buildable,
    exhaustive,
    gradient_search,
    log_costs,
    named_lattice,
)
from scalesim.design.least_loss import least_loss
from scalesim.design.map import DesignMap, design_map
from scalesim.design.picks import Pick
from scalesim.design.problem import Problem, Query, stack_queries
from scalesim.design.search import search, solve
from scalesim.design.sensitivity import Choice, Sensitivity, choices_over_context, sensitivity
from scalesim.design.space import DesignSpace, design_space
from scalesim.design.uncertainty import Distribution, distribution

__all__ = [
    "FREE",
    "PAPER",
    "Candidate",
    "Choice",
    "Design",
    "DesignMap",
    "DesignSpace",
    "Distribution",
    "Frontier",
    "Lattice",
    "Pick",
    "Problem",
    "Query",
    "Sensitivity",
    "buildable",
    "choices_over_context",
    "design_map",
    "design_space",
    "distribution",
    "exhaustive",
    "frontier",
    "gradient_search",
    "least_loss",
    "log_costs",
    "named_lattice",
    "next_runs",
    "paper_evidence",
    "search",
    "sensitivity",
    "solve",
    "stack_queries",
    "visible",
    "why_not_smooth",
]
