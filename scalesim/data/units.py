"""In what units a run table's numbers are: what is said, what a column's name says, what cannot be right."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalesim.errors import InvalidInput

__all__ = [
    "LOSS_UNITS",
    "PREFIXED",
    "SCALES",
    "check_units",
    "in_nats",
    "outliers_in_loss",
    "scale_of",
    "unit_in_name",
]

SCALES: dict[str, float] = {
    **dict.fromkeys(("k", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("m", "mm", "mn", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
    **dict.fromkeys(("gflop", "gflops", "gigaflop", "gigaflops"), 1e9),
    **dict.fromkeys(("tflop", "tflops", "teraflop", "teraflops"), 1e12),
    **dict.fromkeys(("pflop", "pflops", "petaflop", "petaflops"), 1e15),
    **dict.fromkeys(("eflop", "eflops", "exaflop", "exaflops"), 1e18),
    **dict.fromkeys(("zflop", "zflops", "zettaflop", "zettaflops"), 1e21),
    **dict.fromkeys(("yflop", "yflops", "yottaflop", "yottaflops"), 1e24),
    **{
        f"{rate}{of}{day}": 8.64e19
        for rate in ("pf", "pfs", "pflop", "pflops", "petaflop", "petaflops")
        for of in ("", "_", "_s_")
        for day in ("day", "days")
    },
}
"""What a word multiplies counts by; a PF-day is 1e15 operations a second for a day."""

PREFIXED = re.compile(r"([gtpezy]|giga|tera|peta|exa|zetta|yotta)flops?")
"""A whole name that says FLOPs and their unit."""

LOSS_UNITS = ("nats", "bits", "perplexity")
"""A loss is in nats; bits are multiplied by ln 2, of a perplexity the logarithm is taken."""

_RATIO = (0.2, 5e3)  # tokens a parameter, median: public sets lie from 8 to 570
_ROW = (1e-3, 1e6)  # of any one row: they lie from 0.04 to 16,000
_AGREE = 30.0  # FLOPs / (6 N D), median, either way: they lie from 0.9 to 4.4
_ROW_AGREES = 10.0  # of any one row to the median: within a table they differ by 5 at most
_MIXED = 1e7  # the largest of a column over the least: sizes differ by 1e4, tokens by 1e5
_LEAST = {"n_params": 1e3, "n_tokens": 1e3, "flops": 1e6}
_MOST = {"n_params": 1e16, "n_tokens": 1e19, "flops": 1e33}
_FEWEST = 1e7  # tokens that a run of a study is trained on, nearly all of them on more
_HIGHEST_LOSS = 15.0
_TYPICAL_LOSS = 8.0  # a uniform guess over 3,000 words costs 8 nats
_FEW = 0.2


def scale_of(field: str, unit: str | float) -> float:
    """Return what a count is multiplied by: "1e9", "billions", "B", or for FLOPs "PF-days", "exaflops".

    Raises:
        InvalidInput: not a number above 0, nor one of `SCALES`.

    >>> scale_of("n_tokens", "1e9"), scale_of("flops", "PF-days")
    (1000000000.0, 8.64e+19)
    """
    word = str(unit).strip().lower().replace("-", "_").replace(" ", "_").replace("/", "_")
    if word in SCALES:
        return SCALES[word]
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(
            f"unit {field}={unit} is not known; a number such as 1e9, or a word such as millions"
            f"{', exaflops or PF-days' if field == 'flops' else ''}, would do."
        )
    return value


def unit_in_name(name: str) -> tuple[str, float] | None:
    """Return a column's name without its unit, and the unit, or None where it names none.

    >>> unit_in_name("tokens (B)"), unit_in_name("compute_pf_days"), unit_in_name("n_tokens")
    (('tokens', 1000000000.0), ('compute', 8.64e+19), None)
    """
    words = [w for w in re.split(r"[^a-z0-9.+]+", name.lower()) if w]
    if len(words) == 1 and PREFIXED.fullmatch(words[0]):
        return "flops", SCALES[words[0]]
    apart = bool(re.search(r"[(\[/]", name)) or bool(words and words[-1].endswith("illions"))
    for last in (3, 2, 1):
        rest, unit = words[:-last], "_".join(words[-last:])
        # A letter and another, as in n_b, are no size and its unit unless they are written so.
        if not rest or (len("".join(rest)) < 2 and SCALES.get(unit, 0) < 1e15 and not apart):
            continue
        if rest[-1] in ("in", "per", "x") and len(rest) > 1:
            if rest[-1] == "per":
                return None
            rest = rest[:-1]
        if unit in SCALES:
            return " ".join(rest), SCALES[unit]
        if last == 1 and re.fullmatch(r"1e\+?\d+|10{3,}", unit):
            return " ".join(rest), float(unit)
    return None


def in_nats(losses: np.ndarray, unit: str) -> np.ndarray:
    """Return losses in nats."""
    if unit == "perplexity":
        with np.errstate(all="ignore"):
            return np.log(losses)
    return losses * math.log(2) if unit == "bits" else losses


def check_units(
    numbers: Mapping[str, np.ndarray],
    rows: np.ndarray,
    derived: bool,
    stated: Mapping[str, Any],
) -> None:
    """Refuse counts and losses that cannot be in plain numbers and nats, unless their unit was stated.

    Args:
        numbers: the columns, all of one length.
        rows: the number in the table of each.
        derived: n_tokens are FLOPs / (6 n_params).
        stated: fields whose unit the caller gave.

    Raises:
        InvalidInput: the message names the field, a row, and the option that says the unit.
    """
    for name, least in _LEAST.items():
        skip = name in stated or (name == "n_tokens" and (derived or "flops" in stated))
        if name not in numbers or skip or not (numbers[name] < least).any():
            continue
        at = int(np.argmin(numbers[name]))
        if numbers[name].max() > _MIXED * numbers[name][at]:
            raise InvalidInput(
                f"{name} goes from {numbers[name][at]:g} (row {rows[at]}) to {numbers[name].max():g}: rows "
                f"look to be in different units. Mend or remove those that are; {_confirm(name)}"
            )
        what = "PF-days or exaflops" if name == "flops" else "millions or billions"
        raise InvalidInput(
            f"{name} of row {rows[at]} is {numbers[name][at]:g}, which looks like {what}; "
            f"{_advice(numbers, name)}"
        )
    for name, most in _MOST.items():
        if name in numbers and (numbers[name] > most).any():
            at = int(np.argmax(numbers[name]))
            raise InvalidInput(
                f"{name} of row {rows[at]} is {numbers[name][at]:g}; at most {most:g} would do."
            )
    _check_losses(numbers["loss"], stated)
    if "n_params" not in numbers or "n_tokens" not in numbers:
        return
    _check_agreement(numbers, rows, stated)
    # A unit of 1 says that all is right as it is; any other is a fact about its own column alone.
    asked = ("n_params", "flops" if derived else "n_tokens")
    free = [name for name in asked if name not in stated]
    if not free or any(str(stated.get(name)) in ("1", "1.0") for name in (*asked, "n_tokens")):
        return
    with np.errstate(all="ignore"):
        ratio = numbers["n_tokens"] / numbers["n_params"]
    middle = float(np.median(ratio))
    blamed = asked[1] if derived or middle < 1 else "n_params"
    blamed = blamed if blamed in free else free[0]
    how = " (tokens are FLOPs / (6 n_params))" if derived else ""
    if not _RATIO[0] <= middle <= _RATIO[1]:
        raise InvalidInput(
            f"The rows have {middle:.3g} tokens a parameter (median){how}, where people train on "
            f"{_RATIO[0]:g} to {_RATIO[1]:,.0f}: a column looks to be in another unit; "
            f"{_advice(numbers, blamed)}"
        )
    far = np.flatnonzero((ratio < _ROW[0]) | (ratio > _ROW[1]))
    if len(far):
        at = int(far[0])
        raise InvalidInput(
            f"Row {rows[at]} has {numbers['n_tokens'][at]:g} tokens for {numbers['n_params'][at]:g} "
            f"parameters{how}, {ratio[at]:.3g} each, where the median row has {middle:.3g}: it looks to be "
            f"in another unit than the rest. Mend or remove it; {_confirm('n_tokens')}"
        )


def _check_losses(losses: np.ndarray, stated: Mapping[str, Any]) -> None:
    if "loss" in stated:
        return
    middle = float(np.median(losses))
    if middle > _TYPICAL_LOSS:
        raise InvalidInput(
            f"loss is {middle:g} (median), above {_TYPICAL_LOSS:g} nats a token; it looks like a perplexity: "
            "--unit loss=perplexity takes its logarithm, --unit loss=nats says that it is right."
        )


def outliers_in_loss(losses: np.ndarray) -> np.ndarray:
    """Return which losses are beyond what a model that learnt anything has, where most are not: (rows,).

    >>> outliers_in_loss(np.array([3.0, 2.9, 3.1, 3.0, 18.3])).tolist()
    [False, False, False, False, True]
    """
    high = losses > _HIGHEST_LOSS
    return high if high.mean() <= _FEW else np.zeros(len(losses), bool)


def _check_agreement(numbers: Mapping[str, np.ndarray], rows: np.ndarray, stated: Mapping[str, Any]) -> None:
    if "flops" not in numbers or {"flops", "n_params", "n_tokens"} <= stated.keys():
        return
    with np.errstate(all="ignore"):
        each = numbers["flops"] / (6 * numbers["n_params"] * numbers["n_tokens"])
    off = float(np.median(each))
    if not 1 / _AGREE <= off <= _AGREE:
        ratio = float(np.median(numbers["n_tokens"] / numbers["n_params"]))
        plausible = _RATIO[0] <= ratio <= _RATIO[1]
        blamed = "flops" if plausible or "flops" not in stated else "n_tokens" if ratio < 1 else "n_params"
        raise InvalidInput(
            f"flops are {off:.3g} times 6 n_params n_tokens (median): one of the three is in another unit; "
            f"{_advice(numbers, blamed)}"
        )
    far = np.flatnonzero((each > _ROW_AGREES * off) | (each < off / _ROW_AGREES))
    if len(far) and str(stated.get("flops")) not in ("1", "1.0"):
        at = int(far[0])
        raise InvalidInput(
            f"flops of row {rows[at]} are {each[at]:.3g} times 6 n_params n_tokens, where the median row has "
            f"{off:.3g}: one of the three looks to be wrong or in another unit than the rest. Mend or remove "
            f"it; {_confirm('flops')}"
        )


def _advice(numbers: Mapping[str, np.ndarray], field: str) -> str:
    """Return which unit would make the numbers plausible, as the option that says it."""
    with np.errstate(all="ignore"):
        best = _best_unit(numbers, field)
    return f"--unit {field}={best or '1e9'} would say its unit. {_confirm(field)}"


def _best_unit(numbers: Mapping[str, np.ndarray], field: str) -> str | None:
    """Return the unit that brings a field nearest to what the others say, or 20 tokens a parameter."""
    if "n_params" not in numbers:
        return None
    size = float(np.median(numbers["n_params"]))
    if field == "n_params" and "n_tokens" in numbers and float(np.median(numbers["n_tokens"])) < _FEWEST:
        return None if size >= _FEWEST else "1e6" if size >= 10 else "1e9"  # they tell nothing: both are odd
    wanted = 20.0 * numbers["n_params"]
    units = {f"1e{p}": 10.0**p for p in (3, 6, 9, 12)}
    if field == "flops":
        units = {"PF-days": 8.64e19, **{f"1e{p}": 10.0**p for p in (9, 12, 15, 18, 21, 24)}}
        tokens = numbers["flops"] / (6 * numbers["n_params"])
        known = numbers.get("n_tokens")
        off = (wanted if known is None or np.allclose(known, tokens) else known) / tokens
    elif "n_tokens" in numbers:
        off = wanted / numbers["n_tokens"]
        off = off if field == "n_tokens" else 1 / off
    else:
        return None
    middle = float(np.median(np.log(off)))
    if not (math.isfinite(middle) and middle > 0):
        return None
    return min(units, key=lambda unit: abs(math.log(units[unit]) - middle))


def _confirm(field: str) -> str:
    return f"--unit {field}=1 says that it is plain numbers and right."
