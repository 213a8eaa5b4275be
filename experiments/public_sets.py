"""What the engine says of public runs: Gemstones, head counts, context, IsoFLOPs, the OLMo ladder.

    python -m experiments.public_sets

Writes results/public_sets.csv and .png. The tables are not part of the project: they are looked for in
SCALESIM_PUBLIC_RUNS or the checkout's sibling shared/data, and a set that is not there is said to be absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.common import RESULTS, write_csv
from experiments.public_data import public_runs
from scalesim.data import RunTable, load_runs
from scalesim.fitting import Fit, Squared, bootstrap, compare, fit, isoflop, leave_one_group_out
from scalesim.laws import (
    Chinchilla,
    Constant,
    ContextPower,
    Gemstones,
    Kaplan,
    Law,
    PowerOfSum,
    law_from_function,
)
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, save, shades

LINES: list[tuple[str, str, float, float, float]] = []


def say(name: str, what: str, value: float, low: float = float("nan"), high: float = float("nan")) -> None:
    LINES.append((name, what, value, low, high))
    interval = "" if np.isnan(low) else f"  (90%: {low:.4g} .. {high:.4g})"
    print(f"{name:<16}{what:<68}{value:>10.4g}{interval}", flush=True)


def gemstones(runs: RunTable, axis: Any) -> None:
    """Width and depth against plain N and D, leaving a run out."""
    table = compare([Chinchilla(), Gemstones()], runs.take(runs["n_tokens"] > 1e10))
    for score in table.scores:
        say("gemstones", f"{score.name}, {score.convention}: rms on runs left out, nats", score.held_out)
    plain = next(score for score in table.scores if score.name == "Chinchilla")
    worse = plain.worse_by
    say(
        "gemstones",
        f"{plain.name}: held-out square error more than the best's",
        worse[1],
        worse[0],
        worse[2],
    )
    names = [f"{score.name}\n{score.convention.removeprefix('n_params_')}" for score in table.scores]
    colours = [BEST if score.name == "Gemstones" else BASELINE for score in table.scores]
    axis.barh(names, [score.held_out for score in table.scores], color=colours, height=0.5)
    axis.set_xlabel("rms on runs left out, nats")
    axis.set_title("Gemstones: width and depth, or size alone")


def heads(runs: RunTable, axis: Any) -> None:
    """Does n_head matter inside one (width, depth)? A level for each, one slope for all."""
    label = [f"{g}:{t:g}" for g, t in zip(runs.group, np.round(np.log2(runs["n_tokens"]), 1), strict=True)]
    runs = RunTable(runs.columns, runs.loss, group=label)
    names, counts = np.unique(runs.group, return_counts=True)
    runs = runs.take(np.isin(runs.group, names[counts > 1]))
    say("gadre_heads", "runs that share width, depth and tokens with another", len(runs))
    level = fit(Constant(), runs, noise=Squared(), per_group=("E",))
    say("gadre_heads", "rms about each shape's own level, nats", level.rms)
    law = law_from_function(slope_in_heads, {"E": (1.0, 5.0), "s": (-0.1, 0.1)}, ["n_head"], signed=["s"])
    sloped = fit(law, runs, noise=Squared(), per_group=("E",))
    spread = bootstrap(sloped, 500, kind="cluster")
    low, high = spread.intervals()["s"]
    say("gadre_heads", "the same with s log2(n_head) shared by all shapes, rms", sloped.rms)
    say("gadre_heads", "s, nats a doubling of the heads at fixed width", sloped.coefficients["s"], low, high)
    off, x = -level.residuals(), np.log2(runs["n_head"])
    axis.plot(
        runs["n_head"] * 2 ** np.random.default_rng(0).uniform(-0.1, 0.1, len(x)),
        off,
        "o",
        color=BEST,
        ms=3,
        alpha=0.5,
    )
    ends = np.array([x.min(), x.max()])
    axis.plot(2**ends, sloped.coefficients["s"] * (ends - x.mean()), color=BASELINE)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("n_head, at fixed width and depth")
    axis.set_ylabel("loss - its shape's mean, nats")
    axis.set_title("Head counts (Gadre et al.)")


def slope_in_heads(n_head: Any, E: Any, s: Any) -> Any:
    """Return E + s log2(n_head)."""
    return E + s * jnp.log2(n_head)


def context(runs: RunTable, axis: Any) -> None:
    """Loss against the context it was trained and measured at, N and D being equal."""
    runs = runs.take(runs.loss < 5)
    found = fit(Chinchilla() * ContextPower(), runs)
    spread = bootstrap(found, 500)
    low, high = spread.intervals()["other.c"]
    say("llama_context", "c in (T / 8192)^-c", found.coefficients["other.c"], low, high)
    say("llama_context", "rms with the context's factor, nats", found.rms)
    plain = fit("chinchilla", runs)
    say("llama_context", "rms without, nats", plain.rms)
    for length, colour in zip(np.unique(runs["context_length"]), (BEST, BASELINE), strict=True):
        rows = runs["context_length"] == length
        axis.plot(
            runs["n_params"][rows],
            -plain.residuals()[rows],
            "o",
            color=colour,
            ms=3,
            alpha=0.6,
            label=f"T = {length:,.0f}",
        )
    axis.axhline(0, color=INK, lw=0.8)
    axis.set_xscale("log")
    axis.set_xlabel("n_params")
    axis.set_ylabel("loss - law without context, nats")
    axis.set_title("Context (Llama IsoFLOPs)")
    axis.legend()


ISOFLOP_LAWS: dict[str, Law] = {
    "Chinchilla": Chinchilla(),
    "Kaplan and a floor": Kaplan() + Constant(E=0.5),
    "power of a sum": PowerOfSum(),
}


def least(law: Any, budgets: np.ndarray) -> np.ndarray:
    """Return the least loss that a law gives each budget, over sizes, with 6 N D = C."""
    size, budget = np.geomspace(1e7, 1e12, 4001)[None, :], budgets[:, None]
    return np.asarray(law.loss({"n_params": size, "n_tokens": budget / 6 / size})).min(1)


def say_relative(what: str, off: np.ndarray) -> float:
    """Put down the mean, median and rms of relative errors; return the mean."""
    for name, value in (
        ("mean", np.abs(off).mean()),
        ("median", np.median(np.abs(off))),
        ("rms", np.sqrt(np.mean(off**2))),
    ):
        say("llama 3", f"{what}: relative error, {name}", float(value))
    return float(np.abs(off).mean())


def llama_3(runs: RunTable, axis: Any, beside: Any) -> None:
    """What is left about each budget's own profile, and three laws on the runs and on budgets left out."""
    runs = runs.with_group("flops")
    profiles = isoflop(runs, degree=2).profiles
    floor = np.concatenate([p.at(p.n_params) / p.loss - 1 for p in profiles])
    bars = {"a parabola\na budget": (say_relative("a parabola for each budget", floor), np.nan, np.nan)}
    budgets, best = (np.array([getattr(p, k) for p in profiles]) for k in ("budget", "best_loss"))
    small = runs["flops"] < 2e21
    fits: dict[str, Fit] = {}
    for name, law in ISOFLOP_LAWS.items():
        found = fits[name] = fit(law, runs)
        out = leave_one_group_out(found)
        ahead = fit(law, runs.take(small)).law
        x = {k: runs[k][~small] for k in law.fields}
        beyond = np.asarray(ahead.loss(x)) / runs.loss[~small] - 1
        bars[name] = (
            say_relative(f"{name}, fitted", found.residuals() / runs.loss),
            say_relative(f"{name}, budgets left out in turn", out.error / runs.loss[out.rows]),
            say_relative(f"{name}, fitted to 1e21, at 3e21 and 1e22", beyond),
        )
        say_relative(f"{name}, least loss of each budget", least(found.law, budgets) / best - 1)
    optimum = float(isoflop(runs).n_params_at(3.8e25))
    say("llama 3", "n_params for 3.8e25 FLOPs, approach 2 (published 4.02e11)", optimum)
    draw_profiles(runs, fits, axis)
    draw_errors(bars, beside)


