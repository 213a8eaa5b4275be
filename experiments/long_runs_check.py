"""The second grid beside what was said of it: equal-size pairs, loss by position, recall (recall.toml).

    python -m experiments.long_runs_check             # from out/long_runs, whose rows it keeps in results
    python -m experiments.long_runs_check --kept      # from the rows that are kept

long_runs_predicted.csv was committed before any of its pairs was trained (`long_runs_prediction`). Here each
pair's measured log ratio of losses stands beside it, over the seeds that both models have, with the noise
that is left: the pooled deviation of the ratio between seeds, by size. Writes long_runs.csv and
recall.csv (a row a run), long_runs_check.csv and .png.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.long_runs_prediction import BASE
from scalesim.report.figure import BASELINE, BEST, FAINT, figure, save

__all__ = ["compared", "main", "read"]

TABLE = Path("out/long_runs/runs.csv")
KEPT = RESULTS / "long_runs.csv"
RECALL = RESULTS / "recall.csv"


def read(path: Path = KEPT) -> list[dict[str, Any]]:
    """Return the finished runs, numbers as numbers."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "finished"]
    whole = ("n_layer", "d_model", "n_head", "n_kv_head", "n_params", "n_tokens", "context_length", "seed")
    return [{**row, **{n: int(row[n]) for n in whole}, "loss": float(row["loss"])} for row in rows]


def octaves(text: str) -> dict[int, float]:
    """Return what a row holds by position or distance."""
    return {int(k): float(v) for k, v in (part.split(":") for part in text.split())}


def _setting(row: Row) -> tuple[int, ...]:
    return tuple(row[n] for n in ("d_model", "context_length", "n_tokens"))


def ratios(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[int, float]]:
    """Return, for each setting and heads, 100 log(loss / loss of the base) of each seed that both have.

    Runs of one seed read the same text in the same order: much of what seeds do is common to both.
    """
    losses: dict[Any, dict[int, float]] = defaultdict(dict)
    for row in rows:
        losses[_setting(row), (row["n_head"], row["n_kv_head"])][row["seed"]] = float(np.log(row["loss"]))
    found = {}
    for (setting, heads), mine in sorted(losses.items()):
        base = losses.get((setting, BASE), {})
        both = {seed: 100 * (mine[seed] - base[seed]) for seed in sorted(mine.keys() & base.keys())}
        if heads != BASE and both:
            found[setting, heads] = both
    return found


def seed_noise(found: dict[tuple[Any, ...], dict[int, float]]) -> dict[int, tuple[float, int]]:
    """Return, by width, the deviation of a pair's log ratio between seeds, percent, and its degrees."""
    squares: dict[int, list[float]] = defaultdict(lambda: [0.0, 0])
    for (setting, _), each in found.items():
        if len(each) > 1:
            squares[setting[0]][0] += float(np.var(list(each.values()))) * len(each)
            squares[setting[0]][1] += len(each) - 1
    return {width: (float(np.sqrt(s / n)), int(n)) for width, (s, n) in squares.items()}


def compared(rows: list[dict[str, Any]]) -> list[Row]:
    """Return each trained pair: what was predicted, what was measured, and whether the interval holds it."""
    with (RESULTS / "long_runs_predicted.csv").open() as file:
        said = {tuple(int(r[n]) for n in ("d_model", "n_head", "n_kv_head")): r for r in csv.DictReader(file)}
    found = ratios(rows)
    noise = seed_noise(found)
    pairs: list[Row] = []
    for (setting, heads), each in found.items():
        measured = float(np.mean(list(each.values())))
        error = noise.get(setting[0], (float("nan"), 0))[0] / np.sqrt(len(each))
        row = said[setting[0], *heads]
        predicted, low, high = (float(row[n]) for n in ("predicted_percent", "low", "high"))
        reach = np.hypot(high - predicted if measured > predicted else predicted - low, 1.64 * error)
        pairs.append(
            {
                **dict(zip(("d_model", "context_length", "n_tokens"), setting, strict=True)),
                "n_head": heads[0],
                "n_kv_head": heads[1],
                "seeds": len(each),
                "predicted_percent": predicted,
                "low": low,
                "high": high,
                "measured_percent": measured,
                "seed_error_percent": error,
                "inside": bool(low <= measured <= high),
                "inside_with_seeds": bool(abs(measured - predicted) <= reach),
                "sign": "right" if measured * predicted > 0 else "wrong",
                "told_from_0": bool(abs(measured) > 1.64 * error),
            }
        )
    return pairs


