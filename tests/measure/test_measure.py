"""A machine whose times are known is measured as what it is; the clock's own times are asserted nowhere."""

import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from scalesim.cli import main
from scalesim.constants import DecodeConstants, GemmConstants, PrefillConstants
from scalesim.cost import prefill_time, step_time
from scalesim.cost.calibration import Timing
from scalesim.cost.fitting import fit_kernel, kernel_errors
from scalesim.cost.kernel_forms import Machine, kernel_seconds
from scalesim.cost.operators import elementwise_values
from scalesim.efficiency import EngineConstants
from scalesim.errors import InvalidInput, Unreachable
from scalesim.hardware import Hardware, load_hardware, save_hardware
from scalesim.measure import clock, measure_hardware
from scalesim.measure import main as measuring
from scalesim.measure.kernels import CASES, TIMERS, Limits
from scalesim.shape import Shape
from scalesim.workload import Workload

FIGURES = {"bf16_tflops": 0.2, "memory_gb": 16, "bandwidth_gbs": 30, "cache_mb": 20, "cache_gbs": 120}
TRUTH = {
    "gemm": GemmConstants(
        compute=0.8,
        bandwidth=0.7,
        sharpness=1.5,
        launch_us=0.1,
        depth_us=0.02,
        depth_exponent=0.3,
        fill=5.0,
        latency_bytes=2000.0,
        packing=2.0,
    ),
    "decode": DecodeConstants(
        bandwidth=0.5,
        group_scale=5.0,
        compute=0.5,
        sharpness=1.5,
        launch_us=1.0,
        split_us=0.5,
        serial_us=0.001,
        serial_exponent=2.0,
        tile=1000.0,
        query_weight=0.5,
        head_pad=40.0,
        unpack=30.0,
    ),
    "prefill": PrefillConstants(
        compute=0.7,
        bandwidth=0.8,
        sharpness=2.0,
        launch_us=1.0,
        tile_rows=20.0,
        span_pad=40.0,
        head_pad=30.0,
        reload=0.1,
        serial_us=0.005,
        serial_exponent=0.5,
    ),
}
ENGINE = EngineConstants(
    scale=1.1, launch=1.0, group=0.0, layer_us=3.0, step_us=2.0, sequence_us=0.0, stream=0.3, prompt_us=50.0
)
BOX = Hardware.from_dict(FIGURES)
MACHINE = Machine(peak=BOX.peak_flops("bf16"), bandwidth=BOX.bandwidth_at, value_bytes=4.0)
LIMITS = Limits(peak=2e11, bandwidth=3e10, seconds=4e-3, value_bytes=4.0)
FORMS = {"gemm": "gemm pair", "decode": "decode", "prefill": "prefill"}
SMALL = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)


def drawn(kind, count, seed=0):
    cases = CASES[kind](np.random.default_rng(seed), LIMITS)
    rows = [next(cases) for _ in range(count)]
    return {name: np.asarray([row[name] for row in rows], float) for name in rows[0]}


@pytest.mark.parametrize("kind", FORMS)
def test_known_kernels_are_recovered_on_sizes_that_did_not_fit(kind):
    form = FORMS[kind]
    table, other = drawn(kind, 60), drawn(kind, 40, seed=1)
    for t in (table, other):
        t["seconds"] = np.asarray(kernel_seconds(form, t, MACHINE, TRUTH[kind]))
    start = measuring._START[kind]
    assert kernel_errors(form, other, MACHINE, start).mean() > 0.1  # the start itself does not know them
    found = fit_kernel(form, table, MACHINE, start=start, prior=0.001)
    assert kernel_errors(form, other, MACHINE, found).mean() < 0.02


def test_the_draw_keeps_to_what_a_kernel_may_take():
    table = drawn("gemm", 200)
    assert np.all(4 * table["m"] * table["n"] * table["k"] / LIMITS.peak <= LIMITS.seconds)
    few = table["m"] <= 16
    assert few.any()
    assert not few.all()


