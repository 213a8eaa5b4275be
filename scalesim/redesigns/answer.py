"""The answer to a redesign's question: four designs, their intervals, and what is to be said of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalesim.cost.deployment import why_none
from scalesim.data.effects import Caution, cautions
from scalesim.errors import Unreachable
from scalesim.fitting.predict import evidence_ranges
from scalesim.programs import beside
from scalesim.redesigns import resizing
from scalesim.redesigns.candidates import Built, Question
from scalesim.redesigns.engine import Engine
from scalesim.redesigns.ensemble import Ensemble, token_ranges
from scalesim.redesigns.proportions import heads_of, with_mixer
from scalesim.redesigns.result import MEASURES, Interval, Option, Redesign, signed
from scalesim.shape import Shape
from scalesim.units import format_context
from scalesim.workload import ContextLengths, Workload

__all__ = ["answer", "decided"]

_LEAST_SAVED = 0.01
"""A saving below this is within the rounding of sizes to tiles: the model is then kept as it is."""


@dataclass(frozen=True)
class Decided:
    """The cheapest design of one question.

    Attributes:
        first, others: the engines of the cache's precision that was asked, and of the other ones.
        engine: which of them found the design.
        own: the model itself, cheapest served; None where nothing serves it.
        best: the design, which is `own` where nothing saves more than rounding does.
    """

    first: Engine
    others: list[Engine]
    engine: Engine
    own: Built | None
    best: Built

    @property
    def kept(self) -> bool:
        """Whether the model is best as it is."""
        return self.best is self.own

    def options(self) -> tuple[Option | None, Option]:
        """Return the model itself and the design with all that is said of them."""
        own = None if self.own is None else _option(self.first, "own", self.own)
        return own, _option(self.first if self.kept else self.engine, "best", self.best)


def decided(name: str, asked: Question, laws: Ensemble) -> Decided:
    """Return the cheapest design of one question about a model called `name`.

    Raises:
        Unreachable: nothing serves the model or any candidate, or no size keeps the loss.
    """
    first = Engine(asked, laws)
    threads = [] if resizing.scales.n_programs() else beside(first.prepare)
    own = first.own
    for thread in threads:
        thread.join()
    engine, best = first, first.best()
    others = [Engine(asked, laws, bits) for bits in asked.kv_bits if bits != float(asked.workload.kv_bits)]
    for other in others:
        other.own = own  # the model is served with the cache that was asked
        found = other.best()
        if found is not None and (best is None or found.figures["objective"] < best.figures["objective"]):
            engine, best = other, found
    if best is None and own is None:
        raise Unreachable(f"{name}: {_why_unserved(first)}")
    if best is None:
        raise Unreachable(f"{name}: {_why_no_size(first)}")
    if own is not None and asked.loss >= 0 and (not _saves(best, own) or _rounded(best, own)):
        best = own
    return Decided(first, others, engine, own, best)


def answer(name: str, asked: Question, laws: Ensemble, detail: bool) -> Redesign:
    """Return the answer to one question about a model called `name`; see `scalesim.redesign`."""
    found = decided(name, asked, laws)
    first, engine, own, best = found.first, found.engine, found.own, found.best
    objective = asked.objective if isinstance(asked.objective, str) else "objective"
    safest, regret = (own, {}) if found.kept else engine.safest()
    if own is not None and (safest is None or not _saves(safest, own)):
        safest = own  # nothing is as sure as what is there
    changes = [(e, change) for e in (first, *found.others) if (change := e.small_change()) is not None]
    by, small = min(changes, key=lambda c: c[1].figures["objective"], default=(first, None))
    if own is not None and small is not None and not _saves(small, own, 1e-9):
        by, small = first, own
    chosen = (
        ("own", first, own),
        ("best", first if best is own else engine, best),
        ("safest", first if safest is own else engine, safest or best),
        ("small_change", by, small),
    )
    options = {key: _option(e, key, built) for key, e, built in chosen if built is not None}
    top = options["best"]
    beyond = _extrapolation(engine, best)
    said = [_status(name, engine, options, found.kept, objective), *_beyond_text(beyond)]
    said += _unlike_text(asked.shape)
    redesigned = Redesign(
        model=name,
        question=_in_words(asked),
        objective=asked.objective,
        own=options.get("own"),
        best=top,
        safest=options["safest"],
        small_change=options.get("small_change"),
        cautions=_new_cautions(asked.shape, top.shape),
        extrapolation=beyond,
        regret=dict(sorted(regret.items(), key=lambda item: item[1])[:12]),
        status=" ".join(said),
        asked=(asked, laws),
    )
    if detail:
        from scalesim.redesigns.variations import over_contexts, what_if

        asked_otherwise, curve = what_if(redesigned), over_contexts(redesigned)
        redesigned = dataclasses.replace(redesigned, what_if=asked_otherwise, over_context=curve)
    return redesigned


def _saves(found: Built, own: Built, least: float = _LEAST_SAVED) -> bool:
    """Say whether a design saves more than rounding does."""
    return found.figures["objective"] < own.figures["objective"] * (1 - least)


def _rounded(found: Built, own: Built) -> bool:
    """Say whether a design is the model itself, its sizes rounded another way."""
    h, o = found.heads, own.heads
    alike = (h.n_head, h.n_kv_head, h.head_dim) == (o.n_head, o.n_kv_head, o.head_dim)
    same = found.mixer == own.mixer and found.share == 1.0 and found.scale is not None
    return bool(alike and same and abs(found.scale or 0.0) < _LEAST_SAVED)


def _option(engine: Engine, key: str, found: Built) -> Option:
    """Return a design with everything that is said of it."""
    own, laws = engine.own, engine.ensemble
    kind = "own" if found.mixer == "own" else found.mixer
    props = engine.kinds.get(kind) or next(iter(engine.kinds.values()))
    h = found.heads
    shape = (
        engine.asked.shape if found is own else props.real(found.shape, with_mixer(engine.asked.shape, kind))
    )
    fixed = found.scale is None
    relative = engine.losses(found)
    factors = engine.compute_factors(relative)
    typical = float(np.exp((laws.weights * np.log(laws.split(factors)[0])).sum()))
    savings: dict[str, Interval] = {}
    if own is not None:
        names = [n for n in ("objective", *MEASURES) if n in found.figures and n in own.figures]
        if fixed:
            savings = {n: _exact(1 - found.figures[n] / own.figures[n]) for n in names}
        else:
            savings = _savings(engine, found, own, names)
    return Option(
        name=key,
        mixer=found.mixer,
        kv_bits=engine.kv_bits,
        heads=(int(h.n_head), int(h.n_kv_head), int(h.head_dim)),
        shape=shape,
        n_tokens=float(found.figures["n_tokens"]),
        training_flops=float(found.figures["training_flops"]),
        plan=found.way,
        cost={name: found.figures[name] for name in (*MEASURES, "objective") if name in found.figures},
        loss_percent=_scaled(_interval(float(found.figures["loss"]), relative, laws)),
        equivalent_compute=_interval(typical, factors, laws),
        savings=savings,
    )  # fmt: skip


def _exact(value: float) -> Interval:
    return Interval(value, value, value, (value, value), (value, value))


def _scaled(found: Interval) -> Interval:
    """Return a relative loss in percent over the model's own."""

    def percent(v: float) -> float:
        return 100 * (v - 1)

    parts = (tuple(map(percent, pair)) for pair in (found.within, found.between))
    value, low, high = map(percent, (found.value, found.low, found.high))
    return Interval(value, low, high, *parts)  # type: ignore[arg-type]


