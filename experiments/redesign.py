"""Llama-3.1-8B, Llama-3.1-70B and Qwen3-8B, redesigned at their own training FLOPs for 8K to 1M of context.

    python -m experiments.redesign

Free: the size (and with it the tokens, for the budget is spent), query heads and KV heads. Held: the model's
ratio of width to depth, of FFN to width, its head size and vocabulary. Asked: at least as good a predicted
loss as the model itself, on H100s and H200s, four sequences at a time; least dollars a token, least time a
token on the devices that the model itself is cheapest on, or least memory. The loss is a law in N and D from
public runs times the head factor of the paper's points: both far from what they were fitted to. Writes
results/redesign.csv and .png, and results/redesign_assumptions.csv: the same under other assumptions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.redesign_law import MODELS, AtBudget, Model, law_for
from scalesim.cost import AtMost, Parallel, fits, serving_memory, step_time, token_price, training_flops
from scalesim.design import Lattice, Problem, Query, buildable, stack_queries
from scalesim.design.rounding import evaluate
from scalesim.fitting.predict import evidence_ranges
from scalesim.hardware import Hardware
from scalesim.pytree import register
from scalesim.report.figure import BASELINE, BEST, INK, figure, paler, save
from scalesim.shape import Shape, count_params
from scalesim.units import format_context
from scalesim.workload import TrainingPlan, Workload

__all__ = ["MODELS", "law_for", "main"]

Num = Any

CONTEXTS = tuple(1024 * 2**i for i in range(3, 11))
SEQUENCES = 4
TENSORS = (1, 2, 4, 8)
HARDWARE = ("h100-sxm", "h200-sxm")


@register
@dataclass(frozen=True)
class _Spent:
    """Training FLOPs of a shape over the budget: above 1 where 20 tokens a parameter cost more."""

    law: AtBudget

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        plan = TrainingPlan(n_tokens=1.0, context_length=self.law.trained_at)
        n_tokens = self.law.tokens(shape, count_params(shape, "paper"))
        return n_tokens * training_flops(shape, plan) / self.law.budget


@register
@dataclass(frozen=True)
class Price:
    """$ a million generated tokens on so many devices."""

    hardware: Hardware
    tensor: int = dataclasses.field(metadata={"static": True})

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return dollars."""
        on = Parallel(tensor=self.tensor)
        return token_price(shape, workload, self.hardware, on)["generated"].typical


MEASURES = ("memory", "tpot", "price")


def measures(shape: Shape, job: Workload, hardware: Hardware, tensor: int) -> dict[str, Any]:
    """Return a shape's figures: bytes of the model and of all four caches, seconds, and dollars."""
    use = serving_memory(shape, dataclasses.replace(job, batch_size=SEQUENCES))
    return {
        "memory": use.weights + use.kv_cache,
        "tpot": step_time(shape, job, hardware, Parallel(tensor=tensor)),
        "price": Price(hardware, tensor)(shape, job),
    }


@dataclass(frozen=True)
class Served:
    """How four sequences are served: replicas of so many sequences, each over so many devices."""

    sequences: int
    tensor: int

    @property
    def devices(self) -> int:
        """Accelerators in all."""
        return SEQUENCES // self.sequences * self.tensor

    def job(self, context: int) -> Workload:
        """Return one replica's workload."""
        return Workload(context_length=context, batch_size=self.sequences)


WAYS = tuple(Served(sequences, tensor) for tensor in TENSORS for sequences in (1, 2, 4))


def as_built(model: Model, context: int, hardware: Hardware) -> tuple[Served, dict[str, float]] | None:
    """Return how the model itself is cheapest served, and its figures then; None where one node cannot."""
    found = []
    for way in WAYS:
        job, on = way.job(context), Parallel(tensor=way.tensor)
        if fits(hardware, on).excess(model.shape, job) <= 0:
            at = measures(model.shape, job, hardware, way.tensor)
            found.append((way, {name: float(value) for name, value in at.items()}))
    return min(found, key=lambda pair: pair[1]["price"], default=None)


def _query(law: AtBudget, way: Served, context: int, hardware: Hardware) -> Query:
    """Return the question: at least as good, within the budget, in memory, for the least dollars."""
    limits = (
        fits(hardware, Parallel(tensor=way.tensor)),
        AtMost(measure=_Spent(law), limit=1.001, name="training_flops"),
    )
    price = Price(hardware, way.tensor)
    return Query(workload=way.job(context), target_loss=1.0, objective=price, constraints=limits)


@partial(jax.jit, static_argnums=2)
def _every(problem: Problem, queries: Query, lattice: Lattice) -> Any:
    """Return every design of the lattice for a batch of questions, (Q, K), and whether it will do."""
    heads = tuple(map(jnp.asarray, lattice.arrays()))

    def one(query: Query) -> Any:
        found = evaluate(problem, query, lattice, *heads)
        shape = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, heads[0].shape), found.shape)
        at = measures(
            shape, query.workload, query.objective.function.hardware, query.objective.function.tensor
        )
        return shape, at, jnp.isfinite(found.cost)

    return jax.vmap(one)(queries)


