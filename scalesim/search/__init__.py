"""From a law and a cost to a design: `scalesim.search(fit, workload, target_loss)`."""

from scalesim.rooms import make_callable
from scalesim.search.baseline import HeadRule, named_baseline
from scalesim.search.budget import least_loss
from scalesim.search.candidate import Candidate
from scalesim.search.chances import Distribution
from scalesim.search.constraints import (
    AtMost,
    fits,
    max_memory,
    max_params,
    max_time_per_token,
    max_time_to_first_token,
    max_training_flops,
)
from scalesim.search.design import Design, search
from scalesim.search.distribution import distribution
from scalesim.search.evidence import paper_evidence
from scalesim.search.frontier import Frontier, frontier
from scalesim.search.lattice import PAPER, Lattice, buildable, named_lattice
from scalesim.search.map import DesignMap, design_map
from scalesim.search.measures import MEASURES, Measure
from scalesim.search.next_run import next_runs
from scalesim.search.pareto import non_dominated
from scalesim.search.picks import Pick
from scalesim.search.problem import Problem, Query
from scalesim.search.seen import FREE, visible
from scalesim.search.sensitivity import Choice, Sensitivity, choices_over_context, sensitivity
from scalesim.search.smooth import why_not_smooth
from scalesim.search.solve import Found, exhaustive, gradient_search, log_costs, stack_queries
from scalesim.search.space import DesignSpace, design_space

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

make_callable(__name__, search)