def _quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    order = np.argsort(values)
    return float(
        values[order][np.searchsorted(np.cumsum(weights[order]), q * weights.sum()).clip(0, len(values) - 1)]
    )


def _interval(value: float, under_every: np.ndarray, laws: Ensemble) -> Interval:
    """Return a value's 90% interval over draws, and its parts within and between the laws."""
    members, drawn = laws.split(under_every)
    low, high = (_quantile(drawn, laws.importance, q) for q in (0.05, 0.95))
    # Samples less their own form's best fit, all together: by themselves small forms have few.
    down, up = (_quantile(drawn - members[laws.member], laws.importance, q) for q in (0.05, 0.95))
    seen = members[laws.weights > 0.01]
    within = (value + min(down, 0.0), value + max(up, 0.0))
    between = (min(value, float(seen.min())), max(value, float(seen.max())))
    return Interval(value, min(low, value), max(high, value), within, between)


def _savings(engine: Engine, found: Built, own: Built, names: list[str]) -> dict[str, Interval]:
    """Return what is saved, where the design is brought to the loss anew under each law and draw."""
    laws = engine.ensemble
    under_every = engine.resized(found)
    saved = {}
    for name in names:
        at, base = found.figures[name], own.figures[name]
        # Rounding to whole sizes is the same under every law: it is taken from the design as it is built.
        values = under_every[name]
        centre = float(np.exp((laws.weights * np.log(laws.split(values)[0])).sum()))
        saved[name] = _interval(1 - at / base, 1 - at / base * values / centre, laws)
    return saved


