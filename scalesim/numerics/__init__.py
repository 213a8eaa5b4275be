"""Numerics that know no transformer: roots, descent, least squares, penalties, what nothing betters."""

from __future__ import annotations

from scalesim.numerics.descent import descend, newton
from scalesim.numerics.least_squares import Rows, levenberg_marquardt
from scalesim.numerics.pareto import non_dominated
from scalesim.numerics.penalty import minimise, penalty_newton
from scalesim.numerics.roots import newton_root, newton_system

__all__ = [
    "Rows",
    "descend",
    "levenberg_marquardt",
    "minimise",
    "newton",
    "newton_root",
    "newton_system",
    "non_dominated",
    "penalty_newton",
]
