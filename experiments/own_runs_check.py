"""The loop closed at small scale: our own runs predict the largest size; a design is searched and trained.

    python -m experiments.own_runs_check              # from the shipped table; trains four models (minutes)
    python -m experiments.own_runs_check --no-train   # the prediction alone

Four steps. (1) Laws are compared on the three smaller sizes alone: fitted to two, scored on the third.
(2) The best predicts the largest size, which took no part in the choice. (3) Fitted to all runs, it is
searched at 16 times the trained context for the cheapest design that reaches the baseline's predicted loss.
(4) Design and baseline are trained with seeds that no run had, and everything predicted is measured: loss,
parameters and KV bytes (real arrays), FLOPs (XLA's count), prefill and decode time.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, machine_load, print_rows, write_csv
from scalesim.cost import HardwareAwareCost
from scalesim.cost.calibration import Timing, calibrate
from scalesim.cost.flops import forward_flops
from scalesim.cost.memory import kv_cache_bytes
from scalesim.families import ShapeFamily
from scalesim.fit import Fit, Squared, predict
from scalesim.fit.bootstrap import with_bootstrap
from scalesim.hardware import Hardware
from scalesim.laws import Grouped
from scalesim.model import ModelOptions, empty_cache, extend, forward, init_params
from scalesim.search.lattice import buildable
from scalesim.shape import Shape, count_params
from scalesim.train import Recipe, TrainConfig, load_corpus
from scalesim.train.grid import Grid, run_grid
from scalesim.train.peak import measured_peak

LAWS = ("power", "separablehead", "additivehead", "squashedhead")
CONTEXT, TOKENS, BATCH = 128, 1_048_576, 1024
SEEDS = (10, 11)
SERVED = 2048  # 16 times the trained context, as 128K is of the paper's 8K: losses are taken to rank alike
LONG = (128, 2048, 8192)
OUT = Path("out/own_runs_check")


def fitted(law: str, runs: ss.RunTable) -> Fit:
    """Fit a law with a floor and an amplitude of its own for each context, heads and exponent shared."""
    own = ("E", "A") if law != "power" else ("E", "a")
    by = ("context_length",)
    return ss.fit(law, runs, per_group=own, by=by, noise=Squared(0.01), bounds={"E": (0.3, 1.5)})


def x_of(runs: ss.RunTable, fit: Fit) -> dict[str, np.ndarray]:
    return {name: runs[name] for name in fit.law.fields}


def sizes(runs: ss.RunTable) -> np.ndarray:
    """Return each row's size class, 0 the smallest: told by depth and width."""
    keys = runs["n_layer"] * 1e6 + runs["d_model"]
    return np.searchsorted(np.unique(keys), keys)


def chosen_law(small: ss.RunTable) -> tuple[str, list[dict[str, Any]]]:
    """Fit each law to all but the largest of the small sizes, and score it there; return the best's name."""
    size = sizes(small)
    rest, last = small.take(size < size.max()), small.take(size == size.max())
    rows = []
    for law in LAWS:
        fit = fitted(law, rest)
        error = np.asarray(fit.law.loss(x_of(last, fit))) - last.loss
        rows.append(
            {
                "law": law,
                "fit_rms": fit.rms,
                "next_size_rms": float(np.sqrt(np.mean(error**2))),
                "next_size_mean_percent": 100 * float(np.mean(np.abs(error) / last.loss)),
                "status": fit.status,
            }
        )
    best = min(range(len(rows)), key=lambda i: float(str(rows[i]["next_size_rms"])))
    return LAWS[best], rows


def seed_noise(runs: ss.RunTable) -> float:
    """Return the standard deviation of runs that differ in seed alone, nats."""
    names = ("n_layer", "d_model", "n_head", "n_kv_head", "context_length")
    keys = np.stack([runs[n] for n in names], axis=1)
    variances, degrees = [], []
    for key in np.unique(keys, axis=0):
        losses = runs.loss[(keys == key).all(axis=1)]
        if len(losses) > 1:
            variances.append(losses.var(ddof=1) * (len(losses) - 1))
            degrees.append(len(losses) - 1)
    return float(np.sqrt(sum(variances) / sum(degrees))) if degrees else float("nan")


def over_seeds(runs: ss.RunTable) -> tuple[ss.RunTable, np.ndarray]:
    """Return one row a model with the mean loss of its seeds, and how many those are."""
    keys = np.stack([runs[n] for n in ("n_head", "n_kv_head", "context_length")], axis=1)
    _, first, row, count = np.unique(keys, axis=0, return_index=True, return_inverse=True, return_counts=True)
    mean = np.bincount(row.reshape(-1), weights=runs.loss) / count
    one = runs.take(first)
    return ss.RunTable(one.columns, mean, group=one.group, source=runs.source), count


