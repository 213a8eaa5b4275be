"""The paper's claim at aligned training FLOPs: the same loss, 88% less memory and 83% fewer FLOPs at 128K.

    python -m experiments.aligned_flops

Fewer heads make training at 128K cheaper, so the same FLOPs buy more tokens, and a smaller model will do. How
much smaller depends on what tokens bring, which the paper's points (all at 20 tokens a parameter) cannot
say. So a token term is borrowed, and everything assumed is varied: whose token term, how it joins the head
law, the context of training, and what is chosen by. Both laws' bootstraps go into every interval. Writes
results/aligned_flops.csv and .png, and results/aligned_flops_exact.csv: which designs have the published
savings whatever the law.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scalesim as ss
from experiments.base_laws import base_fit
from experiments.common import RESULTS, Row, print_rows, write_csv
from scalesim.cost import FIGURE_2, paper_training_flops
from scalesim.design import PAPER
from scalesim.families import FIGURE, TABLE, ShapeFamily
from scalesim.fitting.predict import evidence_ranges
from scalesim.laws import Chinchilla
from scalesim.report.figure import BASELINE, BEST, INK, figure, paler, save

__all__ = ["main"]

BASE = ss.Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=2048 * 8 / 3)
"""Figure 1's Llama-3 GQA model of loss 2.615: what both savings are taken against."""
JOB = ss.Workload(context_length=128 * 1024)
PUBLISHED = {"memory": 88.0, "flops": 83.0}
LOSS = 2.615
PUBLISHED_SIZE = 1.667e8
"""Parameters of the (8, 1) model that has both published savings: see `exact`, which finds it."""
SIZES = np.geomspace(1e7, 4e9, 1200)
HOFFMANN = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
"""Hoffmann et al., arXiv 2203.15556, approach 3 as published: no uncertainty that can be used."""


@dataclass(frozen=True)
class Assumed:
    """One way to read the claim.

    Attributes:
        tokens: whose token term: "chinchilla", "llama3" or "hoffmann".
        joined: how it joins the head law; see `loss_at`.
        trained_at: tokens of a training sequence, in K.
        chosen_by: "Z" (the least at serving), "8,1" (the paper's choice at this loss), or "memory".
        family: depth and width by size.
    """

    tokens: str = "chinchilla"
    joined: str = "factor"
    trained_at: int = 128
    chosen_by: str = "Z"
    family: ShapeFamily = FIGURE


MAIN = Assumed()
VARIANTS = [
    *(
        Assumed(tokens=tokens, joined=joined, chosen_by=by)
        for joined, tokens, by in itertools.product(
            ("factor", "size", "reducible"), ("chinchilla", "llama3", "hoffmann"), ("Z", "8,1")
        )
    ),
    *(Assumed(trained_at=k) for k in (8, 32)),
    Assumed(chosen_by="memory"),
    Assumed(family=TABLE),
]


def loss_at(how: str, head: Any, tokens: Any, n_params: Any, heads: Any, n_tokens: Any) -> Any:
    """Return the loss of sizes (K, S) with their heads (K, 1) on n_tokens, up to the token law's own scale.

    reducible: E + (Lh(N, h) - E) (Lt(N, D) - E') / (Lt(N, 20 N) - E'): what the head law says at 20 tokens a
        parameter, its reducible part moved by tokens as the token law's is. (With whole losses for reducible
        ones this has no least size: the token law falls by more than all that the head law has to lose.)
    factor: Lt(N, D) Lh(N, h) / Lh(N, 32 : 8): the token law, moved by heads.
    size: Lt(N', D) at the size N' that a 32 : 8 model needs to be as good as (N, h) at 20 tokens a
    parameter.
    """
    n_head, n_kv_head = heads
    mine = head.loss({"n_params": n_params, "n_head": n_head, "n_kv_head": n_kv_head})
    like_base = head.loss({"n_params": n_params, "n_head": 32.0, "n_kv_head": 8.0})
    if how == "reducible":
        usual = tokens.loss({"n_params": n_params, "n_tokens": 20 * n_params}) - tokens.E
        moved = tokens.loss({"n_params": n_params, "n_tokens": n_tokens}) - tokens.E
        return head.E + (mine - head.E) * moved / usual
    if how == "factor":
        return tokens.loss({"n_params": n_params, "n_tokens": n_tokens}) * mine / like_base
    grid = jnp.geomspace(1e6, 1e11, 400)
    ladder = head.loss({"n_params": grid, "n_head": 32.0, "n_kv_head": 8.0})
    alike = jnp.exp(jnp.interp(-mine, -ladder, jnp.log(grid)))
    return tokens.loss({"n_params": alike, "n_tokens": n_tokens})


