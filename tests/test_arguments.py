"""What is no number, or of another kind, is refused by a sentence wherever a person's call may hold it."""

import numpy as np
import pytest

import scalesim as ss

LAW = ss.HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
JOB = ss.Workload(context_length=131_072)
ROWS = {"N": [1e8, 1e9], "D": [2e9, 2e10], "loss": [3.0, 2.5]}
SIZES = {"n_layer": 16, "d_model": 2048, "n_head": 8, "n_kv_head": 1, "d_ff": 5461}
CARD = {"name": "mine", "bf16_tflops": 400, "memory_gb": 48, "bandwidth_gbs": 1800}

NUMBERS = {
    "context_length": lambda v: ss.Workload(context_length=v),
    "kv_bits": lambda v: ss.Workload(context_length=8192, kv_bits=v),
    "tokens_per_param": lambda v: ss.TrainingPlan(tokens_per_param=v),
    "optimizer_bytes": lambda v: ss.TrainingPlan(optimizer_bytes=v),
    "d_model": lambda v: ss.Shape(**{**SIZES, "d_model": v}),
    "n_head": lambda v: ss.Shape(**{**SIZES, "n_head": v}),
    "bf16_tflops": lambda v: ss.load_hardware({**CARD, "bf16_tflops": v}),
    "memory_weight": lambda v: ss.HardwareAwareCost(memory_weight=v),
    "The limit of layers": lambda v: ss.AtMost(
        measure=lambda shape, workload: shape.n_layer, limit=v, name="layers"
    ),
    "target_loss": lambda v: ss.search(LAW, JOB, v),
    "tolerance": lambda v: ss.search(LAW, JOB, 2.6, tolerance=v),
    "budget": lambda v: ss.least_loss(LAW, JOB, v),
    "resolution": lambda v: ss.sweep(LAW, 1e6, JOB, 2.6, resolution=v),
    "aspect": lambda v: ss.fixed_ratio(v),
    "sigma": lambda v: ss.Squared(v),
    "fixed E": lambda v: ss.fit("power", ROWS, fixed={"E": v}),
    "drop_largest": lambda v: ss.load_runs(ROWS, drop_largest=v),
}
NO_NUMBERS = [10**400, -1, float("nan"), float("inf"), "x", True, 1j, [], np.array([1.0, np.nan]), object()]

KINDS = {
    "workload": lambda v: ss.search(LAW, v, 2.6),
    "lattice": lambda v: ss.search(LAW, JOB, 2.6, lattice=v),
    "family": lambda v: ss.search(LAW, JOB, 2.6, family=v),
    "baseline": lambda v: ss.least_loss(LAW, JOB, 1e5, baseline=v),
    "constraints": lambda v: ss.search(LAW, JOB, 2.6, constraints=v),
    "plan": lambda v: ss.search(LAW, JOB, 2.6, plan=v),
    "compute": lambda v: ss.Workload(context_length=8192, compute=v),
    "n_layer": lambda v: ss.Product(**{**{n: [s] for n, s in SIZES.items()}, "n_layer": v}),
    "noise": lambda v: ss.fit("power", ROWS, noise=v),
    "starts": lambda v: ss.fit("power", ROWS, starts=v),
    "columns": lambda v: ss.load_runs(ROWS, columns=v),
    "units": lambda v: ss.load_runs(ROWS, units=v),
    "Column loss": lambda v: ss.load_runs({**ROWS, "loss": [3.0, [v]]}),
}


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda v: str(v)[:12])
@pytest.mark.parametrize("field", NUMBERS)
def test_what_is_no_number_is_refused_by_field(field, value):
    if field == "fixed E" and isinstance(value, int) and value == -1:
        pytest.skip("a coefficient may be below 0")
    with pytest.raises(ss.InvalidInput, match=field) as said:
        NUMBERS[field](value)
    assert len(str(said.value)) < 300


@pytest.mark.parametrize("value", [7, 2.5, ["x"], object()], ids=["int", "float", "list", "object"])
@pytest.mark.parametrize("field", KINDS)
def test_what_is_of_another_kind_is_refused_by_field(field, value):
    if (field, value) == ("starts", 7):
        pytest.skip("that many starts")
    with pytest.raises(ss.InvalidInput, match=field):
        KINDS[field](value)
