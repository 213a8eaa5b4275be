"""The paper's claims in numbers, each computed in every reading that its wording allows.

`python -m experiments.claims`: savings at 128K and 2.615, the loss gained at equal Z, the losses of larger
Llama-3 models, 512K, and the share of memory that is KV cache. Where no reading agrees, the summary says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, drawn_law, print_rows, shipped, write_csv
from scalesim.cost import FIGURE_1, FIGURE_2, HardwareAwareCost, paper_training_flops
from scalesim.design import PAPER, Candidate, Lattice, Problem, Query, exhaustive, stack_queries
from scalesim.families import FIGURE, TABLE, HeadRule
from scalesim.fitting import Squared
from scalesim.laws import Chinchilla, Law
from scalesim.report.figure import BASELINE, BEST, INK, figure, save

__all__ = ["main"]

LLAMA_16 = ss.Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=2048 * 8 / 3)
"""The Llama-3 GQA model of Figure 1 whose loss is 2.615."""
LOSS = 2.615
LLAMA_3 = {
    "1B": ss.Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=8192, vocab_size=128256),
    "3B": ss.Shape(
        n_layer=28, d_model=3072, n_head=24, n_kv_head=8, d_ff=8192, head_dim=128, vocab_size=128256
    ),
    "8B": ss.Shape(
        n_layer=32, d_model=4096, n_head=32, n_kv_head=8, d_ff=14336, head_dim=128, vocab_size=128256
    ),
}
"""Llama 3.2 1B and 3B and Llama 3 8B, from their published configurations."""


def job(kibi: int) -> ss.Workload:
    return ss.Workload(context_length=1024 * kibi)


def row(claim: str, how: str, published: float, ours: float, unit: str) -> Row:
    return {
        "claim": claim,
        "how": how,
        "published": published,
        "ours": ours,
        "difference": ours - published,
        "unit": unit,
    }


ONE = Lattice("(8, 1)", ((8, 1),), real=False)
"""The paper's choice alone, where units would change it."""


def savings(law: Law) -> Iterator[Row]:
    """At 128K and 2.615, (8, 1) saves 50.8% of memory and 57.8% of FLOPs against Llama-3's GQA."""
    default = ss.search(law, job(128), LOSS, lattice=PAPER)
    halved = ss.search(law, job(128), LOSS, lattice=ONE, objective=FIGURE_1)
    other = ss.search(law, job(128), LOSS, lattice=PAPER, family=TABLE)
    tries = {
        "against the 16-layer model, no halving": default.savings,
        "against GQA at exactly 2.615, no halving": default.savings_at_equal_loss,
        "against the 16-layer model, causal halving": halved.savings,
        "model-table shapes, GQA at exactly 2.615": other.savings_at_equal_loss,
        "(8, 1) of the drawn curves, 16-layer model": drawn_savings(default.baseline),
    }
    for how, saved in tries.items():
        for what, published in (("memory", 50.8), ("flops", 57.8)):
            yield row(f"{what} saved at 128K", how, published, 100 * saved[what], "%")


def drawn_savings(baseline: Candidate) -> dict[str, float]:
    """Return what (8, 1) saves at the size that its drawn curve gives."""
    query = stack_queries([Query(workload=job(128), target_loss=LOSS)])
    shape = exhaustive(Problem(law=drawn_law()), query, ONE).design.shape
    return {
        "memory": 1 - float(FIGURE_2.memory(shape, job(128)).total[0]) / baseline.memory.total,
        "flops": 1 - float(FIGURE_2.flops(shape, job(128)).total[0]) / baseline.flops.total,
    }


def equal_z(law: Law) -> Iterator[Row]:
    """At equal Z the optimum's loss is 0.117 lower than that of Llama-3's GQA at 2.615."""
    seven = [(int(n_head), int(n_kv_head)) for n_head, n_kv_head in drawn_law().labels]
    readings: dict[str, tuple[Law, Any]] = {
        "best of 21, joint law": (law, PAPER.heads),
        "(8, 1), joint law": (law, ONE.heads),
        "best of the seven drawn curves": (drawn_law(), seven),
        "(8, 1), drawn curve": (drawn_law(), ONE.heads),
    }
    for units, cost in (("Figure 2's units", FIGURE_2), ("Figure 1's units", FIGURE_1)):
        for how, (some_law, heads) in readings.items():
            reached = min(loss_at_z(some_law, cost, float(h), float(k)) for h, k in heads)
            yield row("loss gained at equal Z", f"{how}, {units}", 0.117, LOSS - reached, "nats")


