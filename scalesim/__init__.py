"""scalesim: which transformer shape to build.

Public names are imported on first use, so that `import scalesim` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalesim import cost, data, laws, measure, model, report, train
    from scalesim.data import RunTable, load_runs
    from scalesim.errors import InvalidInput, Unreachable
    from scalesim.fit import fit, load_fit, named_fit
    from scalesim.hardware import Hardware, load_hardware
    from scalesim.interop import from_huggingface, to_huggingface
    from scalesim.measure import measure_hardware
    from scalesim.models import known_model
    from scalesim.search import search
    from scalesim.shape import Shape, count_params, parameter_table
    from scalesim.sweep import sweep
    from scalesim.workload import ContextLengths, Workload

__all__ = [
    "ContextLengths",
    "Hardware",
    "InvalidInput",
    "RunTable",
    "Shape",
    "Unreachable",
    "Workload",
    "cost",
    "count_params",
    "data",
    "fit",
    "from_huggingface",
    "known_model",
    "laws",
    "load_fit",
    "load_hardware",
    "load_runs",
    "measure",
    "measure_hardware",
    "model",
    "named_fit",
    "parameter_table",
    "report",
    "search",
    "sweep",
    "to_huggingface",
    "train",
]

_ROOMS = ("cost", "data", "fit", "laws", "measure", "model", "report", "search", "sweep", "train")
_HOMES = {
    "ContextLengths": "scalesim.workload",
    "Hardware": "scalesim.hardware",
    "InvalidInput": "scalesim.errors",
    "RunTable": "scalesim.data",
    "Shape": "scalesim.shape",
    "Unreachable": "scalesim.errors",
    "Workload": "scalesim.workload",
    "count_params": "scalesim.shape",
    "from_huggingface": "scalesim.interop",
    "known_model": "scalesim.models",
    "load_fit": "scalesim.fit",
    "load_hardware": "scalesim.hardware",
    "load_runs": "scalesim.data",
    "measure_hardware": "scalesim.measure",
    "named_fit": "scalesim.fit",
    "parameter_table": "scalesim.shape",
    "to_huggingface": "scalesim.interop",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"scalesim.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'scalesim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
