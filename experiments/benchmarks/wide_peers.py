"""The wide search beside scipy, Optuna and pymoo on the same constrained problems.

    python -m experiments.benchmarks.wide_peers [--problems 24] [--seconds 5] [--peers PYTHON]

`--peers` names an interpreter that has scipy, optuna and pymoo beside this package's own requirements (a
virtual environment of its own; this one by default); a peer that it lacks is left out with the reason. There
are two readings, the column `setting`:

- plain: each peer as a user of it would pose the problem, given the model and the cost: the lattice's axes
  and training tokens for variables, the target loss a limit like the others (`peers/plain.py`);
- lent: all have our compiled function that brings a whole design to the target loss, and SLSQP our
  relaxation and our rounding besides (`peers/lent.py`).

Compilation and imports are not counted, for anyone. Each peer has `--seconds` a problem; from its trace come
what it had found after our number of evaluations, after our time and at the end, and when it had as good: a
design no dearer than ours by `AS_GOOD`, which for the plain peers, to whom tokens are a number to be found,
is looser. An evaluation of ours is a whole design with the Newton steps to its tokens, or a gradient; of a
peer, one call of the law and the cost. Our time is that of the whole answer to one question asked alone,
warm, taken just before the peers have theirs; beside it stands what one takes where all are asked at once.

Who asks does not know the best design, so a peer that is sometimes quick and sometimes wrong has to be
compared over all problems: by the average runtime to as good a design, all the time it spent over the number
of problems on which it got there (aRT in Hansen et al., COCO: Performance Assessment, arXiv 1605.03560).
That is in the peer's favour: it does not know when it is there, and ours is counted to its end.

Writes results/wide_peers.csv, a row for each setting, problem and peer, and .png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.peers.posed import COMPARED, drawn_on
from experiments.benchmarks.peers.solvers import PEERS
from experiments.benchmarks.wide_problems import OBJECTIVES, Drawn
from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv
from scalesim.report.figure import BASELINE, BEST, figure, save

__all__ = ["main"]

AS_GOOD = {"plain": 1e-3, "lent": 1e-6}
"""Log cost above ours that still counts as good as ours, in the peer's favour."""
BETTER = 1e-6
"""Log cost below ours that counts as better than ours."""
SOONER = 20
TITLES = {"plain": "each as its user would pose it", "lent": "each lent our closing of the loss"}
LEGEND = (
    "On how many problems ours is at least as good at equal evaluations, at equal time and at the end; the "
    "peer finds nothing feasible; it finds as good a design; how many times our time that takes (or more); "
    "its average runtime to one, in times of ours."
)


def compared(line: dict[str, Any], seconds: float, drawn: Drawn) -> Row:
    """Return what a peer had found after our evaluations and our time, and when it had as good."""

    def excess(points: list[Any]) -> float | None:
        best = min((p[2] for p in points), default=np.inf)
        return None if best > 1e5 else 100 * float(np.expm1(best - line["ours"]["merit"]))

    trace, answer = line["trace"], line["ours"]
    good = [p for p in trace if p[2] <= answer["merit"] + AS_GOOD[line["setting"]]]
    return {
        "setting": line["setting"],
        "lattice": line["lattice"],
        "problem": line["problem"],
        "objective": OBJECTIVES[drawn.objective],
        "constraints": drawn.binding,
        "peer": line["peer"],
        "our_s": answer["seconds"],
        "our_s_all_at_once": line["seconds_together"],
        "our_evaluations": answer["evaluations"],
        "excess_percent_at_our_evaluations": excess([p for p in trace if p[1] <= answer["evaluations"]]),
        "excess_percent_at_our_time": excess([p for p in trace if p[0] <= answer["seconds"]]),
        "excess_percent_at_the_end": excess(trace),
        "as_good_after_s": good[0][0] if good else None,
        "as_good_after_evaluations": good[0][1] if good else None,
        "gave_up_after_s": None if good else seconds,
        "evaluations": line["evaluations"],
    }


