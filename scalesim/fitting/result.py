"""What a fit returns, and how it is kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from scalesim.errors import InvalidInput, choose
from scalesim.faces import Face, Shown, plain
from scalesim.files import write_whole
from scalesim.fitting.coordinates import coefficients, per_coordinate
from scalesim.fitting.saved import VERSION, law_from_json, law_name, law_to_json
from scalesim.fitting.setup import Setup
from scalesim.laws.attention import Mixture
from scalesim.laws.base import Law
from scalesim.programs import kept_jit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalesim.fitting.bootstrap import Bootstrap
    from scalesim.fitting.rollout import Rollout
    from scalesim.fitting.sensitivity import Profile

__all__ = [
    "KEPT",
    "Fit",
    "LocalOptimum",
    "Origin",
    "law_from_json",
    "law_name",
    "law_to_json",
]


@dataclass(frozen=True)
class LocalOptimum:
    """One of the places where starts ended: its objective, how many ended there, the coefficients."""

    objective: float
    starts: int
    coefficients: dict[str, Any]


class Origin(NamedTuple):
    """What a fit was made from: its problem, and the point (p,) of its optimum there."""

    setup: Setup
    z: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Fit(Shown):
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
        condition: of the scaled curvature: its largest eigenvalue over its least.
        unidentified: directions that the evidence leaves open, a sentence each.
        provenance: what the law was fitted to.
        bootstrap: the distribution of the coefficients, if it was asked for.
        rollout: the errors of its smaller runs' fits on the larger ones, which widen what it predicts
            beyond its data; made with the bootstrap, or by `with_rollout`.
        origin: what it was made from, or a function that makes it again; None if that is not known.
    """

    law: Law
    objective: float
    gradient_norm: float
    rms: float
    starts_agreeing: int
    starts_polished: int
    optima: tuple[LocalOptimum, ...]
    status: str
    message: str
    standard_errors: dict[str, Any]
    condition: float
    unidentified: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    bootstrap: Bootstrap | None = None
    rollout: Rollout | None = None
    origin: Origin | Callable[[], Origin] | None = field(default=None, repr=False)

    @cached_property
    def _made_from(self) -> Origin:
        if self.origin is None:
            raise InvalidInput(
                "this fit was read from a file, which keeps the law and what is known of it, not its runs; "
                "load_fit(path, runs=...) with the evidence it was fitted to gives them back."
            )
        return self.origin if isinstance(self.origin, Origin) else self.origin()

    @property
    def setup(self) -> Setup:
        """The problem that was solved: its runs, other evidence, bounds and priors.

        Raises:
            InvalidInput: the fit was loaded without its runs.
        """
        return self._made_from.setup

    @property
    def z(self) -> np.ndarray:
        """The optimum in the problem's coordinates, (p,).

        Raises:
            InvalidInput: the fit is a mixture of forms, each of which has its own.
        """
        if self.mixed:
            _ = self.setup.problem  # raises
        return self._made_from.z

    @property
    def mixed(self) -> bool:
        """Whether the law is a mixture of forms, each fitted for itself."""
        return isinstance(self.law, Mixture)

    @property
    def resamples(self) -> Bootstrap:
        """The bootstrap.

        Raises:
            InvalidInput: none was asked for.
        """
        if self.bootstrap is None:
            raise InvalidInput("this fit has no bootstrap; with_bootstrap(fit) would give it one.")
        return self.bootstrap

    @property
    def coefficients(self) -> dict[str, Any]:
        """The law's coefficients by name."""
        return coefficients(self.law)

    def residuals(self, of: Literal["runs", "comparisons"] = "runs") -> np.ndarray:
        """Return L - loss of each run, nats (rows,); or of comparisons 100 log(predicted / measured ratio).

        The comparisons, percent of loss, are those of a mixture's that ship: `load_contrasts()`.

        Raises:
            InvalidInput: the fit was loaded without its runs, or has no comparisons.
        """
        choose("of", of, ("runs", "comparisons"))
        if of == "comparisons":
            if not self.mixed:
                raise InvalidInput(
                    "residuals of comparisons are kept with a mixture of forms, as named_fit('default'); "
                    "predict_contrasts(fit, table) says what this fit makes of a table of them."
                )
            return self.setup.comparison_errors  # type: ignore[attr-defined]
        runs = self.setup.runs
        with jax.enable_x64(True):
            return np.asarray(loss_of(self.law, self.setup.x)) - runs.loss

    @cached_property
    def evidence_ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest value of each column that the measured points cover."""
        covered: dict[str, tuple[float, float]] = {}
        for evidence in self.provenance.get("evidence", []):
            for name, (low, high) in evidence.get("ranges", {}).items():
                old_low, old_high = covered.get(name, (np.inf, -np.inf))
                covered[name] = (min(low, old_low), max(high, old_high))
        return covered

    @cached_property
    def intervals(self) -> dict[str, Any]:
        """90% intervals of the free coefficients: the bootstrap's percentiles, or 1.645 standard errors."""
        if self.bootstrap is not None:
            return self.bootstrap.intervals()
        values, errors = per_coordinate(self.coefficients), self.standard_errors
        return {k: [values[k] - 1.645 * errors[k], values[k] + 1.645 * errors[k]] for k in errors}

    def _face(self) -> Face:
        if self.mixed:
            from scalesim.fitting.mixed_face import face_of_mixture

            return face_of_mixture(self)
        own = self.standard_errors if self.bootstrap is None else self.bootstrap.standard_errors
        errors, spread = per_coordinate(own), self.intervals
        lows, highs = (per_coordinate({k: v[i] for k, v in spread.items()}) for i in (0, 1))
        rows: list[tuple[Any, ...]] = []
        for name, value in per_coordinate(self.coefficients).items():
            if name not in errors or errors[name] <= 1e-12 * abs(value):
                rows.append((name, value, "held", ""))
            else:
                rows.append((name, value, errors[name], (lows[name], highs[name])))
        source = "the curvature" if self.bootstrap is None else f"{len(self.bootstrap):,} resamples"
        points = [e for e in self.provenance.get("evidence", []) if e["kind"] == "points"]
        runs = f" over {points[0]['rows']:,} runs" if points else ""
        return Face(
            f"{law_name(self.law)}: rms {1e3 * self.rms:.3g} millinats{runs}, {self.status}",
            ("coefficient", "value", "standard error", "90% interval"),
            rows,
            (f"{self.message} Errors from {source}.",),
            most=16,
        )

    def plot(self, profile: Profile | None = None) -> Figure:
        """Draw predicted against measured losses, residuals over size, and a coefficient's profile if given.

        Raises:
            InvalidInput: the fit has no measured points.
        """
        from scalesim.report.fit_figures import draw_fit

        return draw_fit(self, profile)

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as plain values that JSON can hold; what is not a finite number is None."""
        kept = {name: getattr(self, name) for name in KEPT}
        more = {
            "coefficients": self.coefficients,
            "intervals": self.intervals,
            "bootstrap": self.bootstrap,
            "rollout_errors": self.rollout,
        }
        if isinstance(self.origin, Origin) and not self.mixed:
            more["asked"] = {**self.setup.asked(), "z": self.z}
        return {"law": law_to_json(self.law), **plain({**kept, **more})}

    def save(self, path: str | Path) -> None:
        """Write the fit to a JSON file, from which `load_fit` reads the same law back, bit for bit."""
        held = {"version": VERSION, **self.to_dict()}
        lines = (f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in held.items())
        write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n", "save")


@kept_jit
def loss_of(law: Law, x: Mapping[str, Any]) -> Any:
    """Return a law's losses at `x`, in float64 where that is asked for."""
    return law.loss(x)


KEPT = (
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
"""Fields of a fit that its file holds as they are."""
