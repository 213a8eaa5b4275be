"""What a law says of comparisons on a corpus it has not seen, with intervals for a measurement elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.data.contrasts import ContrastTable
from scalesim.errors import InvalidInput
from scalesim.fitting.contrasts import READING, Spread, log_ratio, parts, sides, unseen
from scalesim.fitting.result import Fit

__all__ = ["ContrastPrediction", "predict_contrasts", "spread_of"]


def spread_of(fit: Fit) -> Spread:
    """Return the deviations that a fit's comparisons were weighed with, or the usual ones."""
    for evidence in fit.provenance.get("evidence", []):
        if evidence.get("kind") == "contrasts" and "spread" in evidence:
            return Spread(**evidence["spread"])
    return Spread()


@dataclass(frozen=True, eq=False)
class ContrastPrediction:
    """What a law says of comparisons on a corpus it has not seen, (rows,) each, in percent of loss.

    Attributes:
        name, source: of each row.
        percent: 100 log(L_b / L_a).
        low, high: where the measured 100 log(loss_b / loss_a) of another lab would be.
        measured: what the table holds.
        level: the probability that the intervals are to hold.
        notes: what to know, a sentence each.
    """

    name: np.ndarray
    source: np.ndarray
    percent: np.ndarray
    low: np.ndarray
    high: np.ndarray
    measured: np.ndarray
    level: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> list[dict[str, Any]]:
        """Return one entry a row, in order."""
        return [
            {
                "name": str(self.name[i]),
                "source": str(self.source[i]),
                "percent": float(self.percent[i]),
                "low": float(self.low[i]),
                "high": float(self.high[i]),
                "measured": float(self.measured[i]),
            }
            for i in range(len(self.name))
        ]


def predict_contrasts(
    fit: Fit, table: ContrastTable, *, level: float = 0.9, seed: int = 0
) -> ContrastPrediction:
    """Predict comparisons on a new corpus, with intervals for a measurement by another lab.

    The intervals hold the uncertainty of the law (the fit's samples, which for the shipped law draw a form
    and a study's own head effect), of the corpus's floor, and the noise of two single runs.

    Raises:
        InvalidInput: the law needs a field that a row does not tell, or sees no difference.

    >>> from scalesim.data import load_contrasts
    >>> from scalesim.fitting import named_fit
    >>> found = predict_contrasts(named_fit("default"), load_contrasts())
    >>> bool((found.low < found.percent).all() and (found.percent < found.high).all())
    True
    """
    if not 0 < level < 1:
        raise InvalidInput(f"level must be between 0 and 1, but is {level}.")
    spread, rng = spread_of(fit), np.random.default_rng(seed)
    a, b = sides(fit.law, table, blind=True)
    size, head = parts(fit.law, table)
    with jax.enable_x64(True):
        drawn = (size + head)[None, :]
        if fit.bootstrap is not None and len(fit.bootstrap) > 1:
            laws = jax.tree.map(jnp.asarray, fit.bootstrap.laws(fit.law))
            drawn = np.asarray(jax.vmap(lambda law: log_ratio(law, a, b))(laws))
    drawn = np.repeat(drawn, max(1, -(-4000 // len(drawn))), axis=0)
    share = spread.share * rng.normal(size=(len(drawn), 1)) * size
    run = np.where(np.isnan(table.noise), spread.noise, table.noise)
    noise = np.hypot(np.sqrt(2) * run, READING) * rng.normal(size=drawn.shape)
    tail = (1 - level) / 2
    low, high = 100 * np.quantile(drawn + share + noise, [tail, 1 - tail], axis=0)
    alike = ", ".join(table.name[unseen(fit.law, table)])
    blind = f"{type(fit.law).__name__} sees no difference between the models of {alike}."
    return ContrastPrediction(
        table.name,
        table.source,
        100 * (size + head),
        low,
        high,
        100 * table.log_ratio,
        level,
        (blind,) if alike else (),
    )