def _new_cautions(own: Shape, new: Shape) -> tuple[Caution, ...]:
    """Return the cautions that a redesign calls for and the model itself does not."""
    known = {str(caution) for caution in cautions(own)}
    more = tuple(caution for caution in cautions(new) if str(caution) not in known)
    few = heads_of(new).n_kv_head < heads_of(own).n_kv_head
    return more or (cautions(new) if few else ())  # type: ignore[return-value]


def _extrapolation(engine: Engine, found: Built) -> dict[str, float]:
    """Return by which factor a design is beyond the evidence, by field: those above 1."""
    heads, tokens = evidence_ranges(engine.ensemble.fit), token_ranges()
    at = {
        "n_params": found.figures["n_params"],
        "n_head": float(found.heads.n_head),
        "head_dim": float(found.heads.head_dim),
    }
    beyond = {n: max(1.0, v / heads[n][1], heads[n][0] / v) for n, v in at.items() if n in heads}
    most = max((r["n_tokens"][1] for r in tokens if "n_tokens" in r), default=np.inf)
    beyond["n_tokens"] = max(1.0, found.figures["n_tokens"] / most)
    beyond["tokens_per_param"] = max(1.0, found.figures["n_tokens"] / found.figures["n_params"] / 20.0)
    beyond["context_length"] = max(1.0, _longest(engine.asked) / 8192.0)
    return {name: float(value) for name, value in beyond.items() if value > 1.0 + 1e-9}


def _longest(asked: Question) -> float:
    return (
        float(asked.workload.context_length)
        if asked.contexts is None
        else float(np.max(asked.contexts.lengths))
    )


def _beyond_text(beyond: dict[str, float]) -> list[str]:
    words = {
        "n_params": "parameters over the largest run behind the law of heads",
        "n_head": "query heads", "head_dim": "head size",
        "n_tokens": "training tokens over the largest run",
        "tokens_per_param": "tokens a parameter over the 20 at which heads were compared",
        "context_length": "context over the 8K at which losses were measured",
    }  # fmt: skip
    said = [f"{value:.3g}x {words[name]}" for name, value in beyond.items()]
    return [f"Beyond the evidence: {', '.join(said)}."] if said else []


def _unlike_text(shape: Shape) -> list[str]:
    """Say which kinds of layer a model has that none of the runs behind the laws had.

    >>> from scalesim.models import known_model
    >>> _unlike_text(known_model("llama-3.1-8b").shape)
    []
    """
    parts = {type(part).__name__ for block in shape.blocks for part in (block.mixer, block.ffn) if part}
    unlike = sorted(parts - {"Attention", "Dense"})
    if not unlike:
        return []
    return [
        f"No run that the laws were fitted to has {' or '.join(unlike)}: its loss is that of a dense decoder "
        "of the parameters that one token passes."
    ]


