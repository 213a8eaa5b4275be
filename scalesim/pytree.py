"""Frozen dataclasses as pytrees: which fields are leaves and which are part of the type."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["static"]


def static(default: Any = dataclasses.MISSING) -> Any:
    """Declare a dataclass field that is part of a pytree's structure: hashable, never traced."""
    return dataclasses.field(default=default, metadata={"static": True})
