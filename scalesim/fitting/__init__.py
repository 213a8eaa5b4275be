"""From measured runs to a law: `scalesim.fit(law, runs)`, and what can be asked of its result."""

from __future__ import annotations

from scalesim.fitting.bootstrap import Bootstrap, bootstrap, with_bootstrap
from scalesim.fitting.comparison import BASE_FORMS, Comparison, compare
from scalesim.fitting.compute import EquivalentCompute, equivalent_compute
from scalesim.fitting.contrast_prediction import ContrastPrediction, predict_contrasts
from scalesim.fitting.contrasts import Contrasts, Spread, contrasts, estimate_spread
from scalesim.fitting.coordinates import coefficients, with_coefficients
from scalesim.fitting.engine import fit
from scalesim.fitting.evidence import Choices, Curves, Evidence, Points
from scalesim.fitting.forms import FORMS, Form, Judged, fit_form, fit_with_contrasts, judge, stack
from scalesim.fitting.isoflop import IsoFlop, approach_two_bias, isoflop
from scalesim.fitting.mixtures import mixture
from scalesim.fitting.named import load_fit, named_fit
from scalesim.fitting.noise import Huber, Noise, Squared
from scalesim.fitting.predict import Prediction, predict
from scalesim.fitting.result import Fit
from scalesim.fitting.rollout import Rollout, rollout, with_rollout
from scalesim.fitting.sensitivity import (
    CoefficientPath,
    Profile,
    Suggestion,
    delta_path,
    outlier_path,
    profile,
    suggest_runs,
)
from scalesim.fitting.studies import StudiesLeftOut, leave_one_study_out
from scalesim.fitting.validation import Validation, leave_largest_out, leave_one_group_out

__all__ = [
    "BASE_FORMS",
    "FORMS",
    "Bootstrap",
    "Choices",
    "CoefficientPath",
    "Comparison",
    "ContrastPrediction",
    "Contrasts",
    "Curves",
    "EquivalentCompute",
    "Evidence",
    "Fit",
    "Form",
    "Huber",
    "IsoFlop",
    "Judged",
    "Noise",
    "Points",
    "Prediction",
    "Profile",
    "Rollout",
    "Spread",
    "Squared",
    "StudiesLeftOut",
    "Suggestion",
    "Validation",
    "approach_two_bias",
    "bootstrap",
    "coefficients",
    "compare",
    "contrasts",
    "delta_path",
    "equivalent_compute",
    "estimate_spread",
    "fit",
    "fit_form",
    "fit_with_contrasts",
    "isoflop",
    "judge",
    "leave_largest_out",
    "leave_one_group_out",
    "leave_one_study_out",
    "load_fit",
    "mixture",
    "named_fit",
    "outlier_path",
    "predict",
    "predict_contrasts",
    "profile",
    "rollout",
    "stack",
    "suggest_runs",
    "with_bootstrap",
    "with_coefficients",
    "with_rollout",
]
