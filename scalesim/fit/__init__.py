"""From measured runs to a law: `scalesim.fit(law, runs)`, and what can be asked of its result."""

from __future__ import annotations

from scalesim.fit.bootstrap import Bootstrap, bootstrap, with_bootstrap
from scalesim.fit.comparison import Comparison, compare
from scalesim.fit.coordinates import coefficients, with_coefficients
from scalesim.fit.engine import fit
from scalesim.fit.evidence import Choices, Curves, Evidence, Points
from scalesim.fit.isoflop import IsoFlop, approach_two_bias, isoflop
from scalesim.fit.noise import Huber, Noise, Squared
from scalesim.fit.predict import Prediction, predict
from scalesim.fit.profile import Profile, profile
from scalesim.fit.result import Fit, load_fit, named_fit
from scalesim.fit.sensitivity import Suggestion, delta_path, outlier_path, suggest_runs
from scalesim.fit.validation import Validation, leave_largest_out, leave_one_group_out
from scalesim.rooms import make_callable

__all__ = [
    "Bootstrap",
    "Choices",
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

make_callable(__name__, fit)
