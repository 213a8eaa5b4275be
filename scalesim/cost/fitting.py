"""Kernel constants from tables of kernel times: what each form predicts for a table, fitted and scored.

A table is a dictionary of columns: sizes, and the measured `seconds`. Where the measurements come from is
another's business: public data (`experiments/hardware_constants.py`) or this machine (`scalesim.measure`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalesim.cost.calibration import fit_constants
from scalesim.cost.flops import attended_pairs
from scalesim.cost.kernels import decode_attention_time, gemm_time, prefill_attention_time
from scalesim.efficiency import DecodeConstants, GemmConstants, PrefillConstants
from scalesim.errors import InvalidInput, choose

__all__ = ["STARTS", "Machine", "Table", "fit_kernel", "halves", "kernel_errors", "kernel_seconds", "part"]

Table = Mapping[str, np.ndarray]

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
}
"""Where the fits start, kind by kind: round numbers of an accelerator."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the forms need to know of a machine.

    Attributes:
        peak: FLOP/s.
        bandwidth: bytes a second at which n bytes that are read over and over come.
        value_bytes: bytes a value of all operands.
    """

    peak: float
    bandwidth: Callable[[Any], Any]
    value_bytes: float = 2.0


def part(table: Table, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows of a table."""
    return {name: column[rows] for name, column in table.items()}


def halves(table: Table, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a random half of a table to fit, and the other to score."""
    order = np.random.default_rng(seed).permutation(len(table["seconds"]))
    return part(table, order[::2]), part(table, order[1::2])


def kernel_seconds(kind: str, table: Table, machine: Machine, constants: Any) -> jax.Array:
    """Return the seconds that a form predicts for the rows of a table.

    Args:
        kind: "gemm" (columns m, n, k: [m, k] x [k, n]), "gemm pair" (the same, and its result times
            [n, k]), "decode" (batch, length, n_head, n_kv_head, head_dim; layers, if caches of several are
            read in turn) or "prefill" (batch, new, n_head, n_kv_head, head_dim; window, if there is one).
        table: the columns.
        machine: where.
        constants: of that kind.
    """
    return _FORMS[choose("kind", kind, _FORMS)](table, machine, constants)


def _gemm(t: Table, machine: Machine, c: GemmConstants) -> jax.Array:
    m, n, k, size = t["m"], t["n"], t["k"], machine.value_bytes
    bandwidth, moved = machine.bandwidth(size * k * n), size * (m * k + k * n + m * n)
    packed = size * k * n * (1 - 1 / m)
    return gemm_time(2 * m * n * k, moved, k, machine.peak, bandwidth, c, packed=packed)


def _pair(t: Table, machine: Machine, c: GemmConstants) -> jax.Array:
    """[m, k] x [k, n] and [m, n] x [n, k], one after the other, on two matrices."""
    both = machine.bandwidth(2 * machine.value_bytes * t["k"] * t["n"])
    there = Machine(peak=machine.peak, bandwidth=lambda _: both, value_bytes=machine.value_bytes)
    return _gemm(t, there, c) + _gemm({**t, "n": t["k"], "k": t["n"]}, there, c)


def _decode(t: Table, machine: Machine, c: DecodeConstants) -> jax.Array:
    heads, size = (t["n_head"], t["n_kv_head"], t["head_dim"]), machine.value_bytes
    cached = 2 * size * t["batch"] * t["length"] * t["n_kv_head"] * t["head_dim"]
    bandwidth = machine.bandwidth(cached * t.get("layers", 1))
    bits = {"kv_bytes": size, "activation_bytes": size}
    return decode_attention_time(t["batch"], t["length"], *heads, machine.peak, bandwidth, c, **bits)


def _prefill(t: Table, machine: Machine, c: PrefillConstants) -> jax.Array:
    new, heads, size = t["new"], (t["n_head"], t["n_kv_head"], t["head_dim"]), machine.value_bytes
    window = t.get("window", np.full(len(new), 1e9))
    span = np.asarray(attended_pairs(new, window=window)) / new
    bandwidth = machine.bandwidth(2 * size * t["batch"] * new * t["n_kv_head"] * t["head_dim"])
    bits = {"kv_bytes": size, "activation_bytes": size}
    longest = np.minimum(new, window)
    return prefill_attention_time(
        t["batch"], new, span, *heads, machine.peak, bandwidth, c, longest=longest, **bits
    )


_FORMS: dict[str, Callable[[Table, Machine, Any], jax.Array]] = {
    "gemm": _gemm,
    "gemm pair": _pair,
    "decode": _decode,
    "prefill": _prefill,
}


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
    begin = STARTS[kind.split()[0]] if start is None else start
    return fit_constants(
        lambda c: kernel_seconds(kind, table, machine, c), begin, seconds, fixed=fixed, prior=prior
    )


def kernel_errors(kind: str, table: Table, machine: Machine, constants: Any) -> np.ndarray:
    """Return |predicted / measured - 1|, row by row."""
    return np.abs(np.asarray(kernel_seconds(kind, table, machine, constants)) / table["seconds"] - 1)
