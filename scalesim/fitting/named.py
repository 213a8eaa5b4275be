"""Fits read back: from a file that `Fit.save` wrote, or shipped with the package by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.files import kind_of
from scalesim.fitting.result import KEPT, Fit, LocalOptimum, Origin
from scalesim.fitting.saved import read_fit
from scalesim.fitting.setup import EvidenceLike, prepare

__all__ = ["load_fit", "named_fit"]


def load_fit(path: str | Path, runs: EvidenceLike | None = None) -> Fit:
    """Read a fit that `Fit.save` wrote. It predicts and is searched like any.

    Args:
        path: the file.
        runs: what it was fitted to, as `fit` takes it: the fit can then be resampled, profiled and judged
            on held-out runs. Fixed coefficients, bounds, priors and noise are the file's.

    Raises:
        InvalidInput: the file is not one, its law is not known (import the module that defines it), or it
            was not fitted to `runs`.
    """
    raw = read_fit(path)
    law, kept = raw["law"], {k: raw[k] for k in KEPT}
    kept["optima"] = tuple(LocalOptimum(**o) for o in kept["optima"])
    kept["unidentified"] = tuple(kept["unidentified"])
    spread = None
    if raw.get("bootstrap") is not None:
        from scalesim.fitting.bootstrap import Bootstrap

        spread = Bootstrap.from_dict(raw["bootstrap"])
    errors = None
    if raw.get("rollout_errors") is not None:
        from scalesim.fitting.rollout import Rollout

        errors = Rollout.from_dict(raw["rollout_errors"])
    found = Fit(law=law, bootstrap=spread, rollout=errors, **kept)
    if runs is None:
        return found
    if found.mixed:
        from scalesim.fitting.mixed_setup import origin_of

        return dataclasses.replace(found, origin=origin_of(found, runs))
    try:
        origin = _origin(found, runs, raw.get("asked"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"law {str(path)!r}.asked does not say how it was fitted: {error!r}.") from None
    _check_origin(found, origin, str(path))
    return dataclasses.replace(found, origin=origin)


def _origin(fit: Fit, evidence: EvidenceLike, asked: Mapping[str, Any] | None) -> Origin:
    """Return a fit's problem, built again from its evidence and its options."""
    from scalesim.fitting.noise import Noise

    errors = fit.standard_errors
    # Older files do not say what was held: what has no error.
    asked = asked or {"fixed": [k for k in fit.coefficients if not np.any(errors.get(k, 0.0))]}
    options = {k: asked[k] for k in ("bounds", "priors", "per_group", "by") if asked.get(k)}
    kinds = fit.provenance.get("evidence", [])
    noise = next((dict(e["noise"]) for e in kinds if e["kind"] == "points"), None)
    if noise is not None:
        noise["delta"] = np.inf if noise["delta"] is None else noise["delta"]
    with jax.enable_x64(True):
        setup = prepare(
            getattr(fit.law, "law", fit.law) if asked.get("per_group") else fit.law,
            evidence,
            noise=None if noise is None else Noise(**noise),
            fixed=dict.fromkeys(asked["fixed"]),
            **options,
        )
        z = np.asarray(asked["z"]) if "z" in asked else setup.layout.encode(fit.law, setup.problem.centres)
    return Origin(setup, z)


def _check_origin(fit: Fit, origin: Origin, name: str) -> None:
    """Raise if a fit's objective is another one at its optimum in this problem."""
    setup, z = origin
    with jax.enable_x64(True):
        objective = float(jax.jit(lambda problem, z: problem.objective(z))(setup.problem, z))
    if not np.isclose(objective, fit.objective, rtol=1e-6, atol=1e-12):
        rows = "" if setup.points is None else f" ({len(setup.runs)} rows)"
        raise InvalidInput(
            f"{name} was fitted to other evidence than `runs`{rows}: its objective there would be "
            f"{objective:.6g}, but is {fit.objective:.6g}. "
            f"It was fitted to {'; '.join(map(_said, fit.provenance.get('evidence', [])))}."
        )


def _said(evidence: Mapping[str, Any]) -> str:
    if evidence["kind"] == "points":
        return f"{evidence['rows']} runs ({evidence['source']})"
    return f"{evidence.get('curves', evidence.get('queries', ''))} {evidence['kind']}".strip()


_SHIPPED = {
    "default": "scalesim.data:paper_runs",
    "points": "scalesim.design.evidence:paper_points",
    "paper": "scalesim.design.evidence:paper_evidence",
}
"""What the shipped laws were fitted to: named, not imported, as the table of optima is made by the search."""


def named_fit(name: str) -> Fit:
    """Return a fit that ships with the package, by name, or one that was saved to a file.

    "default" is a mixture of forms of `scalesim.laws.AttentionLaw`, fitted to the paper's 46 measured losses
    and to published comparisons of heads, each form weighted by how it predicts studies left out; its samples
    hold the uncertainty within a form, between forms and between corpora (`with_bootstrap` draws more), and
    it is validated on runs and on studies left out. "paper" and "points" are the joint head law
    (`scalesim.laws.HeadLaw`) fitted to the paper alone: to its losses, drawn curves, head laws and table of
    optima, and to its losses. Their evidence ships too, so these two can also be resampled and profiled.

    Raises:
        InvalidInput: neither is there; the message lists the names.

    >>> found = named_fit("paper")
    >>> round(found.law.E, 2), len(found.residuals())
    (1.97, 46)
    """
    from importlib.resources import files

    shipped = {
        entry.name.removeprefix("law_").removesuffix(".json"): entry
        for entry in files("scalesim.data").iterdir()
        if entry.name.startswith("law_") and entry.name.endswith(".json")
    }
    if name in shipped:
        found = load_fit(str(shipped[name]))
        if name not in _SHIPPED:
            return found

        def origin() -> Origin:
            from pkgutil import resolve_name

            evidence = resolve_name(_SHIPPED[name])()
            if found.mixed:
                from scalesim.fitting.mixed_setup import origin_of

                return origin_of(found, evidence)
            return _origin(found, evidence, json.loads(shipped[name].read_text()).get("asked"))

        return dataclasses.replace(found, origin=origin)
    if kind_of(name) is not None:
        return load_fit(name)
    raise InvalidInput(
        f"law {name!r} is neither a file nor a shipped fit ({', '.join(sorted(shipped)) or 'none'})."
    )
