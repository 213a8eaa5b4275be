"""Packages that are also the function they are about: `scalesim.fit(...)` and `scalesim.fit.load_fit`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["make_callable"]


class _CallableModule(ModuleType):
    """A module whose call is its `__main_function__`."""

    __main_function__: Callable[..., Any]

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.__main_function__(*args, **options)


def make_callable(module: str, function: Callable[..., Any]) -> None:
    """Make an imported module callable as `function`."""
    room = sys.modules[module]
    room.__class__ = _CallableModule
    room.__main_function__ = function  # type: ignore[attr-defined]