def draw_profiles(runs: RunTable, fits: dict[str, Fit], axis: Any) -> None:
    budgets = np.unique(runs["flops"])
    for budget, colour in zip(budgets, shades(len(budgets)), strict=True):
        rows = runs["flops"] == budget
        size = np.geomspace(runs["n_params"][rows].min(), runs["n_params"][rows].max(), 100)
        x = {"n_params": size, "n_tokens": budget / 6 / size}
        axis.plot(runs["n_params"][rows], runs.loss[rows], "o", color=colour, ms=3)
        axis.plot(size, fits["power of a sum"].law.loss(x), color=colour, lw=1)
        axis.plot(size, fits["Chinchilla"].law.loss(x), color=colour, lw=0.8, ls=":")
    axis.set_xscale("log")
    axis.set_xlabel("n_params")
    axis.set_ylabel("loss, as drawn")
    axis.set_title("Llama 3: power of a sum (line), Chinchilla (dots)")


def draw_errors(bars: dict[str, tuple[float, float, float]], axis: Any) -> None:
    labels = ("runs it was fitted to", "budgets left out in turn", "3e21 and 1e22 from less")
    for i, (label, colour) in enumerate(zip(labels, (BEST, BASELINE, FAINT), strict=True)):
        values = [100 * found[i] for found in bars.values()]
        axis.bar(np.arange(len(bars)) + 0.27 * (i - 1), values, 0.25, color=colour, label=label)
    axis.axhline(0.3, color=INK, lw=0.8, ls="--")
    axis.set_xticks(
        range(len(bars)), [name.replace(" and ", "\nand ").replace(" of ", "\nof ") for name in bars]
    )
    axis.set_ylabel("mean relative error, %")
    axis.set_title("Llama 3's IsoFLOPs")
    axis.legend(fontsize=7, loc="upper left")


