"""What a fit returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.files import write_json
from scalesim.fitting.coordinates import coefficients
from scalesim.fitting.saved import VERSION, checked_law, read_fit
from scalesim.laws.base import Law

__all__ = ["Fit", "Optimum", "as_json", "law_from_json", "law_to_json", "load_fit", "named_fit"]


@dataclass(frozen=True)
class Optimum:
    """One of the places where starts ended: its objective, how many ended there, the coefficients."""

    objective: float
    starts: int
    coefficients: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law and what is known about it.

    Attributes:
        law: the law, with its fitted coefficients.
        objective: the sum of weight * rho over all evidence.
        gradient_norm: of the objective, in the fit's coordinates.
        rms: root mean square of L - loss over the points, nats.
        starts_agreeing: starts that ended within 1e-8 of the best objective, of `starts_polished`.
        optima: the distinct places where starts ended, best first.
        status: "converged", "few_starts_agree", "unidentified" or "not_converged".
        message: the status as a sentence.
        standard_errors: of each free coefficient, from the curvature (a sandwich) until a bootstrap is run.
        unidentified: directions that the evidence leaves open, a sentence each.
        provenance: what the law was fitted to.
        bootstrap: the distribution of the coefficients, if it was asked for.
    """

    law: Law
    objective: float
    gradient_norm: float
    rms: float
    starts_agreeing: int
    starts_polished: int
    optima: tuple[Optimum, ...]
    status: str
    message: str
    standard_errors: dict[str, Any]
    condition: float
    unidentified: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    bootstrap: Any = None
    setup: Any = field(default=None, repr=False)
    z: Any = field(default=None, repr=False)

    @property
    def coefficients(self) -> dict[str, Any]:
        """The law's coefficients by name."""
        return coefficients(self.law)

    def residuals(self) -> np.ndarray:
        """Return L - loss of each run, nats (rows,)."""
        runs = self.setup.runs
        with jax.enable_x64(True):
            x = {k: v[: len(runs)] for k, v in self.setup.problem.points.x.items()}
            return np.asarray(self.law.loss(x)) - runs.loss

    @property
    def intervals(self) -> dict[str, Any]:
        """90% intervals of the free coefficients: the bootstrap's percentiles, or 1.645 standard errors."""
        if self.bootstrap is not None:
            return self.bootstrap.intervals()
        values: dict[str, float] = {}
        for name, value in self.coefficients.items():
            if isinstance(value, list):
                values.update({f"{name}[{i}]": v for i, v in enumerate(value)})
            else:
                values[name] = value
        errors = self.standard_errors
        return {k: [values[k] - 1.645 * errors[k], values[k] + 1.645 * errors[k]] for k in errors}

    def to_json(self) -> dict[str, Any]:
        """Return the fit as plain values, for JSON."""
        return {
            "law": law_to_json(self.law),
            "coefficients": self.coefficients,
            "objective": self.objective,
            "gradient_norm": self.gradient_norm,
            "rms": self.rms,
            "starts_agreeing": self.starts_agreeing,
            "starts_polished": self.starts_polished,
            "optima": [vars(o) for o in self.optima],
            "status": self.status,
            "message": self.message,
            "standard_errors": self.standard_errors,
            "intervals": self.intervals,
            "condition": self.condition,
            "unidentified": list(self.unidentified),
            "provenance": self.provenance,
            "bootstrap": None if self.bootstrap is None else self.bootstrap.to_json(),
        }

    def save(self, path: str | Path) -> None:
        """Write the fit to a JSON file, from which `load_fit` reads the same law back, bit for bit."""
        write_json(path, as_json({"version": VERSION, **self.to_json()}), "save")


def load_fit(path: str | Path) -> Fit:
    """Read a fit that `Fit.save` wrote. It predicts and is searched like any; only its runs are gone.

    Raises:
        InvalidInput: the file is not one, or its law is not known (import the module that defines it).
    """
    raw = read_fit(path)
    law, kept = raw["law"], {k: raw[k] for k in _KEPT}
    kept["optima"] = tuple(Optimum(**o) for o in kept["optima"])
    kept["unidentified"] = tuple(kept["unidentified"])
    spread = None
    if raw.get("bootstrap") is not None:
        from scalesim.fitting.bootstrap import Bootstrap

        spread = Bootstrap.from_json(raw["bootstrap"])
    return Fit(law=law, bootstrap=spread, **kept)


def named_fit(name: str) -> Fit:
    """Return a fit that ships with the package, by name, or one that was saved to a file.

    "points" and "default" are the joint head law (`scalesim.laws.HeadLaw`) fitted to the paper: to its 46
    measured losses alone, and to its drawn curves, head laws and table of optima as well.

    Raises:
        InvalidInput: neither is there; the message lists the names.

    >>> round(named_fit("default").law.E, 2)
    1.97
    """
    from importlib.resources import files

    shipped = {
        entry.name.removeprefix("law_").removesuffix(".json"): entry
        for entry in files("scalesim.data").iterdir()
        if entry.name.startswith("law_") and entry.name.endswith(".json")
    }
    if name in shipped:
        return load_fit(str(shipped[name]))
    if Path(name).exists():
        return load_fit(name)
    raise InvalidInput(
        f"law {name!r} is neither a file nor a shipped fit ({', '.join(sorted(shipped)) or 'none'})."
    )


_KEPT = (
    "objective",
    "gradient_norm",
    "rms",
    "starts_agreeing",
    "starts_polished",
    "optima",
    "status",
    "message",
    "standard_errors",
    "condition",
    "unidentified",
    "provenance",
)


def law_to_json(law: Law) -> dict[str, Any]:
    """Return a law as plain values: its class, options and coefficients, laws within laws nested."""
    import dataclasses

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
    """Return the law that `law_to_json` wrote; errors are those of `scalesim.fitting.saved.checked_law`."""
    return checked_law(raw, "law")


def as_json(value: Any) -> Any:
    """Replace what JSON cannot hold (nan, inf) by null."""
    if isinstance(value, dict):
        return {k: as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    return value
