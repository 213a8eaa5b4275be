"""The distribution of the coefficients: resamples, each fitted from its own best starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import jax
import numpy as np

from scalesim.caching import fingerprint
from scalesim.errors import InvalidInput, choose
from scalesim.faces import Face, Shown, plain
from scalesim.files import kind_of
from scalesim.fitting.coordinates import per_coordinate, slots_of
from scalesim.fitting.diagnosis import local
from scalesim.fitting.refit import CHUNK, Refits, refit
from scalesim.fitting.result import Fit
from scalesim.fitting.saved import read_archive, write_archive
from scalesim.fitting.setup import Setup
from scalesim.laws.base import Law
from scalesim.schema import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from polars import DataFrame

__all__ = ["Bootstrap", "bootstrap", "resample", "with_bootstrap"]

Kind: TypeAlias = Literal["pairs", "cluster", "wild", "posterior"]
MEMORY = 1 << 22
_MOST = 1 << 24
"""Values of a chunk's weights: rows times replicas."""


@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap(Shown):
    """Fitted coefficients of R resamples.

    Attributes:
        coefficients: by name, (R,) each, or (R, groups) where each group has its own.
        objective: of each resample's fit, (R,).
        kind, seed: how the resamples were drawn; resample i is the same however many there are.
        asked: how many were asked for; fewer are here if the run was interrupted.
        units, freedom: how many rows (or groups) were drawn, and how many of them the coefficients leave
            free; 0 where that is not known.

    Resamples whose fit did not end at a finite objective are left out of all statistics.
    """

    coefficients: dict[str, np.ndarray]
    objective: np.ndarray
    kind: str
    seed: int
    asked: int
    units: int = 0
    freedom: int = 0

    def __len__(self) -> int:
        return len(self.objective)

    @property
    def standard_errors(self) -> dict[str, Any]:
        """The standard deviation of each coefficient over the resamples."""
        with np.errstate(over="ignore"):  # of a coefficient that resamples leave open, there is none
            return {k: np.std(v, axis=0, ddof=1).tolist() for k, v in self.coefficients.items()}

    def tail(self, level: float = 0.9) -> float:
        """Return the share of the resamples that an interval leaves out on either side.

        Phi(sqrt(units / freedom) t), t the quantile of Student's t with `freedom` degrees at (1 - level) / 2:
        resampled fits scatter too little, as the fit has already bent towards its rows, and their scatter
        is itself known from `freedom` rows only. For many rows it is (1 - level) / 2. Hesterberg 2015,
        The American Statistician 69:371 ("expanded percentile intervals"), with the coefficients counted.
        """
        plain = (1 - level) / 2
        if self.freedom < 1:
            return plain
        scale = 1.0 if self.kind == "wild" else np.sqrt(self.units / self.freedom)
        return NormalDist().cdf(scale * student(plain, self.freedom))

    def intervals(self, level: float = 0.9) -> dict[str, list[Any]]:
        """Return each coefficient's expanded percentile interval (see `tail`), [low, high]."""
        tail = self.tail(level)
        return {k: np.quantile(v, [tail, 1 - tail], axis=0).tolist() for k, v in self.coefficients.items()}

    def laws(self, template: Law, most: int | None = None) -> Law:
        """Return the resamples' laws as one law whose leaves have a leading axis (R, ...)."""
        leaves = [self.coefficients[slot.name][:most] for slot in slots_of(template)]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def _columns(self) -> dict[str, np.ndarray]:
        """Return a column (R,) for each coefficient, each group's own apart."""
        return {
            k: np.asarray(v)
            for k, v in per_coordinate(
                {k: v if v.ndim == 1 else list(v.T) for k, v in self.coefficients.items()}
            ).items()
        }

    def _face(self) -> Face:
        tail = self.tail()
        rows = [
            (name, float(np.median(v)), float(np.std(v, ddof=1)), np.quantile(v, [tail, 1 - tail]))
            for name, v in self._columns().items()
            if np.ptp(v) > 0
        ]
        held = [name for name, v in self._columns().items() if np.ptp(v) == 0]
        lost = f"{self.asked - len(self):,} of {self.asked:,} were interrupted or had no finite fit."
        return Face(
            f"{len(self):,} resamples ({self.kind})",
            ("coefficient", "median", "standard error", "90% interval"),
            rows,
            (f"Held: {', '.join(held)}." if held else "", lost if len(self) < self.asked else ""),
            most=16,
        )

    def plot(self) -> Figure:
        """Draw the distribution of each coefficient, with its 90% interval."""
        from scalesim.report.fit_figures import draw_bootstrap

        return draw_bootstrap(self)

    def to_polars(self) -> DataFrame:
        """Return a row for each resample: its coefficients, and the objective of its fit."""
        import polars

        return polars.DataFrame({**self._columns(), "objective": self.objective})

    def to_dict(self) -> dict[str, Any]:
        """Return the distribution as plain values; a coefficient that no resample moves is one number."""
        held = {
            k: v[0] if len(v) and not np.ptp(v, axis=0).any() else v for k, v in self.coefficients.items()
        }
        return plain(
            {
                "kind": self.kind,
                "seed": self.seed,
                "asked": self.asked,
                "resamples": len(self),
                "units": self.units,
                "freedom": self.freedom,
                "standard_errors": self.standard_errors,
                "intervals": self.intervals(),
                "samples": held,
                "objectives": self.objective,
            }
        )

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Bootstrap:
        """Return the distribution that `to_dict` wrote, with the same intervals."""
        objective = np.asarray(raw["objectives"], float)
        samples = {k: np.asarray(v, float) for k, v in raw["samples"].items()}
        for name, v in samples.items():
            if v.shape[:1] != objective.shape:
                samples[name] = np.broadcast_to(v, (len(objective), *v.shape))
        known = (raw.get("units", 0), raw.get("freedom", 0))
        return Bootstrap(samples, objective, raw["kind"], raw["seed"], raw["asked"], *known)