def prediction(runs: ss.RunTable) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Predict the largest size from the others; return a row a run, and the summary."""
    size = sizes(runs)
    small, large = runs.take(size < size.max()), runs.take(size == size.max())
    law, table = chosen_law(small)
    print_rows("Fitted to the two smallest sizes, scored on the third", table)
    fit = with_bootstrap(fitted(law, small), 500)
    large, seeds = over_seeds(large)
    told = predict(fit, x_of(large, fit))
    rows = [
        {
            **{n: int(large[n][i]) for n in ("n_head", "n_kv_head", "context_length", "n_params")},
            "seeds": int(seeds[i]),
            "loss": large.loss[i],
            "predicted": told.loss[i],
            "run_low": told.run_low[i],
            "run_high": told.run_high[i],
            "error_percent": 100 * (told.loss[i] / large.loss[i] - 1),
            "inside": bool(told.run_low[i] <= large.loss[i] <= told.run_high[i]),
        }
        for i in range(len(large))
    ]
    noise = seed_noise(runs)
    right = total = 0
    for a, b in itertools.combinations(rows, 2):
        gap, apart = a["loss"] - b["loss"], noise * np.sqrt(1 / a["seeds"] + 1 / b["seeds"])
        if a["context_length"] == b["context_length"] and abs(gap) > apart:
            total += 1
            right += (a["predicted"] - b["predicted"]) * gap > 0
    summary = {
        "law": law,
        "seed_noise_nats": noise,
        "mean_error_percent": float(np.mean([abs(r["error_percent"]) for r in rows])),
        "worst_error_percent": float(np.max([abs(r["error_percent"]) for r in rows])),
        "inside_90": f"{sum(r['inside'] for r in rows)} of {len(rows)}",
        "pairs_ordered_right": f"{right} of {total}",
    }
    return rows, summary


def own_family(runs: ss.RunTable) -> ShapeFamily:
    """Return the aspect ratios of our own sizes, at one size each."""
    knots = {}
    for depth, width in sorted({(a, b) for a, b in zip(runs["n_layer"], runs["d_model"], strict=True)}):
        same = (runs["n_layer"] == depth) & (runs["d_model"] == width)
        knots[float(np.log(np.median(runs["n_params"][same])))] = float(width / depth)
    return ShapeFamily("our own runs", tuple(knots), tuple(knots.values()), head_dim=8, vocab_size=256)


def searched(runs: ss.RunTable, law: str) -> tuple[Any, Shape]:
    """Return the cheapest design for the loss of the third size with 16:4 heads, and that size."""
    fit = fitted(law, runs)
    assert isinstance(fit.law, Grouped)
    member = fit.law.member(fit.law.index(context_length=float(CONTEXT)))
    baseline = Shape(
        n_layer=4,
        d_model=88,
        n_head=16,
        n_kv_head=4,
        head_dim=8,
        d_ff=232,
        vocab_size=256,
        tied_embeddings=True,
    )
    target = float(
        member.loss({"n_params": count_params(baseline, "paper"), "n_head": 16.0, "n_kv_head": 4.0})
    )
    best = ss.search(
        member,
        ss.Workload(context_length=SERVED),
        target,
        objective=HardwareAwareCost(),
        family=own_family(runs),
        lattice=buildable(16, tile=8),
        baseline=baseline,
    )
    return best, baseline


def real(shape: Shape) -> Shape:
    """Return a design with whole numbers for sizes."""
    names = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
    whole: dict[str, Any] = {n: round(float(getattr(shape, n))) for n in names}
    return replace(shape, **whole)


def trained(shapes: dict[str, Shape], rates: dict[str, float]) -> dict[str, list[float]]:
    """Train each shape with the held-out seeds; finished runs are read, not trained again."""
    corpus = load_corpus()
    configs = {
        (name, seed): TrainConfig(
            shape=shape,
            context_length=CONTEXT,
            n_tokens=TOKENS,
            batch_tokens=BATCH,
            learning_rate=rates[name],
            seed=seed,
            recipe=Recipe(),
        )
        for name, shape in shapes.items()
        for seed in SEEDS
    }
    table = run_grid(Grid(tuple(configs.values()), "stdlib", OUT), progress=_say)
    import csv

    with table.open() as file:
        found = {row["run_id"]: float(row["loss"]) for row in csv.DictReader(file)}
    return {name: [found[configs[name, seed].run_id(corpus.hash)] for seed in SEEDS] for name in shapes}


def _say(progress: Any) -> None:
    if progress.last is not None:
        print(f"{progress.finished} of {progress.runs}: loss {progress.last['loss']:.4f}", flush=True)


def learning_rate(runs_csv: Path, n_params: float) -> float:
    """Return the learning rate between those tuned for the sizes, linear in logs."""
    import csv

    with runs_csv.open() as file:
        rows = list(csv.DictReader(file))
    pairs = sorted({(float(r["d_model"]), float(r["learning_rate"])) for r in rows})
    widths = {d: [float(r["n_params"]) for r in rows if float(r["d_model"]) == d] for d, _ in pairs}
    x = [np.log(np.median(widths[d])) for d, _ in pairs]
    return float(np.exp(np.interp(np.log(n_params), x, [np.log(rate) for _, rate in pairs])))


def best_time(function: Any, *args: Any, repeats: int = 20) -> float:
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - began)
    return min(times)


def measured(shape: Shape) -> dict[str, float]:
    """Measure a shape's parameters, KV bytes, FLOPs and times, beside what the cost model says."""
    params = init_params(shape, jax.random.key(0))
    flops_options = ModelOptions(attention="xla", unroll=shape.n_layer)
    text = jnp.zeros((1, CONTEXT), jnp.int32)
    compiled = jax.jit(lambda p, t: forward(p, t, shape, flops_options)).lower(params, text).compile()
    found: dict[str, float] = {
        "n_params": sum(v.size for v in params.values()),
        "n_params_predicted": count_params(shape, "total"),
        "flops": dict(compiled.cost_analysis() or {})["flops"],
        "flops_predicted": forward_flops(shape, CONTEXT, causal=False).total,
    }
    for length in LONG:
        cache = empty_cache(shape, length, 1)
        found[f"kv_bytes_{length}"] = sum(x.nbytes for x in jax.tree.leaves(cache))
        found[f"kv_bytes_{length}_predicted"] = kv_cache_bytes(shape, length, kv_bits=32)
        one = jax.jit(lambda p, c, n, t: extend(p, c, n, t, shape))
        found[f"decode_s_{length}"] = best_time(one, params, cache, length - 1, text[:, :1])
        prompt = jnp.zeros((1, length), jnp.int32)
        whole = jax.jit(lambda p, t: forward(p, t, shape)[:, -1])
        found[f"prefill_s_{length}"] = best_time(whole, params, prompt)
    return found


