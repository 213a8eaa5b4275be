"""How far a design stands beyond the law's evidence, and how sure its loss is."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from scalesim.laws.base import fields_of
from scalesim.shape import Shape
from scalesim.units import format_context

__all__ = ["evidence_ranges", "extrapolation", "in_words", "loss_interval"]

_WORDS = {
    "n_params": "size",
    "n_head": "query heads",
    "n_kv_head": "KV heads",
    "context_length": "context",
    "n_tokens": "training tokens",
}


def evidence_ranges(fit: Any) -> dict[str, tuple[float, float]]:
    """Return the least and greatest value of each column that a fit's measured points cover."""
    covered: dict[str, tuple[float, float]] = {}
    for evidence in getattr(fit, "provenance", {}).get("evidence", []):
        for name, (low, high) in evidence.get("ranges", {}).items():
            old_low, old_high = covered.get(name, (np.inf, -np.inf))
            covered[name] = (min(low, old_low), max(high, old_high))
    return covered


def extrapolation(fit: Any, values: dict[str, float]) -> dict[str, float]:
    """Return, for each value that the evidence has a range of, the factor by which it is outside.

    1 is inside the range; 16 is sixteen times its greatest, or a sixteenth of its least. "loss" is by how
    many nats the target is below the least measured (0: not below).
    """
    ranges = evidence_ranges(fit)
    outside = {
        name: max(1.0, value / ranges[name][1], ranges[name][0] / value)
        for name, value in values.items()
        if name in ranges and name != "loss"
    }
    if "loss" in ranges and "loss" in values:
        outside["loss"] = max(0.0, ranges["loss"][0] - values["loss"])
    return outside


def in_words(fit: Any, outside: dict[str, float], sees_context: bool) -> str:
    """Return what to know about a design's distance from the evidence, in a sentence or two."""
    if not outside:
        return "The law came without its evidence: how far this extrapolates is not known."
    beyond = [
        f"{factor:.3g} times beyond the measured {_WORDS[name]}"
        for name, factor in outside.items()
        if name in _WORDS and factor > 1.005 and (name != "context_length" or sees_context)
    ]
    if outside.get("loss", 0.0) > 0.005:
        beyond.append(f"{outside['loss']:.2f} nats below the least measured loss")
    said = f"Beyond the evidence: {', '.join(beyond)}." if beyond else "Within the range of the evidence."
    context = evidence_ranges(fit).get("context_length")
    if context and not sees_context and outside.get("context_length", 1.0) > 1.005:
        said += (
            f" Losses were measured at {format_context(context[1])} context: as in the paper, they are taken "
            "to rank head configurations alike at any context."
        )
    return said


def loss_interval(fit: Any, shape: Shape, n_tokens: float, context: float) -> tuple[float, float] | None:
    """Return the 90% interval of the loss that a model of this shape would have, or None without a bootstrap.

    About the law's loss, with the variance of the bootstrapped laws there (their mean square distance, so
    that a bias counts) and that of a single run about its law (the fit's rms): loss -+ 1.645 sd.
    """
    bootstrap = getattr(fit, "bootstrap", None)
    if bootstrap is None:
        return None
    with jax.enable_x64(True):
        laws = jax.tree.map(np.asarray, bootstrap.laws(fit.law))
        x = fields_of(fit.law, shape, n_tokens, context)
        losses = np.asarray(jax.vmap(lambda law: law.loss(x))(laws))
        loss = float(fit.law.loss(x))
    half = 1.645 * float(np.sqrt(np.mean((losses - loss) ** 2) + fit.rms**2))
    return loss - half, loss + half
