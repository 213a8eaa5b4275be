"""What fits: the answers fill memory exactly, and what does not fit says what would."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.cost.capacity import check_fits, largest_batch, largest_context, usable_bytes
from scalesim.cost.memory import serving_memory
from scalesim.cost.parallel import Parallel
from scalesim.errors import Unreachable
from scalesim.hardware import load_hardware
from scalesim.models import known_model
from scalesim.workload import Workload

A100, H100 = load_hardware("a100"), load_hardware("h100")
CASES = [
    ("llama-2-7b", Parallel()),
    ("llama-3-8b", Parallel(tensor=2)),
    ("gemma-3-27b", Parallel()),
    ("deepseek-v2-lite", Parallel()),
    ("mixtral-8x7b-v0.1", Parallel(tensor=2, expert=2)),
    ("llama-3.1-70b", Parallel(tensor=4, pipeline=2)),
]


@pytest.mark.parametrize(("name", "parallel"), CASES)
@pytest.mark.parametrize("job", [{}, {"prefix_length": 1000}, {"generated_length": 4000}, {"kv_bits": 8}])
def test_the_largest_batch_fills_memory(name, parallel, job):
    shape, workload = known_model(name).shape, Workload(context_length=4096, **job)
    batch = float(largest_batch(shape, workload, A100, parallel))
    assert batch > 1
    filled = serving_memory(shape, dataclasses.replace(workload, batch_size=batch), parallel).total
    assert float(filled) == pytest.approx(float(usable_bytes(A100)), rel=1e-6)


@pytest.mark.parametrize(("name", "parallel"), CASES)
@pytest.mark.parametrize("batch", [1, 32])
def test_the_largest_context_fills_memory(name, parallel, batch):
    shape, workload = known_model(name).shape, Workload(context_length=1, batch_size=batch)
    context = float(largest_context(shape, workload, A100, parallel))
    filled = serving_memory(shape, dataclasses.replace(workload, context_length=context), parallel).total
    assert float(filled) == pytest.approx(float(usable_bytes(A100)), rel=1e-6)


def test_windows_alone_hold_any_context():
    mistral = known_model("mistral-7b-v0.1").shape
    assert largest_context(mistral, Workload(context_length=1), A100) == np.inf
    assert largest_context(mistral, Workload(context_length=1, batch_size=1e6), A100) < 4096


def test_a_batch_of_shapes_equals_a_loop():
    shape = known_model("llama-3-8b").shape
    kv = np.array([1, 8, 32])
    got = largest_batch(dataclasses.replace(shape, n_kv_head=kv), Workload(context_length=8192), H100)
    loop = [
        largest_batch(dataclasses.replace(shape, n_kv_head=int(k)), Workload(context_length=8192), H100)
        for k in kv
    ]
    np.testing.assert_allclose(got, loop, rtol=1e-9)


def test_what_does_not_fit_says_how_much_and_what_would():
    shape = known_model("llama-3.1-8b").shape
    job = Workload(context_length=32768, batch_size=16)
    says = r"batch_size 16 at context_length 32768 does not fit on 1 x H100-SXM: 79.7 GiB .*12.6 GiB too much"
    with pytest.raises(Unreachable, match=says) as error:
        check_fits(shape, job, H100)
    message = str(error.value)
    for way in ("batch_size 12", "context_length 26302", "kv_bits 8", "tensor 2"):
        assert way in message
    # What it says would fit does.
    check_fits(shape, dataclasses.replace(job, batch_size=12), H100)
    check_fits(shape, dataclasses.replace(job, context_length=26302), H100)
    check_fits(shape, dataclasses.replace(job, kv_bits=8), H100)
    check_fits(shape, job, H100, Parallel(tensor=2))
    with pytest.raises(Unreachable):
        check_fits(shape, dataclasses.replace(job, batch_size=13), H100)


def test_weights_that_do_not_fit_ask_for_more_devices():
    with pytest.raises(Unreachable, match=r"weights 131 GiB.*; tensor 4 would fit"):
        check_fits(known_model("llama-3.1-70b").shape, Workload(context_length=4096, batch_size=8), A100)
    small = load_hardware({"bf16_tflops": 1, "memory_gb": 0.1, "bandwidth_gbs": 1})
    with pytest.raises(Unreachable, match="the weights alone leave no room for one sequence"):
        check_fits(known_model("llama-3-8b").shape, Workload(context_length=4096), small)


def test_answers_keep_their_precision_in_float32(float32):
    for name in ("llama-3-8b", "deepseek-v2-lite"):
        shape, job = known_model(name).shape, Workload(context_length=4096, batch_size=2)
        for f in (largest_batch, largest_context):
            exact = float(f(shape, job, A100))
            loose = jax.jit(lambda s, w, f=f: f(s, w, A100))(_floats(shape), _floats(job))
            assert float(loose) == pytest.approx(exact, rel=1e-4)


def _floats(tree):
    return jax.tree.map(lambda leaf: jnp.float32(leaf), tree)
