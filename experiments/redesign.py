"""Six models redesigned at their own training FLOPs for 8K to 1M of context, on four accelerators.

    python -m experiments.redesign

Every answer is `scalesim.redesign`'s: as good by the law as the model itself, on the same training FLOPs, for
the least dollars a generated token, sixteen sequences at a time with a cache of 16 bits. Writes
results/redesign.csv and .png, and results/redesign_assumptions.csv: two of the models at 128K on H100s under
other assumptions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv
from scalesim.report.figure import BASELINE, BEST, INK, figure, paler, save
from scalesim.units import format_context

__all__ = ["CONTEXTS", "HARDWARE", "MODELS", "Model", "main"]


@dataclass(frozen=True)
class Model:
    """A model as it was trained: its catalogue name, tokens and context, and where those were read."""

    name: str
    n_tokens: float
    trained_at: int
    source: str
    weight_bits: int = 16

    @property
    def plan(self) -> ss.TrainingPlan:
        """How it was trained."""
        return ss.TrainingPlan(n_tokens=self.n_tokens, context_length=self.trained_at)

    def job(self, context: int, **how: Any) -> ss.Workload:
        """Return sixteen sequences of a context at a time."""
        return ss.Workload(
            **{"context_length": context, "batch_size": 16, "weight_bits": self.weight_bits, **how}
        )


MODELS = (
    Model("llama-3.1-8b", 15e12, 8192, "arXiv 2407.21783: 15T tokens, 8K until the long-context stage"),
    Model("llama-3.1-70b", 15e12, 8192, "arXiv 2407.21783: 15T tokens, 8K until the long-context stage"),
    Model("qwen3-8b", 36e12, 4096, "arXiv 2505.09388: 36T tokens, 4K until the last stage"),
    Model("qwen3-30b-a3b", 36e12, 4096, "arXiv 2505.09388: 36T tokens, 4K until the last stage"),
    Model("deepseek-v3", 14.8e12, 4096, "arXiv 2412.19437: 14.8T tokens, 4K until the extensions; FP8", 8),
    Model("gemma-3-27b", 14e12, 32768, "arXiv 2503.19786: 14T tokens, 32K"),
)
CONTEXTS = tuple(1024 * 2**i for i in range(3, 11))
HARDWARE = ("h100-sxm", "h200-sxm", "b200-sxm", "mi300x")

SMALL_HEADS = "cla_1b_tuned_h64-mqa"
"""A published pair of tuned runs of 0.85B, 16 : 1 heads of 128 and 32 : 1 of 64: the second 1.1% worse."""
VARIED = (MODELS[0], MODELS[1])
ASSUMED: dict[str, dict[str, Any]] = {
    "as in the table": {},
    "four sequences at a time": {"job": {"batch_size": 4}},
    "one sequence at a time": {"job": {"batch_size": 1}},
    "a cache of 8 bits": {"job": {"kv_bits": 8}},
    "prompts priced too, 2K generated": {"job": {"generated_length": 2048}},
    "no slower than the model itself": {"as_fast": True},
    "the same tokens, whatever they cost": {"same": "tokens"},
    "any part of the training FLOPs": {"same": "free"},
    "trained at 32K throughout": {"plan": {"context_length": 32768}},
    "a pair of runs finds heads of 64 worse": {"contrasts": SMALL_HEADS},
    "latent or shared caches allowed": {"mixers": ("own", "latent", "shared")},
    "memory as the objective": {"objective": "memory"},
}


def described(found: ss.Redesign) -> dict[str, Any]:
    """Return a redesign as one row: the best, the safest and the small change beside the model itself."""
    own, best = found.own, found.best
    n_params = best.n_params_total
    row: dict[str, Any] = {
        "heads": best.heads_text,
        "kept": own is not None and best.shape == own.shape,
        "layers": best.shape.n_layer,
        "width": best.shape.d_model,
        "n_params": n_params,
        "n_tokens": best.n_tokens,
        "served_on": str(best.plan),
        "devices": best.plan.devices,
        "loss_percent": best.loss_percent.value,
        "loss_low": best.loss_percent.low,
        "loss_high": best.loss_percent.high,
        "price": best.cost["price"],
    }
    key = found.objective if isinstance(found.objective, str) else "objective"
    if own is not None:
        saved = best.savings[key]
        row |= {
            "own_heads": own.heads_text,
            "own_served_on": str(own.plan),
            "own_devices": own.plan.devices,
            "own_price": own.cost["price"],
            "size_over_own": n_params / own.n_params_total,
            "saved": 100 * saved.value,
            "low": 100 * saved.low,
            "high": 100 * saved.high,
            "within_low": 100 * saved.within[0],
            "within_high": 100 * saved.within[1],
            "between_low": 100 * saved.between[0],
            "between_high": 100 * saved.between[1],
            **{f"{n}_saved": 100 * best.savings[n].value for n in ("memory", "tpot", "ttft")},
        }
    for name in ("safest", "small_change"):
        option = found.options.get(name)
        if option is not None:
            row |= {f"{name}_heads": option.heads_text, f"{name}_loss_percent": option.loss_percent.value}
            if own is not None:
                saved = option.savings[key]
                row |= {
                    f"{name}_size_over_own": option.n_params_total / own.n_params_total,
                    f"{name}_saved": 100 * saved.value,
                    f"{name}_low": 100 * saved.low,
                    f"{name}_high": 100 * saved.high,
                }
    return row | {f"times_beyond_{name}": times for name, times in found.extrapolation.items()}


def main_lines(
    models: tuple[Model, ...] = MODELS,
    contexts: tuple[int, ...] = CONTEXTS,
    hardware: tuple[str, ...] = HARDWARE,
) -> Iterator[Row]:
    """Yield a row for each model, accelerator and context, in one call a model."""
    for model in models:
        jobs = [model.job(context) for context in contexts]
        found = iter(ss.redesign(model.name, model.plan, jobs, hardware=list(hardware)))
        for context in contexts:
            for place in hardware:
                row = {"model": model.name, "hardware": place, "context_K": context // 1024}
                yield row | described(next(found))
        print(f"{model.name}: {len(contexts) * len(hardware)} questions. {machine_load()}", flush=True)


def assumption_lines(models: tuple[Model, ...] = VARIED, context: int = 131072) -> Iterator[Row]:
    """Yield the answers at one context on H100s under other assumptions."""
    for model in models:
        first = ss.redesign(model.name, model.plan, model.job(context))
        for words, assumed in ASSUMED.items():
            how = dict(assumed)
            job = model.job(context, **how.pop("job", {}))
            plan = dataclasses.replace(model.plan, **how.pop("plan", {}))
            if "contrasts" in how:
                table = ss.load_contrasts()
                how["contrasts"] = table.take(np.flatnonzero(table.name == how["contrasts"]))
            if how.pop("as_fast", False) and first.own is not None:
                how = {"max_tpot": first.own.cost["tpot"], "max_ttft": first.own.cost["ttft"]}
            row = {"model": model.name, "assumed": words, "context_K": context // 1024}
            yield row | described(ss.redesign(model.name, plan, job, **how))
        print(f"{model.name}: assumptions varied. {machine_load()}", flush=True)


def main(folder: Path = RESULTS) -> list[Row]:
    rows = list(main_lines())
    write_csv(folder / "redesign.csv", rows)
    draw(folder / "redesign.png", rows)
    assumed = list(assumption_lines())
    write_csv(folder / "redesign_assumptions.csv", assumed)
    shown = ["heads", "size_over_own", "devices", "own_devices", "saved", "low", "high"]
    shown += [
        "within_low",
        "within_high",
        "between_low",
        "between_high",
        "safest_saved",
        "small_change_saved",
    ]
    print_rows("Least dollars a token", rows, ["model", "hardware", "context_K", *shown])
    print_rows("Under other assumptions", assumed, ["assumed", "model", *shown, "ttft_saved"])
    return rows


def draw(path: Path, rows: list[Row], hardware: str = "h100-sxm") -> None:
    """Draw what each model's redesign saves over context with both intervals, a model to a panel."""
    with figure(2, 3, (12.5, 7.4), sharex=True, sharey=True) as (canvas, axes):
        for axis, model in zip(axes.ravel(), MODELS, strict=True):
            here = [r for r in rows if (r["model"], r["hardware"]) == (model.name, hardware) and "saved" in r]
            _panel(axis, here, model)
        for axis in axes[:, 0]:
            axis.set_ylabel("% less dollars a token")
        for axis in axes[-1]:
            axis.set_xlabel("context of each of sixteen sequences")
        handles, labels = axes[0][0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        title = "Redesigned at the same training FLOPs for the same predicted loss, served on H100s"
        note = "above: query : KV heads of their size, and parameters over the model's own"
        canvas.suptitle(f"{title} ({note})", x=0.01, ha="left", fontsize=9)
        save(canvas, path)


def _panel(axis: Any, rows: list[Row], model: Model) -> None:
    x = np.log2([1024 * r["context_K"] for r in rows])
    axis.set_title(f"{model.name} ({rows[0]['own_heads']})")
    axis.axhline(0, color=INK, lw=0.8)
    for low, high, pale, words in (
        ("low", "high", 0.82, "90% of all samples"),
        ("between_low", "between_high", 0.5, "between forms of the law"),
    ):
        axis.fill_between(
            x, [r[low] for r in rows], [r[high] for r in rows], color=paler(BEST, pale), lw=0, label=words
        )
    axis.plot(x, [r["saved"] for r in rows], "o-", color=BEST, ms=4, lw=1.5, label="best redesign")
    small = [r.get("small_change_saved", np.nan) for r in rows]
    axis.plot(x, small, "s--", color=BASELINE, ms=3, lw=1.1, label="KV heads alone changed")
    for place, r in zip(x, rows, strict=True):
        heads = "as it is" if r["kept"] else r["heads"].replace(" : ", ":").replace(" of ", "\nof ")
        text = heads if r["kept"] else f"{heads.replace(', latent', '')}\n{r['size_over_own']:.2f}×"
        axis.annotate(text, (place, 128), ha="center", va="top", fontsize=6.5, color=INK)
    axis.set_ylim(-28, 130)
    axis.set_yticks(range(-20, 101, 20))
    axis.set_xticks(np.log2(CONTEXTS), [format_context(context) for context in CONTEXTS])
    axis.set_xlim(np.log2(CONTEXTS[0]) - 0.5, np.log2(CONTEXTS[-1]) + 0.5)


if __name__ == "__main__":
    main()
