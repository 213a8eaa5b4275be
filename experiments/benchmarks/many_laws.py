"""Two thousand bootstrap laws asked one question: how sure is the design, and how long does that take?

`python -m experiments.benchmarks.many_laws` fits the joint head law to all the paper's evidence as the
shipped fit was made, resamples it 2,000 times by head configuration (a real bootstrap, not copies of the
shipped 200), and asks every law the question of the README, over the 119 buildable configurations: 238,000
designs, each brought to the target loss and rounded to whole sizes. Processor seconds are the fair measure
where other work shares the machine. Writes results/many_laws.csv.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import scalesim as ss
from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv
from experiments.shipped_laws import HELD
from scalesim.design import distribution, paper_evidence
from scalesim.fitting import bootstrap

__all__ = ["main"]

LAWS = 2000
REPEATS = 5


def seconds(work: Any) -> tuple[float, float, Any]:
    """Return a call's wall and processor seconds, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def main(folder: Path = RESULTS, laws: int = LAWS) -> list[Row]:
    free = ss.fit(ss.HeadLaw, paper_evidence(), fixed=HELD)
    drawing, _, spread = seconds(lambda: bootstrap(free, laws, kind="cluster"))
    fit = dataclasses.replace(ss.named_fit("paper"), bootstrap=spread)
    job = ss.Workload(context_length=131072.0)
    design = ss.search(fit, job, 2.615)
    cold, _, choices = seconds(lambda: distribution(fit, design))
    # Another question of the same form each time: warm, but nothing is answered from memory.
    jobs = [dataclasses.replace(job, context_length=65536.0 + i) for i in range(REPEATS)]
    others = ss.search(fit, jobs, [2.6])
    warm = [seconds(lambda d=d: distribution(fit, d)) for d in others]
    low, high = choices.interval(choices.savings["objective"])
    rows: list[Row] = [
        {
            "laws": len(choices.cost),
            "configurations": len(choices.heads),
            "bootstrap_s": drawing,
            "first_call_s": cold,
            "warm_median_s": sorted(w for w, _, _ in warm)[REPEATS // 2],
            "warm_median_cpu_s": sorted(c for _, c, _ in warm)[REPEATS // 2],
            "chosen_is_best_under": float(choices.probability[choices.chosen]),
            "savings_low": low,
            "savings_high": high,
        }
    ]
    write_csv(folder / "many_laws.csv", rows)
    columns: list[Row] = [{"": name.replace("_", " "), "value": value} for name, value in rows[0].items()]
    print_rows(f"One question to {laws:,} laws ({machine_load()})", columns)
    return rows


if __name__ == "__main__":
    main()