def fake(monkeypatch, box=BOX, engine=ENGINE):
    """Let kernels and models take the times of TRUTH instead of running."""

    def run(kind):
        def seconds(limits, dtype, **case):
            table = {name: np.asarray([float(value)]) for name, value in case.items()}
            if kind == "layer":
                names = ("d_model", "d_ff", "n_head", "n_kv_head", "head_dim")
                shape = Shape(n_layer=1, **{name: case[name] for name in names})
                n_bytes = 4.0 * case["tokens"] * elementwise_values(shape)
                return 1e-6 * engine.layer_us + float(n_bytes / (engine.stream * box.bandwidth_at(n_bytes)))
            return float(kernel_seconds(FORMS[kind], table, MACHINE, TRUTH[kind])[0])

        return lambda limits, dtype, **case: partial(seconds, limits, dtype, **case)

    truth = replace(box, efficiency=replace(box.efficiency, **TRUTH, engine=engine))

    def models(shapes, contexts, dtype, progress=None):
        for shape in shapes:
            for context in contexts:
                job = Workload(context_length=context, weight_bits=32, activation_bits=32, kv_bits=32)
                for what in ("ttft", "tpot"):
                    timing = Timing(shape=shape, workload=job, seconds=1.0, what=what)
                    yield replace(timing, seconds=float(timing.predict(truth)))

    def read(limits, dtype, width):
        n_bytes = 2 * 4.0 * width**2
        return lambda: float(n_bytes / box.bandwidth_at(n_bytes))

    for kind in TIMERS:
        monkeypatch.setitem(TIMERS, kind, run(kind))
    monkeypatch.setattr(measuring, "time_models", models)
    monkeypatch.setattr(measuring, "read_timer", read)
    monkeypatch.setattr(measuring, "measured_peak", lambda dtype: box.peak_flops("bf16"))
    monkeypatch.setattr(measuring, "call_seconds", lambda dtype: 1e-6 * engine.prompt_us)
    monkeypatch.setattr(measuring, "_LEAST", dict.fromkeys(TIMERS, 40))
    return truth


@pytest.mark.slow
def test_a_known_machine_is_found_and_kept_in_a_file(monkeypatch, tmp_path):
    truth = fake(monkeypatch)
    notes = []
    found = measure_hardware(
        seconds=1e-3,
        references=measuring.REFERENCES[:2],
        progress=lambda part, note: notes.append((part, note)),
    )
    mine = found.hardware
    assert mine.bandwidth_gbs == pytest.approx(30, rel=0.05)
    assert mine.cache_gbs == pytest.approx(120, rel=0.05)
    assert mine.cache_mb == pytest.approx(20, rel=0.1)
    errors = dict(mine.efficiency.error)
    assert set(errors) == {"gemm", "decode", "prefill", "model"}
    assert max(errors.values()) < 0.06
    other = Shape(
        n_layer=5, d_model=320, n_head=10, n_kv_head=5, head_dim=32, d_ff=856, vocab_size=256
    )  # no reference
    for context in (256, 4096):
        job = Workload(context_length=context, weight_bits=32, activation_bits=32, kv_bits=32)
        for time in (step_time, prefill_time):
            assert float(time(other, job, mine)) == pytest.approx(float(time(other, job, truth)), rel=0.1)
    save_hardware(mine, str(tmp_path / "mine.json"))
    assert load_hardware(str(tmp_path / "mine.json")).to_dict() == mine.to_dict()
    assert found.status.startswith("Measured 40 gemm, 40 decode")
    parts = [part for part, _ in notes]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_a_machine_whose_reads_are_all_alike_has_no_cache(monkeypatch):
    flat = Hardware.from_dict({"bf16_tflops": 0.2, "memory_gb": 16, "bandwidth_gbs": 30})
    fake(monkeypatch, flat)
    found = measuring._memory(LIMITS, "float32")
    assert found["cache_mb"] is None
    assert found["bandwidth_gbs"] == pytest.approx(30)


