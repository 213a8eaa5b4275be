"""The second grid beside what was said of it: equal-size pairs, loss by position, recall (recall.toml).

    python -m experiments.long_runs_check             # from out/long_runs, whose rows it keeps in results
    python -m experiments.long_runs_check --kept      # from the rows that are kept

long_runs_predicted.csv was committed before any of its pairs was trained (`long_runs_prediction`). Here each
pair's measured log ratio of losses stands beside it, over the seeds that both models have, with the noise
that is left: the pooled deviation of the ratio between seeds, by size, and apart from 2,048 bytes on. So do
the losses of larger sizes and longer contexts (long_runs_sizes.csv, long_runs_contexts.csv) and the design's
(long_runs_design.csv). Writes scalesim/data/own_long_runs.csv, long_design.csv and recall.csv (a row a run),
long_runs_check.csv, long_runs_losses.csv and long_runs_check.png.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import scalesim
from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.long_runs_prediction import BASE
from scalesim.report.figure import BASELINE, BEST, FAINT, figure, save

__all__ = ["compared", "main", "read"]

DATA = Path(scalesim.__file__).parent / "data"
KEPT = DATA / "own_long_runs.csv"
DASHES = {256: "-", 1024: "--", 2048: "-.", 4096: ":"}
LONG = 2048
Noise = dict[tuple[int, bool], tuple[float, int]]
RECALL, DESIGNS = RESULTS / "recall.csv", RESULTS / "long_design.csv"


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


def beside_base(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each run with the base of its size, context, text and seed, in their order."""
    base = {(_setting(row), row["seed"]): row for row in rows if (row["n_head"], row["n_kv_head"]) == BASE}
    pairs = [(base.get((_setting(row), row["seed"]), row), row) for row in rows]
    return [(first, row) for first, row in pairs if first is not row]


def ratios(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[int, float]]:
    """Return, for each setting and heads, 100 log(loss / loss of the base) of each seed that both have.

    Runs of one seed read the same text in the same order: much of what seeds do is common to both.
    """
    found: dict[Any, dict[int, float]] = defaultdict(dict)
    for base, row in sorted(beside_base(rows), key=lambda pair: pair[1]["seed"]):
        heads = row["n_head"], row["n_kv_head"]
        found[_setting(row), heads][row["seed"]] = 100 * float(np.log(row["loss"] / base["loss"]))
    return dict(sorted(found.items()))


def seed_noise(found: dict[tuple[Any, ...], dict[int, float]]) -> Noise:
    """Return the deviation of a pair's log ratio between seeds, percent, and its degrees.

    By width, and apart at contexts from `LONG` on, where a step has one window of text.
    """
    squares: dict[tuple[int, bool], list[float]] = defaultdict(lambda: [0.0, 0])
    for (setting, _), each in found.items():
        if len(each) > 1:
            known = squares[setting[0], setting[1] >= LONG]
            known[0] += float(np.var(list(each.values()))) * len(each)
            known[1] += len(each) - 1
    return {key: (float(np.sqrt(s / n)), int(n)) for key, (s, n) in squares.items()}


def noise_at(noise: Noise, width: int, context: int) -> float:
    """Return the noise of a width at a context, or that of the nearest width that has seeds there."""
    alike = [key for key in noise if key[1] == (context >= LONG)] or list(noise)
    near = min(alike, key=lambda key: abs(np.log(key[0] / width)), default=None)
    return noise[near][0] if near is not None else float("nan")


def compared(rows: list[dict[str, Any]]) -> list[Row]:
    """Return each trained pair: what was predicted, what was measured, and whether the interval holds it."""
    with (RESULTS / "long_runs_predicted.csv").open() as file:
        said = {tuple(int(r[n]) for n in ("d_model", "n_head", "n_kv_head")): r for r in csv.DictReader(file)}
    found = ratios(rows)
    noise = seed_noise(found)
    pairs: list[Row] = []
    for (setting, heads), each in found.items():
        measured = float(np.mean(list(each.values())))
        error = noise_at(noise, *setting[:2]) / np.sqrt(len(each))
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
                "differs_from_0": bool(abs(measured) > 1.64 * error),
            }
        )
    return pairs


def losses(rows: list[dict[str, Any]]) -> list[Row]:
    """Return each loss of the base that was said before and is measured: by size, and by context.

    The last that was said of a run stands for it.
    """
    measured: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        if (row["n_head"], row["n_kv_head"]) == BASE and row["n_tokens"] < 40 * row["n_params"]:
            measured[row["d_model"], row["context_length"]].append(row["loss"])
    found: dict[tuple[str, int, int], Row] = {}
    for what, name in (("size", "long_runs_sizes.csv"), ("context", "long_runs_contexts.csv")):
        with (RESULTS / name).open() as file:
            for said in csv.DictReader(file):
                width, context = int(said["d_model"]), int(said["context_length"])
                if (width, context) not in measured:
                    continue
                loss = float(np.mean(measured[width, context]))
                predicted, low, high = (float(said[n]) for n in ("predicted", "low", "high"))
                found[what, width, context] = {
                    "said_by": what,
                    "d_model": width,
                    "context_length": context,
                    "seeds": len(measured[width, context]),
                    "predicted": predicted,
                    "low": low,
                    "high": high,
                    "measured": loss,
                    "error_percent": 100 * (predicted / loss - 1),
                    "inside": bool(low <= loss <= high),
                }
    return list(found.values())


