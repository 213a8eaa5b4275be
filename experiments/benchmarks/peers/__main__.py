"""Run every peer on the problems that a file asks for, and print a JSON line for each; see `wide_peers`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks.peers import lent, plain
from experiments.benchmarks.peers.posed import COMPARED, Enough, Posed, Trace, drawn_on
from experiments.benchmarks.peers.solvers import PEERS

SETTINGS = {"plain": plain.pose, "lent": lent.pose}
WARM = 0.5
"""Seconds that each peer has on the first problem before any clock runs: what it imports isn't counted."""


def run(asked: dict[str, Any]) -> None:
    absent: dict[str, str] = {}
    for name in COMPARED:
        for setting in asked["settings"]:
            pose = SETTINGS[setting](name)
            for i, drawn in enumerate(drawn_on(name, asked["problems"], asked["seed"])):
                posed = pose(drawn)
                posed.compile()
                for peer in PEERS:
                    if not i and peer not in absent:
                        _, why = traced(peer, posed, 0, WARM)
                        absent |= {peer: why} if why else {}
                    line = {"lattice": name, "setting": setting, "problem": i, "peer": peer}
                    if peer in absent:
                        print(json.dumps({**line, "absent": absent[peer]}), flush=True)
                        continue
                    trace, _ = traced(peer, posed, i, asked["seconds"])
                    found = {"trace": trace.points, "evaluations": trace.evaluations}
                    print(json.dumps({**line, **found, "absent": None}), flush=True)


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
