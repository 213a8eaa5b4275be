"""Hardware with the constants of the machine at hand: timed, fitted, and scored on what did not fit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.calibration import Timing, calibrate, fit_constants
from scalesim.cost.fitting import STARTS, fit_kernel, halves, kernel_errors
from scalesim.cost.kernel_forms import Machine, Table
from scalesim.cost.operators import elementwise_values
from scalesim.efficiency import Efficiency, EngineConstants
from scalesim.errors import InvalidInput, Unreachable, choose
from scalesim.hardware import Hardware
from scalesim.measure.clock import ahead
from scalesim.measure.kernels import CASES, TIMERS, Limits, read_timer
from scalesim.measure.models import call_seconds, time_models
from scalesim.measure.peak import measured_peak
from scalesim.shape import Shape

__all__ = ["REFERENCES", "REFERENCE_CONTEXTS", "Measured", "measure_hardware"]

REFERENCES = tuple(
    Shape(
        n_layer=n_layer,
        d_model=d_model,
        n_head=n_head,
        n_kv_head=n_kv_head,
        head_dim=head_dim,
        d_ff=d_ff,
        vocab_size=512,
        tied_embeddings=True,
    )
    for n_layer, d_model, n_head, n_kv_head, head_dim, d_ff in (
        (2, 64, 4, 2, 16, 176),
        (4, 256, 8, 2, 32, 704),
        (6, 512, 8, 8, 64, 1408),
    )
)
"""Whole models that the constants of the engine are fitted to: never those that a prediction is scored on."""
REFERENCE_CONTEXTS = (128, 1024)

_SHARES = {"gemm": 0.2, "decode": 0.4, "prefill": 0.2, "layer": 0.05}  # of the time; models have the rest
_LEAST = {"gemm": 16, "decode": 24, "prefill": 12, "layer": 8}  # rows, whatever time they take
_LONG_READ = 4e-3  # seconds: far beyond any cache
_PRIOR = 0.02  # of the kernels' start, which is an accelerator's
# An accelerator's round numbers, and of what only processors have: exp is dear, matrices are packed.
_START = {
    **STARTS,
    "gemm": replace(STARTS["gemm"], packing=1.0),
    "decode": replace(STARTS["decode"], head_pad=16.0, unpack=10.0),
}
_ENGINE = EngineConstants(launch=1.0, group=0.0, layer_us=5.0, step_us=1.0, sequence_us=0.0)

Progress = Callable[[float, str], None]


@dataclass(frozen=True, eq=False)
class Measured:
    """A machine measured.

    Attributes:
        hardware: its figures and constants; `hardware.efficiency.error` states the errors held out.
        tables: the kernels' sizes and seconds, by kind.
        timings: of the whole models that the engine's constants were fitted to.
        kernels: the hardware before that: its engine adds nothing to the kernels but each layer's small
            operators.
        status: a sentence.
    """

    hardware: Hardware
    tables: dict[str, Table]
    timings: tuple[Timing, ...]
    kernels: Hardware
    status: str


def measure_hardware(
    *,
    dtype: str = "float32",
    seconds: float = 60.0,
    references: Sequence[Shape] = REFERENCES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Time this machine's kernels on the default device, and return it as the cost model knows hardware.

    Matrix products, decode and prefill attention as `scalesim.model` runs them, a layer's small operators
    and reads from memory and from the last cache, at sizes drawn evenly in their logarithms. One half of each
    kind fits the forms of `scalesim.cost.kernels`, the other scores them; what is returned is fitted to all.
    The engine's constants (scale, launch, layer_us, step_us) are fitted to a few whole models, `references`.

    Args:
        dtype: "float32" or "bfloat16". `bf16_tflops` of the result is the rate in this dtype, and the
            workload must state its bits.
        seconds: how long to measure, roughly: a minimum of kernels is timed whatever it is.
        references: whole models for the constants of the engine.
        seed: of the sizes drawn.
        progress: called with the part done and what is being timed.

    Raises:
        InvalidInput: an unknown dtype, seconds that are not positive, or no reference.
        Unreachable: no kernel of some kind could be timed (say, for want of memory).
    """
    choose("dtype", dtype, ("float32", "bfloat16"))
    if not 0 < seconds < float("inf"):
        raise InvalidInput(f"seconds must be above 0 and finite, but is {seconds!r}.")
    if not references:
        raise InvalidInput("references must hold one shape at least, but is empty.")

    def tell(part: float, note: str) -> None:
        if progress is not None:
            progress(part, note)

    tell(0.0, "memory and peak")
    size = float(jnp.dtype(dtype).itemsize)
    peak = measured_peak(dtype=dtype) / (1 if jax.default_backend() == "cpu" else jax.local_device_count())
    longest = max(seconds / 15_000, 1e-3)  # of one kernel
    limits = Limits(peak=peak, bandwidth=1e10, seconds=longest, value_bytes=size)
    rates = _memory(limits, dtype)
    limits = replace(limits, bandwidth=1e9 * (rates["bandwidth_gbs"] or 1.0))
    tables: dict[str, Table] = {}
    done = 0.05
    for kind, share in _SHARES.items():
        tables[kind] = _table(kind, limits, dtype, share * seconds, seed, partial(tell, done))
        done += share
    pairs = tables["gemm"]
    peak = max(peak, float(np.max(4 * pairs["m"] * pairs["n"] * pairs["k"] / pairs["seconds"])))
    bare = _bare(rates, peak, tables, size, dtype)
    timings = tuple(time_models(references, REFERENCE_CONTEXTS, dtype, partial(tell, done)))
    found = calibrate(timings, bare, constants=("scale", "launch", "layer_us", "step_us"))
    errors = {**dict(bare.efficiency.error), "model": found.error_left_out or found.error}
    stated = tuple((name, round(value, 4)) for name, value in sorted(errors.items()))
    efficiency = replace(found.hardware.efficiency, error=stated)
    counts = ", ".join(f"{len(table['seconds'])} {kind}" for kind, table in tables.items())
    said = ", ".join(f"{name} {value:.1%}" for name, value in stated)
    status = f"Measured {counts} kernels and {len(timings)} whole-model times; errors held out: {said}."
    tell(1.0, "done")
    return Measured(replace(found.hardware, efficiency=efficiency), tables, timings, bare, status)


