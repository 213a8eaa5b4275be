"""How the options of a command are declared: kinds of values, groups, and the examples of its help.

A group is a dataclass, and a command's `Options` inherits all of its groups: `--help` shows each under its
name, and the code reads one flat object.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from typing import Annotated, Any, get_type_hints

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
    "Whole",
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
Whole = Annotated[int | None, tyro.conf.arg(metavar="COUNT", help_behavior_hint=_default)]
Number = Annotated[float | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint=_default)]
Contexts = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TOKENS ...", help_behavior_hint=_default)]
Entries = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...", help_behavior_hint=_default)]
Words = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint=_default)]


def groups_of(options: type) -> list[type]:
    """Return the groups of a command's options, in the order of its help; none: all are in one list."""
    return [base for base in options.__bases__ if dataclasses.is_dataclass(base)]


def form_of(options: type, with_helps: bool = True) -> type:
    """Return what tyro reads: a dataclass that holds each group of options, where there are any.

    Without the helps, which nobody reads of a command that runs, it is made in a tenth of the time.
    """
    groups = groups_of(options)
    if not groups:
        return _unbroken(options, with_helps)
    fields = [(group.__name__.lower(), _unbroken(group, with_helps)) for group in groups]
    form = dataclasses.make_dataclass(options.__name__, fields, frozen=True)
    form.__doc__ = options.__doc__
    return form


def _helps(group: type) -> dict[str, str]:
    """Return the docstring of each field, without its line breaks, which tyro would keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(group))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(str(said.value.value).split())
        for field, said in itertools.pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(said, ast.Expr)
        and isinstance(said.value, ast.Constant)
    }


def _unbroken(group: type, with_helps: bool) -> type:
    """Return a dataclass whose helps are its docstrings."""
    helps = _helps(group) if with_helps else {}
    hints = get_type_hints(group, include_extras=True)
    fields: list[Any] = []
    holder: Any = Annotated
    for field in dataclasses.fields(group):
        said = tyro.conf.arg(help=helps.get(field.name, ""))
        fields.append((field.name, holder[hints[field.name], said], dataclasses.field(default=field.default)))
    found = dataclasses.make_dataclass(group.__name__, fields, frozen=True, kw_only=True)
    found.__doc__ = group.__doc__
    return found


def flat(options: type, read: Any) -> Any:
    """Return a command's options from what tyro read."""
    groups = groups_of(options)
    parts = [getattr(read, group.__name__.lower()) for group in groups] if groups else [read]
    return options(
        **{field.name: getattr(part, field.name) for part in parts for field in dataclasses.fields(part)}
    )
