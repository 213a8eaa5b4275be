"""Where the public measurements lie, that are used but not shipped."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["public_runs"]


def public_runs() -> Path:
    """Return the folder: $SCALESIM_PUBLIC_RUNS, or `shared/data` beside the checkout.

    Raises:
        FileNotFoundError: neither is there.
    """
    named = os.environ.get("SCALESIM_PUBLIC_RUNS")
    path = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        raise FileNotFoundError(f"no folder of public measurements: set SCALESIM_PUBLIC_RUNS (tried {path})")
    return path
