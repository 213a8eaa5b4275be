"""Files of fits: what a saved law and kept resamples may hold, checked before anything is made of them."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.files import read_bytes, read_json, write_whole
from scalesim.laws.base import REGISTRY, Law
from scalesim.schema import (
    anything,
    array,
    boolean,
    fields,
    items,
    mapping,
    maybe,
    number,
    one_of,
    shown,
    text,
    whole,
)

__all__ = [
    "VERSION",
    "checked_law",
    "law_from_json",
    "law_name",
    "law_to_json",
    "read_archive",
    "read_fit",
    "write_archive",
]

VERSION = 1
"""Of saved laws; files without a version are older and read all the same."""
_DEPTH = 20  # of laws within laws
ARCHIVE_VERSION = 1
"""Of kept resamples; those without a version are older and read all the same."""

_ARCHIVE = ("z", "objective", "gradient_norm")

_lossy = maybe(number(), np.nan)  # a number that was not finite is written as null
_error = maybe(number(0.0, 1e3), np.nan)  # of a loss, nats or a share of it
_SPANS = 10
"""A law lies within so many spans of its resamples of each coefficient; those of another law do not."""
_FEW = 16
"""Resamples whose span says too little."""


def _errors(value: Any, name: str) -> Any:
    """Take an error, or a list of them."""
    return (
        [_lossy(v, f"{name}[{i}]") for i, v in enumerate(value)]
        if isinstance(value, list)
        else _lossy(value, name)
    )


def _range(value: Any, name: str) -> list[float]:
    low, high = items(number(), 2, 2)(value, name)
    if low > high:
        raise InvalidInput(f"{name} must be [low, high], but is {shown(value)}.")
    return [low, high]


_evidence = fields(
    {"kind": text, "rows": whole(), "source": text, "ranges": mapping(_range), "noise": mapping(anything)},
    ("rows", "source", "ranges", "noise"),
    others=anything,
)
_BOOTSTRAP = {
    "kind": one_of("pairs", "cluster", "wild", "posterior"),
    "seed": whole(),
    "asked": whole(),
    "units": whole(),
    "freedom": whole(),
    "samples": mapping(array((0, 1, 2))),
    "objectives": array(1),
}
_fold = fields(
    {
        **dict.fromkeys(("share", "cut", "distance"), number(0.0)),
        **dict.fromkeys(("kept", "held_out"), whole()),
        **dict.fromkeys(("rms", "nats"), _error),
    }
)
_ROLLOUT = {"by": text, "folds": items(_fold), "scatter": _error, "ranges": mapping(_range)}
_optimum = fields({"objective": _lossy, "starts": whole(), "coefficients": mapping(anything)})
_FIT = {
    "law": mapping(anything),
    "version": whole(0),
    "objective": _lossy,
    "gradient_norm": _lossy,
    "rms": _error,
    "condition": _lossy,
    "starts_agreeing": whole(),
    "starts_polished": whole(),
    "optima": items(_optimum),
    "status": one_of("converged", "few_starts_agree", "unidentified", "not_converged"),
    "message": text,
    "standard_errors": mapping(_errors),
    "coefficients": mapping(_errors),
    "unidentified": items(text),
    "provenance": fields({"evidence": items(_evidence)}, ["evidence"], others=anything),
    "rollout_errors": maybe(fields(_ROLLOUT, others=anything)),
    "asked": fields({"fixed": items(text), "z": array(1)}, ["fixed", "z"], others=anything),
    "bootstrap": maybe(fields(_BOOTSTRAP, ["units", "freedom"], others=anything)),
}
_OLDER = ("version", "bootstrap", "asked", "rollout_errors", "coefficients")
"""What older files may lack."""


def read_fit(path: str | Path) -> dict[str, Any]:
    """Return what a saved fit holds, each field checked, `law` as a `Law`.

    Raises:
        InvalidInput: it cannot be read, is of a later version, or a field is missing or wrong: the message
            names the field and its value.
    """
    name = f"law {str(path)!r}"
    raw = read_json(path, "law")
    version = raw.get("version", 0) if isinstance(raw, Mapping) else 0
    if isinstance(version, int) and version > VERSION:
        raise InvalidInput(f"{name} is of version {version}; this scalesim reads up to {VERSION}.")
    if not isinstance(raw, Mapping) or "law" not in raw:
        raise InvalidInput(
            f"{name} is not a saved fit: it has no field 'law'; `scalesim fit --save` writes one."
        )
    held = fields(_FIT, ["version", "bootstrap", "asked", "rollout_errors", "coefficients"], others=anything)(
        raw, name
    )
    held["law"] = checked_law(held["law"], f"{name}.law")
    spread = held.get("bootstrap")
    if spread is not None:
        count = len(spread["objectives"])
        if count < 2:
            raise InvalidInput(f"{name}.bootstrap.objectives must hold 2 values or more, but holds {count}.")
        spread["samples"] = _named(held["law"], spread["samples"], count, f"{name}.bootstrap.samples")
    _check_agreement(held, name)
    return held


def _check_agreement(held: Mapping[str, Any], name: str) -> None:
    """Refuse what says one thing in two places, as of a file of which one was changed by hand."""
    from scalesim.fitting.coordinates import coefficients

    known, stated = coefficients(held["law"]), held.get("coefficients", {})
    for key, value in known.items():
        other = stated.get(key, value)
        if np.shape(other) != np.shape(value) or not np.allclose(other, value, rtol=1e-6):
            raise InvalidInput(
                f"{name}.coefficients.{key} is {shown(other)}, and its law.{key} {shown(value)}: they are "
                "one number. `scalesim fit`, or with_coefficients, makes a law of others."
            )
    spread = held.get("bootstrap")
    if spread is None:
        return
    units, freedom, count = spread.get("units", 0), spread.get("freedom", 0), len(spread["objectives"])
    if freedom > units or (freedom == 0) != (units == 0):
        raise InvalidInput(
            f"{name}.bootstrap.freedom must be at most units, or both 0, but are {freedom} and {units}."
        )
    if spread.get("resamples", count) != count:
        raise InvalidInput(
            f"{name}.bootstrap.resamples is {shown(spread['resamples'])}, but its objectives are {count}."
        )
    for key, value in known.items() if count >= _FEW else ():
        low, high = np.min(spread["samples"][key], axis=0), np.max(spread["samples"][key], axis=0)
        room = _SPANS * (high - low) + 1e-6 * np.abs(value)
        if np.any(value < low - room) or np.any(value > high + room):
            raise InvalidInput(
                f"{name}.bootstrap.samples.{key} are of another law: they are from {np.min(low):.6g} to "
                f"{np.max(high):.6g}, and the law has {key} = {shown(value)}."
            )


def _named(law: Law, samples: Mapping[str, Any], count: int, name: str) -> dict[str, Any]:
    """Return the samples in the order of the law's coefficients, whatever that of the file.

    Each holds a value for each of the `count` resamples, or one where no resample moves it.
    """
    from scalesim.fitting.coordinates import coefficients

    known = coefficients(law)
    missing = [key for key in known if key not in samples]
    other = [key for key in samples if key not in known]
    if missing or other:
        what = f"has no {missing[0]}" if missing else f"names {other[0]!r}, which the law has not"
        raise InvalidInput(f"{name} {what}; the law's coefficients are {', '.join(known)}.")
    for key, value in known.items():
        own, size = np.shape(samples[key]), np.shape(value)
        if own not in (size, (count, *size)):
            raise InvalidInput(
                f"{name}.{key} must hold a value for each of the {count} resamples, shape {(count, *size)}, "
                f"but is of shape {own}."
            )
    return {key: samples[key] for key in known}


def law_name(law: Law) -> str:
    """Return a law's name; of a sum or a product its parts'."""
    parts = [getattr(law, name) for name in ("base", "other") if hasattr(law, name)]
    if parts:
        return (" + " if type(law).__name__ == "Sum" else " * ").join(map(law_name, parts))
    return type(law).__name__


def law_to_json(law: Law) -> dict[str, Any]:
    """Return a law as plain values: its class, options and coefficients, laws within laws nested."""
    values: dict[str, Any] = {}
    for f in dataclasses.fields(law):  # type: ignore[arg-type]
        value = getattr(law, f.name)
        if isinstance(value, Law):
            values[f.name] = law_to_json(value)
        elif "coefficient" in f.metadata:
            values[f.name] = np.asarray(value, float).tolist()
        else:
            values[f.name] = value
    return {"type": type(law).__name__, **values}


def law_from_json(raw: dict[str, Any]) -> Law:
    """Return the law that `law_to_json` wrote; errors are those of `checked_law`."""
    return checked_law(raw, "law")


def checked_law(raw: Any, name: str, depth: int = 0, groups: int = 0) -> Law:
    """Return the law that plain values stand for; each coefficient is a finite number, options of their kind.

    Raises:
        InvalidInput: a law that is not known, a field that is missing, not known or wrong.
    """
    if depth > _DEPTH:
        raise InvalidInput(f"{name} holds laws within laws, more than {_DEPTH} deep.")
    if not isinstance(raw, Mapping) or not isinstance(raw.get("type"), str):
        raise InvalidInput(f"{name} must be an object with a 'type', but is {shown(raw)}.")
    kind = REGISTRY.get(raw["type"])
    if kind is None:
        known = ", ".join(sorted(REGISTRY))
        raise InvalidInput(
            f"law {raw['type']!r} is not known; import the module that defines it. Known: {known}."
        )
    own = {f.name: f for f in dataclasses.fields(kind)}
    if raw["type"] == "Grouped":
        groups = len(items(anything)(raw.get("labels", []), f"{name}.labels"))
    elif "weights" in own and "law" in own:  # a mixture: one law whose coefficients are all forms'
        groups = len(items(number(0.0))(raw.get("weights", []), f"{name}.weights"))
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key == "type":
            continue
        if key not in own:
            raise InvalidInput(
                f"{name} has a field {key!r}, which {raw['type']} has not; it has {', '.join(own)}."
            )
        at = f"{name}.{key}"
        if isinstance(value, Mapping):
            values[key] = checked_law(value, at, depth + 1, groups)
        elif "coefficient" in own[key].metadata:
            values[key] = _coefficient(value, own[key], at, groups)
        else:
            values[key] = _option(value, own[key], at)
    missing = [
        f
        for f, d in own.items()
        if f not in values and d.init and d.default is d.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InvalidInput(f"{name} has no field {missing[0]!r}, which {raw['type']} needs.")
    try:
        return kind(**values)
    except InvalidInput:
        raise
    except Exception as error:  # a law of a user's own may raise anything
        raise InvalidInput(f"{name} is no {raw['type']}: {error}.") from None


def _coefficient(value: Any, field: Any, name: str, groups: int) -> Any:
    ndim = max(np.ndim(field.default) if field.default is not dataclasses.MISSING else 0, 0)
    allowed = (0, 1) if groups else (ndim,)
    found = array(allowed)(value, name) if isinstance(value, list) or not groups else number()(value, name)
    found = np.asarray(found, float)
    if groups and found.ndim and len(found) != groups:
        raise InvalidInput(
            f"{name} must hold a value for each of the {groups} parts, but holds {len(found)}."
        )
    spec = field.metadata["coefficient"]
    if getattr(spec, "positive", False) and (found < 0).any():
        raise InvalidInput(f"{name} must be above 0, but is {shown(value)}.")
    return float(found) if found.ndim == 0 else found


def _option(value: Any, field: Any, name: str) -> Any:
    default = None if field.default is dataclasses.MISSING else field.default
    if isinstance(default, bool):
        return boolean(value, name)
    if isinstance(default, str):
        return text(value, name)
    if isinstance(default, int | float):
        return number()(value, name)
    return _frozen(value)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def read_archive(path: str | Path, width: int) -> tuple[str, dict[str, np.ndarray]]:
    """Return the key and the arrays of kept resamples: z (R, width), objective and gradient_norm (R,).

    Raises:
        InvalidInput: it cannot be read, is damaged, or holds something else.
    """
    name = f"resume {str(path)!r}"
    data = read_bytes(path, "resume")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as held:
            key, version = str(held["key"]), int(held["version"]) if "version" in held else 0
            if version > ARCHIVE_VERSION:
                raise InvalidInput(
                    f"{name} is of version {version}; this scalesim reads up to {ARCHIVE_VERSION}."
                )
            arrays = {k: np.asarray(held[k], float) for k in _ARCHIVE}
    except Exception as error:  # zipfile, zlib and NumPy each have their own ways to fail on damaged bytes
        if isinstance(error, MemoryError | InvalidInput):
            raise
        what = (
            "it is cut short or damaged" if isinstance(error, zipfile.BadZipFile | EOFError) else str(error)
        )
        reason = (what.splitlines() or [type(error).__name__])[0][:160]
        raise InvalidInput(f"{name} is not a file of kept resamples: {reason}.") from None
    rows = len(arrays["objective"]) if arrays["objective"].ndim == 1 else -1
    shapes = {k: v.shape for k, v in arrays.items()}
    if shapes != {"z": (rows, width), "objective": (rows,), "gradient_norm": (rows,)}:
        raise InvalidInput(
            f"{name} must hold z (R, {width}), objective (R,) and gradient_norm (R,), but they are {shapes}."
        )
    if any(np.isnan(values).any() for values in arrays.values()):
        raise InvalidInput(f"{name} holds points that are not numbers.")
    return key, arrays


def write_archive(path: str | Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write kept resamples whole; errors are those of `write_whole`."""
    content = io.BytesIO()
    held: dict[str, Any] = {"version": ARCHIVE_VERSION, "key": key, **arrays}
    np.savez(content, **held)
    write_whole(path, content.getvalue(), "resume")
