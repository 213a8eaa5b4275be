"""Kernel constants from tables of kernel times: the forms fitted to them, and scored.

A table is a dictionary of columns: sizes, and the measured `seconds`. Where the measurements come from is
another's business: public data (`experiments/hardware_constants.py`) or this machine (`scalesim.measure`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scalesim.constants import (
    FORMATS,
    CollectiveConstants,
    DecodeConstants,
    DeltaConstants,
    ExpertConstants,
    GemmConstants,
    LatentDecodeConstants,
    LatentPrefillConstants,
    PrefillConstants,
    kind_class,
)
from scalesim.cost.calibration import fit_constants
from scalesim.cost.kernel_forms import Machine, Table, kernel_seconds
from scalesim.errors import InvalidInput

__all__ = ["STARTS", "fit_kernel", "halves", "kernel_errors", "part", "start_of"]

# Of latent attention, whether it decodes or computes a prompt.
_LATENT = {
    "compute": 0.6,
    "bandwidth": 0.8,
    "fill": 100.0,
    "latency_bytes": 2e6,
    "sharpness": 2.0,
    "launch_us": 60.0,
}

STARTS: dict[str, Any] = {
    "gemm": GemmConstants(
        compute=0.85,
        bandwidth=0.85,
        sharpness=2.0,
        launch_us=1.0,
        depth_us=0.5,
        depth_exponent=0.3,
        fill=100.0,
        latency_bytes=2e6,
    ),
    "decode": DecodeConstants(
        bandwidth=0.85,
        group_scale=12.0,
        compute=0.6,
        sharpness=3.0,
        launch_us=11.0,
        split_us=5.0,
        serial_us=0.002,
        serial_exponent=2.0,
        tile=128 * 100.0,
        query_weight=1.0,
    ),
    "prefill": PrefillConstants(
        compute=0.65,
        bandwidth=0.8,
        sharpness=2.0,
        launch_us=11.0,
        tile_rows=100.0,
        span_pad=50.0,
        head_pad=20.0,
        reload=0.1,
        serial_us=0.005,
        serial_exponent=0.5,
    ),
    "experts": ExpertConstants(
        compute=0.6,
        bandwidth=0.8,
        sharpness=2.0,
        launch_us=30.0,
        sort_us=10.0,
        sort_tokens=3.0,
        tile=32.0,
        inner=1.0,
        visit_hidden=1.0,
        visit_inner=1.0,
        fill=50.0,
        fill_hidden=50.0,
        rest=0.2,
        skew=0.5,
    ),
    "latent decode": LatentDecodeConstants(
        **_LATENT,
        sequence_us=0.01,
        tile=30.0,
        head_tile=16.0,
        attention_bandwidth=0.7,
        attention_compute=0.4,
        serial_us=0.0005,
    ),
    "latent prefill": LatentPrefillConstants(
        **_LATENT,
        attention_compute=0.7,
        tile_rows=50.0,
        span_pad=300.0,
        head_pad=20.0,
        serial_us=0.01,
        copies=1.0,
    ),
    "delta": DeltaConstants(
        launch_us=4.0,
        sharpness=2.0,
        compute=0.3,
        bandwidth=0.7,
        serial_ns=10.0,
        unit_ns=1.0,
        tile=64.0,
    ),
    "collective": CollectiveConstants(launch_us=5.0, hop_us=1.0, step_us=3.0, step_kb=300.0, link=0.7),
}
"""Where the fits start, kind by kind: round numbers of an accelerator."""

# What formats that activations are rounded to first, and attention of an engine, have beside these.
_QUANTISED = {
    "quantise_us": 2.0,
    "quantise": 0.5,
    "quantise_width": 100.0,
    "serial_ns": 1.0,
    "serial_rows": 32.0,
}
_ATTENTION = {
    "decode": {
        "group_tile": 8.0,
        "window_us": 1.0,
        "window_reload": 0.01,
        "wide": 0.1,
        "odd": 0.1,
        "regroup_us": 1.0,
        "part": 16384.0,
        "parts": 140.0,
        "combine_us": 0.1,
        "second_us": 1.0,
    },
    "prefill": {
        "part_rows": 20.0,
        "prompt_us": 1.0,
        "prompt_rows": 100.0,
        "window_us": 0.3,
        "wide": 0.1,
        "odd": 0.1,
        "apart": 0.95,
        "tile_rows": 128.0,
        "span_pad": 200.0,
    },
    "experts": {"skew_growth": 0.3},
}


def start_of(kind: str, format: str = "bf16", *, last_cache_mb: float | None = None) -> Any:
    """Return where the fit of an engine's kernels of a kind and format starts, every optional part stated.

    Args:
        kind, format: as in `kernel_seconds` and `KernelRows`.
        last_cache_mb: size of a last cache that the kernels' operands may come from (None: there is none).
    """
    start = STARTS[kind_class(kind)]
    more: dict[str, float] = dict(_ATTENTION.get(kind, {}))
    if kind == "gemm" and FORMATS[format].compute != "bf16":
        more |= _QUANTISED
    if kind == "gemm" and format == "fp8_block":
        more |= {"host_us": 50.0, "host_rows_us": 20.0, "host_part_us": 20.0, "host_ragged_us": 10.0}
    if kind == "all-reduce":
        more |= {"host_us": 20.0}
    if last_cache_mb is not None and kind_class(kind) != "collective":
        more |= {"cache_mb": last_cache_mb, "cache_share": 0.4}
    return replace(start, **more)


def part(table: Table, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows of a table."""
    return {name: column[rows] for name, column in table.items()}


def halves(table: Table, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a random half of a table to fit, and the other to score."""
    order = np.random.default_rng(seed).permutation(len(table["seconds"]))
    return part(table, order[::2]), part(table, order[1::2])


def fit_kernel(
    kind: str,
    table: Table,
    machine: Machine,
    *,
    start: Any = None,
    fixed: Sequence[str] = (),
    prior: float = 0.2,
) -> Any:
    """Return the constants under which a form comes closest to a table's seconds.

    Args:
        kind: as in `kernel_seconds`.
        table: the columns, with `seconds`.
        machine: where.
        start: constants to start from; those of `STARTS` if left out.
        fixed: constants to leave alone.
        prior: weight of the start (`fit_constants`).

    Raises:
        InvalidInput: an empty table, or seconds that are not positive.
    """
    seconds = np.asarray(table["seconds"], float)
    if not (len(seconds) and np.all(seconds > 0) and np.all(np.isfinite(seconds))):
        raise InvalidInput(f"seconds of {kind} must be above 0 and finite, one at least, but are {seconds}.")
    begin = STARTS[kind_class(kind)] if start is None else start
    return fit_constants(
        lambda c: kernel_seconds(kind, table, machine, c), begin, seconds, fixed=fixed, prior=prior
    )


def kernel_errors(kind: str, table: Table, machine: Machine, constants: Any) -> np.ndarray:
    """Return |predicted / measured - 1|, row by row."""
    return np.abs(np.asarray(kernel_seconds(kind, table, machine, constants)) / table["seconds"] - 1)
