"""What would change a redesign: the same question at other contexts, batches and budgets."""

from __future__ import annotations

import dataclasses
from typing import Any

from scalesim.errors import Unreachable
from scalesim.redesigns.result import Option

__all__ = ["CONTEXTS", "over_contexts", "what_if"]


CONTEXTS = tuple(1024 * 2**i for i in range(1, 11))
"""Contexts of the curve of savings: 2K to 1M."""


def _again(found: Any, name: str, **changes: Any) -> dict[str, Any]:
    """Return a row on the best design of the same question with other fields of it."""
    from scalesim.redesigns.answer import decided

    asked, laws = found.asked
    asked = dataclasses.replace(asked, **changes)
    return _row(name, asked.objective, *decided(found.model, asked, laws).options())


def _row(name: str, objective: Any, own: Option | None, best: Option) -> dict[str, Any]:
    saved = best.savings.get(objective if isinstance(objective, str) else "objective")
    return {
        "changed": name,
        "heads": best.heads_text,
        "n_head": best.heads[0],
        "n_kv_head": best.heads[1],
        "head_dim": best.heads[2],
        "mixer": best.mixer,
        "size_over_own": None if own is None else best.n_params_total / own.n_params_total,
        "devices": best.plan.devices,
        "own_devices": None if own is None else own.plan.devices,
        **({} if saved is None else {"saved": saved.value, "low": saved.low, "high": saved.high,
                                     "between": list(saved.between), "within": list(saved.within)}),
    }  # fmt: skip


def over_contexts(found: Any, contexts: tuple[int, ...] = CONTEXTS) -> tuple[dict[str, Any], ...]:
    """Return the best design at each context, with its savings: where the choice flips."""
    rows = []
    asked, _ = found.asked
    for context in contexts:
        job = asked.workload
        scale = context / float(job.context_length)
        changes: dict[str, Any] = {"context_length": float(context)}
        if job.generated_length is not None:
            changes["generated_length"] = float(job.generated_length) * scale
        changes["prefix_length"] = float(job.prefix_length) * scale
        try:
            row = _again(found, "context", workload=dataclasses.replace(job, **changes), contexts=None)
        except Unreachable:
            continue
        rows.append({"context_length": context, **row})
    return tuple(rows)


def what_if(found: Any) -> tuple[dict[str, Any], ...]:
    """Return the best design of questions near the one asked: what the answer hangs on."""
    asked, _ = found.asked
    job, plan = asked.workload, asked.plan
    tokens = float(plan.tokens(asked.shape))
    tried: dict[str, dict[str, Any]] = {
        "four times as many at a time": {
            "workload": dataclasses.replace(job, batch_size=4 * float(job.batch_size))
        },
        "one at a time": {"workload": dataclasses.replace(job, batch_size=1.0)},
        "a quarter of the training tokens": {"plan": dataclasses.replace(plan, n_tokens=tokens / 4)},
        "one per cent less loss": {"loss": asked.loss - 0.01},
    }
    if float(job.kv_bits) > 8:
        tried["a cache of 8 bits"] = {"workload": dataclasses.replace(job, kv_bits=8.0)}
    if asked.traffic is not None:
        more = dataclasses.replace(
            asked.traffic,
            prompt_tokens=10 * asked.traffic.prompt_tokens,
            generated_tokens=10 * asked.traffic.generated_tokens,
        )
        tried["ten times the traffic"] = {"traffic": more}
    rows = [_row("as asked", found.objective, found.own, found.best)]
    for name, changes in tried.items():
        try:
            rows.append(_again(found, name, **changes))
        except Unreachable:
            rows.append({"changed": name, "n_head": None})
    return tuple(rows)
