"""From measured runs to a law: `scalesim.fit(law, runs)`, and what can be asked of its result."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from scalesim.fit.coordinates import coefficients, with_coefficients
from scalesim.fit.engine import fit
from scalesim.fit.evidence import Choices, Curves, Evidence, Points
from scalesim.fit.noise import Huber, Noise, Squared
from scalesim.fit.profile import Profile, profile
from scalesim.fit.result import Fit, load_fit, named_fit
from scalesim.fit.validation import Validation, leave_largest_out, leave_one_group_out

__all__ = [
    "Choices",
    "Curves",
    "Evidence",
    "Fit",
    "Huber",
    "Noise",
    "Points",
    "Profile",
    "Squared",
    "Validation",
    "coefficients",
    "fit",
    "leave_largest_out",
    "leave_one_group_out",
    "load_fit",
    "named_fit",
    "profile",
    "with_coefficients",
]


class _CallableModule(ModuleType):
    """Lets `scalesim.fit` be both this package and the function that it is about."""

    def __call__(self, *args: Any, **options: Any) -> Fit:
        return fit(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
