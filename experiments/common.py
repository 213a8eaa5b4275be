"""What the experiments share: where results go, how a table is written, and the laws that they compare."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import scalesim as ss
from scalesim.cost import HardwareAwareCost
from scalesim.design import Query, stack_queries
from scalesim.laws import Grouped, Law, PowerLaw

__all__ = [
    "RESULTS",
    "Row",
    "drawn_law",
    "machine_load",
    "print_rows",
    "random_queries",
    "rms",
    "shipped",
    "write_csv",
]

Row = Mapping[str, Any]

RESULTS = Path(__file__).parent / "results"
"""Where the committed CSV and PNG files live."""


def _text(value: Any) -> str:
    """Return a cell: six digits of a number (more would not be the same on every machine), else as it is."""
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows that may differ in their columns; a missing value is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_text(row.get(name)) for name in columns] for row in rows)


def print_rows(title: str, rows: Sequence[Row], columns: Sequence[str] | None = None) -> None:
    """Print rows as a table; `columns` chooses among them."""
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title, title_justify="left", title_style="bold", header_style="")
    for name in names:
        table.add_column(name.replace("_", " "), justify="left" if name in ("claim", "how") else "right")
    for row in rows:
        table.add_row(*(_short(row.get(name)) for name in names))
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else _text(value)


def rms(values: Any) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values)))))


def drawn_law() -> Grouped:
    """Return the seven laws drawn in Figure 2 as one: A (N/1e8)^-b + E is (a/N)^b + E, a = 1e8 A^(1/b)."""
    t = ss.paper_curves()
    law = PowerLaw(a=1e8 * t["A_at_1e8"] ** (1 / t["b"]), b=t["b"], E=float(t["E"][0]))
    heads = zip(t["n_head"].tolist(), t["n_kv_head"].tolist(), strict=True)
    return Grouped(law, by=("n_head", "n_kv_head"), labels=tuple(heads))


def shipped() -> dict[str, Law]:
    """Return the joint laws that the package ships, by what they were fitted to."""
    return {"points alone": ss.named_fit("points").law, "all evidence": ss.named_fit("paper").law}


def random_queries(count: int, seed: int = 0) -> Query:
    """Return a batch of questions: context 1K to 1M, loss 2.35 to 3.1, weight of memory 0 to 1."""
    random = np.random.default_rng(seed)
    context = np.exp(random.uniform(np.log(1024), np.log(1024**2), count))
    loss, weight = random.uniform(2.35, 3.1, count), random.uniform(0, 1, count)
    return stack_queries(
        [
            Query(
                workload=ss.Workload(context_length=c),
                target_loss=target,
                objective=HardwareAwareCost(memory_weight=w),
            )
            for c, target, w in zip(context.tolist(), loss.tolist(), weight.tolist(), strict=True)
        ]
    )


def machine_load() -> str:
    """Return how busy this machine is, to print beside a timing."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
