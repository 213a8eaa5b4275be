"""From a law and a cost to a design."""

from scalesim.search.baseline import HeadRule, named_baseline
from scalesim.search.design import Candidate, Design, search
from scalesim.search.lattice import PAPER, Lattice, buildable, named_lattice
from scalesim.search.problem import Problem, Query
from scalesim.search.solve import Found, exhaustive, gradient_search, log_costs, stack_queries

__all__ = [
    "PAPER",
    "Candidate",
    "Design",
    "Found",
    "HeadRule",
    "Lattice",
    "Problem",
    "Query",
    "buildable",
    "exhaustive",
    "gradient_search",
    "log_costs",
    "named_baseline",
    "named_lattice",
    "search",
    "stack_queries",
]
