"""Numerics that know no transformer: roots, descent, least squares, penalties, what nothing betters."""

from __future__ import annotations

from scalesim.lazily import public_names

__getattr__, __dir__ = public_names(__name__, __file__)
