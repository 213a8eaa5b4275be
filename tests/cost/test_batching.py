"""Loads of requests: limits, Little's law, the simulated scheduler, gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import serving_load
from scalesim.cost.batching import (
    at_concurrency,
    at_request_rate,
    largest_request_rate,
    mixed_step_time,
)
from scalesim.cost.disaggregated import disaggregated
from scalesim.cost.engines import EAGER_US, with_engine
from scalesim.cost.latency import prefill_time, step_time
from scalesim.cost.parallel import Parallel
from scalesim.errors import InvalidInput, Unreachable
from scalesim.hardware import load_hardware
from scalesim.models import known_model
from scalesim.workload import Workload
from tests.gradients import assert_gradients_agree

H100 = load_hardware("h100")
LLAMA = known_model("llama-3-8b").shape
JOB = Workload(context_length=3072.0, generated_length=512.0, batch_size=32.0)
FEW = replace(JOB, batch_size=1.0)
RATES = {"shape": LLAMA, "workload": replace(JOB, batch_size=64), "hardware": H100}


@pytest.mark.parametrize("name", ["llama-3-8b", "deepseek-v2-lite", "qwen3-30b-a3b", "qwen3.5-35b-a3b"])
def test_a_mixed_step_reads_its_weights_once(name):
    shape = known_model(name).shape
    plain = float(step_time(shape, JOB, H100))
    job = replace(JOB, batch_size=1.0, context_length=JOB.prompt_length, generated_length=None)
    alone = float(prefill_time(shape, job, H100))
    mixed = float(mixed_step_time(shape, JOB, H100, prompt_tokens=2560.0))
    assert max(plain, alone) < mixed < 1.02 * (plain + alone)
    # A chunk of a few tokens costs what its attention kernels take to start.
    assert plain < float(mixed_step_time(shape, JOB, H100, prompt_tokens=1.0)) < 1.35 * plain


def test_one_request_at_a_time_meets_nobody():
    found = at_concurrency(LLAMA, FEW, H100)
    assert float(found.tpot_s) == pytest.approx(float(step_time(LLAMA, FEW, H100)), rel=0.01)
    whole = float(mixed_step_time(LLAMA, replace(FEW, batch_size=0.8), H100, prompt_tokens=2560.0))
    assert float(found.ttft_s) == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize("parallel", [Parallel(), Parallel(tensor=4), Parallel(pipeline=2)])
def test_requests_are_neither_lost_nor_made(parallel):
    job = replace(JOB, batch_size=48.0)
    found = at_concurrency(LLAMA, job, H100, parallel)
    stay = found.ttft_s + (JOB.generated_length - 1) * found.tpot_s
    assert float(found.requests_per_s * stay) == pytest.approx(48.0, rel=1e-6)
    assert float(found.throughput_tokens_per_s) == pytest.approx(512 * float(found.requests_per_s))
    assert float(found.running) < 48


def test_prompts_that_fill_every_step_set_the_pace():
    short = Workload(context_length=6016.0, generated_length=16.0, batch_size=128.0)
    found = at_concurrency(LLAMA, short, H100)
    job = replace(short, batch_size=float(found.running))
    step = float(mixed_step_time(LLAMA, job, H100, prompt_tokens=8064.0))
    assert float(found.requests_per_s) == pytest.approx(8064 / 6000 / step, rel=0.05)
    assert float(found.running) < 30


def test_a_rate_and_its_targets_say_the_same():
    slow = at_request_rate(**RATES, requests_per_s=0.05)
    assert slow.tpot_s == pytest.approx(float(step_time(LLAMA, FEW, H100)), rel=0.05)
    fast = largest_request_rate(**RATES, tpot_s=2 * slow.tpot_s)
    assert fast.tpot_s == pytest.approx(2 * slow.tpot_s, rel=1e-3)
    again = at_request_rate(**RATES, requests_per_s=fast.requests_per_s)
    assert again.ttft_s == pytest.approx(fast.ttft_s, rel=1e-6)
    assert fast.concurrency > 5
    tight = largest_request_rate(**RATES, tpot_s=2 * slow.tpot_s, ttft_s=1.2 * slow.ttft_s)
    assert tight.requests_per_s < fast.requests_per_s


def test_what_cannot_be_kept_is_named():
    with pytest.raises(Unreachable, match="requests a second are more than can be served"):
        at_request_rate(**RATES, requests_per_s=1e4)
    with pytest.raises(Unreachable, match=r"tpot_s must be at least .* but is 0.001"):
        largest_request_rate(**RATES, tpot_s=0.001)
    with pytest.raises(InvalidInput, match="requests_per_s must be above 0 and finite, but is 0"):
        at_request_rate(**RATES, requests_per_s=0)
    with pytest.raises(InvalidInput, match="generated_length must be given"):
        at_concurrency(LLAMA, replace(JOB, generated_length=None), H100)
    big = {**RATES, "shape": known_model("llama-3.1-405b").shape}
    with pytest.raises(Unreachable, match="No sequence of this context fits"):
        at_request_rate(**big, requests_per_s=1)


@pytest.mark.slow
def test_the_closed_forms_are_near_the_scheduler_step_by_step():
    job = Workload(context_length=1280, generated_length=256, batch_size=16)
    seconds = serving_load.clock(LLAMA, job, H100)
    rng = np.random.default_rng(0)
    first, later, rate = serving_load.simulated(job, seconds, rate=None, rng=rng)
    found = at_concurrency(LLAMA, job, H100)
    assert float(found.requests_per_s) == pytest.approx(rate, rel=0.05)
    assert float(found.tpot_s) == pytest.approx(later, rel=0.05)
    assert float(found.ttft_s) == pytest.approx(first, rel=0.25)
    seats = replace(job, batch_size=256)
    first, later, _ = serving_load.simulated(seats, seconds, rate=3.0, rng=rng)
    open_ = at_request_rate(LLAMA, seats, H100, requests_per_s=3.0)
    assert open_.tpot_s == pytest.approx(later, rel=0.1)
    assert open_.ttft_s == pytest.approx(first, rel=0.25)


def test_gradients_agree():
    def f(x):
        hardware = replace(H100, bandwidth_gbs=x["bandwidth"])
        job = Workload(context_length=x["context"], generated_length=500.0, batch_size=x["batch"])
        found = at_concurrency(replace(LLAMA, n_kv_head=x["kv"]), job, hardware)
        return jnp.log(found.ttft_s) + jnp.log(found.tpot_s) + jnp.log(found.throughput_tokens_per_s)

    at = {"bandwidth": 3000.0, "context": 3000.0, "batch": 20.0, "kv": 7.0}
    assert_gradients_agree(f, at, rtol=1e-5)


def test_a_batch_of_loads_equals_a_loop():
    batches = np.array([2.0, 16.0, 64.0])

    def f(n):
        found = at_concurrency(LLAMA, replace(JOB, batch_size=n), H100)
        return jnp.stack([found.ttft_s, found.tpot_s])

    loop = np.stack([np.asarray(f(n)) for n in batches])
    np.testing.assert_allclose(np.asarray(jax.vmap(f)(batches)), loop, rtol=1e-9)


def test_prompts_apart_interrupt_nobody():
    found = disaggregated(LLAMA, JOB, H100)
    assert float(found.tpot_s) == float(step_time(LLAMA, JOB, H100))
    # One cache of 2,560 tokens, 131,072 bytes each, over 50 GB/s.
    assert float(found.transfer_s) == pytest.approx(2560 * 131072 / 50e9)
    alone = float(prefill_time(LLAMA, FEW, H100))
    assert float(found.ttft_s - found.transfer_s) == pytest.approx(alone)
    assert float(found.prefill_per_decode) == pytest.approx(alone * float(found.requests_per_s))
    whole = float(found.throughput_tokens_per_s) / (1 + float(found.prefill_per_decode))
    assert float(found.tokens_per_device_s) == pytest.approx(whole)
    # A head that four of eight accelerators hold is sent once.
    two = replace(LLAMA, n_kv_head=2)
    wide = disaggregated(two, JOB, H100, prefill=Parallel(tensor=8))
    assert float(wide.transfer_s) == pytest.approx(2560 * 131072 / 4 / 50e9 / 8)


def test_an_engine_without_graphs_waits_for_its_host():
    small, job = known_model("qwen3-0.6b").shape, Workload(context_length=1024)
    newer = with_engine(H100, "vllm-2026")
    eager = with_engine(newer, enforce_eager=True)
    host = 28 * EAGER_US * 1e-6
    engine = newer.efficiency.engine
    said = host + 1e-6 * (engine.step_us + engine.sequence_us + 28 * engine.layer_us)
    assert float(step_time(small, job, eager)) == pytest.approx(said, rel=0.01)
    # A long prompt keeps the device busy for longer than its launches take.
    long = Workload(context_length=32768)
    times = [float(prefill_time(LLAMA, long, one)) for one in (newer, eager)]
    assert times[1] == pytest.approx(times[0], rel=0.01)
    with pytest.raises(InvalidInput, match="engine 'tgi' is not known"):
        with_engine(H100, "tgi")
