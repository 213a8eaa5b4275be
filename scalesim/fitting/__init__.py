"""From measured runs to a law: `scalesim.fit(law, runs)`, and what can be asked of its result."""

from __future__ import annotations

from scalesim.fitting.bootstrap import Bootstrap, bootstrap, with_bootstrap
from scalesim.fitting.comparison import Comparison, compare
from scalesim.fitting.coordinates import coefficients, with_coefficients
from scalesim.fitting.engine import fit
from scalesim.fitting.evidence import Choices, Curves, Evidence, Points
from scalesim.fitting.isoflop import IsoFlop, approach_two_bias, isoflop
from scalesim.fitting.noise import Huber, Noise, Squared
from scalesim.fitting.predict import Prediction, predict
from scalesim.fitting.result import Fit, load_fit, named_fit
from scalesim.fitting.sensitivity import (
    CoefficientPath,
    Profile,
    Suggestion,
    delta_path,
    outlier_path,
    profile,
    suggest_runs,
)
from scalesim.fitting.validation import Validation, leave_largest_out, leave_one_group_out

__all__ = [
    "Bootstrap",
    "Choices",
    "CoefficientPath",
    "Comparison",
    "Curves",
    "Evidence",
    "Fit",
    "Huber",
    "IsoFlop",
    "Noise",
    "Points",
    "Prediction",
    "Profile",
    "Squared",
    "Suggestion",
    "Validation",
    "approach_two_bias",
    "bootstrap",
    "coefficients",
    "compare",
    "delta_path",
    "fit",
    "isoflop",
    "leave_largest_out",
    "leave_one_group_out",
    "load_fit",
    "named_fit",
    "outlier_path",
    "predict",
    "profile",
    "suggest_runs",
    "with_bootstrap",
    "with_coefficients",
]
