"""Training and prices: against published runs, and definitions that must hold together."""

import dataclasses

import numpy as np
import pytest

from scalesim.cost.latency import serving
from scalesim.cost.memory import weight_bytes
from scalesim.cost.parallel import Parallel
from scalesim.cost.price import Traffic, lifetime_price, token_energy, token_price
from scalesim.cost.training import training_flops, training_memory, training_price, training_seconds
from scalesim.errors import InvalidInput
from scalesim.hardware import Hardware, load_hardware
from scalesim.models import known_model
from scalesim.workload import TrainingPlan, Workload
from tests.gradients import assert_gradients_agree

H100 = load_hardware("h100")
LLAMA = known_model("llama-3.1-8b").shape
PLAN = TrainingPlan(n_tokens=15e12, context_length=8192)
JOB = Workload(context_length=4096, batch_size=16, generated_length=1024)


def test_flops_of_llama_3_405b_are_as_published():
    # arXiv 2407.21783, section 3.2.1: 3.8e25 FLOPs on 15.6T tokens, "6 N D".
    plan = TrainingPlan(n_tokens=15.6e12, context_length=8192)
    assert training_flops(known_model("llama-3.1-405b").shape, plan) == pytest.approx(3.8e25, rel=0.05)


@pytest.mark.parametrize(("name", "hours"), [("llama-3.1-405b", 30.84e6), ("llama-3.1-70b", 7.0e6)])
def test_hours_of_llama_3_lie_in_the_band(name, hours):
    # The model cards' H100 hours, 15T tokens.
    seconds = training_seconds(known_model(name).shape, dataclasses.replace(PLAN, n_tokens=15.6e12), H100, 1)
    low, typical, high = (s / 3600 for s in dataclasses.astuple(seconds))
    assert low < typical < high
    assert low < hours < high


def test_recomputation_costs_a_forward_pass_of_hardware_but_none_of_the_model():
    full = dataclasses.replace(PLAN, recompute="full")
    assert training_flops(LLAMA, full) == training_flops(LLAMA, PLAN)
    assert training_flops(LLAMA, full, hardware_flops=True) == pytest.approx(
        4 / 3 * training_flops(LLAMA, PLAN)
    )


def test_states_are_sixteen_bytes_and_more_a_parameter():
    plan = dataclasses.replace(PLAN, gradient_bytes=2)
    use = training_memory(LLAMA, plan)
    assert (
        use.weights + use.gradients + use.optimizer == 16 * LLAMA.n_params_total
    )  # arXiv 1910.02054, section 3.1


@pytest.mark.parametrize(("zero", "shared"), [(0, ()), (1, ("optimizer",)), (2, ("optimizer", "gradients")),
                                              (3, ("optimizer", "gradients", "weights"))])  # fmt: skip
def test_zero_shares_out_what_it_says(zero, shared):
    alone = training_memory(LLAMA, PLAN)
    spread = training_memory(LLAMA, dataclasses.replace(PLAN, zero=zero, data=64))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(alone, part) / getattr(spread, part) == (64 if part in shared else 1)
    assert alone.activations == spread.activations


def test_tensor_parallelism_and_recomputation_save_activations():
    alone = training_memory(LLAMA, PLAN)
    assert training_memory(LLAMA, PLAN, Parallel(tensor=8)).activations < 0.35 * alone.activations
    full = training_memory(LLAMA, dataclasses.replace(PLAN, recompute="full"))
    assert full.activations < 0.1 * alone.activations
    assert training_memory(LLAMA, PLAN, Parallel(tensor=8)).weights == weight_bytes(
        LLAMA, parallel=Parallel(tensor=8)
    )


def test_mixtures_train_at_a_lower_share_of_the_peak():
    # JetMoE-8B, of which 2.2B are active: 1.25T tokens took 30,000 H100 hours (arXiv 2404.07413).
    moe = known_model("qwen3-30b-a3b").shape
    plan = dataclasses.replace(PLAN, n_tokens=1.25e12 * 2.2e9 / moe.n_params_active)
    seconds = training_seconds(moe, plan, H100, 1.0)
    low, typical, high = (s / 3600 for s in dataclasses.astuple(seconds))
    assert low < 30_000 < 1.3 * high
    dense = training_seconds(moe, plan, H100, 1.0, mfu=(0.25, 0.40, 0.50))
    assert typical > 2 * dense.typical / 3600


