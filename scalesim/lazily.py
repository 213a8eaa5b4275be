"""Packages whose public names are listed in their `__init__.pyi`, each with its home, and imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["public_names"]


def public_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package: the stub beside `file` is its one list of names.

    >>> get, names = public_names("scalesim.numerics", importlib.import_module("scalesim.numerics").__file__)
    >>> "newton_root" in names(), get("newton_root").__module__
    (True, 'scalesim.numerics.roots')
    """
    held: dict[str, str] = {}

    def homes() -> dict[str, str]:
        """Return each name's module, off the lines `from HOME import NAME as NAME` of the stub."""
        if not held:
            lines = Path(file).with_suffix(".pyi").read_text(encoding="utf-8").splitlines()
            found = [line.split() for line in lines if line.startswith("from ")]
            held.update({words[3]: words[1] for words in found})
        return held

    def get(name: str) -> Any:
        if name == "__all__":
            return sorted(homes())
        if name.startswith("__") or name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes()[name]
        value = (
            importlib.import_module(f"{package}.{name}")
            if home == package
            else getattr(importlib.import_module(home), name)
        )
        vars(importlib.import_module(package))[name] = value
        return value

    return get, lambda: sorted(homes())
