"""scalesim: which transformer shape to build.

Public names are imported on first use, so that `import scalesim` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("cost", "data", "fit", "laws", "report", "search")
_HOMES: dict[str, str] = {
    "InvalidInput": "scalesim.errors",
    "Shape": "scalesim.shape",
    "Unreachable": "scalesim.errors",
    "RunTable": "scalesim.data",
    "count_params": "scalesim.shape",
    "load_fit": "scalesim.fit",
    "load_runs": "scalesim.data",
    "parameter_table": "scalesim.shape",
}

__all__ = [
    *_MODULES,
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"scalesim.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'scalesim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