@partial(jax.jit, static_argnums=2)
def _under(problem: Problem, query: Query, lattice: Lattice, heads: Any, laws: Any) -> Any:
    """Return the figures and the size of given heads, brought to the model's loss anew under every law."""

    def one(law: Any) -> Any:
        shape = evaluate(problem.under(law), query, lattice, *heads).shape
        at = measures(
            shape, query.workload, query.objective.function.hardware, query.objective.function.tensor
        )
        at |= {"n_params": count_params(shape, "paper")}
        return {name: jnp.reshape(value * 1.0, ()) for name, value in at.items()}

    return jax.vmap(one)(laws)


@dataclass(frozen=True)
class Chosen:
    """A redesign: its shape, how it is served, and its figures."""

    shape: Shape
    way: Served
    at: dict[str, float]


def lattice_of(model: Model, tensor: int) -> Lattice:
    """Return the whole shapes with at most the model's query heads that split over so many devices."""
    return buildable(max_head=int(model.shape.n_head), tile=64, tensor=tensor)


def _rank(at: dict[str, float], objective: str) -> tuple[float, float]:
    """Return what designs are ordered by: the objective, or memory to a per cent and then dollars."""
    return (round(float(np.log(at[objective])), 2) if objective == "memory" else at[objective]), at["price"]


def redesigns(
    model: Model, law: AtBudget, contexts: tuple[int, ...], hardware: Hardware
) -> dict[tuple[int, str], Chosen]:
    """Return the best design for each context and objective, among all heads and ways to serve.

    Every configuration is evaluated: nothing is left to a gradient. The least time is sought among the ways
    that take no more devices than the model itself does where it is cheapest.
    """
    found: dict[tuple[int, str], Chosen] = {}
    problem = Problem(law=law, family=model.family)
    for tensor in TENSORS:
        ways = [way for way in WAYS if way.tensor == tensor]
        asked = [(context, way) for context in contexts for way in ways]
        batch = stack_queries([_query(law, way, context, hardware) for context, way in asked])
        shapes, figures, possible = jax.device_get(_every(problem, batch, lattice_of(model, tensor)))
        for i, (context, way) in enumerate(asked):
            built = as_built(model, context, hardware)
            most = built[0].devices if built else TENSORS[-1]
            for objective in MEASURES:
                if not possible[i].any() or (objective == "tpot" and way.devices > most):
                    continue
                k = int(np.where(possible[i], figures[objective][i], np.inf).argmin())
                at = {name: float(values[i, k]) for name, values in figures.items()}
                old = found.get((context, objective))
                if old is None or _rank(at, objective) < _rank(old.at, objective):
                    shape = jax.tree.map(lambda leaf, i=i, k=k: round(float(leaf[i, k])), shapes)
                    found[context, objective] = Chosen(shape, way, at)
    return found


