"""Fit the constants of `scalesim/data/efficiency.json` to public measurements, and score them.

Kernels (A100 and H100, BF16): half of the measurements fit, the other half scores. Engine (vLLM, one
accelerator): two 7B models fit (Llama-2-7B, MHA, and Llama-3-8B, GQA), the others score. Writes
results/hardware_constants.csv, a table of the errors, and with --write the constants.

    python -m experiments.hardware_constants [--write]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import RESULTS, write_csv
from experiments.public_data import public_runs
from scalesim.cost.calibration import Timing, calibrate
from scalesim.cost.fitting import Machine, Table, fit_kernel, halves, kernel_errors, part
from scalesim.cost.numbers import to_float
from scalesim.efficiency import Efficiency, EngineConstants
from scalesim.hardware import Hardware
from scalesim.models import known_model
from scalesim.workload import Workload

# Data sheet's peak FLOP/s and bandwidth of the measured accelerator; the kernels ran on 80 GB cards.
PEAKS = {"a100": (312e12, 2039e9), "h100": (989.4e12, 3350e9)}
SOURCE = "ai-dynamo/aiconfigurator @ 095f58a (kernels); argonne-lcf/LLM-Inference-Bench @ 4211f5d (engine)"
FITTED = ("llama-2-7b", "llama-3-8b")
PRIOR = 0.02
HELD_OUT = {"a100": ("mistral-7b-v0.1",), "h100": ("mistral-7b-v0.1", "qwen2-7b")}

# Columns of the public files, and what they are called here.
NAMES = {
    "batch_size": "batch",
    "kv_len": "length",
    "seq_len": "new",
    "window_size": "window",
    "num_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
}


def read(kind: str, device: str) -> Table:
    """One file of kernel measurements as columns."""
    path = public_runs() / "silicon" / f"{device}_sxm_{kind}_bf16.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    table = dict(zip(rows[0], np.asarray(rows[1:], float).T, strict=True))
    table["seconds"] = table.pop("latency_ms") * 1e-3
    named = {NAMES.get(name, name): column for name, column in table.items()}
    if "window" in named:
        named["window"] = np.where(named["window"] > 0, named["window"], 1e9)
    if "length" in named:
        named["length"] = np.minimum(named["length"], named["window"])
    return named


# Decode is never bound by compute in these data, and accelerators pack no matrices.
FIXED = {"decode": ("compute", "head_pad", "unpack"), "gemm": ("packing",)}
FILES = {"gemm": "gemm", "decode": "attn_decode", "prefill": "attn_prefill"}


def on(device: str) -> Machine:
    peak, bandwidth = PEAKS[device]
    return Machine(peak=peak, bandwidth=lambda _: bandwidth)


def kernel_rows(kind: str, device: str) -> Table:
    """The measurements a form is for: heads beyond 256 fall back to another kernel, four times slower."""
    table = read(FILES[kind], device)
    return part(table, np.flatnonzero(table["head_dim"] <= 256)) if kind != "gemm" else table


def fit(kind: str, device: str, table: Table) -> Any:
    return fit_kernel(kind, table, on(device), fixed=FIXED.get(kind, ()))


def errors(kind: str, device: str, constants: Any, table: Table) -> np.ndarray:
    return kernel_errors(kind, table, on(device), constants)


def shape_of(name: str) -> Any:
    # Qwen2-7B has the sizes of Qwen2.5-7B; Mistral's window is as long as these sequences.
    return known_model({"qwen2-7b": "qwen2.5-7b"}.get(name, name)).shape


def timings(device: str, models: tuple[str, ...], framework: str = "vLLM") -> list[Timing]:
    """Whole-model measurements of some models."""
    path = public_runs() / "llm_inference_bench" / "a100_h100_single_gpu.csv"
    out = []
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row["model"].split("/")[-1].lower().replace("meta-", "").replace("-hf", "")
            wanted = row["framework"] == framework and row["hardware"].lower().split()[1] == device
            if wanted and name in models and row["consistent"] == "True":
                given, made = int(row["input_len"]), int(row["output_len"])
                job = Workload(
                    context_length=given + made, generated_length=made, batch_size=int(row["batch"])
                )
                out.append(Timing(shape=shape_of(name), workload=job, seconds=float(row["latency_s"])))
    return out


def machine(device: str, efficiency: Efficiency) -> Hardware:
    """The accelerator that served the models: the A100 is the 40 GB one, by its bandwidth."""
    memory, bandwidth = {"a100": (40.0, 1555.0), "h100": (80.0, 3350.0)}[device]
    return Hardware(
        name=device,
        bf16_tflops=PEAKS[device][0] / 1e12,
        memory_gb=memory,
        bandwidth_gbs=bandwidth,
        efficiency=efficiency,
    )


def predict(cases: list[Timing], hardware: Hardware) -> np.ndarray:
    time = jax.jit(lambda job, shape: replace(cases[0], workload=job, shape=shape).predict(hardware))
    return np.asarray([float(time(to_float(case.workload), to_float(case.shape))) for case in cases])


class Line(NamedTuple):
    """One line of the table of errors."""

    device: str
    what: str
    rows: int
    mean: float
    median: float


def line(device: str, what: str, off: np.ndarray) -> Line:
    return Line(device, what, len(off), float(off.mean()), float(np.median(off)))


def kernels(device: str) -> tuple[dict[str, Any], dict[str, float], list[Line]]:
    """Fit every kernel: constants to ship, their errors to state, and the table's lines.

    What ships is fitted to all; what is stated is the error of the half that fitted nothing.
    """
    constants: dict[str, Any] = {}
    stated: dict[str, float] = {}
    lines = []
    for kind in FILES:
        table = kernel_rows(kind, device)
        fitted, scored = halves(table)
        half = errors(kind, device, fit(kind, device, fitted), scored)
        constants[kind] = fit(kind, device, table)
        stated[kind] = float(np.median(half) if kind == "decode" else half.mean())
        lines.append(line(device, kind, half))
    return constants, stated, lines


def miss(cases: list[Timing], hardware: Hardware) -> np.ndarray:
    """Relative errors of the predictions."""
    return np.abs(predict(cases, hardware) / np.asarray([case.seconds for case in cases]) - 1)


def engine(device: str, bare: Hardware) -> tuple[Hardware, np.ndarray, list[Line]]:
    """Fit the engine to two models; return it, its errors on the models left out, and the table's lines."""
    found = calibrate(timings(device, FITTED), bare, prior=PRIOR)
    print(device, found.status, found.hardware.efficiency.engine)
    lines = [line(device, "model, fitted", miss(timings(device, FITTED), found.hardware))]
    off = []
    for name in HELD_OUT[device]:
        cases = timings(device, (name,))
        few = np.asarray([case.workload.batch_size <= 16 for case in cases])
        off.append(miss(cases, found.hardware))
        lines.append(line(device, name, off[-1]))
        lines.append(line(device, f"{name}, batch <= 16", off[-1][few]))
        if cases[0].shape.window is not None:
            many = [case for case, small in zip(cases, few, strict=True) if not small]
            lines.append(line(device, f"{name}, batch > 16", off[-1][~few]))
            lines.append(
                line(device, UNSHARED.format(name), miss(many, unshared(found.hardware, cases[0].shape)))
            )
    lines.append(line(device, "model, held out", np.concatenate(off)))
    return found.hardware, np.concatenate(off), lines