def ladder(runs: RunTable, axis: Any) -> None:
    """The largest models from the smaller ones."""
    large = runs["n_params"] == runs["n_params"].max()
    found = fit("chinchilla", runs.take(~large), noise=Squared(space="log"), bounds={"alpha": (0.2, 0.5)})
    x = {k: runs[k][large] for k in found.law.fields}
    error = np.asarray(found.law.loss(x)) / runs.loss[large] - 1
    say(
        "olmo_ladder",
        f"mean error at {runs['n_params'].max():.2g} from smaller models",
        float(np.abs(error).mean()),
    )
    say("olmo_ladder", "worst", float(np.abs(error).max()))
    sizes = np.unique(runs["n_params"])
    for size, colour in zip(sizes, shades(len(sizes)), strict=True):
        rows = runs["n_params"] == size
        tokens = np.geomspace(runs["n_tokens"][rows].min(), runs["n_tokens"][rows].max(), 50)
        style = "--" if size == sizes[-1] else "-"
        axis.plot(runs["n_tokens"][rows], runs.loss[rows], "o", color=colour, ms=4, label=f"{size:.2g}")
        axis.plot(
            tokens,
            found.law.loss({"n_params": np.full(50, size), "n_tokens": tokens}),
            style,
            color=colour,
            lw=1,
        )
    axis.set_xscale("log")
    axis.set_xlabel("n_tokens")
    axis.set_ylabel("loss, nats")
    axis.set_title("OLMo ladder: the largest (dashed) foretold")
    axis.legend(title="n_params", fontsize=7)


SETS: dict[str, tuple[str, dict[str, str] | None, Callable[..., None], tuple[int, ...]]] = {
    "gemstones": ("gemstones/gemstones_hot.csv", None, gemstones, (2,)),
    "gadre_heads": ("gadre_heads/grid_heads.csv", None, heads, (3,)),
    "llama_context": ("llama_context/llama_isoflop_2k_8k.csv", None, context, (4,)),
    "llama 3": ("isoflops/isoflops.csv", {"experiment": "llama_3__raw_loss"}, llama_3, (0, 1)),
    "olmo_ladder": ("olmo_ladder/ladder_le_1p3B.csv", None, ladder, (5,)),
}
"""Each set's file, the rows of it, what is said of them, and the panels where it is drawn."""


def main() -> None:
    folder = public_runs()
    with figure(2, 3, size=(14.0, 7.6)) as (canvas, axes):
        for name, (path, select, work, panels) in SETS.items():
            if (folder / path).exists():
                work(load_runs(folder / path, select=select), *(axes.flat[i] for i in panels))
                continue
            print(f"{name:<16}absent: {path} is not in SCALESIM_PUBLIC_RUNS")
            for i in panels:
                axes.flat[i].set_axis_off()
        save(canvas, RESULTS / "public_sets.png")
    names = ("set", "what", "value", "low_90", "high_90")
    rows = [dict(zip(names, line, strict=True)) for line in LINES]
    write_csv(RESULTS / "public_sets.csv", [{k: v for k, v in r.items() if v == v} for r in rows])


if __name__ == "__main__":
    main()
