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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import scalesim as ss
from experiments.common import Row, machine_load, print_rows, write_csv
from scalesim.cost.fitting import kernel_errors
from scalesim.cost.kernel_forms import Machine, Table
from scalesim.hardware import Hardware
from scalesim.measure import Measured, measured_peak, time_models
from scalesim.measure.clock import ahead, best_of
from scalesim.model import ModelOptions
from scalesim.model.attention import EVERYWHERE, attend
from scalesim.model.decoder import unembed
from scalesim.shape import Shape
from scalesim.sweeps import default_product
from scalesim.training import Recipe
from scalesim.training.step import compiled_step, first_state, position_loss
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
    return ss.measure_hardware(dtype="float32" if small else "bfloat16", seconds=1.0 if small else 30.0)


def compiled_training(shape: Shape, rows: int, context: int, options: ModelOptions) -> Any:
    """Return the compiled training step of rows x context tokens."""
    step = compiled_step(shape, Recipe(), options, packed=False)
    state = jax.eval_shape(_begin(shape))
    text = jax.ShapeDtypeStruct((rows, context + 1), jnp.int32)
    numbers = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    return step.lower(state, text, *numbers).compile()


def _begin(shape: Shape) -> Callable[[], Any]:
    return partial(first_state, shape, Recipe(), 0)


def _text(shape: Shape, rows: int, context: int) -> np.ndarray:
    sizes = (rows, context + 1)
    return np.random.default_rng(0).integers(0, shape.vocab_size, sizes).astype(np.int32)


def _peak(small: bool) -> float:
    """Return the data sheet's rate of products, or (small, or an unknown device) what is measured."""
    known = sheet()
    if known is None or small:
        return measured_peak(dtype="float32" if small else "bfloat16")
    return float(known.peak_flops("bf16"))


def mfu(small: bool, folder: Path) -> Iterator[Row]:
    """Yield each shape's FLOP/s in training over the data sheet's (or the measured matrix rate's).

    All programs are compiled before one is timed: XLA times products of its own to choose among them.
    """
    cases = [
        (shape, context, rows)
        for shape in (SMALL if small else LARGE)
        for context, rows in (((256, 4),) if small else ((2048, 8), (2048, 16), (8192, 2)))
    ]
    works = [
        partial(compiled_training, shape, rows, context, _options(small)) for shape, context, rows in cases
    ]
    began = time.perf_counter()
    programs = [result() for result in list(ahead(works))]
    yield {"what": "compiling, s", "case": f"{len(works)} steps", "measured": time.perf_counter() - began}
    for (shape, context, rows), step in zip(cases, programs, strict=True):
        state, text, times = jax.jit(_begin(shape))(), _text(shape, rows, context), []
        for _ in range(3 if small else 12):
            began = time.perf_counter()
            state, loss = step(state, text, np.float32(1e-4), np.int32(1000))
            jax.block_until_ready((state, loss))
            times.append(time.perf_counter() - began)
        plan = TrainingPlan(n_tokens=rows * context, context_length=context)
        yield {
            "what": "MFU",
            "case": f"{float(shape.n_params_total):.3g} parameters, {rows} x {context} tokens",
            "measured": float(ss.training_flops(shape, plan)) / min(times[1:]) / _peak(small),
            "expected": MFU,
            "note": f"{rows * context / min(times[1:]):,.0f} tokens/s, {1e3 * min(times[1:]):.1f} ms a step",
        }


def _options(small: bool) -> ModelOptions:
    return ModelOptions() if small else ModelOptions(dtype="bfloat16", attention="cudnn")


def parts(small: bool, folder: Path) -> Iterator[Row]:
    """Yield where the time of the first shape's step goes, and the rate of each part over the peak."""
    shape, options = (SMALL if small else LARGE)[0], _options(small)
    rows, context = (4, 256) if small else (8, 2048)
    tokens, dtype = rows * context, options.dtype
    heads = (rows, context, shape.n_head, shape.head_dim), (rows, context, shape.n_kv_head, shape.head_dim)
    once = float(ss.training_flops(shape, TrainingPlan(n_tokens=tokens, context_length=context))) / 3
    scores = 2.0 * context * tokens * shape.n_head * shape.head_dim  # causal: half of 4 T
    head = 2.0 * tokens * shape.d_model * shape.vocab_size

    def params() -> Any:
        return first_state(shape, Recipe(), 0).params

    def loss(values: Any, text: Any) -> Any:
        return position_loss(values, text, shape, options).mean()

    def top(x: Any, values: Any, text: Any) -> Any:
        logits = unembed(values, x, shape, options)
        return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]).mean()

    def attention(q: Any, k: Any, v: Any) -> Any:
        return attend(q, k, v, EVERYWHERE, options).astype(jnp.float32).sum()

    def product(x: Any, w: Any) -> Any:
        return (x @ w).astype(jnp.float32).sum()

    def noise(*sizes: int) -> Any:
        return jax.random.normal(jax.random.key(0), sizes).astype(dtype)

    text = jnp.asarray(_text(shape, rows, context))
    up = noise(tokens, shape.d_model), noise(shape.d_model, shape.d_ff)
    qkv = noise(*heads[0]), noise(*heads[1]), noise(*heads[1])
    known = jax.jit(params)()
    works: list[tuple[str, Any, tuple[Any, ...], float]] = [
        ("forward", loss, (known, text), once),
        ("forward and backward", jax.value_and_grad(loss), (known, text), 3 * once),
        (
            "unembedding and loss",
            jax.grad(top, (0, 1)),
            (noise(rows, context, shape.d_model), known, text),
            3 * head,
        ),
        ("attention of a layer", jax.grad(attention, (0, 1, 2)), qkv, 3.5 * scores),
        (
            "an FFN product of a layer",
            jax.grad(product, (0, 1)),
            up,
            6.0 * tokens * shape.d_model * shape.d_ff,
        ),
    ]
    compiled = list(ahead([partial(_compiled, function, given) for _, function, given, _ in works]))
    for (name, _, given, flops), result in zip(works, [each() for each in compiled], strict=True):
        seconds = best_of(partial(result, *given))
        yield {
            "what": "part of a step, ms",
            "case": name,
            "measured": 1e3 * seconds,
            "expected": 1e3 * flops / _peak(small),
            "note": f"{flops / seconds / _peak(small):.1%} of the peak",
        }


