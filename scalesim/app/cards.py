"""The designs side by side, as HTML; every word from outside is escaped."""

from __future__ import annotations

import html

from scalesim.app.parts import Answer, Column, Value
from scalesim.app.svg import interval

__all__ = ["cards"]

_SAYS = {
    "own": "as it is, on its cheapest deployment",
    "best": "least cost at the loss asked for",
    "safest": "as good in nine of ten samples of the laws",
    "small_change": "its own sizes, other KV heads",
}

_SAYS_LOSS = {
    "own": "as many query heads as fit the width, eight KV heads",
    "safest": "least excess where the laws are worst for it",
}


def cards(found: Answer) -> str:
    """Return the designs side by side."""
    return f"<div class='cards'>{''.join(_card(column, found) for column in found.columns)}</div>"


def _card(column: Column, found: Answer) -> str:
    first = next(iter(column.costs))
    rows = [
        f"<tr><th scope='row'>{html.escape(a)}</th><td colspan='2'>{html.escape(b)}</td></tr>"
        for a, b in column.lines
    ]
    for label, (text, ratio) in column.costs.items():
        change = "" if ratio is None else _change(ratio)
        kind = " class='main'" if label == first else ""
        rows.append(
            f"<tr{kind}><th scope='row'>{html.escape(label)}</th><td>{html.escape(text)}</td>"
            f"<td>{change}</td></tr>"
        )
    saved = (
        "<div class='saved none'>what is compared with</div>"
        if column.name == "own"
        else _saved(column, found)
    )
    says = (
        _SAYS[column.name] if found.view.asks == "model" else _SAYS_LOSS.get(column.name, _SAYS[column.name])
    )
    same = " same" if column.name != "own" and column.shape == found.columns[0].shape else ""
    return (
        f"<section class='card {column.name}{same}' aria-label='{html.escape(column.title)}'>"
        f"<h2>{html.escape(column.title)}</h2><p class='quiet'>{html.escape(says)}</p>"
        f"<div class='heads'>{html.escape(column.heads)}</div>{saved}"
        f"<table>{''.join(rows)}</table>{_quality(column, found)}</section>"
    )


def _change(ratio: float) -> str:
    if abs(ratio - 1) < 0.005:
        return "<span class='same'>same</span>"
    text = (
        f"−{100 * (1 - ratio):.0f}%"
        if ratio < 1
        else f"+{100 * (ratio - 1):.0f}%"
        if ratio < 3
        else f"{ratio:.1f}×"
    )
    return f"<span class='{'less' if ratio < 1 else 'more'}'>{text}</span>"


def _saved(column: Column, found: Answer) -> str:
    value = column.saved
    if value is None:
        return "<div class='saved none'>nothing serves the model itself</div>"
    if abs(value.value) < 0.005:
        return "<div class='saved none'>the model as it is</div>"
    span = "" if value.exact else f"<small>{100 * value.low:.0f} to {100 * value.high:.0f}%</small>"
    word = "less" if value.value > 0 else "more"
    percent = f"<b>{abs(100 * value.value):.0f}%</b>"
    return f"<div class='saved'>{percent} {word} {html.escape(found.objective)} {span}</div>"


def _quality(column: Column, found: Answer) -> str:
    nats = column.loss_unit == "nats"
    lows, highs = ([getattr(c.loss, n) for c in found.columns] for n in ("low", "high"))
    ends = (min(lows) - 0.01, max(highs) + 0.01) if nats else (min(*lows, -0.5), max(*highs, 0.5))
    parts = [
        _row(
            "predicted loss", column.loss, ends, "{:.3f} nats" if nats else "{:+.2f}%", None if nats else 0.0
        )
    ]
    if column.compute is not None:
        most = max(c.compute.high for c in found.columns if c.compute is not None)
        parts.append(_row("equivalent compute", column.compute, (0.0, max(most, 1.2)), "{:.2f}×", 1.0))
    return "".join(parts)


def _row(label: str, value: Value, ends: tuple[float, float], form: str, zero: float | None) -> str:
    text = form.format(0.0 if abs(value.value) < 0.005 else value.value)
    text = text.replace("+0.00%", "0.00%")
    span = "" if value.exact else f"{form.format(value.low)} to {form.format(value.high)}"
    inner = value.between if value.between is not None and value.between[0] < value.between[1] else None
    glyph = interval(value.low, value.value, value.high, ends, inner=inner, zero=zero,
                     says=f"{label} {text} {span and '(90%: ' + span + ')'}")  # fmt: skip
    return (
        f"<div class='quality'><span>{label}</span><b>{text}</b>{glyph}"
        f"<small class='quiet'>{span or 'as it is'}</small></div>"
    )
