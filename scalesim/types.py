"""The one alias for a number of a law, a shape or a cost: plain, an array of either kind, or traced."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float

__all__ = ["Num"]

Num = Float[Any, "..."]
"""A Python number (an int will do), a NumPy or JAX array, or a tracer; of any shape that broadcasts.

Type checkers read it as Any: the same function takes and returns each of these, and a user who passes floats
is not made to narrow a union.
"""
