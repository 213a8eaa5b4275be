"""Where a model of the second grid begins to copy, and what that does to its loss.

    python -m experiments.long_runs_copying       # from the rows that are kept (long_runs_check)

Recall is the part of a random string's loss that having read it 64 bytes before takes away (the `recall`
column of own_long_runs.csv). For each pair of one size, context, text and seed: what the other heads recall
more than 8:1, and 100 log(loss / loss of 8:1). A line through nothing is fitted to all pairs but those of the
largest size, and then says those. The last panel has 8:8 beside 8:1 by position. Writes long_runs_copying.csv
and .png, and long_runs_positions.csv.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import RESULTS, Row, print_rows, rms, write_csv
from experiments.long_runs_check import DASHES, LONG, beside_base, octaves, read
from scalesim.report.figure import BASELINE, BEST, FAINT, figure, save

__all__ = ["main", "pairs"]

BACK = 64
SETTING = ("n_layer", "d_model", "context_length", "n_tokens", "seed")


def pairs(runs: list[dict[str, Any]]) -> list[Row]:
    """Return each model beside 8:1 of its setting: recall of both, and the log ratio of their losses."""
    rows: list[Row] = []
    for first, run in beside_base(runs):
        of_base, recall = (octaves(r["recall"])[BACK] for r in (first, run))
        rows.append(
            {
                **{name: run[name] for name in (*SETTING, "n_params", "n_head", "n_kv_head")},
                "recall_of_8_1": of_base,
                "recall": recall,
                "percent": 100 * float(np.log(run["loss"] / first["loss"])),
            }
        )
    return rows


def slope(rows: list[Row]) -> tuple[float, float, float]:
    """Return percent of loss by recall from all but the largest, its rms over the largest, and that of 0.

    Contexts from `LONG` on, where seeds differ by more than heads, are left out.
    """
    rows = [row for row in rows if row["context_length"] < LONG]
    more, percent = (np.array([float(r[n]) for r in rows]) for n in ("more", "percent"))
    size = np.array([r["n_params"] for r in rows])
    large = size > 0.9 * size.max()
    fitted = float(more[~large] @ percent[~large] / (more[~large] @ more[~large]))
    return fitted, rms(fitted * more[large] - percent[large]), rms(percent[large])


def draw(path: Path, runs: list[dict[str, Any]], rows: list[Row], fitted: float) -> None:
    """Draw recall by size and KV heads, the loss of pairs by what they recall more, and 8:8 by position."""
    with figure(1, 3, (15.0, 4.2)) as (drawing, (left, right, last)):
        for heads, style in ((1, "o-"), (2, "v:"), (4, "s:"), (8, "D-")):
            colour = {1: BASELINE, 8: BEST}.get(heads, FAINT)
            some = [r for r in runs if (r["n_head"], r["n_kv_head"]) == (8, heads)]
            some = [r for r in some if r["context_length"] == 256 and r["n_tokens"] < 40 * r["n_params"]]
            sizes = sorted({r["n_params"] for r in some})
            each = [[octaves(r["recall"])[BACK] for r in some if r["n_params"] == size] for size in sizes]
            left.plot(sizes, [np.mean(e) for e in each], style, color=colour, label=f"8:{heads}")
            for size, e in zip(sizes, each, strict=True):
                left.plot([size] * len(e), e, "_", color=colour, ms=10)
        left.set_xscale("log")
        widths = {r["d_model"]: r["n_params"] for r in runs}
        left.set_xticks(list(widths.values()), [f"{size / 1e3:.0f}K" for size in widths.values()])
        left.minorticks_off()
        left.set(xlabel="parameters", ylabel="recall, 64 bytes back", title="Trained at 256 bytes (-: seeds)")
        left.legend(fontsize=8)
        for width in sorted({r["d_model"] for r in rows}):
            some_rows = [r for r in rows if r["d_model"] == width and r["context_length"] < LONG]
            size = some_rows[0]["n_params"] / 1e3
            right.plot(
                [r["more"] for r in some_rows],
                [r["percent"] for r in some_rows],
                "o",
                ms=4,
                label=f"{size:.0f}K",
            )
        reach = np.array([0.0, max(r["more"] for r in rows)])
        right.plot(reach, fitted * reach, color=FAINT, lw=1.5, label="line of the smaller sizes", zorder=0)
        right.axhline(0, color="0.5", lw=0.8)
        right.legend(fontsize=8)
        right.set(
            xlabel="recall, more than 8:1",
            ylabel="100 log(loss / loss of 8:1)",
            title="Pairs, contexts to 1,024",
        )
        _draw_positions(last, runs)
        save(drawing, path)


def by_position(runs: list[dict[str, Any]]) -> dict[tuple[int, ...], dict[int, float]]:
    """Return 100 log(loss of 8:8 / loss of 8:1) by octave of position, mean over seeds, of each setting."""
    ratios: dict[tuple[int, ...], list[dict[int, float]]] = {}
    for first, run in beside_base(runs):
        if (run["n_head"], run["n_kv_head"]) == (8, 8):
            base, mine = (octaves(r["loss_by_position"]) for r in (first, run))
            setting = tuple(run[n] for n in SETTING[1:4])
            ratios.setdefault(setting, []).append({k: 100 * np.log(mine[k] / base[k]) for k in mine})
    return {
        setting: {k: float(np.mean([one[k] for one in each])) for k in each[0]}
        for setting, each in sorted(ratios.items())
    }


def _draw_positions(axis: Any, runs: list[dict[str, Any]]) -> None:
    sizes = {r["d_model"]: r["n_params"] for r in sorted(runs, key=lambda r: r["d_model"])}
    for (width, context, n_tokens), each in by_position(runs).items():
        if context >= LONG:
            continue
        colour, more = f"C{list(sizes).index(width)}", n_tokens > 40 * sizes[width]
        style = {"color": colour, "mfc": "white" if more else colour, "ls": DASHES[context]}
        label = f"{sizes[width] / 1e3:.0f}K at {context}" + (", four times the text" if more else "")
        each = {k: value for k, value in each.items() if k >= 8}
        axis.plot(list(each), list(each.values()), "o", ms=3, lw=1.2, label=label, **style)
    axis.set_xscale("log", base=2)
    axis.axhline(0, color="0.5", lw=0.8)
    axis.legend(fontsize=7, loc="lower left")
    axis.set(xlabel="last position of the octave", ylabel="100 log(loss of 8:8 / loss of 8:1)")
    axis.set_title("Along the context")


def main(folder: Path = RESULTS) -> list[Row]:
    runs = read()
    rows: list[Row] = [{**row, "more": row["recall"] - row["recall_of_8_1"]} for row in pairs(runs)]
    fitted, said, nothing = slope(rows)
    print_rows(f"Recall {BACK} bytes back, and loss", rows)
    print(f"smaller sizes: {fitted:.1f}% of loss for recall of 1")
    print(
        f"the largest size's pairs are met within {said:.1f}% rms by it, within {nothing:.1f}% by no effect"
    )
    positions: list[Row] = [
        dict(zip(("d_model", "context_length", "n_tokens", "position", "percent"), (*at, k, v), strict=True))
        for at, each in by_position(runs).items()
        for k, v in each.items()
    ]
    print_rows("8:8 beside 8:1 by the last position of an octave, 100 log of the losses' ratio", positions)
    write_csv(folder / "long_runs_positions.csv", positions)
    write_csv(folder / "long_runs_copying.csv", rows)
    draw(folder / "long_runs_copying.png", runs, rows, fitted)
    return rows


if __name__ == "__main__":
    main()
