"""Fit the engine's constants to public timings of whole models, and score them on models left out.

vLLM on one A100 and one H100: two 7B models fit (Llama-2-7B, MHA, and Llama-3-8B, GQA), the others score. The
kernels' constants are those that ship. Two small models in vLLM of 2026 on an H100 PCIe, one scored by the
other, fit a second engine. Writes results/hardware_models.csv and, with --write, the engines' constants into
`scalesim/data/efficiency.json`; accelerators without such timings take the H100's of 2024.

    python -m experiments.hardware_models [--write]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.common import RESULTS, write_csv
from experiments.public_data import public_runs
from scalesim.cost.calibration import Timing, calibrate
from scalesim.cost.latency import decode_operators
from scalesim.cost.numbers import to_float
from scalesim.cost.spread import pass_interval
from scalesim.efficiency import Efficiency, EngineConstants, measured_efficiency
from scalesim.hardware import Hardware, load_hardware
from scalesim.models import known_model
from scalesim.workload import Workload

FITTED = ("llama-2-7b", "llama-3-8b")
PRIOR = 0.02
HELD_OUT = {"a100": ("mistral-7b-v0.1",), "h100": ("mistral-7b-v0.1", "qwen2-7b")}


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
    card = load_hardware({"a100": "a100-40gb-sxm", "h100": "h100-sxm"}[device])
    return replace(card, name=device, efficiency=efficiency)


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


def ranked(device: str, hardware: Hardware, *, fallen_back: bool = True) -> tuple[int, int]:
    """How many pairs of timings at one workload, 5% or more apart, are ranked right, of how many.

    Without `fallen_back`, those of models with a window and over 512 heads of all sequences are left out.
    """
    cases = [
        case
        for case in timings(device, (*FITTED, *HELD_OUT[device]))
        if fallen_back or case.shape.window is None or case.workload.batch_size <= 16
    ]
    predicted, measured = predict(cases, hardware), np.asarray([case.seconds for case in cases])
    right = pairs = 0
    for i, j in itertools.combinations(range(len(cases)), 2):
        gap = abs(math.log(measured[i] / measured[j]))
        if cases[i].workload == cases[j].workload and gap >= math.log(1.05):
            pairs += 1
            right += (predicted[i] > predicted[j]) == (measured[i] > measured[j])
    return right, pairs


def held(device: str, hardware: Hardware) -> float:
    """The share of generations of models left out that the 90% interval of a token's time holds."""
    inside = []
    cases = timings(device, HELD_OUT[device])
    for case, predicted in zip(cases, predict(cases, hardware), strict=True):
        one = decode_operators(case.shape, case.workload, hardware, case.parallel)
        whole = float(sum(o.time_s for o in one))
        found = pass_interval(one, hardware, case.parallel, case.shape.n_layer)
        inside.append(found.low / whole <= case.seconds / predicted <= found.high / whole)
    return float(np.mean(inside))


SMALL = Path(__file__).with_name("published_steps.csv")
"""TPOT of pure decoding, BF16 caches, on an H100 PCIe: vllm-project/vllm pull request 53060, 2026-08-20."""


def newer() -> tuple[EngineConstants, list[Line]]:
    """The engine of 2026: fitted to all rows, scored on each model from the other's."""
    cases: dict[str, list[Timing]] = {}
    with SMALL.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            job = Workload(context_length=float(row["context"]), batch_size=float(row["batch"]))
            seconds = float(row["tpot_ms"]) / 1e3
            timing = Timing(shape=shape_of(row["model"]), workload=job, seconds=seconds, what="tpot")
            cases.setdefault(row["model"], []).append(timing)
    bare = load_hardware("h100-pcie")
    lines = []
    for name, some in cases.items():
        rest = [case for other, many in cases.items() if other != name for case in many]
        found = calibrate(rest, bare, prior=PRIOR).hardware
        lines.append(line("h100-pcie", f"{name}, engine of 2024", miss(some, bare)))
        lines.append(line("h100-pcie", f"{name}, engine of 2026 fitted to the other", miss(some, found)))
    everything = calibrate([case for many in cases.values() for case in many], bare, prior=PRIOR)
    print("h100-pcie", everything.status)
    return everything.hardware.efficiency.engine, lines


def rounded(engine: EngineConstants) -> dict[str, float]:
    return {k: float(f"{v:.5g}") for k, v in asdict(engine).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="change scalesim/data/efficiency.json")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    run(write=options.write)


def run(*, write: bool) -> None:
    """Fit, score and print; with `write`, change the shipped constants."""
    path = Path(__file__).parents[1] / "scalesim" / "data" / "efficiency.json"
    shipped = json.loads(path.read_text(encoding="utf-8"))
    report, everything = [], []
    for device in HELD_OUT:
        bare = machine(device, replace(measured_efficiency(device), engine=EngineConstants()))
        hardware, off, more = engine(device, bare)
        report += [*more, other_pairs(device, bare), other_engine(device, bare)]
        everything.append(off)
        right, pairs = ranked(device, hardware)
        print(f"{device}: {right} of {pairs} pairs 5% or more apart ranked right, {right / pairs:.1%}")
        right, pairs = ranked(device, hardware, fallen_back=False)
        print(f"{device}: {right} of {pairs} without a window's rows beyond 512 heads, {right / pairs:.1%}")
        print(f"{device}: {held(device, hardware):.0%} of those left out are inside the 90% interval")
        found = rounded(hardware.efficiency.engine)
        for name in [device] if device == "a100" else [n for n in shipped["cards"] if n != "a100"]:
            shipped["cards"][name]["efficiency"]["engine"] = found
        shipped["cards"][device]["efficiency"]["error"]["model"] = round(float(off.mean()), 4)
    latest, more = newer()
    report += more
    shipped["engines"] = {"vllm-2024": found, "vllm-2026": rounded(latest)}
    report.append(line("both", "model, held out", np.concatenate(everything)))
    for device, what, count, mean, median in report:
        print(f"{device}  {what:<78} {count:>6} rows  mean {mean:7.2%}  median {median:7.2%}")
    write_csv(RESULTS / "hardware_models.csv", [entry._asdict() for entry in report])
    if write:
        path.write_text(json.dumps(shipped, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
