"""No NaN anywhere: every known model on every accelerator, three precisions, prompt and generation."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.cost.latency import decode_operators, prefill_operators
from scalesim.cost.numbers import to_float
from scalesim.hardware import hardware_catalogue
from scalesim.models import known_model, known_models
from scalesim.shape import Attention, Block, MixtureOfExperts, Shape
from scalesim.workload import Workload

PRECISIONS = [(16.0, 16.0), (8.0, 8.0), (4.25, 8.0)]
JOBS = [
    Workload(context_length=32768.0, batch_size=8.0, generated_length=512.0, weight_bits=w, kv_bits=kv)
    for w, kv in PRECISIONS
]


# What times do not read is left out, so that accelerators of the same measured kernels make one batch.
FIGURES = ("bf16_tflops", "memory_gb", "bandwidth_gbs")


def batches():
    """Jobs and accelerators, every pair: leaves of (precisions, accelerators)."""
    alike = {}
    for h in hardware_catalogue().values():
        efficiency = dataclasses.replace(h.efficiency, error=(), source="")
        card = h.from_dict({"name": "", "efficiency": efficiency, **{f: getattr(h, f) for f in FIGURES}})
        alike.setdefault(jax.tree.structure(card), []).append(card)
    for cards in alike.values():
        size = (len(JOBS), len(cards))
        jobs = jax.tree.map(lambda *v, n=size: np.broadcast_to(np.array(v)[:, None], n), *JOBS)
        yield jobs, jax.tree.map(lambda *v, n=size: np.broadcast_to(np.array(v)[None], n), *cards)


BATCHES = list(batches())


@pytest.mark.parametrize("name", known_models())
def test_every_operator_is_finite_and_takes_time(name):
    shape = to_float(known_model(name).shape)
    for operators, (jobs, cards) in itertools.product((decode_operators, prefill_operators), BATCHES):
        found = operators(shape, jobs, cards)
        seconds = np.stack([np.broadcast_to(o.time_s, jobs.kv_bits.shape) for o in found])
        assert np.isfinite(seconds).all()
        assert (seconds >= 0).all()
        assert (seconds.sum(0) > 0).all()


def test_a_traced_shape_has_no_ghost_of_what_is_absent():
    """Experts without a shared one gave NaN under jit: a width of 0, traced, was timed as an operator."""
    moe = MixtureOfExperts(n_expert=8, top_k=2, d_ff=512, d_ff_shared=0)
    block = Block(count=2, mixer=Attention(n_head=8, n_kv_head=2), ffn=moe)
    shape = Shape(d_model=512, vocab_size=1000, blocks=(block,))
    hardware = hardware_catalogue()["h100-sxm"]

    @jax.jit
    def names(s):
        found = decode_operators(s, JOBS[0], hardware)
        return {o.name: o.time_s for o in found}

    plain, traced = (names(s) for s in (shape, jax.tree.map(jnp.asarray, to_float(shape))))
    assert not any(name.startswith("shared") for name in traced)
    assert set(plain) == set(traced)
    assert all(np.isfinite(t) for t in traced.values())
