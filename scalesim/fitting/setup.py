"""From what the user says to a problem: which coefficients are free, which rows stand where."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

from scalesim.data.readers import load_runs
from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput, choose
from scalesim.fitting.coordinates import Layout, Slot, resolve, slots_of
from scalesim.fitting.evidence import Evidence, PointRows, Points, point_rows
from scalesim.fitting.noise import Noise
from scalesim.fitting.problem import FitProblem
from scalesim.laws.base import REGISTRY, Law
from scalesim.laws.grouped import GROUP, Grouped
from scalesim.pytree import noted
from scalesim.schema import number

__all__ = ["EvidenceLike", "LawLike", "RunsLike", "Setup", "prepare", "the_law"]


class Frame(Protocol):
    """A data frame: pandas' or polars'."""

    @property
    def columns(self) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any: ...


LawLike: TypeAlias = Law | type[Law] | str
RunsLike: TypeAlias = RunTable | str | Path | Mapping[str, Any] | Frame
EvidenceLike: TypeAlias = RunsLike | Points | Evidence | Sequence[RunsLike | Points | Evidence]


@dataclass(frozen=True, eq=False)
class Setup:
    """A problem, and what it was made of: the template law, the runs as given, the other evidence."""

    problem: FitProblem
    template: Law
    points: Points | None
    others: tuple[Evidence, ...]

    @property
    def layout(self) -> Layout:
        """The coordinates of the problem."""
        return self.problem.layout

    @property
    def size(self) -> int:
        """Free coefficients, each group's own counted."""
        return self.layout.size

    @property
    def x(self) -> dict[str, np.ndarray]:
        """Each field of the runs that the law sees, (rows,)."""
        return {k: v[: len(self.runs)] for k, v in self.rows.x.items()}

    @property
    def rows(self) -> PointRows:
        """The runs as arrays, padded; raises as `runs` does."""
        assert self.runs is not None
        return self.problem.points  # type: ignore[return-value]

    def asked(self) -> dict[str, Any]:
        """Return the options of the fit as plain values, from which `prepare` builds it again."""
        return {
            "fixed": [slot.name for slot in self.layout.slots if not slot.free],
            "bounds": {slot.name: slot.bounds for slot in self.layout.slots if slot.bounds},
            "priors": {slot.name: slot.prior for slot in self.layout.slots if slot.prior},
            "per_group": [slot.name for slot in self.layout.slots if slot.size],
            "by": list(self.template.by) if isinstance(self.template, Grouped) else [],
        }

    def describe(self) -> list[dict[str, Any]]:
        """Return what each piece of evidence is, for the record."""
        points = [] if self.points is None else [self.points.describe()]
        return points + [evidence.describe() for evidence in self.others]

    @property
    def runs(self) -> RunTable:
        """The runs fitted to.

        Raises:
            InvalidInput: the fit has no measured points.
        """
        if self.points is None:
            raise InvalidInput("This fit has no measured points; add Points(runs) to its evidence.")
        return self.points.runs


def the_law(law: LawLike) -> Law:
    """Return a law given as itself, as a class, or by name (any case, with or without Law at its end)."""
    if isinstance(law, Law):
        return noted(law)
    if isinstance(law, type) and issubclass(law, Law):
        return noted(law())
    by_name = {}
    for name, cls in REGISTRY.items():
        if name != "Grouped":
            by_name[name.lower()] = by_name[name.lower().removesuffix("law")] = cls
    if not isinstance(law, str):
        raise InvalidInput(f"law must be a Law, its class or its name, but is {type(law).__name__}.")
    return by_name[choose("law", law.lower(), by_name)]()


def prepare(
    law: LawLike,
    evidence: EvidenceLike,
    *,
    noise: Noise | None = None,
    fixed: Mapping[str, float | None] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    priors: Mapping[str, tuple[float, float]] | None = None,
    per_group: Sequence[str] = (),
    by: str | Sequence[str] | None = None,
) -> Setup:
    """Build the problem of fitting `law` to `evidence`; see `scalesim.fitting.fit` for the arguments."""
    points, others = _sorted_evidence(evidence, noise)
    template = the_law(law)
    if points is not None and by is not None:
        points = dataclasses.replace(points, runs=points.runs.with_group(by))
    extra: dict[str, np.ndarray] = {}
    if per_group:
        if points is None or points.runs.group is None:
            raise InvalidInput("per_group needs a run table with a group column; name its columns by `by`.")
        template, index = _grouped(template, points.runs, per_group, by)
        extra[GROUP] = index.astype(float)
    elif isinstance(template, Grouped) and not template.by and points is not None:
        raise InvalidInput("A law grouped by name is fitted by naming per_group, not by giving it grouped.")
    _check_fields(template, points)
    slots = _slots(template, fixed or {}, bounds or {}, priors or {})
    pinned = tuple(
        np.asarray(value if fix is None else fix, float)
        for value, fix in zip(jax.tree.leaves(template), _fixed_values(slots, fixed or {}), strict=True)
    )
    layout = Layout(jax.tree.structure(template), slots)
    centres: dict[str, Any] = {}
    rows: PointRows | None = None
    if points is not None:
        rows = point_rows(points, template.fields, extra)
        fields = {slot.spec.scales[0] for slot in slots if slot.spec.scales}
        centres = {k: np.float64(np.log(points.runs[k]).mean()) for k in sorted(fields)}
    problem = FitProblem(pinned, centres, rows, others, _prior(slots), layout)
    return Setup(problem, template, points, others)