def described(
    model: Model, laws: tuple[AtBudget, AtBudget], chosen: Chosen, context: int, hardware: Hardware
) -> dict[str, Any]:
    """Return a redesign's sizes and figures, what it saves over the model, and how sure that is."""
    law, drawn = laws
    s, way = chosen.shape, chosen.way
    problem = Problem(law=law, family=model.family)
    query = dataclasses.replace(_query(law, way, context, hardware), constraints=())
    query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), query)
    heads = tuple(jnp.asarray([float(n)]) for n in (s.n_head, s.n_kv_head))
    spread = jax.device_get(_under(problem, query, lattice_of(model, way.tensor), heads, drawn))
    n_params = float(count_params(s, "paper"))
    n_tokens = float(law.tokens(s, n_params))
    row: dict[str, Any] = {
        "replicas": SEQUENCES // way.sequences,
        "devices_each": way.tensor,
        "layers": s.n_layer,
        "width": s.d_model,
        "heads": f"{s.n_head} : {s.n_kv_head}",
        "n_params": n_params,
        "size_over_own": n_params / law.n_params,
        "tokens_per_param": n_tokens / n_params,
        "loss_over_own": float(law(s)),
        "times_beyond_head_evidence": n_params / evidence_ranges(ss.named_fit("paper"))["n_params"][1],
    }
    built = as_built(model, context, hardware)
    if built is not None:
        row |= {"own_replicas": SEQUENCES // built[0].sequences, "own_devices_each": built[0].tensor}
    for what in MEASURES:
        row[what] = chosen.at[what]
        if built is not None:
            own = built[1][what]
            low, high = np.quantile(100 * (1 - spread[what] / own), [0.05, 0.95])
            row |= {f"{what}_own": own, f"{what}_saved": 100 * (1 - chosen.at[what] / own)}
            row |= {f"{what}_low": low, f"{what}_high": high}
    return row


def accelerator(name: str) -> Hardware:
    """Return hardware of the catalogue without its name, so that one compiled program serves all."""
    return dataclasses.replace(ss.load_hardware(name), name="", source="")


def main_lines() -> Iterator[Row]:
    for model in MODELS:
        laws = law_for(model)
        for name in HARDWARE:
            hardware = accelerator(name)
            found = redesigns(model, laws[0], CONTEXTS, hardware)
            for (context, objective), chosen in sorted(found.items()):
                row = {"model": model.name, "hardware": name, "context_K": context // 1024}
                yield row | {"objective": objective} | described(model, laws, chosen, context, hardware)
            print(f"{model.name} on {name}: {len(found)} designs", flush=True)


ASSUMED: dict[str, dict[str, Any]] = {
    "as in the figure": {},
    "base law of Llama 3's IsoFLOPs": {"base": "llama3"},
    "another form of head law": {"form": "separable"},
    "heads act on the reducible loss": {"reducible": 1.0},
    "a head of 128 counts as two of 64": {"each": 2.0},
    "both of the last": {"reducible": 1.0, "each": 2.0},
    "trained at 32K throughout": {"trained_at": 32768.0},
}


def assumption_lines(contexts: tuple[int, ...] = (131072, 1048576)) -> Iterator[Row]:
    """Yield the design of least dollars under other assumptions, on H100s."""
    hardware = accelerator("h100-sxm")
    for model in MODELS:
        for words, options in ASSUMED.items():
            laws = law_for(model, **options)
            found = redesigns(model, laws[0], contexts, hardware)
            for context in contexts:
                row = {"model": model.name, "assumed": words, "context_K": context // 1024}
                yield row | described(model, laws, found[context, "price"], context, hardware)
        print(f"{model.name}: assumptions varied", flush=True)


def main(folder: Path = RESULTS) -> list[Row]:
    with jax.enable_x64(True):
        rows = list(main_lines())
        write_csv(folder / "redesign.csv", rows)
        assumed = list(assumption_lines())
        write_csv(folder / "redesign_assumptions.csv", assumed)
    draw(folder / "redesign.png", rows)
    shown = ("model", "hardware", "context_K", "heads", "size_over_own", "tokens_per_param", "devices_each")
    spans = ("memory_saved", "tpot_saved", "price_saved", "price_low", "price_high")
    print_rows("Least dollars a token", [r for r in rows if r["objective"] == "price"], [*shown, *spans])
    print_rows("Least dollars under other assumptions", assumed, ["assumed", *shown[:1], *shown[2:], *spans])
    return rows


def draw(path: Path, rows: list[Row]) -> None:
    """Draw what each objective's redesign saves over context, a model to a column."""
    names = {"price": "dollars a token", "tpot": "time a token", "memory": "memory"}
    with figure(3, len(MODELS), (12.5, 8.6), sharex=True, sharey="row") as (canvas, axes):
        for column, model in zip(axes.T, MODELS, strict=True):
            column[0].set_title(model.name)
            for axis, (objective, words) in zip(column, names.items(), strict=True):
                axis.axhline(0, color=INK, lw=0.8)
                for hardware, colour in zip(HARDWARE, (BEST, BASELINE), strict=True):
                    here = [
                        r
                        for r in rows
                        if (r["model"], r["hardware"], r["objective"]) == (model.name, hardware, objective)
                        and f"{objective}_saved" in r
                    ]
                    _curve(axis, here, objective, hardware, colour)
                axis.set_ylim(-14, 116)
                axis.set_yticks(range(0, 101, 20))
                if model is MODELS[0]:
                    axis.set_ylabel(f"% less {words}")
            ticks = np.log2(CONTEXTS)
            column[-1].set_xticks(ticks, [format_context(context) for context in CONTEXTS])
            column[-1].set_xlabel("context of each of four sequences")
            column[-1].set_xlim(ticks[0] - 0.5, ticks[-1] + 0.5)
        handles, labels = axes[0][0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
        title = "Redesigned at the same training FLOPs for the same predicted loss"
        note = "90% intervals; above, query : KV heads and size over the model's own, on H100"
        canvas.suptitle(f"{title} ({note})", x=0.01, ha="left", fontsize=9)
        save(canvas, path)


def _curve(axis: Any, rows: list[Row], objective: str, hardware: str, colour: str) -> None:
    x = np.log2([1024 * r["context_K"] for r in rows])
    saved, low, high = ([r[f"{objective}_{part}"] for r in rows] for part in ("saved", "low", "high"))
    label = f"{hardware}, each design beside the model as it is cheapest served there"
    axis.fill_between(x, low, high, color=paler(colour, 0.75), lw=0, alpha=0.6, zorder=1)
    axis.plot(x, saved, "o-", color=colour, ms=4, lw=1.3, label=label, zorder=3)
    if hardware != HARDWARE[0]:
        return
    for place, r in zip(x, rows, strict=True):
        axis.annotate(
            f"{r['heads'].replace(' ', '')}\n{r['size_over_own']:.2f}×",
            (place, 114),
            ha="center",
            va="top",
            fontsize=7,
            color=colour,
            zorder=4,
        )


if __name__ == "__main__":
    main()
