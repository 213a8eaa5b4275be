"""Which way the optimum moves: its exact derivatives, and where the discrete choice changes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.design import Design
from scalesim.design.lattice import Lattice
from scalesim.design.optimality import derivatives, polished
from scalesim.design.problem import Problem, Query
from scalesim.design.solve import exhaustive
from scalesim.design.space import DesignSpace
from scalesim.errors import InvalidInput

__all__ = ["Choice", "Sensitivity", "choices_over_context", "sensitivity"]


@dataclass(frozen=True)
class Sensitivity:
    """How one number of the question moves the optimum.

    Attributes:
        name: "context_length", "target_loss", "limit of" a constraint, a field of the objective, or a
            coefficient of the law.
        value: where it stands.
        cost: d log(cost) / d log(value) at the optimum. For target_loss: d log(cost) / d value, per nat, the
            shadow price of the loss constraint.
        n_params, n_head, n_kv_head: the same derivative of the optimum's log size and heads; 0 for heads
            that are held at an edge (n_kv_head at 1, n_head at the lattice's most).
        others: the same of depth, width and what else a `DesignSpace` chooses.
    """

    name: str
    value: float
    cost: float
    n_params: float
    n_head: float
    n_kv_head: float
    others: dict[str, float] = field(default_factory=dict)


def sensitivity(design: Design) -> list[Sensitivity]:
    """Return how each number of a design's question moves its relaxed optimum, the strongest first.

    By implicit differentiation of the conditions of optimality (`scalesim.design.optimality`). With f the log
    cost over the relaxed coordinates x, the loss constraint eliminated, and g the log excess of the limits
    that hold the optimum:

        f_x + lambda g_x = 0 on the coordinates that no edge holds,   g = 0

    so x and lambda follow theta, and d f*/dtheta = f_theta + lambda g_theta (the envelope theorem). The
    optimum here is on the family itself. A constraint's own row, "limit of ...", has its shadow price as
    `cost`: by how many percent cost changes for 1% more of the limit; a limit that does not bind has no row.
    A number that stands in several places with the same value (a bandwidth in objective and constraint) is
    moved in all of them.

    Raises:
        InvalidInput: the objective or a constraint had no gradient.
        Unreachable: the optimum could not be found to the precision that this needs.

    >>> import scalesim as ss
    >>> design = ss.search(ss.named_fit("default"), ss.Workload(context_length=131072), 2.615)
    >>> by_name = {s.name: s for s in sensitivity(design)}
    >>> by_name["context_length"].n_head < 0 < by_name["context_length"].cost
    True
    """
    if design.relaxed is None:
        raise InvalidInput(
            "sensitivity differentiates the optimum of the gradient search, but the design was found without "
            "a gradient; a smooth objective and smooth constraints would do."
        )
    with jax.enable_x64(True):
        theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (design.problem, design.query))
        designs = design.lattice
        problem, query = theta
        optimum = polished(
            problem, query, designs, designs.position_of(design.relaxed, design.problem.family)
        )
        total = derivatives(problem, query, designs, optimum)
    rows: dict[str, dict[str, float]] = {}
    values: dict[str, float] = {}
    for i, (name, value) in enumerate(_named(theta)):
        values[name] = value
        row = rows.setdefault(name, dict.fromkeys(total, 0.0))
        for measure, slopes in total.items():
            row[measure] += float(slopes[i]) * (1.0 if name == "target_loss" else value)
    # What is not chosen follows from size and heads, or stays.
    more = _CHOICES if isinstance(designs, DesignSpace) else ()
    moving = [name for name in more if name in total and any(abs(row[name]) > 1e-9 for row in rows.values())]
    chosen = [*_ALWAYS, *moving]
    found = []
    for name, row in rows.items():
        if any(abs(row[measure]) > 1e-12 for measure in chosen):
            others = {measure: row[measure] for measure in moving}
            always = {measure: row[measure] for measure in _ALWAYS}
            found.append(Sensitivity(name=name, value=values[name], **always, others=others))
    return sorted(found, key=lambda row: -abs(row.cost))


_ALWAYS = ("cost", "n_params", "n_head", "n_kv_head")
_CHOICES = ("n_layer", "d_model", "d_ff", "head_dim", "tokens_per_param", "kv_bits")


def _named(theta: tuple[Problem, Query]) -> list[tuple[str, float]]:
    """Return name and value of each single number of (problem, query).

    The name is its field's; where another of that name has another value, after what it belongs to.
    """
    seen: dict[str, float] = {}
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(theta)[0]:
        if jnp.ndim(leaf):
            continue
        value = float(leaf)
        fields = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
        names = [fields[-1], ".".join(fields[-2:]), ".".join(fields[1:])]
        if fields[1] == "constraints" and fields[-1] == "limit":
            names[0] = f"limit of {theta[1].constraints[int(fields[2])].name}"
        name = next((name for name in names if seen.get(name, value) == value), names[-1])
        seen[name] = value
        found.append((name, value))
    return found


@dataclass(frozen=True)
class Choice:
    """A range of contexts over which one head configuration is the cheapest."""

    n_head: int
    n_kv_head: int
    from_context: float
    to_context: float


def choices_over_context(
    design: Design, low: float = 1024.0, high: float = 1048576.0, points: int = 256
) -> list[Choice]:
    """Return which configuration of the design's lattice is best at each context, and where that changes.

    Evaluates the whole lattice at `points` contexts between `low` and `high`, then halves the bracket of
    every change until it is known to a token.

    Raises:
        InvalidInput: the design is of a `DesignSpace`.

    >>> import scalesim as ss
    >>> fit, job = ss.named_fit("default"), ss.Workload(context_length=131072)
    >>> design = ss.search(fit, job, 2.615, lattice=ss.PAPER)
    >>> [(c.n_head, c.n_kv_head) for c in choices_over_context(design)][-2:]
    [(4, 1), (2, 1)]
    """

    lattice = design.lattice
    if not isinstance(lattice, Lattice):
        raise InvalidInput(
            "choices_over_context compares the head configurations of a lattice, but the design is of a "
            "DesignSpace; one of scalesim.design.buildable() would do."
        )

    def best(contexts: np.ndarray) -> np.ndarray:
        workload = dataclasses.replace(design.query.workload, context_length=1.0)
        query = dataclasses.replace(design.query, workload=workload)
        batch = jax.tree.map(lambda leaf: np.full(len(contexts), float(leaf)), query)
        batch = dataclasses.replace(
            batch, workload=dataclasses.replace(batch.workload, context_length=contexts)
        )
        return np.asarray(exhaustive(design.problem, batch, lattice).index)

    with jax.enable_x64(True):
        grid = np.geomspace(low, high, points)
        index = best(grid)
        changes = np.flatnonzero(np.diff(index))
        left, right = grid[changes], grid[changes + 1]
        while len(changes) and (right - left).max() > 1.0:
            middle = (left + right) / 2
            padded = np.concatenate([middle, np.full(points - len(middle), low)])
            same = best(padded)[: len(middle)] == index[changes]
            left, right = np.where(same, middle, left), np.where(same, right, middle)
    edges = [low, *((left + right) / 2).tolist(), high]
    kept = [index[0], *index[changes + 1]]
    return [
        Choice(lattice.heads[i][0], lattice.heads[i][1], from_context=a, to_context=b)
        for i, a, b in zip(kept, edges[:-1], edges[1:], strict=True)
    ]
