"""This machine measured by its kernels, and whole models that took no part predicted by them.

    taskset -c 0 python -m experiments.this_machine     # on one core; without taskset on all

`ss.measure_hardware` times kernels and fits the engine's constants to its reference models; the shapes below
are neither. Prefill and decode of each are then timed in the same process, on the same cores. Writes
results/this_machine.csv and .png.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, machine_load, print_rows, write_csv
from scalesim.measure import Measured, time_models
from scalesim.report.figure import BASELINE, BEST, FAINT, figure, plain_log_axis, save
from scalesim.shape import Shape

# Layers, width, query heads, KV heads, head size, FFN width: 20 thousand to 30 million parameters.
SIZES = (
    (1, 32, 4, 1, 8, 88),
    (2, 48, 6, 2, 8, 128),
    (3, 64, 8, 8, 8, 168),
    (4, 96, 6, 2, 16, 256),
    (4, 144, 9, 3, 16, 384),
    (6, 160, 5, 5, 32, 424),
    (4, 224, 7, 1, 32, 600),
    (8, 256, 16, 4, 16, 680),
    (6, 384, 6, 6, 64, 1024),
    (10, 512, 8, 4, 64, 1368),
)
CONTEXTS = ((128, 2048), (512, 8192))  # of every other shape
WHAT = {"ttft": "prefill", "tpot": "decode"}


def shapes() -> list[Shape]:
    names = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")
    sizes: list[dict[str, Any]] = [dict(zip(names, size, strict=True)) for size in SIZES]
    return [Shape(**size, vocab_size=256, tied_embeddings=True) for size in sizes]


def scored(machine: Measured, dtype: str) -> list[dict[str, Any]]:
    """Return a row a timing: measured, predicted, and predicted by the kernels alone."""
    rows = []
    for i, shape in enumerate(shapes()):
        for timing in time_models((shape,), CONTEXTS[i % len(CONTEXTS)], dtype):
            predicted, alone = (float(timing.predict(box)) for box in (machine.hardware, machine.kernels))
            rows.append(
                {
                    "what": WHAT[timing.what],
                    "shape": f"{shape.n_layer}x{shape.d_model}x{shape.n_head}x{shape.n_kv_head}",
                    "n_params": shape.n_params_total,
                    "context_length": timing.workload.context_length,
                    "measured_s": timing.seconds,
                    "predicted_s": predicted,
                    "error": predicted / timing.seconds - 1,
                    "error_kernels_alone": alone / timing.seconds - 1,
                }
            )
            print(f"{rows[-1]['shape']:<16} {rows[-1]['what']:<8} {rows[-1]['error']:+.1%}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and median of the absolute errors, of prefill, decode and both."""
    out = []
    for what in (*WHAT.values(), "both"):
        mine = [r for r in rows if what in (r["what"], "both")]
        off, alone = (np.abs([r[name] for r in mine]) for name in ("error", "error_kernels_alone"))
        out.append(
            {
                "what": what,
                "times": len(mine),
                "mean": float(off.mean()),
                "median": float(np.median(off)),
                "worst": float(off.max()),
                "kernels_alone_mean": float(alone.mean()),
                "kernels_alone_median": float(np.median(alone)),
            }
        )
    return out


def plot(rows: list[dict[str, Any]], table: list[dict[str, Any]], machine: Measured) -> None:
    with figure(1, 2, size=(9.5, 4.0), sharey=True) as (canvas, axes):
        for axis, what, colour in zip(axes, WHAT.values(), (BASELINE, BEST), strict=True):
            mine = [r for r in rows if r["what"] == what]
            line = next(r for r in table if r["what"] == what)
            times = 1e3 * np.asarray([r["measured_s"] for r in mine])
            for name, marker, label in (
                ("error", "o", f"predicted: mean {line['mean']:.0%}, median {line['median']:.0%}"),
                ("error_kernels_alone", "+", f"from kernels alone: mean {line['kernels_alone_mean']:.0%}"),
            ):
                ratio = 1 + np.asarray([r[name] for r in mine])
                alpha = 0.9 if name == "error" else 0.45
                axis.scatter(times, ratio, marker=marker, color=colour, alpha=alpha, label=label)
            for level, style in ((1.0, "-"), (0.8, ":"), (1.2, ":")):
                axis.axhline(level, color=FAINT, lw=1, ls=style, zorder=0)
            plain_log_axis(axis, times.min() / 1.5, times.max() * 1.5)
            axis.set(title=f"{what.capitalize()}: models that took no part", xlabel="measured, ms")
            axis.legend(fontsize=8, loc="upper left")
        ratios = [1 + r[name] for r in rows for name in ("error", "error_kernels_alone")]
        low, high = min(*ratios, 0.5) / 1.2, max(*ratios, 2.0) * 1.4
        plain_log_axis(axes[0], low, high, which="y")
        axes[0].set(ylabel="predicted / measured")
        canvas.suptitle(machine.hardware.source, fontsize=8)
        save(canvas, RESULTS / "this_machine.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing kernels")
    options = parser.parse_args()
    print(machine_load())
    machine = ss.measure_hardware(dtype=options.dtype, seconds=options.seconds)
    print(machine.status)
    rows = scored(machine, options.dtype)
    table = summary(rows)
    print_rows(f"Whole models that took no part, {machine.hardware.name}", table)
    write_csv(RESULTS / "this_machine.csv", rows)
    plot(rows, table, machine)
    print(machine_load())


if __name__ == "__main__":
    main()