def main(
    folder: Path = RESULTS,
    problems: int = 24,
    seconds: float = 5.0,
    python: str | None = None,
    settings: tuple[str, ...] = tuple(AS_GOOD),
    seed: int = 100,
) -> list[Row]:
    with jax.enable_x64(True):
        drawn = {name: drawn_on(name, problems, seed) for name in COMPARED}
    asked = {"problems": problems, "seconds": seconds, "seed": seed, "settings": settings}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asked, file)
        file.flush()
        command = [python or sys.executable, "-m", "experiments.benchmarks.peers", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        print(f"The peers did not run: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    lines = [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]
    for peer in PEERS:
        why = {line["absent"] for line in lines if line["peer"] == peer and line["absent"]}
        if why:
            print(f"{peer}: absent ({why.pop()}); --peers names an interpreter that has it")
    rows = [compared(x, seconds, drawn[x["lattice"]][x["problem"]]) for x in lines if not x["absent"]]
    write_csv(folder / "wide_peers.csv", rows)
    if rows:
        draw_found(folder / "wide_peers.png", rows)
    for setting in settings:
        own = [row for row in rows if row["setting"] == setting]
        if own:
            title = f"The wide search beside its peers, {setting} ({machine_load()}). {LEGEND}"
            print_rows(title, [summary(peer, own) for peer in PEERS])
            print(said(own))
    return rows


def summary(peer: str, rows: list[Row]) -> Row:
    """Return one peer's figures over the problems of one setting."""
    own = [row for row in rows if row["peer"] == peer]
    times = [(row["as_good_after_s"] or row["gave_up_after_s"]) / row["our_s"] for row in own]
    found: Row = {"peer": peer, "problems": len(own)}
    if not own:
        return found
    ends = {"equal evaluations": "our_evaluations", "equal time": "our_time", "the end": "the_end"}
    for label, end in ends.items():
        excesses = [row[f"excess_percent_at_{end}"] for row in own]
        ours_good = sum(e is None or e >= -100 * BETTER for e in excesses)
        found = {**found, label: ours_good}
    return {
        **found,
        "nothing feasible": sum(row["excess_percent_at_the_end"] is None for row in own),
        "as good as ours": sum(row["as_good_after_s"] is not None for row in own),
        "times our time, median": float(np.median(times)),
        "least": float(np.min(times)),
        "most": float(np.max(times)),
        "average runtime": average_runtime(own) / float(np.mean([row["our_s"] for row in own])),
    }


def average_runtime(rows: list[Row]) -> float:
    """Return the seconds a peer spent on all its problems over those on which it got as good a design."""
    spent = sum(row["as_good_after_s"] or row["gave_up_after_s"] for row in rows)
    there = sum(row["as_good_after_s"] is not None for row in rows)
    return spent / there if there else np.inf


def said(rows: list[Row]) -> str:
    """Return how much sooner ours is than the best peer of each problem, and where a peer found better."""
    best: dict[tuple[str, int], float] = {}
    below: dict[tuple[str, int], float] = {}
    for row in rows:
        key = (row["lattice"], row["problem"])
        times = (row["as_good_after_s"] or np.inf) / row["our_s"]
        best[key] = min(best.get(key, np.inf), times)
        if row["excess_percent_at_the_end"] is not None:
            below[key] = max(below.get(key, 0.0), -row["excess_percent_at_the_end"])
    reached = [value for value in best.values() if np.isfinite(value)]
    sooner = sum(value >= SOONER for value in best.values())
    better = {key: value for key, value in below.items() if value > 100 * BETTER}
    alone = np.median([row["our_s"] for row in rows])
    parts = [
        f"Ours takes {1000 * alone:.0f} ms alone (median) and "
        f"{1000 * rows[0]['our_s_all_at_once']:.0f} ms where all are asked at once. "
        f"On {len(reached)} of {len(best)} problems some peer found as good a design in its time"
    ]
    if reached:
        parts.append(f"; there the best of them took {np.median(reached):.1f} times as long (median)")
    parts.append(f". Ours came at least {SOONER} times sooner than the best of them on {sooner}.")
    by_peer = {peer: [row for row in rows if row["peer"] == peer] for peer in PEERS}
    average = {peer: average_runtime(own) for peer, own in by_peer.items() if own}
    first = min(average, key=lambda peer: average[peer])
    ours = float(np.mean([row["our_s"] for row in by_peer[first]]))
    parts.append(
        f" Least average runtime of a peer: {first}, {1000 * average[first]:.0f} ms, "
        f"{average[first] / ours:.1f} times our {1000 * ours:.0f} ms."
    )
    if better:
        named = ", ".join(f"{number} (by {value:.2g}%)" for (_, number), value in better.items())
        parts.append(f" A peer found a better design than ours on problems {named}.")
    return "".join(parts)


def draw_found(path: Path, rows: list[Row]) -> None:
    """Draw on how many problems each had as good a design as ours by when."""
    settings = [setting for setting in AS_GOOD if any(row["setting"] == setting for row in rows)]
    colours = [BASELINE, "#e2ab4b", "#86ab63", "#3a3b6e"]
    longest = max(row["gave_up_after_s"] or row["as_good_after_s"] for row in rows)
    with figure(1, len(settings), (10.0, 4.0), sharey=True, squeeze=False) as (canvas, axes):
        for axis, setting in zip(axes[0], settings, strict=True):
            own = [row for row in rows if row["setting"] == setting]
            count = len({(row["lattice"], row["problem"]) for row in own})
            ours = {(row["lattice"], row["problem"]): row["our_s"] for row in own}
            lines = {"scalesim, its whole answer": list(ours.values())} | {
                peer: [r["as_good_after_s"] for r in own if r["peer"] == peer and r["as_good_after_s"]]
                for peer in PEERS
            }
            for i, (label, times) in enumerate(lines.items()):
                at = np.concatenate([[1e-9], np.sort(times), [longest]])
                found = np.concatenate([np.arange(len(times) + 1), [len(times)]])
                colour = BEST if not i else colours[i - 1]
                axis.step(at, found, where="post", color=colour, lw=2.2 if not i else 1.4, label=label)
            axis.set(title=TITLES[setting], xlabel="seconds, warm", xscale="log", xlim=(1e-3, longest))
            axis.set(ylim=(0, count * 1.04))
        axes[0, 0].set_ylabel(f"problems of {count} with as good a design")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        canvas.legend(handles, labels, ncols=5, fontsize=8, loc="outside lower center")
        save(canvas, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--peers", default=os.environ.get("SCALESIM_PEERS_PYTHON"))
    parser.add_argument("--settings", default=",".join(AS_GOOD), help="plain, lent or both")
    parser.add_argument("--seed", type=int, default=100, help="of the problems that are drawn")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    main(
        folder=options.folder,
        problems=options.problems,
        seconds=options.seconds,
        python=options.peers,
        settings=tuple(options.settings.split(",")),
        seed=options.seed,
    )
