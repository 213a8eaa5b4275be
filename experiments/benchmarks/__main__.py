"""The quick form of every benchmark, one after the other: `make bench`.

    python -m experiments.benchmarks [NAME ...]

Each is a process of its own and prints its own table; what they write goes where it always goes. At the end
one table says how long each took, at which load, and which of them did not run and why. Peers are compared
where `SCALESIM_PEERS_PYTHON` names an interpreter that has them. Writes results/bench.csv.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv

PEERS = os.environ.get("SCALESIM_PEERS_PYTHON")
QUICK: dict[str, tuple[str, ...]] = {
    "commands": ("--repeats", "3"),
    "growth": ("--most", "0.1"),
    "search": (),
    "many_laws": (),
    "cost_speed": ("--designs", "100000", "--repeats", "3", *(("--peer", PEERS) if PEERS else ())),
    "fit_speed": ("--share", "0.01"),
    "sweep": ("--count", "1e8", "--repeats", "1"),
    "wide_search": ("--problems", "10"),
    "wide_peers": ("--problems", "2", "--seconds", "1"),
    "redesign_check": ("--questions", "10"),
    "train_speed": ("--rounds", "1", *(("--peers", PEERS) if PEERS else ())),
    "attention_speed": ("--peers", PEERS) if PEERS else (),
    "explore_speed": ("--moves", "20", "--memory-moves", "50"),
}
"""Each benchmark's options in its quick form."""


def ran(name: str) -> Row:
    """Return how one benchmark went."""
    load, start = os.getloadavg()[0], time.perf_counter()
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", *QUICK[name]]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    said = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
    took = time.perf_counter() - start
    return {
        "benchmark": name,
        "options": " ".join(QUICK[name]),
        "seconds": took,
        "load": load,
        "failed": said,
    }


def main(arguments: list[str] | None = None, folder: Path = RESULTS) -> int:
    """Run them, print and write; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*QUICK, []], metavar="NAME")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.names or QUICK:
        print(f"== {name} ({machine_load()}, {platform.processor() or platform.machine()})", flush=True)
        rows.append(ran(name))
    write_csv(folder / "bench.csv", rows)
    print_rows(f"The quick form of every benchmark ({machine_load()})", rows)
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
