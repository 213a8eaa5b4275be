"""The one alias for a number of a law, a shape or a cost: plain, an array of either kind, or traced."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float, Int

__all__ = ["Num"]

Num = float | np.ndarray | Float[jax.Array, "..."] | Int[jax.Array, "..."]
"""A float (an int will do), or an array of any shape that broadcasts with its like."""
