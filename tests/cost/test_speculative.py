"""Speculative decoding: what it saves, and what it cannot."""

import jax
import jax.numpy as jnp
import pytest

from scalesim.cost.latency import step_time
from scalesim.cost.speculative import speculative_step_time
from scalesim.errors import InvalidInput
from scalesim.hardware import load_hardware
from scalesim.models import known_model
from scalesim.workload import Workload

H100 = load_hardware("h100")
BIG = known_model("llama-3.1-8b").shape
JOB = Workload(context_length=4096.0, batch_size=4.0)


def test_a_check_of_nothing_takes_a_step_and_more_tokens_take_longer():
    plain = float(step_time(BIG, JOB, H100))
    alone = speculative_step_time(BIG, JOB, H100, draft_length=0.0, accepted_length=1.0, draft=0.0)
    assert float(alone) == pytest.approx(plain, rel=0.25)  # by the kernels of prompts
    few, many = (
        float(speculative_step_time(BIG, JOB, H100, draft_length=n, accepted_length=1.0, draft=0.05))
        for n in (2.0, 8.0)
    )
    assert plain < few < many
    good = speculative_step_time(BIG, JOB, H100, draft_length=4.0, accepted_length=4.0, draft=0.05)
    assert float(good) < 0.5 * plain


def test_gradients_reach_both_lengths():
    def f(draft, accepted):
        job = {"draft_length": draft, "accepted_length": accepted, "draft": 0.1}
        return jnp.log(speculative_step_time(BIG, JOB, H100, **job))

    slope = jax.grad(f, argnums=(0, 1))(4.0, 3.0)
    step = 1e-4
    assert float(slope[0]) == pytest.approx(float(f(4 + step, 3.0) - f(4 - step, 3.0)) / (2 * step), rel=1e-4)
    assert float(slope[1]) == pytest.approx(-1 / 3, rel=1e-6)


def test_more_than_proposed_cannot_be_accepted():
    with pytest.raises(
        InvalidInput, match="accepted_length must be from 1 to draft_length \\+ 1 = 5, but is 6"
    ):
        speculative_step_time(BIG, JOB, H100, draft_length=4, accepted_length=6, draft=0.1)
