"""Sizes as people write them: 128K of context, 1.8B parameters."""

from __future__ import annotations

import math
import re

from scalesim.errors import InvalidInput

__all__ = ["format_bytes", "format_context", "format_count", "format_flops", "parse_context", "parse_count"]

_POWERS = {"": 0, "K": 1, "M": 2, "B": 3, "G": 3, "T": 4}


def _parse(text: str | float, field: str, base: int) -> float:
    if isinstance(text, int | float):
        try:
            value = float(text)
        except OverflowError:
            raise InvalidInput(f"{field} is a number of very many digits; at most 1e308 would do.") from None
    else:
        body = text.strip().replace("_", "")
        if "," in body and re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?[A-Za-z]?", body):
            body = body.replace(",", "")  # thousands; 1,5 is not a number that all read alike
        suffix = body[-1:].upper() if body[-1:].isalpha() else ""
        digits = body[: len(body) - len(suffix)]
        try:
            value = float(digits) * base ** _POWERS[suffix]
        except (KeyError, ValueError, OverflowError):
            raise InvalidInput(
                f"{field} {text!r} is not a size; a number, alone or followed by K, M, B or T, would do."
            ) from None
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{field} must be above 0 and finite, but is {text!r}.")
    return value


def parse_count(text: str | float, field: str = "count") -> float:
    """Return a number of parameters or tokens: K, M, B and T are powers of 1000.

    >>> parse_count("1.8B")
    1800000000.0
    """
    return _parse(text, field, 1000)


def parse_context(text: str | float, field: str = "context") -> int:
    """Return a context length in tokens: here K and M are powers of 1024.

    Raises:
        InvalidInput: not a size, not a whole number of tokens, or beyond 2^40 tokens.

    >>> parse_context("128K")
    131072
    """
    value = _parse(text, field, 1024)
    if value != round(value) or value > 2**40:
        raise InvalidInput(f"{field} must be a whole number of tokens, at most 2^40, but is {text!r}.")
    return int(value)


def _format(value: float, base: float, units: tuple[str, ...], digits: int) -> str:
    power = 0
    while abs(value) >= base * (1 - 0.5 * 10**-digits) and power < len(units) - 1:
        value, power = value / base, power + 1
    number = f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return number + units[power]


def format_count(value: float, digits: int = 3) -> str:
    """Return 1.8e9 as `1.8B`.

    >>> format_count(1_821_000_000)
    '1.82B'
    """
    return _format(float(value), 1000.0, ("", "K", "M", "B", "T", "Q"), digits)


def format_context(value: float) -> str:
    """Return 131072 as `128K`.

    >>> format_context(131072)
    '128K'
    """
    return _format(float(value), 1024.0, ("", "K", "M", "G"), 4)


def format_bytes(value: float, digits: int = 3) -> str:
    """Return bytes in binary units, named as such.

    >>> format_bytes(2**31)
    '2 GiB'
    """
    return _format(float(value), 1024.0, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"), digits)


def format_flops(value: float, digits: int = 3) -> str:
    """Return floating-point operations in decimal units.

    >>> format_flops(2.5e15)
    '2.5 PFLOPs'
    """
    units = (" FLOPs", " kFLOPs", " MFLOPs", " GFLOPs", " TFLOPs", " PFLOPs", " EFLOPs", " ZFLOPs")
    return _format(float(value), 1000.0, units, digits)