def laws_of(tokens: str) -> tuple[Any, Any, int]:
    """Return the fitted pair and R resampled pairs of head law and token law, as two stacked laws."""
    head = ss.named_fit("paper")
    base: Any = None if tokens == "hoffmann" else base_fit(tokens)
    law = HOFFMANN if base is None else base.law
    count = len(head.resamples) if base is None else min(len(head.resamples), len(base.resamples))
    heads = head.resamples.laws(head.law, count)
    if base is None:
        drawn = jax.tree.map(lambda leaf: np.full(count, float(leaf)), law)
    else:
        drawn = base.resamples.laws(base.law, count)
    first = jax.tree.map(lambda a, b: np.concatenate([[float(a)], b]), head.law, heads)
    second = jax.tree.map(lambda a, b: np.concatenate([[float(a)], b]), law, drawn)
    return first, second, count


def savings(assumed: Assumed) -> dict[str, np.ndarray]:
    """Return, of the fitted laws and then of each resample, the savings, the choice and its training."""
    heads = np.asarray(PAPER.heads, float)
    if assumed.chosen_by == "8,1":
        heads = heads[[PAPER.heads.index((8, 1))]]
    n_head, n_kv_head = heads[:, :1], heads[:, 1:]
    context = 1024.0 * assumed.trained_at
    with jax.enable_x64(True):
        shapes = assumed.family.at(SIZES[None], n_head, n_kv_head)
        budget = paper_training_flops(BASE, 20.0 * ss.count_params(BASE, "paper"), context).total
        n_tokens = budget / paper_training_flops(shapes, 1.0, context).total
        first, second, _ = laws_of(assumed.tokens)

        def margin(head: Any, tokens: Any) -> Any:
            """Loss of each size and configuration over the baseline's, less 1: what must come down to 0."""
            own = np.asarray([[float(ss.count_params(BASE, "paper"))]])
            usual = (np.array([[32.0]]), np.array([[8.0]]))
            base = loss_at(assumed.joined, head, tokens, own, usual, 20 * own)
            loss = loss_at(assumed.joined, head, tokens, SIZES[None], (n_head, n_kv_head), n_tokens)
            return loss / base - 1

        excess = np.asarray(jax.jit(jax.vmap(margin))(first, second))
        measures = {
            "memory": np.asarray(FIGURE_2.memory(shapes, JOB).total),
            "flops": np.asarray(FIGURE_2.flops(shapes, JOB).total),
            "Z": np.asarray(FIGURE_2(shapes, JOB)),
            "tokens": np.asarray(n_tokens),
            "n_params": np.broadcast_to(SIZES, n_tokens.shape),
        }
    at = {name: _at_crossing(excess, values) for name, values in measures.items()}
    by = at["memory" if assumed.chosen_by == "memory" else "Z"]
    best = np.nanargmin(np.where(np.isnan(by), np.inf, by), axis=1)
    rows = np.arange(len(best))
    found = {name: values[rows, best] for name, values in at.items()}
    return {
        "memory": 100 * (1 - found["memory"] / float(FIGURE_2.memory(BASE, JOB).total)),
        "flops": 100 * (1 - found["flops"] / float(FIGURE_2.flops(BASE, JOB).total)),
        "n_params": found["n_params"],
        "tokens_per_param": found["tokens"] / found["n_params"],
        "tokens": found["tokens"],
        "choice": heads[best],
        "published": LOSS
        * np.array([np.interp(np.log(PUBLISHED_SIZE), np.log(SIZES), row[-1]) for row in excess]),
    }


