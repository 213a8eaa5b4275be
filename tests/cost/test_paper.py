import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesim.cost import (
    FIGURE_1,
    FIGURE_2,
    ExpectedCost,
    HardwareAwareCost,
    inference_flops,
    inference_memory,
    paper_training_flops,
    paper_training_memory,
)
from scalesim.errors import InvalidInput
from scalesim.families import FIGURE
from scalesim.shape import Shape, count_params
from scalesim.workload import ContextLengths, Workload

from ..gradients import assert_gradients_agree

T = 131072.0
SHAPE = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=5460)
N = count_params(SHAPE, "paper")
COSTS = {
    "inference_flops": lambda s, t: inference_flops(s, t, per="sequence").total,
    "inference_flops_halved": lambda s, t: inference_flops(s, t, causal_halving=True).total,
    "inference_memory": lambda s, t: inference_memory(s, t, batch_size=3).total,
    "training_flops": lambda s, t: paper_training_flops(s, 1e10, t).total,
    "training_memory": lambda s, t: paper_training_memory(s, t).total,
    "z": lambda s, t: FIGURE_2(s, Workload(context_length=t)),
    "z_figure_1": lambda s, t: FIGURE_1(s, Workload(context_length=t)),
}


def test_formulas_by_hand():
    assert N == 16 * (3 * 2048 * 5460 + 2 * 2048 * 64 * (32 + 8))
    flops = inference_flops(SHAPE, T)
    assert flops.time_invariant == 2 * N
    assert flops.time_variant == 4 * T * 16 * 64 * 32
    memory = inference_memory(SHAPE, T, bytes_per_weight=1, bytes_per_kv=1)
    assert (memory.time_invariant, memory.time_variant) == (N, 2 * T * 16 * 64 * 8)
    training = paper_training_flops(SHAPE, 1e9, 8192)
    assert training.total == 6e9 * (N + 2 * 16 * 4096 * 64 * 32)
    assert paper_training_memory(SHAPE, 8192).total == 4 * N + 8192 * 2048 * 16


def test_z_by_hand():
    memory = 2 * (N + 2 * T * 16 * 64 * 8)
    flops = T * (2 * N + 4 * T * 16 * 64 * 32)
    assert FIGURE_2(SHAPE, Workload(context_length=T)) == pytest.approx(
        0.9 * memory**0.5 + 0.1 * flops ** (1 / 3)
    )
    halved = T * (2 * N + 2 * T * 16 * 64 * 32)
    assert FIGURE_1(SHAPE, Workload(context_length=T)) == pytest.approx(
        0.9 * (memory / 2**30) ** 0.5 + 0.1 * halved ** (1 / 3)
    )


def test_named_arguments_change_what_they_name():
    token = inference_flops(SHAPE, T)
    sequence = inference_flops(SHAPE, T, per="sequence")
    halved = inference_flops(SHAPE, T, causal_halving=True)
    assert sequence.total == T * token.total
    assert halved.time_invariant == token.time_invariant
    assert halved.time_variant == token.time_variant / 2
    low = inference_memory(SHAPE, T, bytes_per_weight=0.5, bytes_per_kv=1, batch_size=16)
    assert (low.time_invariant, low.time_variant) == (N / 2, 16 * 2 * T * 16 * 64 * 8)
    packed = paper_training_flops(SHAPE, 1e9, 8192, mean_position=1000)
    assert packed.time_variant == pytest.approx(paper_training_flops(SHAPE, 1e9, 2000).time_variant)


def test_kv_reads_are_charged_per_kv_head():
    """Peers charge the KV cache per query head: four times too much for Llama-3's grouping."""
    grouped, separate = (
        inference_memory(dataclasses.replace(SHAPE, n_kv_head=k), T).time_variant for k in (8, 32)
    )
    assert separate == 4 * grouped


