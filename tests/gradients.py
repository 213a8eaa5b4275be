"""Derivatives against central differences, for any function of a dictionary of numbers."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def assert_gradients_agree(
    f: Callable[[dict[str, Any]], Any], at: Mapping[str, float], *, rtol: float = 1e-6
) -> None:
    """Check d f / d x for every entry x of `at`, by relative central differences in float64."""
    point = {name: float(value) for name, value in at.items()}
    gradient = jax.grad(lambda x: f(x))(point)
    for name, value in point.items():
        h = 1e-5 * max(abs(value), 1e-3)
        up, down = (float(f({**point, name: value + sign * h})) for sign in (1, -1))
        difference = (up - down) / (2 * h)
        scale = max(abs(difference), 1e-9 * abs(up) / max(abs(value), 1e-3))
        error = abs(float(gradient[name]) - difference)
        assert np.isfinite(gradient[name]), name
        assert error <= rtol * scale + 1e-9 * abs(up) / h * 1e-3, (name, gradient[name], difference)