def _at_crossing(excess: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values (K, S) where each law's excess (R, K, S) first comes down to 0, (R, K); nan if it never
    does.

    Or if it is below already at the least size: then the crossing is not among the sizes looked at.
    """
    good = excess <= 0
    i = np.clip(good.argmax(axis=2), 1, None)
    upper = np.take_along_axis(excess, i[..., None], 2)[..., 0]
    lower = np.take_along_axis(excess, i[..., None] - 1, 2)[..., 0]
    share = np.clip(lower / (lower - upper), 0.0, 1.0)
    logs = np.log(values)
    k = np.arange(len(values))[None]
    between = np.exp((1 - share) * logs[k, i - 1] + share * logs[k, i])
    return np.where(good.any(axis=2) & ~good[..., 0], between, np.nan)


def row(assumed: Assumed) -> Row:
    """Return one reading of the claim: the fitted laws' savings, and their 90% interval."""
    found = savings(assumed)
    own_tokens = 20.0 * float(ss.count_params(BASE, "paper"))
    line: dict[str, Any] = {
        "tokens_from": assumed.tokens,
        "joined": assumed.joined,
        "trained_at_K": assumed.trained_at,
        "chosen_by": assumed.chosen_by,
        "family": assumed.family.name,
        "heads": "{:g} : {:g}".format(*found["choice"][0]),
        "same_heads_in_resamples": float((found["choice"][1:] == found["choice"][0]).all(axis=1).mean()),
        "n_params": found["n_params"][0],
        "tokens_per_param": found["tokens_per_param"][0],
        "tokens_over_baseline": found["tokens"][0] / own_tokens,
    }
    if assumed.chosen_by == "8,1":
        low, high = np.quantile(found["published"][1:], [0.05, 0.95])
        line |= {"published_design_nats": found["published"][0], "nats_low": low, "nats_high": high}
    for what, published in PUBLISHED.items():
        low, high = np.nanquantile(found[what][1:], [0.05, 0.95])
        line |= {
            f"{what}_published": published,
            f"{what}_saved": found[what][0],
            f"{what}_low": low,
            f"{what}_high": high,
            f"{what}_in_interval": bool(low <= published <= high),
        }
    return line


def exact() -> list[Row]:
    """Return what each configuration's FLOPs saving is at the size where it saves exactly 88% of memory."""
    rows = []
    memory, flops = (float(cost(BASE, JOB).total) for cost in (FIGURE_2.memory, FIGURE_2.flops))
    law, n_base = ss.named_fit("paper").law, float(ss.count_params(BASE, "paper"))
    budget = paper_training_flops(BASE, 20.0 * n_base, 131072.0).total
    with jax.enable_x64(True):
        for n_head, n_kv_head in PAPER.heads:
            shapes = FIGURE.at(SIZES, float(n_head), float(n_kv_head))
            costs = (FIGURE_2.memory, FIGURE_2.flops)
            log_m, log_f = (np.log(np.asarray(cost(shapes, JOB).total)) for cost in costs)
            wanted = np.log((1 - PUBLISHED["memory"] / 100) * memory)
            if not log_m[0] <= wanted <= log_m[-1]:
                continue
            size = np.exp(np.interp(wanted, log_m, np.log(SIZES)))
            saved = 100 * (1 - np.exp(np.interp(wanted, log_m, log_f)) / flops)
            shape = FIGURE.at(size, float(n_head), float(n_kv_head))
            at_20 = float(law.loss({"n_params": size, "n_head": n_head, "n_kv_head": n_kv_head}))
            rows.append(
                {
                    "n_head": n_head,
                    "n_kv_head": n_kv_head,
                    "n_params": size,
                    "memory_saved": PUBLISHED["memory"],
                    "flops_saved": saved,
                    "off_published": saved - PUBLISHED["flops"],
                    "loss_at_20_tokens_a_parameter": at_20,
                    "tokens_per_param": float(budget / paper_training_flops(shape, size, 131072.0).total),
                }
            )
    return sorted(rows, key=lambda r: abs(r["off_published"]))


def main(folder: Path = RESULTS) -> list[Row]:
    rows = [row(assumed) for assumed in VARIANTS]
    write_csv(folder / "aligned_flops.csv", rows)
    write_csv(folder / "aligned_flops_exact.csv", exact())
    draw(folder / "aligned_flops.png", rows)
    shown = ("tokens_from", "joined", "trained_at_K", "chosen_by", "heads", "n_params", "tokens_per_param")
    nats = ("published_design_nats", "nats_low", "nats_high")
    spans = [f"{what}_{part}" for what in PUBLISHED for part in ("saved", "low", "high")]
    title = "At aligned training FLOPs (published: 88% of memory, 83% of FLOPs)"
    print_rows(title, rows, [*shown, *spans])
    print_rows(
        "Loss of the published design less the baseline's, nats", rows, ["tokens_from", "joined", *nats]
    )
    print_rows("Configurations that save 88% of memory, by how near their FLOPs are", exact()[:6])
    for name in ("chinchilla", "llama3"):
        ranges = evidence_ranges(base_fit(name))
        print(f"{name}: measured on {ranges['n_params']} parameters, {ranges['n_tokens']} tokens")
    return rows


def _label(r: Row) -> str:
    joined = {
        "factor": "token law x head factor",
        "size": "the size that heads stand for",
        "reducible": "reducible part x tokens",
    }
    label = f"{joined[r['joined']]}, {r['tokens_from']}"
    if r["trained_at_K"] != MAIN.trained_at:
        label += f"; trained at {r['trained_at_K']}K"
    if r["chosen_by"] == "memory":
        label += "; least memory"
    if r["family"] != MAIN.family.name:
        label += "; model-table shapes"
    return label


def draw(path: Path, rows: list[Row]) -> None:
    """Draw both savings of every reading with their intervals, and what the published design would lose."""
    labels = list(dict.fromkeys(_label(r) for r in rows))
    panels = [("memory", "% of serving memory saved"), ("flops", "% of serving FLOPs saved")]
    with figure(1, 3, (12.5, 5.4), sharey=True, width_ratios=(1.0, 1.0, 0.8)) as (canvas, axes):
        for axis, (what, name) in zip(axes, panels, strict=False):
            axis.axvline(PUBLISHED[what], color=BASELINE, lw=1.6, zorder=1, label="published")
            for r in rows:
                own = r["chosen_by"] == "8,1"
                y = labels.index(_label(r)) + (0.17 if own else -0.17)
                _point(axis, y, [r[f"{what}_{part}"] for part in ("saved", "low", "high")], own, r["heads"])
            axis.set(xlim=(37, 100), xlabel=name)
        last = axes[2]
        last.axvline(0, color=BASELINE, lw=1.6, zorder=1)
        for r in rows:
            if "published_design_nats" in r:
                y = labels.index(_label(r))
                values = [r[key] for key in ("published_design_nats", "nats_low", "nats_high")]
                _point(last, y, values, True, f"{values[0]:+.3f}")
        last.set(xlim=(-0.15, 0.16), xlabel="nats above the baseline")
        last.set_title(f"8 : 1 at {PUBLISHED_SIZE / 1e6:.0f}M")
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set_ylim(len(labels) - 0.4, -0.6)
        axes[0].set_title("The same loss at the training FLOPs of Llama-3's GQA, served at 128K")
        _legend(canvas, axes[0])
        save(canvas, path)


def _point(axis: Any, y: float, values: list[float], own: bool, note: str) -> None:
    """Draw a figure with its interval, and a word to the left of it."""
    colour = INK if own else BEST
    value, low, high = values
    axis.plot([low, high], [y, y], color=paler(colour, 0.6), lw=5, solid_capstyle="butt", zorder=2)
    axis.plot(value, y, "D" if own else "o", color=colour, ms=5 if own else 6.5, mec="white", zorder=3)
    axis.annotate(
        note,
        (min(low, value), y),
        xytext=(-7, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=7,
        color=colour,
        bbox={"fc": "white", "ec": "none", "pad": 0.8},
        zorder=2.5,
    )
    axis.grid(False, axis="y")


def _legend(canvas: Any, axis: Any) -> None:
    for marker, colour, words in (("o", BEST, "ours, heads of least Z"), ("D", INK, "ours, 8 : 1")):
        axis.plot([], [], marker, color=colour, ms=6, label=f"{words}; bars hold 90%")
    handles, labels = axis.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)


if __name__ == "__main__":
    main()
