"""Run ours and every peer on the problems that a file asks for, and print JSON lines; see `wide_peers`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.peers import lent, plain
from experiments.benchmarks.peers.posed import COMPARED, Enough, Posed, Trace, drawn_on
from experiments.benchmarks.peers.solvers import PEERS
from experiments.benchmarks.wide_problems import Drawn, own_query, problem_of, query_of
from scalesim.design import solve, stack_queries

SETTINGS = {"plain": plain.pose, "lent": lent.pose}
WARM = 0.5
"""Seconds that each peer has on the first problem before any clock runs: what it imports isn't counted."""


def run(asked: dict[str, Any]) -> None:
    """Answer every problem, ask every peer, and print a line for each peer, setting and problem."""
    absent: dict[str, str] = {}
    for name in COMPARED:
        drawn = drawn_on(name, asked["problems"], asked["seed"])
        poses = {setting: SETTINGS[setting](name) for setting in asked["settings"]}
        together = seconds_together(drawn)
        for i, one in enumerate(drawn):
            for setting, pose in poses.items():
                posed = pose(one)
                posed.compile()
                shared = {"lattice": name, "setting": setting, "problem": i, "seconds_together": together}
                shared["ours"] = answered(one)
                for peer in PEERS:
                    if not i and peer not in absent:
                        _, why = traced(peer, posed, 0, WARM)
                        absent |= {peer: why} if why else {}
                    line = {**shared, "peer": peer, "absent": absent.get(peer)}
                    if not line["absent"]:
                        trace, _ = traced(peer, posed, i, asked["seconds"])
                        line |= {"trace": trace.points, "evaluations": trace.evaluations}
                    print(json.dumps(line), flush=True)


def answered(drawn: Drawn) -> dict[str, float]:
    """Return our answer to one question, asked alone: log cost, seconds (warm), evaluations."""
    problem, query, times = problem_of(drawn.case), stack_queries([own_query(drawn)]), []
    jax.block_until_ready(solve(problem, query, drawn.case.space))
    for _ in range(3):
        start = time.perf_counter()
        found = jax.device_get(solve(problem, query, drawn.case.space))
        times.append(time.perf_counter() - start)
    return {
        "merit": float(np.log(found.designs.cost[0, 0])),
        "seconds": float(np.median(times)),
        "evaluations": int(found.evaluations[0] + found.gradients[0]),
    }


def seconds_together(drawn: list[Drawn]) -> float:
    """Return how long ours takes for each question where all of a lattice are asked at once, warm."""
    case, query = drawn[0].case, stack_queries([query_of(one) for one in drawn])
    jax.block_until_ready(solve(problem_of(case), query, case.space))
    start = time.perf_counter()
    jax.block_until_ready(solve(problem_of(case), query, case.space))
    return (time.perf_counter() - start) / len(drawn)


def traced(peer: str, posed: Posed, seed: int, seconds: float) -> tuple[Trace, str]:
    """Return what a peer found in so many seconds, and why it could not be run, if it could not."""
    trace = Trace(posed, seconds)
    try:
        PEERS[peer](posed, trace, seed)
    except Enough:
        pass
    except ImportError as error:
        return trace, str(error)
    return trace, ""


if __name__ == "__main__":
    with jax.enable_x64(True):
        run(json.loads(Path(sys.argv[1]).read_text()))
