"""Fit the constants of `scalesim/data/efficiency.json` to public kernel measurements, and score them.

One half of every table, drawn here, fits; the other half scores: beside the plain data sheet, and beside what
the other accelerators' constants say (each left out in turn). What ships is what was scored, but for tables
of less than 400 rows, of which all fit. Writes results/hardware_constants.csv and, with --write, the
constants; then the engines' are fitted to whole models (`experiments.hardware_models`). This one command
makes `efficiency.json` from the public tables.

    python -m experiments.hardware_constants [--write] [--cards h200,b200]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import hardware_models
from experiments.common import RESULTS, write_csv
from experiments.public_data import public_runs
from scalesim.borrowing import Sheet, borrow, measured_cards
from scalesim.constants import CONSTANTS, kind_class
from scalesim.cost.fitting import fit_kernel, halves, part, start_of
from scalesim.cost.kernel_forms import Machine, Table, kernel_seconds, machine_of
from scalesim.cost.kernel_score import constants_of
from scalesim.cost.kernel_tables import KernelRows, read_kernel_table
from scalesim.cost.spread import ANCHORS, half_width
from scalesim.efficiency import Efficiency, measured_efficiency, shipped_constants
from scalesim.hardware import Hardware, catalogue_sheet, hardware_catalogue, load_hardware

SOURCES = {
    "a100": "ai-dynamo/aiconfigurator @ 095f58a, BF16 kernels",
    "h100": "ai-dynamo/aiconfigurator @ 095f58a, vLLM 0.24.0's kernels",
}
CARDS = {"a100": "a100-80gb-sxm", "h100": "h100-sxm", "h200": "h200-sxm", "b200": "b200-sxm", "l40s": "l40s"}
SHORT = 400  # rows of a table that all fit


@dataclass
class Fitted:
    """One kind and format on one card: constants of one half of the rows, and those that ship."""

    rows: Table
    scored: Table
    half: Any
    whole: Any


def tables(card: str) -> Iterator[KernelRows]:
    """The public tables of a card."""
    if card == "a100":
        for kind in ("gemm", "attn_decode", "attn_prefill"):
            yield from read_kernel_table(str(public_runs() / "silicon" / f"a100_sxm_{kind}_bf16.csv"))
        return
    prefix = card if card == "l40s" else f"{card}_sxm"
    for path in sorted((public_runs() / "silicon_vllm").glob(f"{prefix}_*.parquet")):
        yield from read_kernel_table(str(path))


Found = dict[tuple[str, str], Fitted]
Cards = dict[str, tuple[Sheet, Efficiency]]


def fitted(card: str, hardware: Hardware) -> Found:
    """Fit all tables of a card, twice."""
    found: Found = {}
    for kind, format, table in tables(card):
        if card == "a100" and kind != "gemm":
            # Larger heads fall back to another kernel there, four times slower.
            table = part(table, np.flatnonzero(table["head_dim"] <= 256))
        cache = catalogue_sheet(CARDS[card]).last_cache_mb
        machine, start = machine_of(hardware, kind, format), start_of(kind, format, last_cache_mb=cache)
        # A short table says less against the start.
        prior = 0.05 if len(table["seconds"]) < 200 else 0.2
        some, rest = halves(table)
        half = closest(kind, some, machine, starts(kind, start), prior)
        short = len(table["seconds"]) < SHORT
        whole = closest(kind, table, machine, starts(kind, start), prior) if short else half
        found[kind, format] = Fitted(table, rest, half, whole)
        print(f"{card} {kind} {format}: {len(table['seconds'])} rows", flush=True)
    return found


def starts(kind: str, start: Any) -> list[Any]:
    """Where to start from: decode kernels compute query heads of a windowed layer together or each alone;
    blocks of several kernels find much of what they read in the last cache, or hardly any."""
    if kind == "decode":
        return [start, replace(start, group_tile=64.0, window_reload=0.5)]
    if kind not in ("gemm", "decode", "prefill") and getattr(start, "cache_share", None) is not None:
        return [start, replace(start, cache_share=0.05)]
    return [start]


def closest(kind: str, table: Table, machine: Machine, begin: list[Any], prior: float) -> Any:
    """The constants that are closest to the rows that they were fitted to, of those from each start."""
    found = [fit_kernel(kind, table, machine, start=start, prior=prior) for start in begin]
    return min(found, key=lambda c: float(np.mean(np.abs(np.log(ratios(kind, table, machine, c))))))


def ratios(kind: str, table: Table, machine: Machine, constants: Any) -> np.ndarray:
    """Predicted over measured."""
    # One compiled call: op by op, a table's shapes are compiled for every operator anew.
    seconds = jax.jit(lambda c: kernel_seconds(kind, table, machine, c))(constants)
    return np.asarray(seconds) / table["seconds"]


def data_sheet(kind: str, table: Table, machine: Machine) -> np.ndarray:
    """Predicted over measured of the plain roofline: the longest of compute, memory and link."""
    return ratios(kind, table, machine, _ideal(kind))


def _ideal(kind: str) -> Any:
    """Constants of a machine that reaches its peaks and takes no time to start."""
    start = start_of(kind)
    values = dict.fromkeys(asdict(start), 1e-09)
    ones = ("compute", "bandwidth", "attention_compute", "attention_bandwidth", "link", "inner")
    large = {"group_scale": 1e9, "sharpness": 40.0, "step_kb": 1e9, "sort_tokens": 1.0}
    values |= {name: 1.0 for name in ones if name in values} | {k: v for k, v in large.items() if k in values}
    return replace(start, **{k: None if getattr(start, k) is None else v for k, v in values.items()})


def width(residuals: np.ndarray, seconds: np.ndarray) -> tuple[float, ...]:
    """Half widths of 90% intervals of log(measured / predicted), at the anchors' times."""
    away = np.abs(residuals)
    whole = float(np.quantile(away, 0.9))
    nearest = np.argmin(np.abs(np.log(seconds)[:, None] - np.log(ANCHORS)), axis=1)
    groups = [away[nearest == i] for i in range(len(ANCHORS))]
    return tuple(float(np.quantile(g, 0.9)) if len(g) >= 30 else whole for g in groups)