UNSHARED = "{}, batch > 16, if its cache were read anew for each query head"


def unshared(hardware: Hardware, shape: Any) -> Hardware:
    """The same engine with a decode kernel that reads a cache once for each of its g query heads.

    As vLLM's paged attention did, to which its versions of 2024 fell back for models with a sliding window
    (pull requests 2744 and 3648), with another kernel up to 512 heads of all sequences: batch 16 here.
    """
    g = shape.n_head / shape.n_kv_head
    changed = replace(hardware.efficiency.engine, group=(g - 1) / float(np.log(g)))  # 1 + c log g = g
    return replace(hardware, efficiency=replace(hardware.efficiency, engine=changed))


def other_pairs(device: str, bare: Hardware) -> Line:
    """For information: every pair of models fits, and predicts the others."""
    models = (*FITTED, *HELD_OUT[device])
    off = []
    for pair in itertools.combinations(models, 2):
        found = calibrate(timings(device, pair), bare, prior=PRIOR)
        rest = tuple(name for name in models if name not in pair)
        off.append(miss(timings(device, rest), found.hardware))
    return line(device, f"model, held out, over all {len(off)} pairs", np.concatenate(off))


def other_engine(device: str, bare: Hardware) -> Line:
    """For information: the same for TensorRT-LLM."""
    found = calibrate(timings(device, FITTED, "TensorRT-LLM"), bare, prior=PRIOR)
    off = miss(timings(device, HELD_OUT[device], "TensorRT-LLM"), found.hardware)
    return line(device, "model, held out, TensorRT-LLM", off)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace scalesim/data/efficiency.json")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    shipped, report, everything = {}, [], []
    for device in PEAKS:
        constants, stated, lines = kernels(device)
        bare = machine(device, Efficiency(**constants, engine=EngineConstants(), source=SOURCE))
        hardware, off, more = engine(device, bare)
        report += [*lines, *more, other_pairs(device, bare), other_engine(device, bare)]
        everything.append(off)
        stated["model"] = float(off.mean())
        error = tuple((name, round(value, 4)) for name, value in sorted(stated.items()))
        final = replace(hardware.efficiency, error=error, source=SOURCE)
        shipped[device] = jax.tree.map(lambda v: float(f"{v:.5g}"), final).to_dict()
    report.append(line("both", "model, held out", np.concatenate(everything)))
    for device, what, count, mean, median in report:
        print(f"{device}  {what:<78} {count:>6} rows  mean {mean:7.2%}  median {median:7.2%}")
    write_csv(RESULTS / "hardware_constants.csv", [entry._asdict() for entry in report])
    if options.write:
        path = Path(__file__).parents[1] / "scalesim" / "data" / "efficiency.json"
        path.write_text(json.dumps(shipped, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