def _memory(limits: Limits, dtype: str) -> dict[str, float | None]:
    """Return bandwidth_gbs, and cache_mb and cache_gbs where a cache is at least half as fast again.

    The rate at which matrices of growing size are read over and over; the cache's size is the one under which
    `Hardware.bandwidth_at` comes closest to those rates.
    """
    read: list[tuple[float, float]] = []
    widths = [8 * round(2 ** (power / 2) / 4) for power in range(10, 28)]  # 8 KB to 4 GB
    with closing(ahead(partial(read_timer, limits, dtype, width) for width in widths)) as compiled:
        for width, timer in zip(widths, compiled, strict=True):
            seconds = timer()()
            read.append((2 * limits.value_bytes * width**2, seconds))
            if len(read) > 2 and seconds > _LONG_READ:
                break
    n_bytes, rates = np.asarray([(b, b / s / 1e9) for b, s in read]).T
    top = int(np.argmax(rates))
    last = float(np.median(rates[-3:]))
    bare: dict[str, float | None] = {"bandwidth_gbs": last, "cache_mb": None, "cache_gbs": None}
    if rates[top] < 1.5 * last:
        return {**bare, "bandwidth_gbs": float(rates[top])}
    box: dict[str, Any] = {"name": "", "bf16_tflops": 1.0, "memory_gb": 1.0}
    best, least = bare, float("inf")
    for megabytes in np.geomspace(n_bytes[top], n_bytes[-1], 60) / 1e6:
        cached = {"bandwidth_gbs": bare["bandwidth_gbs"], "cache_mb": megabytes, "cache_gbs": rates[top]}
        predicted = np.asarray(Hardware.from_dict({**box, **cached}).bandwidth_at(n_bytes[top:])) / 1e9
        off = float(np.abs(np.log(predicted / rates[top:])).sum())
        if off < least:
            best, least = {name: float(value) for name, value in cached.items()}, off
    return best