def plot(rows: list[dict[str, Any]], summary: dict[str, Any], checked: list[dict[str, Any]]) -> None:
    figure, axes = plt.subplots(1, 2 if checked else 1, figsize=(11 if checked else 6, 4.4), squeeze=False)
    _plot_prediction(axes[0, 0], rows, summary)
    if checked:
        _plot_check(axes[0, 1], checked)
    figure.tight_layout()
    figure.savefig(RESULTS / "own_runs_check.png", dpi=150)


def _plot_prediction(axis: Any, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    contexts = sorted({r["context_length"] for r in rows})
    for context, colour in zip(contexts, ("tab:blue", "tab:orange"), strict=False):
        mine = [r for r in rows if r["context_length"] == context]
        loss, told = ([r[k] for r in mine] for k in ("loss", "predicted"))
        bars = [[r["predicted"] - r["run_low"] for r in mine], [r["run_high"] - r["predicted"] for r in mine]]
        axis.errorbar(loss, told, yerr=bars, fmt="o", color=colour, label=f"context {context}", capsize=3)
        for r in mine:
            place = {"xy": (r["loss"], r["predicted"]), "xytext": (6, -10), "textcoords": "offset points"}
            axis.annotate(f"{r['n_head']}:{r['n_kv_head']}", fontsize=8, color=colour, **place)
    ends = axis.get_xlim()
    axis.plot(ends, ends, color="0.6", lw=1, zorder=0, label="equal")
    axis.set(
        xlabel="measured loss, nats a byte (mean over seeds)",
        ylabel="predicted from the three smaller sizes",
        title=f"The largest size: mean error {summary['mean_error_percent']:.2f}% (bars: 90% of runs)",
    )
    axis.legend(frameon=False)


def _plot_check(axis: Any, checked: list[dict[str, Any]]) -> None:
    place = np.arange(len(checked))
    told = [np.nan if r["ratio_predicted"] is None else r["ratio_predicted"] for r in checked]
    axis.barh(place - 0.2, [r["ratio_measured"] for r in checked], 0.4, label="measured", color="tab:blue")
    axis.barh(place + 0.2, told, 0.4, label="predicted", color="0.7")
    axis.axvline(1.0, color="0.3", lw=1)
    axis.set_yticks(place, [r["quantity"].replace("_", " ") for r in checked])
    axis.invert_yaxis()
    axis.set_xlim(0, 2)
    for y, value in zip(place, told, strict=True):
        if value > 2:
            axis.annotate(f"{value:.1f}", (1.98, y + 0.2), ha="right", va="center", fontsize=8)
    axis.set(xlabel="design / baseline", title="The searched design beside the baseline")
    axis.legend(frameon=False)


def this_machine(shape: Shape, times: dict[str, float]) -> Hardware:
    """Return the processor as the cost model sees one, calibrated to one model's own times.

    Its matrix rate and its bandwidth are measured here; the constants start from those of an H100.
    """
    x = jnp.ones(2**26, jnp.float32)
    copied = 2 * x.nbytes / best_time(jax.jit(lambda x: x + 1.0), x, repeats=5)
    rates = {"bf16_tflops": measured_peak() / 1e12, "bandwidth_gbs": copied / 1e9}
    hardware = Hardware.from_dict({"name": "this processor", "memory_gb": 16, **rates})
    return calibrate(list(timings(shape, times)), hardware).hardware


def timings(shape: Shape, times: dict[str, float]) -> Iterator[Timing]:
    for length in LONG:
        job = ss.Workload(context_length=length, weight_bits=32, activation_bits=32, kv_bits=32)
        yield Timing(shape=shape, workload=job, seconds=times[f"prefill_s_{length}"], what="ttft")
        yield Timing(shape=shape, workload=job, seconds=times[f"decode_s_{length}"], what="tpot")


def compared(
    design: Shape, baseline: Shape, losses: dict[str, list[float]], predicted: dict[str, float]
) -> list[dict[str, Any]]:
    """Return design over baseline, measured and predicted, quantity by quantity."""
    ours, theirs = measured(design), measured(baseline)
    # Times: the machine is calibrated to the baseline's, and the design's are predicted with it.
    machine = this_machine(baseline, theirs)
    for timing, (kind, length) in zip(
        timings(design, ours), ((k, n) for n in LONG for k in ("prefill_s", "decode_s")), strict=True
    ):
        ours[f"{kind}_{length}_predicted"] = float(timing.predict(machine))
        theirs[f"{kind}_{length}_predicted"] = theirs[f"{kind}_{length}"]
    rows = [
        {
            "quantity": "loss",
            "design": np.mean(losses["design"]),
            "baseline": np.mean(losses["baseline"]),
            "ratio_measured": np.mean(losses["design"]) / np.mean(losses["baseline"]),
            "ratio_predicted": predicted["design"] / predicted["baseline"],
        }
    ]
    for name in (
        "n_params",
        "flops",
        *(f"{k}_{n}" for k in ("kv_bytes", "prefill_s", "decode_s") for n in LONG),
    ):
        told = f"{name}_predicted"
        rows.append(
            {
                "quantity": name,
                "design": ours[name],
                "baseline": theirs[name],
                "ratio_measured": ours[name] / theirs[name],
                "ratio_predicted": ours[told] / theirs[told] if told in ours else None,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-train", action="store_true")
    options = parser.parse_args()
    runs = ss.load_runs("own")
    rows, summary = prediction(runs)
    print_rows("The largest size, predicted from the others", rows)
    print(summary)
    write_csv(RESULTS / "own_runs_prediction.csv", rows)
    checked: list[dict[str, Any]] = []
    if not options.no_train:
        best, baseline = searched(runs, summary["law"] if summary["law"] != "power" else "separablehead")
        design = real(best.shape)
        print(f"design {design}\nbaseline {baseline}\n{best.status}")
        table = Path(ss.data.__file__).parent / "own_runs.csv"
        rates = {
            name: learning_rate(table, float(count_params(shape, "non_embedding")))
            for name, shape in (("design", design), ("baseline", baseline))
        }
        losses = trained({"design": design, "baseline": baseline}, rates)
        told = {"design": float(best.best.loss), "baseline": float(best.target_loss)}
        checked = compared(design, baseline, losses, told)
        print_rows("Design over baseline", checked)
        print(f"losses {losses}, predicted {told}")
        write_csv(RESULTS / "own_runs_check.csv", checked)
    plot(rows, summary, checked)
    print(f"load {machine_load()}")


if __name__ == "__main__":
    main()