def _sorted_evidence(
    evidence: EvidenceLike, noise: Noise | None
) -> tuple[Points | None, tuple[Evidence, ...]]:
    items = list(evidence) if isinstance(evidence, list | tuple) else [evidence]
    points: list[Points] = []
    others: list[Evidence] = []
    for item in items:
        if isinstance(item, Evidence):
            others.append(item)
        elif isinstance(item, Points):
            points.append(item)
        else:
            points.append(Points(load_runs(item), **({} if noise is None else {"noise": noise})))
    if len(points) > 1:
        raise InvalidInput(
            f"evidence holds {len(points)} sets of points; join them by RunTable.concatenate, "
            "which keeps each set's name as the group."
        )
    if not points and not others:
        raise InvalidInput("evidence is empty; a run table, Points, Curves or Choices would do.")
    return (points[0] if points else None), tuple(others)


def _grouped(law: Law, runs: RunTable, own: Sequence[str], by: str | Sequence[str] | None) -> tuple[Law, Any]:
    """Give each group of the runs its own value of the coefficients named in `own`."""
    assert runs.group is not None
    names, first, index = np.unique(runs.group, return_index=True, return_inverse=True)
    order = np.argsort(first)  # the order of the table, not of the alphabet
    index = np.argsort(order)[index]
    leaves, tree = jax.tree.flatten(law)
    known = {slot.name: i for i, slot in enumerate(slots_of(law))}
    for name in own:
        i = resolve(name, known)
        leaves[i] = np.full(len(names), leaves[i], dtype=float)
    fields = (by,) if isinstance(by, str) else tuple(by or ())
    labels: tuple[Any, ...] = tuple(names[order].tolist())
    if fields:
        labels = tuple(tuple(float(runs[f][i]) for f in fields) for i in first[order])
    return Grouped(jax.tree.unflatten(tree, leaves), fields, labels), index


def _check_fields(law: Law, points: Points | None) -> None:
    if points is None:
        return
    missing = [name for name in law.fields if name != GROUP and name not in points.runs.columns]
    if missing:
        raise InvalidInput(
            f"{type(law).__name__} needs {', '.join(missing)}, which the run table lacks; "
            f"{points.runs.stated(missing[0])}"
        )


def _slots(law: Law, fixed: Mapping, bounds: Mapping, priors: Mapping) -> tuple[Slot, ...]:
    slots = list(slots_of(law))
    at = {slot.name: i for i, slot in enumerate(slots)}
    for name in fixed:
        i = resolve(name, at)
        slots[i] = dataclasses.replace(slots[i], free=False)
    for given, what in ((bounds, "bounds"), (priors, "a prior")):
        held = next((name for name in given if not slots[resolve(name, at)].free), None)
        if held is not None:
            raise InvalidInput(f"{held} is held fixed: {what} for it would do nothing; leave one out.")
    for name, (low, high) in bounds.items():
        i = resolve(name, at)
        if not low < high or (slots[i].spec.positive and low <= 0):
            raise InvalidInput(
                f"bounds of {name} must rise{', from above 0' * slots[i].spec.positive}: ({low}, {high})."
            )
        slots[i] = dataclasses.replace(slots[i], bounds=(float(low), float(high)))
    for name, (mean, deviation) in priors.items():
        i = resolve(name, at)
        if not deviation > 0:
            raise InvalidInput(f"the deviation of {name}'s prior must be above 0, but is {deviation}.")
        slots[i] = dataclasses.replace(slots[i], prior=(float(mean), float(deviation)))
    if not any(slot.free for slot in slots):
        raise InvalidInput("every coefficient is fixed; leave at least one free.")
    return tuple(slots)


def _fixed_values(slots: Sequence[Slot], fixed: Mapping) -> list[Any]:
    at = {slot.name: i for i, slot in enumerate(slots)}
    values: list[Any] = [None] * len(slots)
    for name, value in fixed.items():
        values[resolve(name, at)] = value if value is None else number()(value, f"fixed {name}")
    return values


def _prior(slots: Sequence[Slot]) -> tuple[Any, Any] | None:
    if not any(slot.free and slot.prior for slot in slots):
        return None
    pairs = [slot.prior or (0.0, np.inf) for slot in slots for _ in range(slot.width)]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