def _compiled(function: Any, given: tuple[Any, ...]) -> Any:
    return jax.jit(function).lower(*given).compile()


def constants(small: bool, folder: Path) -> Iterator[Row]:
    """Yield what was measured of the device beside what ships for it; keep it, and the kernels' times."""
    found, known = measured(small).hardware, sheet()
    ss.save_hardware(found, folder / "gpu_check_hardware.json")
    tables = measured(small).tables
    kernels = [
        {"kind": kind, **dict(zip(table, row, strict=True))}
        for kind, table in tables.items()
        for row in zip(*table.values(), strict=True)
    ]
    write_csv(folder / "gpu_check_kernels.csv", kernels)
    for name in ("bf16_tflops", "bandwidth_gbs"):
        shipped = float("nan") if known is None else float(getattr(known, name))
        yield {"what": name, "case": found.name, "measured": float(getattr(found, name)), "expected": shipped}
    for kind, error in found.efficiency.error:
        yield {"what": f"error of {kind}", "case": "held out", "measured": error, "expected": DECODE}
    if known is not None:
        yield from shipped_errors(tables, known, 4.0 if small else 2.0)


def shipped_errors(tables: Mapping[str, Table], known: Hardware, value_bytes: float) -> Iterator[Row]:
    """Yield the mean relative error of a card's shipped constants on kernels timed here."""
    machine = Machine(peak=known.peak_flops("bf16"), bandwidth=known.bandwidth_at, value_bytes=value_bytes)
    for kind, form in (("gemm", "gemm pair"), ("decode", "decode"), ("prefill", "prefill")):
        with jax.enable_x64(True):
            errors = kernel_errors(form, tables[kind], machine, getattr(known.efficiency, kind))
        yield {
            "what": f"error of {kind}",
            "case": f"constants shipped for {known.name}",
            "measured": float(errors.mean()),
            "expected": DECODE,
            "note": f"median {np.median(errors):.1%} of {len(errors)} kernels",
        }


def models(small: bool, folder: Path) -> Iterator[Row]:
    """Yield prefill and decode of whole models beside the cost model, with constants measured and shipped."""
    known = sheet()
    asked = ((SMALL[0], (128,)),) if small else ((LARGE[0], (2048, 32_768)), (LARGE[1], (8192,)))
    dtype = "float32" if small else "bfloat16"
    for timing in chain.from_iterable(time_models((shape,), contexts, dtype) for shape, contexts in asked):
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


def searches(small: bool, folder: Path) -> Iterator[Row]:
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


Step = Callable[[bool, Path], Iterable[Row]]
STEPS: Sequence[Step] = (mfu, parts, searches, constants, models)


def check(small: bool, path: Path, steps: Sequence[Step] = STEPS) -> list[Row]:
    """Take the steps; write the rows after each, with the reason of a step that failed."""
    device = jax.devices()[0].device_kind
    rows: list[Row] = []
    began = time.perf_counter()
    for step in steps:
        try:
            for row in step(small, path.parent):
                rows.append({**row, "device": device, "at_s": round(time.perf_counter() - began, 1)})
                print(*(value for value in rows[-1].values() if value is not device), sep="; ", flush=True)
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
    parser.add_argument("--steps", nargs="+", choices=[step.__name__ for step in STEPS], help="some of them")
    parser.add_argument("--out", type=Path, default=Path("out/gpu_check.csv"))
    options = parser.parse_args()
    if jax.default_backend() == "cpu" and not options.small:
        parser.error("JAX sees no accelerator here: --small takes the same steps at sizes for a processor.")
    chosen = [step for step in STEPS if options.steps is None or step.__name__ in options.steps]
    rows = check(options.small, options.out, chosen)
    print_rows(f"{jax.devices()[0].device_kind}, {machine_load()}", rows)


if __name__ == "__main__":
    main()
