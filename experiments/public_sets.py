"""What the engine says of public runs: Gemstones, head counts, context, IsoFLOPs, the OLMo ladder.

    python -m experiments.public_sets

Writes results/public_sets.csv. The tables are not part of the project: they are looked for in
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
from scalesim.fit import Squared, bootstrap, compare, fit, isoflop
from scalesim.laws import Chinchilla, Constant, ContextPower, Gemstones, law_from_function

LINES: list[tuple[str, str, float, float, float]] = []


def say(name: str, what: str, value: float, low: float = float("nan"), high: float = float("nan")) -> None:
    LINES.append((name, what, value, low, high))
    interval = "" if np.isnan(low) else f"  (90%: {low:.4g} .. {high:.4g})"
    print(f"{name:<16}{what:<68}{value:>10.4g}{interval}", flush=True)


def gemstones(runs: RunTable) -> None:
    """Width and depth against plain N and D, leaving a run out."""
    table = compare([Chinchilla(), Gemstones()], runs.take(runs["n_tokens"] > 1e10))
    for score in table.scores:
        say("gemstones", f"{score.name}: rms on runs left out, nats", score.held_out)
    worse = table.scores[1].worse_by
    say(
        "gemstones",
        f"{table.scores[1].name}: held-out square error more than the best's",
        worse[1],
        worse[0],
        worse[2],
    )


def heads(runs: RunTable) -> None:
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


def slope_in_heads(n_head: Any, E: Any, s: Any) -> Any:
    """Return E + s log2(n_head)."""
    return E + s * jnp.log2(n_head)


def context(runs: RunTable) -> None:
    """Loss against the context it was trained and measured at, N and D being equal."""
    runs = runs.take(runs.loss < 5)
    found = fit(Chinchilla() * ContextPower(), runs)
    spread = bootstrap(found, 500)
    low, high = spread.intervals()["other.c"]
    say("llama_context", "c in (T / 8192)^-c", found.coefficients["other.c"], low, high)
    say("llama_context", "rms with the context's factor, nats", found.rms)
    say("llama_context", "rms without, nats", fit("chinchilla", runs).rms)


def llama_3(runs: RunTable) -> None:
    """Chinchilla's law and the IsoFLOP exponent on Llama 3's budgets."""
    found = fit("chinchilla", runs)
    error = np.abs(found.residuals() / runs.loss)
    say("llama 3", "relative error, median", float(np.median(error)))
    say("llama 3", "relative error, mean", float(error.mean()))
    say("llama 3", "relative error, rms", float(np.sqrt(np.mean(error**2))))
    say(
        "llama 3",
        "n_params for 3.8e25 FLOPs, approach 2 (published 4.02e11)",
        float(isoflop(runs).n_params_at(3.8e25)),
    )


def ladder(runs: RunTable) -> None:
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


SETS: dict[str, tuple[str, dict[str, str] | None, Callable[[RunTable], None]]] = {
    "gemstones": ("gemstones/gemstones_hot.csv", None, gemstones),
    "gadre_heads": ("gadre_heads/grid_heads.csv", None, heads),
    "llama_context": ("llama_context/llama_isoflop_2k_8k.csv", None, context),
    "llama 3": ("isoflops/isoflops.csv", {"experiment": "llama_3__raw_loss"}, llama_3),
    "olmo_ladder": ("olmo_ladder/ladder_le_1p3B.csv", None, ladder),
}


def main() -> None:
    folder = public_runs()
    for name, (path, select, work) in SETS.items():
        if not (folder / path).exists():
            print(f"{name:<16}absent: {path} is not in SCALESIM_PUBLIC_RUNS")
            continue
        work(load_runs(folder / path, select=select))
    names = ("set", "what", "value", "low_90", "high_90")
    rows = [dict(zip(names, line, strict=True)) for line in LINES]
    write_csv(RESULTS / "public_sets.csv", [{k: v for k, v in r.items() if v == v} for r in rows])


if __name__ == "__main__":
    main()
