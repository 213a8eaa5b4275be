"""Costs on real hardware as objectives of the search."""

import jax
import numpy as np
import pytest

import scalesim as ss
from scalesim.cost import LifetimePrice, RequestPrice, TimePerToken, TimeToFirstToken
from scalesim.cost.latency import serving
from scalesim.hardware import load_hardware
from scalesim.shape import Shape
from scalesim.workload import Traffic, Workload

A100 = load_hardware("a100")
TRAFFIC = Traffic(prompt_tokens=1e13, generated_tokens=1e12)
OBJECTIVES = [
    TimeToFirstToken(hardware=A100),
    TimePerToken(hardware=A100),
    RequestPrice(hardware=A100),
    LifetimePrice(hardware=A100, traffic=TRAFFIC),
]
JOB = Workload(context_length=131072, batch_size=4, generated_length=1024)
SHAPE = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=5461)


def test_objectives_are_what_serving_reports():
    found = serving(SHAPE, JOB, A100)
    assert OBJECTIVES[0](SHAPE, JOB) == found.ttft_s
    assert OBJECTIVES[1](SHAPE, JOB) == found.tpot_s
    rent = 1.3 / 3600
    request = rent * (130048 / found.prefill_tokens_per_s + 1024 * found.tpot_s / 4)
    assert float(OBJECTIVES[2](SHAPE, JOB)) == pytest.approx(float(request) * 1e6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        OBJECTIVES[0],
        *(pytest.param(objective, marks=pytest.mark.slow) for objective in OBJECTIVES[1:3]),
        OBJECTIVES[3],
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_the_search_minimises_them(objective):
    found = ss.search(ss.named_fit("paper"), JOB, target_loss=2.7, objective=objective)
    assert np.isfinite(found.best.objective)
    assert found.gap_to_exhaustive <= 0.002
    # At 128K everything but the time of one step at a small batch favours fewer heads than Llama-3's.
    assert found.best.objective <= found.baseline.objective
    assert float(jax.jit(objective)(found.best.shape, JOB)) == pytest.approx(found.best.objective, rel=1e-4)