def designs() -> list[dict[str, Any]]:
    """Return the searched design and its baseline with their held-out seeds, beside what was said."""
    trained = read(DESIGNS)
    with (RESULTS / "long_runs_design.csv").open() as file:
        said = list(csv.DictReader(file))
    found: list[dict[str, Any]] = []
    for row in said:
        mine = [r for r in trained if str(r["d_model"]) == row["d_model"]]
        found.append(
            {
                **{n: row[n] for n in ("model", "d_model", "n_head", "n_kv_head", "n_params", "cost")},
                **{n: float(row[n]) for n in ("predicted_percent", "low", "high")},
                "seeds": len(mine),
                "loss": float(np.mean([r["loss"] for r in mine])) if mine else float("nan"),
                "spread": float(np.ptp([r["loss"] for r in mine])) if mine else float("nan"),
            }
        )
    for row in found:
        row["measured_percent"] = 100 * float(np.log(row["loss"] / found[0]["loss"]))
    return found


def draw(path: Path, rows: list[dict[str, Any]], pairs: list[Row]) -> None:
    """Draw the pairs, the loss by position, and recall by heads."""
    with figure(1, 3, (13.5, 0.22 * len(pairs) + 2.4)) as (drawing, (left, middle, right)):
        _draw_pairs(left, pairs)
        _draw_recall(right)
        widths = sorted({r["d_model"] for r in rows})
        base = [r for r in rows if (r["n_head"], r["n_kv_head"]) == BASE and r["seed"] == 0]
        for row in sorted(base, key=lambda r: (r["d_model"], r["context_length"], r["n_tokens"])):
            label = (
                f"width {row['d_model']}, context {row['context_length']}, {row['n_tokens'] / 1e6:.1f}M bytes"
            )
            held = octaves(row["loss_by_position"])
            colour = f"C{widths.index(row['d_model'])}"
            style = {"color": colour, "mfc": colour if row["n_tokens"] < 40 * row["n_params"] else "white"}
            dashes = DASHES[row["context_length"]]
            middle.plot(list(held), list(held.values()), "o", ls=dashes, ms=3, lw=1, label=label, **style)
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
    names = [
        f"{p['d_model']} at {p['context_length']}, {p['n_tokens'] / 1e6:.0f}M: {p['n_head']}:{p['n_kv_head']}"
        for p in pairs
    ]
    axis.set_yticks(place, names, fontsize=7)
    axis.invert_yaxis()
    axis.axvline(0, color="0.5", lw=0.8)
    axis.set(xlabel="100 log(loss / loss of 8:1)", title="Models of one size")
    axis.legend(fontsize=7)


def _draw_recall(axis: Any) -> None:
    rows = sorted(read(RECALL), key=lambda r: (r["n_kv_head"], r["n_head"]))
    names = list(dict.fromkeys(f"{r['n_head']}:{r['n_kv_head']}" for r in rows))
    least = min(r["n_tokens"] for r in rows)
    for distance, colour in ((16, BEST), (32, BASELINE)):
        for longer, label in ((False, f"{distance} back"), (True, f"{distance} back, four times the tokens")):
            some = [r for r in rows if (r["n_tokens"] > least) == longer]
            place = [names.index(f"{r['n_head']}:{r['n_kv_head']}") + (distance - 24) / 100 for r in some]
            recall = [octaves(r["recall"])[distance] for r in some]
            axis.plot(place, recall, "o", color=colour, mfc="none" if longer else colour, label=label)
    axis.set_xticks(range(len(names)), names)
    axis.set_ylim(0, 1)
    axis.legend(fontsize=7)
    axis.set(xlabel="query heads : KV heads", ylabel="recall", title="Trained on strings that return")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", action="store_true", help="read the rows that are kept")
    if not parser.parse_args().kept:
        for folder, kept in (("long_runs", KEPT), ("recall", RECALL), ("long_design", DESIGNS)):
            if (table := Path("out") / folder / "runs.csv").exists():
                shutil.copy(table, kept)
    rows, pairs = read(), compared(read())
    recalled = [
        {"heads": f"{r['n_head']}:{r['n_kv_head']}", "seed": r["seed"], "recall": r["recall"]}
        for r in read(RECALL)
    ]
    print_rows("Recall by distance, trained on strings that return", recalled)
    shown = [n for n in pairs[0] if n not in ("n_tokens", "differs_from_0")]
    print_rows(f"{len(rows)} runs; predicted before they were trained, and measured", pairs, shown)
    for (width, far), (noise, degrees) in sorted(seed_noise(ratios(rows)).items()):
        where = f"width {width}{f', from {LONG} bytes on' if far else ''}"
        print(f"{where}: a pair's ratio differs by {noise:.2f}% between seeds ({degrees} degrees)")
    for where, some in (
        (f"contexts below {LONG}", [p for p in pairs if p["context_length"] < LONG]),
        (f"contexts from {LONG} on", [p for p in pairs if p["context_length"] >= LONG]),
    ):
        for name, yes in (("inside", True), ("inside_with_seeds", True), ("sign", "right")):
            print(f"{where}, {name}: {sum(p[name] == yes for p in some)} of {len(some)}")
        for name, against in (("the law", "predicted_percent"), ("no effect", None)):
            misses = [p["measured_percent"] - (p[against] if against else 0.0) for p in some]
            print(f"{where}: {name} misses pairs by {np.sqrt(np.mean(np.square(misses))):.2f}% rms")
    lost = losses(rows)
    print_rows("Loss of 8:1, said before, and measured", lost)
    write_csv(RESULTS / "long_runs_losses.csv", lost)
    if DESIGNS.exists():
        print_rows("The design of public evidence at 2,048 tokens, held-out seeds", designs())
    write_csv(RESULTS / "long_runs_check.csv", pairs)
    draw(RESULTS / "long_runs_check.png", rows, pairs)


if __name__ == "__main__":
    main()