def loss_at_z(law: Law, cost: HardwareAwareCost, n_head: float, n_kv_head: float) -> float:
    """Return the loss of these heads at the size whose Z is that of the 16-layer model."""
    n_params = np.geomspace(1e8, 1e10, 2000)
    z = np.asarray(cost(FIGURE.at(n_params, n_head, n_kv_head), job(128)))
    same = np.exp(np.interp(np.log(float(cost(LLAMA_16, job(128)))), np.log(z), np.log(n_params)))
    return float(law.loss({"n_params": same, "n_head": n_head, "n_kv_head": n_kv_head}))


def llama_losses(law: Law) -> Iterator[Row]:
    """Llama-3 GQA losses at 1B, 3B and 8B: 2.615, 2.448 and 2.362."""
    said = {"1B": 2.615, "3B": 2.448, "8B": 2.362}
    figure_1 = ss.load_runs("paper").take(slice(40, 46))
    power = ss.fit("power", figure_1, noise=Squared(), fixed={"E": 1.97}).law
    rule, problem = HeadRule("llama3-gqa", 8), Problem(law=law)
    for (name, published), n_params in zip(said.items(), (1e9, 3e9, 8e9), strict=True):
        heads = problem.tied_heads(rule, np.asarray(n_params))
        at = float(problem.loss_at(np.log(n_params), *heads, Query(workload=job(8), target_loss=2.6)))
        yield row(f"Llama-3 loss at {name}", f"joint law, {name} parameters", published, at, "nats")
        real = float(law(LLAMA_3[name]))
        yield row(f"Llama-3 loss at {name}", "joint law, Meta's shape", published, real, "nats")
        alone = float(power(LLAMA_3[name]))
        how = "power law of Figure 1's six models, Meta's shape"
        yield row(f"Llama-3 loss at {name}", how, published, alone, "nats")
    smallest = float(law(LLAMA_16))
    yield row("Llama-3 loss at 1B", "joint law, Figure 1's 16-layer model", 2.615, smallest, "nats")


def half_a_million(law: Law) -> Iterator[Row]:
    """At 512K the optimum needs less than 10% of the memory."""
    claim = "memory needed at 512K"
    for baseline in ("llama3-gqa", "mha"):
        design = ss.search(law, job(512), LOSS, lattice=PAPER, baseline=baseline)
        left = 100 * (1 - design.savings_at_equal_loss["memory"])
        yield row(claim, f"equal loss, 20 tokens a parameter, against {baseline}", 10.0, left, "%")
    for trained, how in ((128, "trained at 128K"), (512, "trained at 512K")):
        saved = aligned(law, trained, 512)
        yield row(claim, f"equal training FLOPs, {how}, Llama-3 GQA", 10.0, 100 * (1 - saved["memory"]), "%")


def aligned_savings(law: Law) -> Iterator[Row]:
    """With training FLOPs aligned at 128K: 88% less memory and 83% fewer FLOPs at the same loss."""
    for heads, candidates in (("best of 21", PAPER.heads), ("(8, 1)", ONE.heads)):
        saved = aligned(law, 128, 128, candidates)
        for what, published in (("memory", 88.0), ("flops", 83.0)):
            yield row(f"{what} saved, training aligned", heads, published, 100 * saved[what], "%")


def aligned(law: Law, trained_at: int, used_at: int, candidates: Any = PAPER.heads) -> dict[str, float]:
    """Return the savings of the cheapest model as good as Llama-3's GQA, given its training FLOPs.

    Our law knows 20 tokens a parameter only. The tokens' effect is Chinchilla's, L(N, D), at the size that
    makes a (32, 8) model as good at 20 tokens a parameter: an assumption that the paper does not make.
    """
    base = LLAMA_16
    tokens_law, n_base = Chinchilla(), float(ss.count_params(base, "paper"))
    budget = paper_training_flops(base, 20 * n_base, job(trained_at).context_length).total
    target = tokens_law.loss({"n_params": n_base, "n_tokens": 20 * n_base})
    n_params = np.geomspace(1e7, 3e9, 3000)
    like_base = np.asarray(law.loss({"n_params": n_params, "n_head": 32.0, "n_kv_head": 8.0}))
    found = []
    for n_head, n_kv_head in candidates:
        heads = {"n_head": float(n_head), "n_kv_head": float(n_kv_head)}
        shape = FIGURE.at(n_params, **heads)
        tokens = budget / paper_training_flops(shape, 1.0, job(trained_at).context_length).total
        mine = np.asarray(law.loss({"n_params": n_params, **heads}))
        equal_size = np.exp(np.interp(-mine, -like_base, np.log(n_params)))
        good = np.asarray(tokens_law.loss({"n_params": equal_size, "n_tokens": tokens}) <= target)
        if good.any():
            found.append(FIGURE.at(n_params[good.argmax()], **heads))
    best = min(found, key=lambda shape: float(FIGURE_2(shape, job(used_at))))

    def saved(cost: Any) -> float:
        return float(1 - cost(best, job(used_at)).total / cost(base, job(used_at)).total)

    return {"memory": saved(FIGURE_2.memory), "flops": saved(FIGURE_2.flops)}