def relaxed(x):
    return FIGURE.at(jnp.exp(x["log_n"]), x["n_head"], x["n_kv_head"])


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_gradients_agree_with_finite_differences(cost):
    at = {"log_n": 20.5, "n_head": 7.3, "n_kv_head": 2.1, "t": 30000.0}
    assert_gradients_agree(lambda x: cost(relaxed(x), x["t"]), at)


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
def test_jit_is_eager_and_a_batch_is_a_loop(cost):
    contexts = jnp.array([1024.0, 8192.0, 131072.0])
    loop = [float(cost(SHAPE, t)) for t in contexts.tolist()]
    np.testing.assert_allclose(cost(SHAPE, contexts), loop, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(cost)(SHAPE, contexts), loop, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(cost, (None, 0))(SHAPE, contexts), loop, rtol=1e-12)


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
@given(
    field=st.sampled_from(["n_layer", "d_model", "n_head", "n_kv_head", "d_ff"]),
    factor=st.floats(1.01, 4),
    context=st.floats(1, 1e6),
)
def test_more_of_anything_never_costs_less(cost, field, factor, context):
    relaxed_shape = jax.tree.map(float, dataclasses.replace(SHAPE, n_head=32.0 * 8))
    larger = dataclasses.replace(relaxed_shape, **{field: getattr(relaxed_shape, field) * factor})
    assert cost(larger, context) >= cost(relaxed_shape, context) * (1 - 1e-12)


@given(st.floats(1, 1e7))
def test_z_is_memory_alone_at_one_and_flops_alone_at_zero(context):
    workload = Workload(context_length=context)
    memory = HardwareAwareCost(memory_weight=1.0)
    flops = HardwareAwareCost(memory_weight=0.0)
    assert memory(SHAPE, workload) == pytest.approx(memory.memory(SHAPE, workload).total ** 0.5)
    assert flops(SHAPE, workload) == pytest.approx(flops.flops(SHAPE, workload).total ** (1 / 3))


LENGTHS = st.lists(st.floats(128, 1e6), min_size=1, max_size=8)


@given(LENGTHS)
def test_expectation_is_the_mean_over_samples(samples):
    workload = Workload(context_length=1.0)
    for cost in (FIGURE_2, FIGURE_1):
        expected = ExpectedCost(cost, ContextLengths.from_samples(samples))
        each = [cost(SHAPE, Workload(context_length=t)) for t in samples]
        assert float(expected(SHAPE, workload)) == pytest.approx(np.mean(each), rel=1e-12)


@given(LENGTHS)
def test_affine_costs_need_only_the_mean_and_z_does_not(samples):
    """Memory and per-token FLOPs are affine in T; Z is concave in both, so it is less in expectation."""
    token = dataclasses.replace(FIGURE_2, flops_per="token")
    lengths = ContextLengths.from_samples(samples)
    expected, mean = ExpectedCost(token, lengths), Workload(context_length=float(lengths.mean))
    for part in ("memory", "flops"):
        whole = getattr(expected, part)(SHAPE, mean).total
        assert float(whole) == pytest.approx(getattr(token, part)(SHAPE, mean).total, rel=1e-12)
    assert float(expected(SHAPE, mean)) <= token(SHAPE, mean) * (1 + 1e-12)


def test_costs_of_a_real_shape_do_not_overflow(float32):
    whole = jax.tree.map(lambda v: jnp.asarray(v, jnp.int32), SHAPE)
    z = FIGURE_2(whole, Workload(context_length=jnp.asarray(2**20, jnp.int32)))
    exact = FIGURE_2(SHAPE, Workload(context_length=2**20))
    assert float(z) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory_weight": 1.2}, "memory_weight must be at least 0 and at most 1, but is 1.2"),
        ({"memory_weight": -0.1}, "memory_weight must be at least 0 and at most 1"),
        ({"memory_weight": float("nan")}, "memory_weight must be at least 0 and at most 1"),
        ({"memory_exponent": 0}, "memory_exponent must be above 0"),
        ({"flops_exponent": float("inf")}, "flops_exponent must be above 0 and finite"),
        ({"flops_per": "batch"}, "flops_per 'batch' is not known"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(InvalidInput, match=says):
        HardwareAwareCost(**options)