def inside(lent: Efficiency, kind: str, format: str, ratio: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Which measurements the stated intervals hold."""
    return np.abs(np.log(ratio)) <= half_width(lent, kind, format, ratio * seconds)


def key(kind: str, format: str) -> str:
    return f"{kind} {format}".strip()


def efficiency(
    card: str, found: dict[tuple[str, str], Fitted], hardware: Hardware, *, half: bool
) -> Efficiency:
    """The constants of a card as one object, fitted to one half of the rows or to all."""
    chosen = {k: (f.half if half else f.whole) for k, f in found.items()}
    rounded = {k: jax.tree.map(lambda v: float(f"{v:.5g}"), c) for k, c in chosen.items()}
    main = {kind: rounded.pop((kind, "bf16")) for kind in ("gemm", "decode", "prefill")}
    spread, error = [], []
    for (kind, format), one in found.items():
        off = ratios(kind, one.scored, machine_of(hardware, kind, format), one.half)
        predicted = off * one.scored["seconds"]
        spread.append((key(kind, format), tuple(round(w, 3) for w in width(np.log(off), predicted))))
        if format == "bf16" and kind in main:
            away = np.abs(off - 1)
            error.append((kind, round(float(np.median(away) if kind == "decode" else away.mean()), 4)))
    return Efficiency(
        **main,
        engine=measured_efficiency("a100" if card == "a100" else "h100").engine,
        others=tuple(sorted((key(*k), c) for k, c in rounded.items())),
        source=SOURCES["a100" if card == "a100" else "h100"],
        error=tuple(sorted(error)),
        spread=tuple(sorted(spread)),
        status="fitted",
    )


def left_out(card: str, cards: Cards, reach: dict[str, float]) -> Efficiency:
    """What the other cards' constants say about one."""
    others = {name: one for name, one in cards.items() if name != card}
    return borrow(cards[card][0], others, reach)


def reaches(found: dict[str, Any], cards: Cards) -> dict[str, float]:
    """By kind and format, the least growth of intervals under which they hold 90% of cards left out.

    Half widths are the roots of the lenders' squares and of those of the growth times the doublings between
    the data sheets. Of a kind without its format, it is the largest of its formats.
    """
    needed: dict[str, list[np.ndarray]] = {}
    for card, tables_of in found.items():
        lent, hardware = left_out(card, cards, {}), load_hardware(CARDS[card])
        doubled = left_out(card, cards, dict.fromkeys(CONSTANTS, 1.0))
        for (kind, format), one in tables_of.items():
            constants = constants_of(lent, kind, format)
            if constants is None:
                continue
            off = ratios(kind, one.rows, machine_of(hardware, kind, format), constants)
            at = off * one.rows["seconds"]
            low, high = (half_width(e, kind, format, at) for e in (lent, doubled))
            beyond = np.maximum(np.log(off) ** 2 - low**2, 0) / (high**2 - low**2)
            needed.setdefault(key(kind, format), []).append(np.sqrt(beyond))
    # Each card's each table counts as much, however many rows it has.
    out: dict[str, float] = {}
    for name, parts in needed.items():
        weights = np.concatenate([np.full(len(p), 1 / len(p)) for p in parts])
        values = np.concatenate(parts)
        order = np.argsort(values)
        reached = np.cumsum(weights[order]) / weights.sum()
        out[name] = round(float(values[order][np.searchsorted(reached, 0.9)]), 3)
    for kind in CONSTANTS:
        out[kind] = max(value for name, value in out.items() if kind_class(name) == kind)
    return out


def report(found: dict[str, Found], cards: Cards, reach: dict[str, float]) -> list[dict[str, Any]]:
    """One line a card, kind and format."""
    lines = []
    for card, tables_of in found.items():
        hardware = load_hardware(CARDS[card])
        own, lent = cards[card][1], left_out(card, cards, reach)
        for (kind, format), one in tables_of.items():
            machine = machine_of(hardware, kind, format)
            off = ratios(kind, one.scored, machine, one.half)
            plain = data_sheet(kind, one.scored, machine)
            line = {
                "card": card,
                "kind": kind,
                "format": format,
                "rows": len(one.scored["seconds"]),
                "mean": abs(off - 1).mean(),
                "median": np.median(abs(off - 1)),
                "bias": np.median(off - 1),
                "interval_holds": inside(own, kind, format, off, one.scored["seconds"]).mean(),
                "data_sheet_mean": abs(plain - 1).mean(),
                "data_sheet_median": np.median(abs(plain - 1)),
            }
            constants = constants_of(lent, kind, format)
            if constants is not None:
                away = ratios(kind, one.rows, machine, constants)
                line |= {
                    "left_out_mean": abs(away - 1).mean(),
                    "left_out_median": np.median(abs(away - 1)),
                    "left_out_interval_holds": inside(lent, kind, format, away, one.rows["seconds"]).mean(),
                }
            lines.append(line)
    return lines


def show(lines: list[dict[str, Any]]) -> None:
    """Print the table."""
    heads = ("rows", "mean", "median", "holds", "sheet", "left out", "median", "holds")
    print(f"{'':34}" + "".join(f"{head:>9}" for head in heads))
    for line in lines:
        name = f"{line['card']} {line['kind']} {line['format']}"
        names = ("mean", "median", "interval_holds", "data_sheet_mean", "left_out_mean", "left_out_median")
        shares = [line.get(n) for n in (*names, "left_out_interval_holds")]
        print(
            f"{name:<34}{line['rows']:>9}" + "".join(f"{'' if v is None else f'{v:.1%}':>9}" for v in shares)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace scalesim/data/efficiency.json")
    parser.add_argument("--cards", default=",".join(CARDS), help="which, separated by commas")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    names = options.cards.split(",")
    found = {card: fitted(card, load_hardware(CARDS[card])) for card in names}
    halves_of, cards = {}, {}
    for card in names:
        hardware = load_hardware(CARDS[card])
        halves_of[card] = (catalogue_sheet(CARDS[card]), efficiency(card, found[card], hardware, half=True))
        cards[card] = (catalogue_sheet(CARDS[card]), efficiency(card, found[card], hardware, half=False))
    reach = reaches(found, halves_of)
    lines = report(found, halves_of, reach)
    show(lines)
    print("growth of intervals a doubling:", reach)
    write_csv(RESULTS / "hardware_constants.csv", lines)
    if options.write:
        path = Path(__file__).parents[1] / "scalesim" / "data" / "efficiency.json"
        shipped = {
            "reach": reach,
            "engines": shipped_constants()["engines"],
            "cards": {
                name: {"sheet": one[0]._asdict(), "efficiency": one[1].to_dict()}
                for name, one in cards.items()
            },
        }
        path.write_text(json.dumps(shipped, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path.name}")
        for known in (shipped_constants, measured_efficiency, measured_cards, hardware_catalogue):
            known.cache_clear()
        hardware_models.run(write=True)


if __name__ == "__main__":
    main()
