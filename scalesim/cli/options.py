"""How the options of a command are declared: kinds of values, groups, and the examples of its help.

A group is a dataclass, and a command's `Options` inherits all of its groups: `--help` shows each under its
name, and the code reads one flat object.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

__all__ = [
    "Contexts",
    "Count",
    "Entries",
    "File",
    "Flag",
    "Folder",
    "Number",
    "Text",
    "Tokens",
    "Words",
    "flat",
    "form_of",
]


def _default(value: str) -> str:
    """Return what the help says of a default: nothing where it is nothing."""
    return "" if value in ("", "None", "False") else f"(default: {value})"


Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]
File = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=_default)]
Folder = Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint=_default)]
Text = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint=_default)]
Count = Annotated[str | None, tyro.conf.arg(metavar="COUNT", help_behavior_hint=_default)]
Tokens = Annotated[str | None, tyro.conf.arg(metavar="TOKENS", help_behavior_hint=_default)]
Number = Annotated[float | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint=_default)]
Contexts = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TOKENS ...", help_behavior_hint=_default)]
Entries = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...", help_behavior_hint=_default)]
Words = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint=_default)]


def groups_of(options: type) -> list[type]:
    """Return the groups of a command's options, in the order of its help; none: all are in one list."""
    return [base for base in options.__bases__ if dataclasses.is_dataclass(base)]


def form_of(options: type) -> type:
    """Return what tyro reads: a dataclass that holds each group of options, where there are any."""
    groups = groups_of(options)
    if not groups:
        return options
    form = dataclasses.make_dataclass(
        options.__name__, [(group.__name__.lower(), group) for group in groups], frozen=True
    )
    form.__doc__ = options.__doc__
    return form


def flat(options: type, read: Any) -> Any:
    """Return a command's options from what tyro read."""
    groups = groups_of(options)
    if not groups:
        return read
    found = {}
    for group in groups:
        part = getattr(read, group.__name__.lower())
        found.update({field.name: getattr(part, field.name) for field in dataclasses.fields(group)})
    return options(**found)