def _status(name: str, engine: Engine, options: dict[str, Option], kept: bool, objective: str) -> str:
    label = MEASURES[objective][0] if objective in MEASURES else objective
    if kept:
        return (
            f"{name} as it is: no redesign saves 1% of {label} or more, but for what rounding its sizes does."
        )
    best, own = options["best"], options.get("own")
    if own is None:
        cost = f"{best.cost['objective']:.4g}"
        return f"No deployment looked at holds {name} itself; the redesign has {label} {cost}."
    saved = best.savings[objective if objective in best.savings else "objective"]
    text = f"{100 * saved.value:.0f}% less {label} ({100 * saved.low:.0f} .. {100 * saved.high:.0f}%)"
    if saved.low <= 0:
        text += ", an interval that holds 0: not sure to save anything"
    size = best.shape.n_params_total / own.shape.n_params_total
    worse = signed(best.loss_percent.value)
    loss = "the same predicted loss" if worse == "0.00%" else f"a predicted loss {worse} from its own"
    return f"{text}, at {size:.2f}x the parameters and {loss}."


def _context_text(contexts: ContextLengths | None, workload: Workload) -> str:
    """Return the context, or the mixture of contexts, as people write it."""
    if contexts is None:
        return format_context(int(workload.context_length))
    pairs = zip(np.asarray(contexts.lengths), np.asarray(contexts.weights), strict=True)
    return " ".join(f"{format_context(int(length))}:{weight:.2g}" for length, weight in pairs)


def _in_words(asked: Question) -> dict[str, Any]:
    w = asked.workload
    serving = f"context {_context_text(asked.contexts, w)}, {float(w.batch_size):g} at a time"
    if w.generated_length is not None:
        serving += f", {format_context(float(w.generated_length))} generated"
    if w.kv_bits != 16:
        serving += f", {float(w.kv_bits):g}-bit cache"
    if w.weight_bits != 16:
        serving += f", {float(w.weight_bits):g}-bit weights"
    words = {
        "flops": "the same training FLOPs",
        "tokens": "the same tokens",
        "free": "at most the same training FLOPs",
    }
    limits = {
        n: getattr(asked, n) for n in ("max_tpot", "max_ttft", "max_devices") if getattr(asked, n) is not None
    }
    if asked.min_kv_heads > 1:
        limits["min_kv_heads"] = asked.min_kv_heads
    return {
        "serving": f"{serving} on {asked.hardware.name}",
        "context_length": _longest(asked),
        "n_tokens": float(asked.plan.tokens(asked.shape)),
        "training_context_length": float(asked.plan.context_length),
        "same": words[asked.spend],
        "loss_percent": 100 * asked.loss,
        "traffic": None if asked.traffic is None else dataclasses.asdict(asked.traffic),
        "mixers": list(asked.mixers),
        "limits": limits,
    }


def _why_unserved(engine: Engine) -> str:
    shape = engine.asked.shape
    ways = engine.ways(shape)
    floats = jax.tree.map(float, dataclasses.replace(shape, order=()))
    figures = engine.costs(floats, ways, np.arange(len(ways)), np.full(len(ways), engine.budget))
    a = engine.asked
    return why_none(figures, a.hardware, a.max_tpot, a.max_ttft, a.max_devices)


def _why_no_size(engine: Engine) -> str:
    reached = any(np.isfinite(ranked.scale).any() for ranked in engine.all_ranked.values())
    if not reached:
        return (
            f"no size reaches a loss of {100 * engine.asked.loss:+.2f}% over its own within the budget. "
            "A loss nearer to its own, or more training compute, would do."
        )
    return f"no redesign of that loss keeps the limits and the budget. {_why_unserved(engine)}"
