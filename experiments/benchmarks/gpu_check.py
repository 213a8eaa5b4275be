"""What an accelerator does of what is promised of it: one command, results kept as they come.

    make gpu-check                                                 # on a GPU
    python -m experiments.benchmarks.gpu_check --small             # the same steps at sizes for a processor

Each step's rows are in out/gpu_check.csv the moment it ends; a step that fails is a row with its reason, and
the others go on. MFU of training at 300M and 720M parameters in BF16 with cuDNN's attention, against the data
sheet; the constants that `ss.measure_hardware` finds, beside those that ship; prefill and decode of whole
models beside the cost model with either; seconds of a search, and designs a second of a sweep.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import jax
import numpy as np

import scalesim as ss
from experiments.common import Row, machine_load, print_rows, write_csv
from scalesim.hardware import Hardware
from scalesim.measure import Measured, measured_peak, time_models
from scalesim.model import ModelOptions
from scalesim.shape import Shape
from scalesim.sweeps import default_product
from scalesim.training import Recipe
from scalesim.training.step import compiled_step, first_state
from scalesim.workload import TrainingPlan

__all__ = ["check", "main"]

LARGE = (
    Shape(n_layer=24, d_model=1024, n_head=16, n_kv_head=4, head_dim=64, d_ff=2816, vocab_size=32_768),
    Shape(n_layer=24, d_model=1536, n_head=12, n_kv_head=4, head_dim=128, d_ff=4096, vocab_size=32_768),
)
SMALL = (Shape(n_layer=2, d_model=64, n_head=4, n_kv_head=1, head_dim=16, d_ff=176, vocab_size=256),)
SHEETS = {
    "H100 PCIe": "h100-pcie",
    "H100": "h100-sxm",
    "H200": "h200-sxm",
    "B200": "b200-sxm",
    "L40S": "l40s",
}
MFU, DECODE = 0.5, 0.15  # what is wanted: at least, and error at most


def sheet() -> Hardware | None:
    """Return what ships for the device at hand, if anything does."""
    kind = jax.devices()[0].device_kind
    return next((ss.load_hardware(name) for word, name in SHEETS.items() if word in kind), None)


@cache
def measured(small: bool) -> Measured:
    return ss.measure_hardware(dtype="float32" if small else "bfloat16", seconds=1.0 if small else 120.0)


def mfu(small: bool) -> Iterator[Row]:
    """Yield each shape's FLOP/s in training over the data sheet's (or the measured matrix rate's)."""
    known = sheet()
    peak = measured_peak(dtype="float32" if small else "bfloat16")
    peak = peak if known is None or small else float(known.peak_flops("bf16"))
    options = ModelOptions() if small else ModelOptions(dtype="bfloat16", attention="cudnn")
    for shape in SMALL if small else LARGE:
        for context, rows in ((256, 4),) if small else ((2048, 8), (8192, 2)):
            step = compiled_step(shape, Recipe(), options, packed=False)
            state = first_state(shape, Recipe(), 0)
            sizes = (rows, context + 1)
            text = np.random.default_rng(0).integers(0, shape.vocab_size, sizes).astype(np.int32)
            times = []
            for _ in range(3 if small else 12):
                began = time.perf_counter()
                state, loss = step(state, text, np.float32(1e-4), np.int32(1000))
                jax.block_until_ready((state, loss))
                times.append(time.perf_counter() - began)
            plan = TrainingPlan(n_tokens=rows * context, context_length=context)
            yield {
                "what": "MFU",
                "case": f"{float(shape.n_params_total):.3g} parameters, {rows} x {context} tokens",
                "measured": float(ss.training_flops(shape, plan)) / min(times[1:]) / peak,
                "expected": MFU,
                "note": f"{rows * context / min(times[1:]):,.0f} tokens/s; first step {times[0]:.1f} s",
            }


def constants(small: bool) -> Iterator[Row]:
    """Yield what was measured of the device beside what ships for it."""
    found, known = measured(small).hardware, sheet()
    for name in ("bf16_tflops", "bandwidth_gbs"):
        shipped = float("nan") if known is None else float(getattr(known, name))
        yield {"what": name, "case": found.name, "measured": float(getattr(found, name)), "expected": shipped}
    for kind, error in found.efficiency.error:
        yield {"what": f"error of {kind}", "case": "held out", "measured": error, "expected": DECODE}


def models(small: bool) -> Iterator[Row]:
    """Yield prefill and decode of whole models beside the cost model, with constants measured and shipped."""
    known = sheet()
    contexts, dtype = ((128,), "float32") if small else ((2048, 8192, 32_768), "bfloat16")
    for timing in time_models(SMALL if small else LARGE, contexts, dtype):
        case = f"{float(timing.shape.n_params_total):.3g} at {timing.workload.context_length}"
        machines = {"measured here": measured(small).hardware, "shipped": known}
        for name, machine in machines.items():
            if machine is None:
                continue
            expected = float(timing.predict(machine))
            yield {
                "what": f"{'prefill' if timing.what == 'ttft' else 'decode'}, s",
                "case": f"{case}, {name}",
                "measured": timing.seconds,
                "expected": expected,
                "note": f"{expected / timing.seconds - 1:+.1%}",
            }


def searches(small: bool) -> Iterator[Row]:
    """Yield seconds of a search, and designs a second of a sweep, the second time each."""
    fit, job = ss.named_fit("default"), ss.Workload(context_length=131_072)
    designs = default_product(1e5 if small else 1e9)
    for _ in range(2):
        began = time.perf_counter()
        ss.search(fit, job, 2.6)
        searching = time.perf_counter() - began
        swept = ss.sweep(fit, designs, job, 2.6)
    yield {"what": "search, s", "case": "128K, default law", "measured": searching}
    yield {
        "what": "sweep, designs/s",
        "case": f"{swept.designs:.3g} designs",
        "measured": swept.designs / swept.seconds,
    }


STEPS: Sequence[Callable[[bool], Iterable[Row]]] = (mfu, constants, models, searches)


def check(small: bool, path: Path, steps: Sequence[Callable[[bool], Iterable[Row]]] = STEPS) -> list[Row]:
    """Take the steps; write the rows after each, with the reason of a step that failed."""
    device = jax.devices()[0].device_kind
    rows: list[Row] = []
    for step in steps:
        try:
            for row in step(small):
                rows.append({**row, "device": device})
                write_csv(path, rows)
        except Exception as error:  # a step that this device cannot take must not keep the others from theirs
            reason = f"{type(error).__name__}: {str(error)[:300]}"
            rows.append({"what": step.__name__, "case": "failed", "note": reason, "device": device})
            write_csv(path, rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="sizes for a processor")
    parser.add_argument("--out", type=Path, default=Path("out/gpu_check.csv"))
    options = parser.parse_args()
    if jax.default_backend() == "cpu" and not options.small:
        parser.error("JAX sees no accelerator here: --small takes the same steps at sizes for a processor.")
    rows = check(options.small, options.out)
    print_rows(f"{jax.devices()[0].device_kind}, {machine_load()}", rows)


if __name__ == "__main__":
    main()