def test_price_does_not_depend_on_the_number_of_devices():
    seconds = [training_seconds(LLAMA, PLAN, H100, n).typical * n for n in (8, 1024)]
    assert seconds[0] == pytest.approx(seconds[1])
    assert training_price(LLAMA, PLAN, H100).typical == pytest.approx(seconds[0] / 3600 * 3.0)


def test_token_prices_are_rent_over_throughput():
    found, prices = serving(LLAMA, JOB, H100), token_price(LLAMA, JOB, H100)
    rent = 3.0 / 3600
    assert float(prices["prompt"].typical) == pytest.approx(1e6 * rent / float(found.prefill_tokens_per_s))
    assert float(prices["generated"].typical) == pytest.approx(1e6 * rent * float(found.tpot_s) / 16)
    # Both kinds together pay for exactly the time that the mixed throughput takes.
    mixed = 3072 * prices["prompt"].typical + 1024 * prices["generated"].typical
    assert float(mixed) / 1024 == pytest.approx(1e6 * rent / float(found.throughput_tokens_per_s))
    half = token_price(LLAMA, JOB, H100, utilisation=0.5, price_per_hour=(1.0, 2.0, 3.0))
    assert float(half["prompt"].low) == pytest.approx(2 / 3 * float(prices["prompt"].typical))


def test_energy_is_power_times_time():
    joules = token_energy(LLAMA, JOB, H100)
    prices = token_price(LLAMA, JOB, H100)
    assert float(joules.generated) == pytest.approx(float(prices["generated"].typical) / 3.0 * 3600 * 700)
    measured = token_energy(LLAMA, JOB, H100, power_w=350, overhead=1.2)
    assert float(measured.prompt) == pytest.approx(0.6 * float(joules.prompt))


def test_a_lifetime_is_training_and_serving():
    traffic = Traffic(prompt_tokens=1e12, generated_tokens=2e11)
    life = lifetime_price(LLAMA, PLAN, JOB, traffic, H100)
    tokens = token_price(LLAMA, JOB, H100)
    serving_only = 1e6 * tokens["prompt"].typical + 2e5 * tokens["generated"].typical
    assert float(life["serving"].typical) == pytest.approx(float(serving_only))
    assert life["total"].low == pytest.approx(float(life["training"].low + life["serving"].low))
    idle = lifetime_price(LLAMA, PLAN, JOB, Traffic(prompt_tokens=0, generated_tokens=0), H100)
    assert idle["total"].high == idle["training"].high


def test_gradients_agree():
    def f(x):
        shape = dataclasses.replace(LLAMA, d_model=x["d_model"], n_kv_head=x["n_kv_head"])
        hardware = dataclasses.replace(H100, bf16_tflops=x["tflops"], price_typical=x["price"])
        plan = TrainingPlan(n_tokens=x["tokens"], context_length=x["context"])
        traffic = Traffic(prompt_tokens=x["prompt"], generated_tokens=1e12)
        life = lifetime_price(shape, plan, JOB, traffic, hardware)["total"].typical
        return life + training_memory(shape, plan).total

    at = {"d_model": 4000.0, "n_kv_head": 7.0, "tflops": 900.0, "price": 3.0, "tokens": 1e12,
          "context": 8000.0, "prompt": 1e12}  # fmt: skip
    assert_gradients_agree(f, at, rtol=1e-5)


def test_a_batch_equals_a_loop():
    kv = np.array([1, 8])
    batch = training_memory(dataclasses.replace(LLAMA, n_kv_head=kv), PLAN).total
    loop = [training_memory(dataclasses.replace(LLAMA, n_kv_head=int(k)), PLAN).total for k in kv]
    np.testing.assert_allclose(batch, loop)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: TrainingPlan(n_tokens=1, zero=4), "zero must be 0, 1, 2 or 3, but is 4"),
        (lambda: TrainingPlan(n_tokens=0), "n_tokens must be above 0"),
        (lambda: TrainingPlan(n_tokens=1, recompute="some"), "recompute 'some' is not known"),
        (lambda: Traffic(prompt_tokens=-1, generated_tokens=0), "prompt_tokens must be at least 0"),
        (
            lambda: token_energy(LLAMA, JOB, load_hardware("tpu-v5e")),
            "power_w is not known for TPU-v5e; it states bf16_tflops",
        ),
        (
            lambda: training_price(
                LLAMA, PLAN, Hardware.from_dict({"bf16_tflops": 1, "memory_gb": 1, "bandwidth_gbs": 1})
            ),
            "price_low is not known for custom",
        ),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InvalidInput, match=says):
        call()