def test_kernels_that_memory_is_too_small_for_are_left_out(monkeypatch):
    fake(monkeypatch)
    run, calls = TIMERS["gemm"], []

    def now_and_then(limits, dtype, **case):
        calls.append(case)
        if len(calls) % 3 == 0:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")
        return run(limits, dtype, **case)

    monkeypatch.setitem(TIMERS, "gemm", now_and_then)
    table = measuring._table("gemm", LIMITS, "float32", 0.0, 0, lambda note: None)
    assert len(table["seconds"]) == 40 < len(calls)

    def never(limits, dtype, **case):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    monkeypatch.setitem(TIMERS, "decode", never)
    with pytest.raises(Unreachable, match=r"No decode kernel can be timed on .*: RESOURCE_EXHAUSTED"):
        measure_hardware(seconds=1e-3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seconds": 0.0}, "seconds must be above 0 and finite, but is 0.0"),
        ({"dtype": "float16"}, "dtype 'float16' is not known"),
        ({"references": ()}, "references must hold one shape at least"),
    ],
)
def test_mistakes_are_named_before_anything_is_timed(given, says):
    with pytest.raises(InvalidInput, match=says):
        measure_hardware(**given)


def test_what_fits_in_the_cache_is_read_faster():
    rates = [float(BOX.bandwidth_at(n)) for n in np.geomspace(1e5, 1e9, 30)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(120e9, rel=1e-3)
    assert rates[-1] == pytest.approx(30e9, rel=1e-3)
    assert BOX.bandwidth_at(20e6) == pytest.approx(48e9)  # half of it hits: harmonic mean
    h100 = load_hardware("h100")
    assert h100.bandwidth_at(1.0) == h100.bandwidth
    # A whole model's step: its weights and its KV cache together decide.
    bare = replace(BOX, cache_mb=None, cache_gbs=None)
    large = Shape(n_layer=24, d_model=1024, n_head=16, n_kv_head=4, head_dim=64, d_ff=2816, vocab_size=256)
    job = Workload(context_length=512)
    assert float(step_time(SMALL, job, BOX)) < 0.99 * float(step_time(SMALL, job, bare))
    assert float(step_time(large, job, BOX)) == pytest.approx(float(step_time(large, job, bare)), rel=0.01)
    slope = jax.grad(lambda mb: step_time(large, job, replace(BOX, cache_mb=mb)))(400.0)
    assert slope < 0


def test_the_best_of_runs_is_of_as_many_as_were_asked_for():
    calls = []
    best = clock.best_of(lambda: calls.append(1) or np.zeros(1), repeats=7, longest=float("inf"))
    assert len(calls) == 8  # the first is not counted
    assert best >= 0
    calls.clear()
    clock.best_of(lambda: calls.append(1) or np.zeros(1), repeats=7, longest=0.0)
    assert len(calls) == 4


@pytest.mark.slow
def test_this_machine_on_the_command_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(measuring, "_LEAST", dict.fromkeys(TIMERS, 4))
    monkeypatch.setattr(measuring, "REFERENCE_CONTEXTS", (16,))
    monkeypatch.setattr(
        measure_hardware, "__kwdefaults__", {**measure_hardware.__kwdefaults__, "references": (SMALL,)}
    )
    out = tmp_path / "this.json"
    with jax.enable_x64(False):
        assert main(["calibrate", "--measure", "--seconds", "0.5", "--out", str(out), "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert load_hardware(str(out)).to_dict() == got["hardware"]
    assert set(got["relative_errors_held_out"]) == {"gemm", "decode", "prefill", "model"}
    assert main(["cost", "--shape", "2x64x4x2", "--context", "1K", "--json", "--hardware", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["tpot_s"] > 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "One of a CSV file of timings, --kernels or --measure must be given, but none is"),
        (["t.csv", "--measure"], "One of a CSV file of timings, --kernels or --measure must be given"),
        (["--measure", "--hardware", "h100"], "hardware is measured with --measure, but 'h100' is given"),
        (["--measure", "--seconds", "-1"], "seconds must be above 0"),
    ],
)
def test_the_command_says_what_is_wrong(capsys, args, says):
    assert main(["calibrate", *args]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""


def test_programs_are_compiled_ahead_where_the_host_is_not_what_is_timed(monkeypatch):
    done = []
    works = [lambda i=i: done.append(i) or 10 * i for i in range(20)]
    assert [result() for result in clock.ahead(works)] == list(range(0, 200, 10))
    assert done == list(range(20))  # on a CPU each when it is asked for
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [result() for result in clock.ahead(works)] == list(range(0, 200, 10))

    def fails():
        raise ValueError("no")

    endless = iter(lambda: fails, None)
    compiled = clock.ahead(endless)
    with pytest.raises(ValueError, match="no"):
        next(compiled)()
    compiled.close()
