"""From a law and a cost to a design: `scalesim.search(fit, workload, target_loss)`."""

from scalesim.rooms import make_callable
from scalesim.search.baseline import HeadRule, named_baseline
from scalesim.search.design import Candidate, Design, search
from scalesim.search.distribution import Distribution, distribution
from scalesim.search.evidence import paper_evidence
from scalesim.search.lattice import PAPER, Lattice, buildable, named_lattice
from scalesim.search.problem import Problem, Query
from scalesim.search.sensitivity import Choice, Sensitivity, choices_over_context, sensitivity
from scalesim.search.solve import Found, exhaustive, gradient_search, log_costs, stack_queries

__all__ = [
    "PAPER",
    "Candidate",
    "Choice",
    "Design",
    "Distribution",
    "Found",
    "HeadRule",
    "Lattice",
    "Problem",
    "Query",
    "Sensitivity",
    "buildable",
    "choices_over_context",
    "distribution",
    "exhaustive",
    "gradient_search",
    "log_costs",
    "named_baseline",
    "named_lattice",
    "paper_evidence",
    "search",
    "sensitivity",
    "stack_queries",
]

make_callable(__name__, search)