def draw(path: Path, rows: list[dict[str, Any]], pairs: list[Row]) -> None:
    """Draw the pairs, the loss by position, and recall by heads."""
    with figure(1, 3, (13.5, 4.4)) as (drawing, (left, middle, right)):
        _draw_pairs(left, pairs)
        _draw_recall(right)
        for row in (r for r in rows if (r["n_head"], r["n_kv_head"]) == BASE and r["seed"] == 0):
            label = (
                f"width {row['d_model']}, context {row['context_length']}, {row['n_tokens'] / 1e6:.1f}M bytes"
            )
            held = octaves(row["loss_by_position"])
            middle.plot(list(held), list(held.values()), "o-", ms=3, lw=1, label=label)
        middle.set_xscale("log", base=2)
        middle.legend(fontsize=6)
        middle.set(xlabel="last position of the octave", ylabel="nats a byte", title="8:1, loss by position")
        save(drawing, path)


def _draw_pairs(axis: Any, pairs: list[Row]) -> None:
    place = np.arange(len(pairs))
    low, high, said, measured = (
        np.array([p[n] for p in pairs]) for n in ("low", "high", "predicted_percent", "measured_percent")
    )
    axis.hlines(place, low, high, color=FAINT, lw=6, label="the law's 90%, before")
    axis.plot(said, place, "|", color=BASELINE, ms=8, label="the law")
    bars = [1.64 * p["seed_error_percent"] for p in pairs]
    axis.errorbar(measured, place, xerr=bars, fmt="o", ms=4, color=BEST, label="measured (bars: seeds, 90%)")
    axis.set_yticks(
        place,
        [f"{p['d_model']} at {p['context_length']}: {p['n_head']}:{p['n_kv_head']}" for p in pairs],
        fontsize=7,
    )
    axis.invert_yaxis()
    axis.axvline(0, color="0.5", lw=0.8)
    axis.set(xlabel="100 log(loss / loss of 8:1)", title="Models of one size")
    axis.legend(fontsize=7)


def _draw_recall(axis: Any) -> None:
    rows = sorted(read(RECALL), key=lambda r: (r["n_kv_head"], r["n_head"]))
    names = list(dict.fromkeys(f"{r['n_head']}:{r['n_kv_head']}" for r in rows))
    for distance, colour in ((16, BEST), (32, BASELINE)):
        place = [names.index(f"{r['n_head']}:{r['n_kv_head']}") + (distance - 24) / 100 for r in rows]
        axis.plot(
            place, [octaves(r["recall"])[distance] for r in rows], "o", color=colour, label=f"{distance} back"
        )
    axis.set_xticks(range(len(names)), names)
    axis.set_ylim(0, 1)
    axis.legend(fontsize=7)
    axis.set(xlabel="query heads : KV heads", ylabel="recall", title="Trained on strings that return")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", action="store_true", help="read the rows that are kept")
    if not parser.parse_args().kept:
        shutil.copy(TABLE, KEPT)
        shutil.copy("out/recall/runs.csv", RECALL)
    rows, pairs = read(), compared(read())
    recalled = [
        {"heads": f"{r['n_head']}:{r['n_kv_head']}", "seed": r["seed"], "recall": r["recall"]}
        for r in read(RECALL)
    ]
    print_rows("Recall by distance, trained on strings that return", recalled)
    shown = [n for n in pairs[0] if n not in ("n_tokens", "told_from_0")]
    print_rows(f"{len(rows)} runs; predicted before they were trained, and measured", pairs, shown)
    for width, (noise, degrees) in sorted(seed_noise(ratios(rows)).items()):
        print(f"width {width}: a pair's ratio differs by {noise:.2f}% between seeds ({degrees} degrees)")
    for name, yes in (("inside", True), ("inside_with_seeds", True), ("sign", "right")):
        print(f"{name}: {sum(p[name] == yes for p in pairs)} of {len(pairs)}")
    write_csv(RESULTS / "long_runs_check.csv", pairs)
    draw(RESULTS / "long_runs_check.png", rows, pairs)


if __name__ == "__main__":
    main()
