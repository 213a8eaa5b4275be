"""The two ways a call can fail, apart from a bug."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["InvalidInput", "Unreachable", "choose"]


class InvalidInput(ValueError):
    """The call was wrong: the message names the field, the value given and what would do (exit code 2)."""


class Unreachable(RuntimeError):
    """The call was right but no answer exists: the message names the nearest that does (exit code 1)."""


def choose(field: str, name: str, known: Collection[str]) -> str:
    """Return `name` if it is known, else raise `InvalidInput` listing what is, the nearest first.

    >>> choose("family", "figure", ["figure", "table"])
    'figure'
    """
    if name in known:
        return name
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise InvalidInput(f"{field} {name!r} is not known{hint} Known: {', '.join(sorted(known))}.")
