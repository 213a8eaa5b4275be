"""From measured runs to a law: `scalesim.fit(law, runs)`, and what can be asked of its result."""

from __future__ import annotations

from scalesim.fit.bootstrap import Bootstrap, bootstrap
from scalesim.fit.coordinates import coefficients, with_coefficients
from scalesim.fit.engine import fit
from scalesim.fit.evidence import Choices, Curves, Evidence, Points
from scalesim.fit.noise import Huber, Noise, Squared
from scalesim.fit.predict import Prediction, predict
from scalesim.fit.profile import Profile, profile
from scalesim.fit.result import Fit, load_fit, named_fit
from scalesim.fit.validation import Validation, leave_largest_out, leave_one_group_out
from scalesim.rooms import make_callable

__all__ = [
    "Bootstrap",
    "Choices",
    "Curves",
    "Evidence",
    "Fit",
    "Huber",
    "Noise",
    "Points",
    "Prediction",
    "Profile",
    "Squared",
    "Validation",
    "bootstrap",
    "coefficients",
    "fit",
    "leave_largest_out",
    "leave_one_group_out",
    "load_fit",
    "named_fit",
    "predict",
    "profile",
    "with_coefficients",
]

make_callable(__name__, fit)