def cache_share() -> Iterator[Row]:
    """At 128K and about 1B parameters, MHA spends about 90% of its memory on the KV cache."""
    rule = HeadRule("mha", None)
    for family in (FIGURE, TABLE):
        problem = Problem(law=shipped()["all evidence"], family=family)
        heads = problem.tied_heads(rule, np.asarray(1e9))
        memory = FIGURE_2.memory(family.at(1e9, *heads), job(128))
        how = f"{family.name} shapes, 1e9 parameters, 2 bytes for both"
        yield row("MHA's KV cache at 128K", how, 90.0, 100 * float(memory.time_variant / memory.total), "%")


def main(folder: Path = RESULTS) -> list[Row]:
    law = shipped()["all evidence"]
    with jax.enable_x64(True):
        rows = [*savings(law), *equal_z(law), *llama_losses(law), *half_a_million(law)]
        rows += [*aligned_savings(law), *cache_share()]
    order = list(dict.fromkeys(r["claim"] for r in rows))
    rows.sort(key=lambda r: order.index(r["claim"]))
    write_csv(folder / "claims.csv", rows)
    draw(folder / "claims.png", rows)
    print_rows("Claims: published beside ours, in every reading tried", rows)
    return rows


def draw(path: Path, rows: list[Row]) -> None:
    """Draw every reading of a claim on one line, the nearest filled, and the published value across it."""
    groups = {
        unit: list(dict.fromkeys(r["claim"] for r in rows if r["unit"] == unit)) for unit in ("%", "nats")
    }
    with figure(1, 2, (11.0, 4.2)) as (canvas, axes):
        for axis, claims in zip(axes, groups.values(), strict=True):
            for y, claim in enumerate(claims):
                _line(axis, y, [r for r in rows if r["claim"] == claim])
            axis.set_yticks(range(len(claims)), claims)
            axis.set_ylim(len(claims) - 0.4, -0.6)
            axis.grid(False, axis="y")
        axes[0].set(xlim=(0, 100), xlabel="per cent")
        axes[1].set(xlim=(-0.06, 0.06), xlabel="ours less published (nats)")
        handles, labels = axes[0].get_legend_handles_labels()
        canvas.legend(handles[:3], labels[:3], loc="outside lower center", ncols=3, fontsize=8)
        canvas.suptitle("The paper's claims", x=0.01, ha="left", weight="bold")
        save(canvas, path)


def _line(axis: Any, y: int, here: list[Row]) -> None:
    """Draw one claim: percentages as they are, losses as differences."""
    column, zero = ("ours", 0.0) if here[0]["unit"] == "%" else ("difference", here[0]["published"])
    nearest = min(here, key=lambda r: abs(r["difference"]))
    values = [r[column] for r in here]
    others = [r[column] for r in here if r is not nearest]
    axis.plot([min(values), max(values)], [y, y], color=INK, lw=0.8, zorder=1)
    axis.plot(
        nearest["published"] - zero, y, "|", color=BASELINE, ms=16, mew=2.5, label="published", zorder=2
    )
    axis.plot(nearest[column], y, "o", color=BEST, ms=8, mec="white", zorder=4, label="ours, nearest reading")
    axis.plot(others, [y] * len(others), "o", color="white", mec=BEST, ms=6, zorder=3, label="other readings")
    digits = 1 if here[0]["unit"] == "%" else 3
    note = f"{nearest['ours']:.{digits}f} for {nearest['published']:g}"
    middle = (nearest[column] + nearest["published"] - zero) / 2
    axis.annotate(note, (middle, y), xytext=(0, 10), textcoords="offset points", ha="center", fontsize=7.5)


if __name__ == "__main__":
    main()
