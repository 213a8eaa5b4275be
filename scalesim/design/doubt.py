"""How far a design stands beyond the law's evidence, and how sure its loss is."""

from __future__ import annotations

from typing import Any

from scalesim.fitting.predict import beyond, evidence_ranges, predict
from scalesim.laws.base import fields_of
from scalesim.shape import Shape
from scalesim.units import format_context

__all__ = ["extrapolation", "in_words", "loss_interval"]

_WORDS = {
    "n_params": "size",
    "n_head": "query heads",
    "n_kv_head": "KV heads",
    "context_length": "context",
    "n_tokens": "training tokens",
}


def extrapolation(fit: Any, values: dict[str, float]) -> dict[str, float]:
    """Return, for each value that the evidence has a range of, the factor by which it is outside.

    1 is inside the range; 16 is sixteen times its greatest, or a sixteenth of its least. "loss" is by how
    many nats the target is below the least measured (0: not below).
    """
    loss = values["loss"]
    outside = {name: float(factor) for name, factor in beyond(fit, values).items() if name != "loss"}
    least = evidence_ranges(fit).get("loss", (loss, loss))[0]
    return {**outside, "loss": max(0.0, least - loss)} if outside else {}


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


def loss_interval(
    fit: Any, shape: Shape, n_tokens: float, context: float, **bits: float
) -> tuple[float, float] | None:
    """Return the 90% interval of the loss that a model of this shape would have, or None without a bootstrap.

    It holds the doubt about the law and the scatter of single runs about it (`scalesim.fitting.predict`).
    """
    if getattr(fit, "bootstrap", None) is None:
        return None
    predicted = predict(fit, fields_of(fit.law, shape, n_tokens, context, **bits), level=0.9)
    return float(predicted.run_low[0]), float(predicted.run_high[0])
