"""scalesim: which transformer shape to build.

The public names are listed in `__init__.pyi`, each with its home; they are imported on first use, so that
`import scalesim` costs nothing. All other modules are internal.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """Return each public name's module, read off the lines `from HOME import NAME as NAME` of the stub."""
    lines = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8").splitlines()
    found = [line.split() for line in lines if line.startswith("from ")]
    return {words[3]: words[1] for words in found}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_homes())
    if name.startswith("__"):
        raise AttributeError(f"module 'scalesim' has no attribute {name!r}")
    homes = _homes()
    if name not in homes:
        raise AttributeError(f"module 'scalesim' has no attribute {name!r}")
    home = homes[name]
    value = (
        importlib.import_module(f"scalesim.{name}")
        if home == "scalesim"
        else getattr(importlib.import_module(home), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_homes())