def student(probability: float, freedom: int) -> float:
    """Return Student's t quantile, by the expansion about the normal one: within 2% from 2 degrees on.

    Abramowitz and Stegun, 26.7.5.

    >>> round(student(0.05, 5), 3), round(student(0.05, 100), 4)
    (-2.014, -1.6602)
    """
    if freedom == 1:  # Cauchy's distribution, for which the expansion is 12% short
        return math.tan(math.pi * (probability - 0.5))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def resample(fit: Fit, count: int, kind: str, seed: int, first: int = 0) -> dict[str, np.ndarray]:
    """Return the weights, and for "wild" the losses, (count, rows), of resamples first, first + 1, ...

    Resample i is drawn from its own stream, so it does not depend on how the work is cut up.
    """
    runs = fit.setup.runs
    rows = len(runs)
    own = np.ones(rows) if runs.weight is None else runs.weight
    streams = [np.random.default_rng((seed, first + i)) for i in range(count)]
    if kind == "pairs":
        drawn = np.stack([np.bincount(s.integers(rows, size=rows), minlength=rows) for s in streams])
        return {"weight": drawn * own}
    if kind == "cluster":
        _, index = np.unique(runs.group, return_inverse=True)
        groups = index.max() + 1
        drawn = np.stack([np.bincount(s.integers(groups, size=groups), minlength=groups) for s in streams])
        return {"weight": drawn[:, index] * own}
    signs = np.stack([s.choice([-1.0, 1.0], size=rows) for s in streams])
    predicted = runs.loss + fit.residuals()
    # A fit bends most towards the rows that pull it most: their residuals are given back what it took.
    signs = signs / (1 - np.minimum(_leverage(fit), 0.99))
    if fit.setup.rows.log_space:
        return {"loss": predicted * np.exp(signs * np.log(runs.loss / predicted))}
    return {"loss": predicted + signs * (runs.loss - predicted)}


def _leverage(fit: Fit) -> np.ndarray:
    """Return how much each row's own loss moves its prediction, (rows,): diag J (J'WJ)^-1 J'W."""
    problem, rows = fit.setup.problem, len(fit.setup.runs)
    with jax.enable_x64(True):
        jacobian = np.asarray(local(problem, np.asarray(fit.z))[0])[:rows]
    slopes = np.sqrt(fit.setup.rows.weight[:rows])[:, None] * jacobian
    left, sizes, _ = np.linalg.svd(slopes, full_matrices=False)
    return np.sum(left[:, sizes > 1e-12 * sizes.max()] ** 2, axis=1)


def _free(fit: Fit, kind: str) -> tuple[int, int]:
    """Return how many units a resample draws, and how many degrees of freedom the coefficients leave them."""
    runs = fit.setup.runs
    if kind == "cluster":
        groups = len(set(runs.group))
        return groups, groups - 1
    rows = len(runs) if runs.weight is None else int(np.sum(runs.weight > 0))
    return rows, max(rows - fit.setup.layout.size, 1)


