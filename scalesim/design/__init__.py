"""From a law and a cost to a design: `scalesim.search(fit, workload, target_loss)`."""

from scalesim.design.baseline import HeadRule, named_baseline
from scalesim.design.budget import least_loss
from scalesim.design.candidate import Candidate
from scalesim.design.chances import Distribution
from scalesim.design.constraints import (
    AtMost,
    fits,
    max_memory,
    max_params,
    max_time_per_token,
    max_time_to_first_token,
    max_training_flops,
)
from scalesim.design.design import Design, search
from scalesim.design.distribution import distribution
from scalesim.design.evidence import paper_evidence
from scalesim.design.frontier import Frontier, frontier
from scalesim.design.lattice import PAPER, Lattice, buildable, named_lattice
from scalesim.design.map import DesignMap, design_map
from scalesim.design.measures import MEASURES, Measure
from scalesim.design.next_run import next_runs
from scalesim.design.picks import Pick
from scalesim.design.problem import Problem, Query
from scalesim.design.seen import FREE, visible
from scalesim.design.sensitivity import Choice, Sensitivity, choices_over_context, sensitivity
from scalesim.design.smooth import why_not_smooth
from scalesim.design.solve import Found, exhaustive, gradient_search, log_costs, stack_queries
from scalesim.design.space import DesignSpace, design_space
from scalesim.numerics.pareto import non_dominated

__all__ = [
    "FREE",
    "MEASURES",
    "PAPER",
    "AtMost",
    "Candidate",
    "Choice",
    "Design",
    "DesignMap",
    "DesignSpace",
    "Distribution",
    "Found",
    "Frontier",
    "HeadRule",
    "Lattice",
    "Measure",
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
    "fits",
    "frontier",
    "gradient_search",
    "least_loss",
    "log_costs",
    "max_memory",
    "max_params",
    "max_time_per_token",
    "max_time_to_first_token",
    "max_training_flops",
    "named_baseline",
    "named_lattice",
    "next_runs",
    "non_dominated",
    "paper_evidence",
    "search",
    "sensitivity",
    "stack_queries",
    "visible",
    "why_not_smooth",
]
