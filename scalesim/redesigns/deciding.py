"""Which small runs of one's own would decide a redesign, and what their results say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalesim.data import ContrastTable, RunTable
from scalesim.errors import InvalidInput
from scalesim.faces import Face, Shown
from scalesim.redesigns.engine import Engine
from scalesim.redesigns.ensemble import NOISE, Ensemble
from scalesim.redesigns.resizing import losses
from scalesim.units import format_count

__all__ = ["DecidingRuns", "Run", "contrasts_of_runs", "deciding_runs"]

_BODY = {"n_layer": 12, "d_model": 768}
"""The small model whose heads are varied: 12 layers of width 768, the FFN making up the parameters."""
_PARAMS, _TOKENS_PER_PARAM, _CONTEXT = 85e6, 20.0, 2048


@dataclass(frozen=True)
class Run:
    """A small run: its sizes, parameters (attention and FFN) and tokens."""

    n_layer: int
    d_model: int
    n_head: int
    n_kv_head: int
    head_dim: int
    d_ff: int
    n_params: float
    n_tokens: float


@dataclass(frozen=True, repr=False)
class DecidingRuns(Shown):
    """Three runs of equal size, and what comparing the first with the others would tell.

    Attributes:
        runs: the runs; the first is compared with each of the others.
        expected: log loss of each over the first's: mean and 90% interval of the law, (3, 3).
        spread: standard deviation of the saving now.
        spread_after: the same after the comparisons, on average over what they may show.
    """

    runs: tuple[Run, ...]
    expected: np.ndarray
    spread: float
    spread_after: float

    def _face(self) -> Face:
        head = ("heads", "d_ff", "parameters", "tokens", "loss over the first's")
        rows = []
        for run, (mean, low, high) in zip(self.runs, 100 * self.expected, strict=True):
            heads = f"{run.n_head} : {run.n_kv_head} of {run.head_dim}"
            loss = "" if run is self.runs[0] else f"{mean:+.2f}% ({low:+.2f} .. {high:+.2f})"
            rows.append((heads, run.d_ff, format_count(run.n_params), format_count(run.n_tokens), loss))
        return Face("Three runs that would decide it", head, rows, (self.text(),))

    def text(self) -> str:
        """Say what the runs would tell."""
        now, then = 100 * self.spread, 100 * self.spread_after
        return (
            f"Together they would take the standard deviation of the saving from {now:.1f} to {then:.1f} "
            f"percentage points (single runs, whose loss varies by {100 * NOISE:.2f}%)."
        )

    def grid(self) -> str:
        """Return the runs as a grid for `scalesim train`, in TOML."""
        lines = [
            "# Three models of equal size; only their heads differ. Set the corpus to your own.",
            'corpus = "stdlib"',
            "",
            "[defaults]",
            *(f"{name} = {value}" for name, value in _BODY.items()),
            f"context_length = {_CONTEXT}",
            "batch_tokens = 131_072",
            "learning_rate = 0.002",
        ]
        for run in self.runs:
            lines += ["", "[[runs]]", f"heads = [[{run.n_head}, {run.n_kv_head}]]"]
            lines += [f"head_dim = {run.head_dim}", f"d_ff = {run.d_ff}", f"n_tokens = {int(run.n_tokens):_}"]
        return "\n".join(lines) + "\n"

    def table(self) -> str:
        """Return the comparisons as a CSV table to fill in, which `load_contrasts` then reads."""
        names = ("n_params", "n_head", "n_kv_head", "head_dim", "n_layer", "d_model", "d_ff", "n_tokens")
        head = [
            "id",
            "source",
            "corpus",
            "loss_a",
            "loss_b",
            *(f"{n}_{side}" for n in names for side in "ab"),
        ]
        lines = ["# Fill in loss_a and loss_b (nats a token, on the same held-out text).", ",".join(head)]
        first = self.runs[0]
        for i, run in enumerate(self.runs[1:], start=1):
            sizes = [f"{getattr(r, n):.0f}" for n in names for r in (first, run)]
            lines.append(",".join([f"pair_{i}", "own runs", "own", "", "", *sizes]))
        return "\n".join(lines) + "\n"


def _candidates(head_dims: list[int]) -> Iterator[Run]:
    """Yield small runs of one size, whatever their heads."""
    layers, width = _BODY["n_layer"], _BODY["d_model"]
    for head_dim, n_head, n_kv_head in itertools.product(head_dims, (4, 8, 12, 16), (1, 2, 4, 8, 16)):
        if n_head % n_kv_head or n_head * head_dim > 2 * width:
            continue
        attention = 2 * width * head_dim * (n_head + n_kv_head)
        d_ff = round((_PARAMS / layers - attention) / (3 * width) / 32) * 32
        if d_ff < width:
            continue
        n_params = layers * (attention + 3 * width * d_ff)
        yield Run(layers, width, n_head, n_kv_head, head_dim, d_ff, n_params, _TOKENS_PER_PARAM * n_params)


def _log_losses(laws: Ensemble, runs: list[Run]) -> np.ndarray:
    """Return the log loss of each run under each draw, (runs, R)."""
    names = ("n_params", "n_tokens", "n_head", "n_kv_head", "head_dim")
    each = (losses(laws.every, {n: float(getattr(run, n)) for n in names}) for run in runs)
    return np.stack([np.log(laws.split(np.asarray(of))[1]) for of in each])


def deciding_runs(found: Any) -> DecidingRuns:
    """Return three small runs of equal size whose comparison says most of what a redesign saves.

    Over the law's samples, the saving s and the log ratio d of two runs' losses vary together. A comparison
    of single runs, of noise v = 2 NOISE^2, leaves var(s) - cov(s, d)^2 / (var(d) + v). Pairs of comparisons
    with one run in common are tried.

    Args:
        found: a `Redesign`.

    Raises:
        InvalidInput: nothing is saved, so there is nothing to decide.
    """
    question, laws = found.asked
    with jax.enable_x64(True):
        engine = Engine(question, laws)
        own, best = engine.own, engine.best()
        if own is None or best is None:
            raise InvalidInput("there is no redesign to decide about.")
        drawn = laws.split(engine.resized(best)["objective"])[1]
        saved = 1 - drawn / own.figures["objective"]
        dims = sorted({64, int(min(own.heads.head_dim, 128)), int(min(best.heads.head_dim, 128))})
        runs = list(_candidates(dims))
        losses = _log_losses(laws, runs)
    weight = laws.importance
    centred = losses - (losses @ weight)[:, None]
    residual = saved - saved @ weight
    total = float(weight @ residual**2)
    best_three, least = (0, 1, 2), np.inf
    for i in range(len(runs)):
        left_by = [_left(centred[j] - centred[i], residual, weight) for j in range(len(runs))]
        order = [int(j) for j in np.argsort(left_by) if j != i][:6]
        for j, k in itertools.combinations(order, 2):
            left = _left(np.stack([centred[j] - centred[i], centred[k] - centred[i]]), residual, weight)
            if left < least:
                best_three, least = (i, j, k), left
    chosen = tuple(runs[i] for i in best_three)
    ratio = np.exp(losses[list(best_three)] - losses[best_three[0]]) - 1
    expected = np.stack([ratio @ weight, *(_quantile(ratio, weight, q) for q in (0.05, 0.95))], axis=1)
    return DecidingRuns(chosen, expected, float(np.sqrt(total)), float(np.sqrt(max(least, 0.0))))


def _left(differences: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> float:
    """Return the variance of the saving that is left after comparisons with noise, linearly."""
    d = np.atleast_2d(differences)
    noise = NOISE**2 * (np.eye(len(d)) + np.ones((len(d), len(d))))  # the first run's noise is shared
    within = (d * weight) @ d.T + noise
    across = (d * weight) @ residual
    return float(weight @ residual**2 - across @ np.linalg.solve(within, across))


def _quantile(values: np.ndarray, weight: np.ndarray, q: float) -> np.ndarray:
    order = np.argsort(values, axis=1)
    summed = np.cumsum(weight[order], axis=1)
    place = (summed < q).sum(1).clip(0, values.shape[1] - 1)
    return np.take_along_axis(values, np.take_along_axis(order, place[:, None], 1), 1)[:, 0]


def contrasts_of_runs(table: RunTable) -> ContrastTable:
    """Return the comparisons that runs of one size make: each with the first, where only heads differ much.

    Models are compared within a group (another corpus) and a context length. Runs that are alike in all but
    their loss are seeds of one model: they count by the mean of their log losses, and the deviation between
    seeds, pooled over models, is the noise of all.

    Raises:
        InvalidInput: the table lacks heads, or no two models are of one size (to 2%).
    """
    names = ("n_params", "n_head", "n_kv_head", "head_dim", "n_tokens", "context_length")
    columns = {name: np.asarray(table.columns[name], float) for name in names if name in table.columns}
    missing = [n for n in ("n_params", "n_head", "n_kv_head") if n not in columns]
    if missing:
        raise InvalidInput(f"the runs lack {', '.join(missing)}; comparisons of heads need them.")
    columns.setdefault("head_dim", np.full(len(table), 64.0))
    groups = np.zeros(len(table)) if table.group is None else np.unique(table.group, return_inverse=True)[1]
    columns, loss, group, first, noise = _models(columns, np.log(np.asarray(table.loss, float)), groups)
    context = columns.pop("context_length", np.zeros(len(loss)))
    size, heads = np.log(columns["n_params"]), [columns[n] for n in ("n_head", "n_kv_head", "head_dim")]

    def alike(i: int, j: int) -> bool:
        return bool(abs(size[j] - size[i]) < 0.02 and group[i] == group[j] and context[i] == context[j])

    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(len(loss)), 2)
        if alike(i, j) and not any(alike(i, earlier) for earlier in range(i))
        if any(values[i] != values[j] for values in heads)
    ]
    if not pairs:
        raise InvalidInput(
            "no two runs are of one size (to 2%) and differ in heads, so they compare nothing."
        )
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    text = np.full(len(pairs), "own runs")
    said = np.array([f"runs {first[i] + 1} and {first[j] + 1}" for i, j in pairs])
    corpus = np.array([f"group {group[i]:g}, context {context[i]:g}" for i in a])
    return ContrastTable(
        {n: v[a] for n, v in columns.items()}, {n: v[b] for n, v in columns.items()}, loss[a], loss[b],
        said, text, corpus, noise=np.fmax(noise[a], noise[b]),
    )  # fmt: skip


def _models(
    columns: dict[str, np.ndarray], log_loss: np.ndarray, group: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return each model once: columns, loss over its seeds, group, first row, and noise (nan: unknown)."""
    whole = np.column_stack([*columns.values(), group])
    _, first, model, count = np.unique(
        whole, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    model = model.reshape(-1)
    mean = np.bincount(model, log_loss) / count
    spare = len(log_loss) - len(count)
    deviation = np.sqrt(np.sum((log_loss - mean[model]) ** 2) / spare) if spare else np.nan
    order = np.argsort(first)
    rows = first[order]
    kept = {name: values[rows] for name, values in columns.items()}
    return kept, np.exp(mean[order]), group[rows], rows, deviation / np.sqrt(count[order])