def bootstrap(
    fit: Fit,
    count: int = 4000,
    *,
    kind: Kind | None = None,
    seed: int = 0,
    starts: int = 64,
    keep: int = 1,
    path: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Bootstrap:
    """Resample the runs `count` times and fit each resample, from its own best starts and from the optimum.

    Args:
        fit: a fit with measured points.
        count: resamples.
        kind: "pairs" (the default) draws rows; "cluster" draws whole groups (rows of one run are
            correlated); "wild" keeps the design and flips the signs of residuals / (1 - leverage), for uneven
            noise (Davidson and Flachaire 2008, with the HC3 residuals). A mixture of forms
            has "posterior" alone: a form and its constants for a new corpus, as one corpus's runs do not tell
            how corpora differ.
        seed: of the resamples.
        starts: drawn once, and ranked for each resample by least squares on its rows.
        keep: how many of them to follow, besides the optimum of the fit.
        path: a file (.npz) that keeps what is done, chunk by chunk; the same call goes on from there.
        progress: called with the number of resamples done.

    Work is done in chunks of bounded memory. An interrupt (Ctrl-C) returns what is done; it is an
    interrupt only if nothing is.

    Raises:
        InvalidInput: the fit has no points, the kind needs groups, or `path` holds another bootstrap.

    >>> import scalesim as ss
    >>> found = ss.fit("power", ss.load_runs("paper").take(slice(0, 6)), fixed={"E": 1.97})
    >>> spread = bootstrap(found, 100)
    >>> 0 < spread.standard_errors["b"] < 0.02
    True
    """
    for name, value, least in (("count", count, 2), ("starts", starts, 1), ("keep", keep, 1)):
        whole(least, _MOST)(value, f"{name} of a bootstrap")
    drawn_by = choose("kind", kind or ("posterior" if fit.mixed else "pairs"), get_args(Kind))
    if fit.mixed != (drawn_by == "posterior"):
        raise InvalidInput(
            f"kind {drawn_by!r} is not for a mixture of forms: resampled runs of one corpus do not tell how "
            "corpora differ. Its samples are of its posterior (kind 'posterior', its default)."
            if fit.mixed
            else "kind 'posterior' is for a mixture of forms, as named_fit('default'); this fit can be "
            "resampled by pairs, cluster or wild."
        )
    setup: Setup = fit.setup
    if fit.mixed:
        return setup.sampled(count, seed)  # type: ignore[attr-defined]
    if drawn_by == "cluster" and (setup.runs.group is None or len(set(setup.runs.group)) < 2):
        raise InvalidInput("kind 'cluster' needs at least two groups; name their columns by `by`.")
    chunk = int(np.clip(MEMORY // len(setup.runs), 8, CHUNK))
    key = "" if path is None else fingerprint((setup.problem, fit.z, drawn_by, seed, starts, keep))
    done = _load(path, key, setup.layout.size)
    try:
        while (first := sum(len(part.objective) for part in done)) < count:
            drawn: dict[str, Any] = resample(fit, min(chunk, count - first), drawn_by, seed, first)
            done.append(refit(setup, fit.z, **drawn, starts=starts, keep=keep, chunk=chunk))
            _save(path, key, done)
            if progress is not None:
                progress(sum(len(part.objective) for part in done))
    except KeyboardInterrupt:
        if not done:
            raise
    z, objective, _ = (np.concatenate(column)[:count] for column in zip(*done, strict=True))
    finite = np.isfinite(objective)
    drawn_of = _free(fit, drawn_by)
    return Bootstrap(coefficients_of(setup, z[finite]), objective[finite], drawn_by, seed, count, *drawn_of)


def with_bootstrap(
    fit: Fit,
    count: int = 4000,
    *,
    kind: Kind | None = None,
    seed: int = 0,
    starts: int = 64,
    keep: int = 1,
    path: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Fit:
    """Return the fit with its `bootstrap` (which has the arguments), whose errors replace the sandwich's.

    It gets its `rollout` too, by which predictions beyond the runs are widened.
    """
    from scalesim.fitting.rollout import rollout

    found = bootstrap(
        fit, count, kind=kind, seed=seed, starts=starts, keep=keep, path=path, progress=progress
    )
    return replace(fit, bootstrap=found, standard_errors=found.standard_errors, rollout=rollout(fit))


def coefficients_of(setup: Setup, z: np.ndarray) -> dict[str, np.ndarray]:
    """Return the coefficients (R,) by name of points z (R, p)."""
    names = [slot.name for slot in setup.layout.slots]
    if setup.layout.plain():
        # Every formula is elementwise, so a coordinate may be all resamples' at once.
        leaves = jax.tree.leaves(setup.problem.law(np.ascontiguousarray(z.T)))
        whole = [np.broadcast_to(leaf, len(z)).astype(float) for leaf in leaves]
        return dict(zip(names, whole, strict=True))
    laws = [jax.tree.leaves(setup.problem.law(point)) for point in z]
    columns = zip(*laws, strict=True)
    return {name: np.array(column, float) for name, column in zip(names, columns, strict=True)}


def _load(path: str | Path | None, key: str, width: int) -> list[Refits]:
    if path is None or kind_of(path) is None:
        return []
    held, arrays = read_archive(path, width)
    if held != key:
        raise InvalidInput(f"{path} holds a bootstrap of other runs or options; give another path.")
    return [Refits(**arrays)]


def _save(path: str | Path | None, key: str, done: list[Refits]) -> None:
    if path is None:
        return
    done[:] = [Refits(*(np.concatenate(column) for column in zip(*done, strict=True)))]
    write_archive(path, key, done[0]._asdict())
