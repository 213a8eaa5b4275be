"""Blocks change the order of the work, not its result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.cost.blocks import in_blocks
from scalesim.cost.latency import step_time
from scalesim.cost.numbers import to_float
from scalesim.errors import InvalidInput
from scalesim.hardware import load_hardware
from scalesim.models import known_model
from scalesim.workload import Workload

H100 = load_hardware("h100")


@pytest.mark.parametrize("block", [1, 7, 10, 64])
def test_gradients_in_blocks_equal_those_at_once(block):
    base = to_float(known_model("llama-3-8b").shape)
    contexts = jnp.linspace(1e3, 1e5, 10)
    batch = jax.tree.map(lambda v: jnp.full(10, v), base)

    def f(shape, context):
        def time(s, c):
            return step_time(s, Workload(context_length=c), H100)

        value, pull = jax.vjp(time, shape, context)
        return value, pull(jnp.ones_like(value))

    for got, expected in zip(
        jax.tree.leaves(jax.jit(lambda *a: in_blocks(f, *a, block=block))(batch, contexts)),
        jax.tree.leaves(f(batch, contexts)),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_batches_that_differ_in_length_are_refused():
    shape = dataclasses.replace(known_model("gpt2").shape, n_head=np.ones(3), n_kv_head=np.ones(2))
    with pytest.raises(InvalidInput, match="batch must have one first axis in all its arrays"):
        in_blocks(lambda s: s.n_head, shape)
