"""What would change a redesign: the same question at other contexts, batches and budgets."""

from __future__ import annotations

import dataclasses
from typing import Any

from scalesim.errors import Unreachable

__all__ = ["CONTEXTS", "over_contexts", "what_if"]


CONTEXTS = tuple(1024 * 2**i for i in range(1, 11))
"""Contexts of the curve of savings: 2K to 1M."""


def _again(found: Any, **changes: Any) -> Any:
    """Return the answer to the same question with other fields of it."""
    from scalesim.redesigns.answer import answer

    asked, laws = found.asked
    return answer(found.model, dataclasses.replace(asked, **changes), laws, False)


def _row(name: str, found: Any) -> dict[str, Any]:
    key = found.objective if isinstance(found.objective, str) else "objective"
    saved = found.best.savings.get(key)
    own = None if found.own is None else found.own.n_params_total
    return {
        "changed": name,
        "heads": found.best.heads_text,
        "n_head": found.best.heads[0],
        "n_kv_head": found.best.heads[1],
        "head_dim": found.best.heads[2],
        "mixer": found.best.mixer,
        "size_over_own": None if own is None else found.best.n_params_total / own,
        "devices": found.best.plan.devices,
        "own_devices": None if found.own is None else found.own.plan.devices,
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
            at = _again(found, workload=dataclasses.replace(job, **changes), contexts=None)
        except Unreachable:
            continue
        rows.append({"context_length": context, **_row("context", at)})
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
    rows = [_row("as asked", found)]
    for name, changes in tried.items():
        try:
            rows.append(_row(name, _again(found, **changes)))
        except Unreachable:
            rows.append({"changed": name, "n_head": None})
    return tuple(rows)