def _table(
    kind: str, limits: Limits, dtype: str, seconds: float, seed: int, tell: Callable[[str], None]
) -> Table:
    """Time drawn kernels of one kind until the time is over, but for those that memory is too small for."""
    random = np.random.default_rng([seed, list(CASES).index(kind)])
    drawn, timers = tee(CASES[kind](random, limits))
    rows: list[dict[str, float]] = []
    began, failure, failed = time.monotonic(), "", 0
    compiled = ahead(partial(TIMERS[kind], limits, dtype, **case) for case in timers)
    with closing(compiled):
        for case, timer in zip(drawn, compiled, strict=False):
            if len(rows) >= _LEAST[kind] and time.monotonic() - began > seconds:
                break
            tell(f"{kind} {len(rows) + 1}")
            try:
                rows.append({**case, "seconds": timer()()})
            except jax.errors.JaxRuntimeError as problem:
                failure, failed = str(problem).splitlines()[0], failed + 1
                if failed > 5 + len(rows):
                    raise Unreachable(
                        f"No {kind} kernel can be timed on {jax.devices()[0].device_kind}: {failure}"
                    ) from None
    return {name: np.asarray([row[name] for row in rows], float) for name in rows[0]}


def _bare(
    rates: dict[str, float | None], peak: float, tables: dict[str, Table], size: float, dtype: str
) -> Hardware:
    """Return the hardware whose kernels are fitted to the tables, and whose engine adds nothing to them."""
    figures: dict[str, Any] = {**rates, "bf16_tflops": peak / 1e12, "memory_gb": _memory_bytes() / 1e9}
    box = Hardware.from_dict({"name": _name(), **figures})
    machine = Machine(peak=peak, bandwidth=box.bandwidth_at, value_bytes=size)
    errors: dict[str, float] = {}
    with jax.enable_x64(True):
        constants = {}
        for kind in ("gemm", "decode", "prefill"):
            form = {"gemm": "gemm pair"}.get(kind, kind)
            fitted, scored = halves(tables[kind])
            fit = partial(fit_kernel, form, machine=machine, start=_START[kind], prior=_PRIOR)
            off = kernel_errors(form, scored, machine, fit(fitted))
            errors[kind] = float(np.median(off) if kind == "decode" else off.mean())
            constants[kind] = fit(tables[kind])
        engine = replace(_small_operators(tables["layer"], box, size), prompt_us=1e6 * call_seconds(dtype))
    source = f"measured on this machine: {_name()}, {dtype}"
    return replace(
        box,
        source=source,
        efficiency=Efficiency(**constants, engine=engine, source=source, error=tuple(sorted(errors.items()))),
    )


def _small_operators(table: Table, box: Hardware, size: float) -> EngineConstants:
    """Fit the time a layer and the share of bandwidth of what a layer does beside products and attention."""
    n_bytes = size * np.asarray([_layer_values(table, i) for i in range(len(table["seconds"]))])
    bandwidth = box.bandwidth_at(n_bytes)
    names = ("scale", "launch", "group", "step_us", "prompt_us", "sequence_us", "link", "hop_us")
    return fit_constants(
        lambda c: c.layer_us * 1e-6 + n_bytes / (c.stream * bandwidth),
        _ENGINE,
        table["seconds"],
        fixed=names,
        prior=_PRIOR,
    )


def _layer_values(table: Table, row: int) -> float:
    sizes = {name: float(table[name][row]) for name in ("d_model", "d_ff", "n_head", "n_kv_head", "head_dim")}
    shape = Shape(n_layer=1, **sizes)  # type: ignore[arg-type]
    return float(table["tokens"][row]) * float(elementwise_values(shape))


def _name() -> str:
    device = jax.devices()[0]
    cores = f", {len(os.sched_getaffinity(0))} cores" if hasattr(os, "sched_getaffinity") else ""
    return f"{device.device_kind}{cores if device.platform == 'cpu' else ''}"


def _memory_bytes() -> float:
    """Return the memory that the device states; the host's where it states none."""
    stated = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return float(stated or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
