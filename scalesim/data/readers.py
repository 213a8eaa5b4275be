"""Reading run tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalesim.data.paper import paper_runs
from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput

__all__ = ["load_runs"]

_SHIPPED = {"paper": paper_runs}


def load_runs(source: Any, *, columns: Mapping[str, str] | None = None) -> RunTable:
    """Read a run table."""
    if isinstance(source, RunTable):
        return source
    if isinstance(source, str) and source in _SHIPPED:
        return _SHIPPED[source]()
    raise InvalidInput(
        f"{source!r} is not a run table; a path or one of {', '.join(_SHIPPED)} would do: {columns}, {Path}"
    )
