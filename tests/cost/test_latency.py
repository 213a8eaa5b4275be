"""Latency of whole models: definitions, limits, gradients, and measured engines."""

import dataclasses
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import hardware_models as measured
from scalesim.cost.cache import kv_cache_bytes
from scalesim.cost.flops import forward_flops
from scalesim.cost.latency import (
    decode_operators,
    generation_time,
    prefill_operators,
    prefill_time,
    serving,
    step_time,
    time_to_first_token,
)
from scalesim.cost.memory import weight_bytes
from scalesim.cost.numbers import to_float
from scalesim.cost.parallel import Parallel
from scalesim.errors import InvalidInput
from scalesim.hardware import load_hardware
from scalesim.models import known_model, known_models
from scalesim.shape import Attention, LatentAttention, Shape
from scalesim.workload import Workload
from tests.gradients import assert_gradients_agree
from tests.public_data import need

H100 = load_hardware("h100")
LLAMA = known_model("llama-3-8b").shape
JOB = Workload(context_length=4096, batch_size=16, generated_length=1024)
FAMILIES = [
    "llama-2-7b",
    "llama-3-8b",
    "gemma-3-4b",
    "mixtral-8x7b-v0.1",
    "deepseek-v2-lite",
    "gpt2",
    "mistral-7b-v0.1",
]


@pytest.mark.parametrize("name", known_models())
def test_operators_do_the_work_that_flops_count(name):
    shape = known_model(name).shape
    job = Workload(context_length=1000, batch_size=3)
    latent = any(isinstance(b.mixer, LatentAttention) for b in shape.blocks)
    steps = sum(o.flops for o in decode_operators(shape, job, H100))
    exact = forward_flops(shape, 1, past=999, batch_size=3, absorbed=latent).total
    assert float(steps) == pytest.approx(exact, rel=1e-9)
    prompt = sum(o.flops for o in prefill_operators(shape, job, H100))
    assert float(prompt) == pytest.approx(
        forward_flops(shape, 1000, batch_size=3, logits="last").total, rel=1e-9
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_decode_is_never_faster_than_reading_what_it_must(name):
    shape = known_model(name).shape
    for batch in (1, 64):
        job = Workload(context_length=8192, batch_size=batch)
        experts = shape.n_params_active / shape.n_params_total
        embedding = 0 if shape.tied_embeddings else 2 * shape.vocab_size * shape.d_model
        floor = experts * (weight_bytes(shape) - embedding) + batch * kv_cache_bytes(shape, 8192)
        assert float(step_time(shape, job, H100)) > floor / float(H100.bandwidth)


def test_decode_beats_no_floor_with_gigabytes_taken_as_they_are():
    # A peer takes GB as GiB, 7% too fast. H100: 3350e9 bytes a second, and 989, not 1979, TFLOP/s.
    assert H100.bandwidth == 3350e9
    assert H100.peak_flops("bf16") == 989.4e12
    assert load_hardware("l4").peak_flops("bf16") == 121e12


def test_definitions_hold_together():
    found = serving(LLAMA, JOB, H100)
    assert found.ttft_s == prefill_time(LLAMA, dataclasses.replace(JOB, batch_size=1), H100)
    assert found.tpot_s == step_time(LLAMA, JOB, H100, length=3584)
    cycle = prefill_time(LLAMA, JOB, H100) + 1024 * found.tpot_s
    assert found.throughput_tokens_per_s == pytest.approx(float(16 * 1024 / cycle))
    alone = serving(LLAMA, dataclasses.replace(JOB, generated_length=None), H100)
    assert alone.throughput_tokens_per_s == pytest.approx(float(16 / alone.tpot_s))


def test_mean_step_stands_for_all_steps():
    steps = [float(step_time(LLAMA, JOB, H100, length=length)) for length in np.linspace(3073, 4096, 33)]
    assert float(step_time(LLAMA, JOB, H100)) == pytest.approx(np.mean(steps), rel=1e-3)


def test_windows_and_latents_save_time_at_long_context():
    def step(shape):
        return float(step_time(shape, Workload(context_length=131072, batch_size=8), H100))

    gemma = known_model("gemma-3-4b").shape
    whole = [replace(b, mixer=replace(b.mixer, window=None)) for b in gemma.blocks]
    assert step(gemma) < 0.6 * step(replace(gemma, blocks=whole))
    deepseek = known_model("deepseek-v2-lite").shape
    heads = Attention(n_head=16, n_kv_head=16, head_dim=192)
    expanded = [replace(block, mixer=heads) for block in deepseek.blocks]
    assert step(deepseek) < 0.4 * step(replace(deepseek, blocks=expanded))


def test_a_windowed_prompt_takes_the_time_of_the_measured_form():
    from scalesim.cost.kernels import prefill_attention_time

    shape, e = known_model("mistral-7b-v0.1").shape, H100.efficiency
    operators = prefill_operators(shape, Workload(context_length=16384, batch_size=2), H100)
    got = next(o for o in operators if o.name == "attention, sliding")
    # As the form was fitted: `longest` is what one row attends to at most, the window.
    span = (4096 * 16384 - 4096 * 4095 / 2) / 16384
    once = prefill_attention_time(
        2.0, 16384.0, span, 32.0, 8.0, 128.0, H100.peak_flops("bf16"), H100.bandwidth, e.prefill,
        longest=4096.0, launch=e.engine.launch, windowed=1.0,
    )  # fmt: skip
    assert float(got.time_s) == pytest.approx(32 * e.engine.scale * float(once))


def test_sampling_passes_over_the_vocabulary_in_float32():
    def sampling(shape, batch):
        operators = decode_operators(shape, Workload(context_length=100, batch_size=batch), H100)
        return next(float(o.n_bytes) for o in operators if o.name == "sampling")

    assert sampling(LLAMA, 1) == 12.5 * 4 * 128256
    assert sampling(LLAMA, 64) == 64 * sampling(LLAMA, 1)


def test_an_engines_kernel_may_gain_less_from_shared_caches():
    def attention(group, n_kv_head):
        engine = dataclasses.replace(H100.efficiency.engine, group=group)
        hardware = dataclasses.replace(H100, efficiency=dataclasses.replace(H100.efficiency, engine=engine))
        shape = dataclasses.replace(LLAMA, n_kv_head=n_kv_head)
        operators = decode_operators(shape, JOB, hardware)
        return next(float(o.time_s) for o in operators if o.name == "attention")

    assert attention(0.5, 32) == attention(0.0, 32)
    assert attention(0.5, 8) == pytest.approx((1 + 0.5 * np.log(4)) * attention(0.0, 8))


def test_experts_are_read_as_they_are_visited():
    moe = known_model("qwen3-30b-a3b").shape

    def read(batch):
        operators = decode_operators(moe, Workload(context_length=1024, batch_size=batch), H100)
        return sum(float(o.n_bytes) for o in operators if o.name.startswith("expert"))

    one, all_experts = read(1), 2.0 * 48 * 128 * 3 * 2048 * 768
    assert one == pytest.approx(all_experts * 8 / 128, rel=0.01)
    assert all_experts * 0.98 < read(64) < all_experts * 1.02
    assert read(8) == pytest.approx(all_experts * (1 - (1 - 8 / 128) ** 8), rel=0.02)


def test_tensor_parallelism_divides_work_and_pays_for_talk():
    one, eight = ({o.name: o for o in decode_operators(LLAMA, JOB, H100, Parallel(tensor=t))} for t in (1, 8))
    assert float(eight["FFN up projection"].flops) == pytest.approx(float(one["FFN up projection"].flops) / 8)
    assert "all-reduce" in eight
    assert "all-reduce" not in one
    # 8 KV heads over 16 devices: each still reads one whole head.
    at8, at16 = ({o.name: o for o in decode_operators(LLAMA, JOB, H100, Parallel(tensor=t))} for t in (8, 16))
    assert float(at16["attention"].n_bytes) > 0.9 * float(at8["attention"].n_bytes)


def test_pipelines_and_expert_parallelism_raise_throughput():
    job = Workload(context_length=4096, batch_size=64)
    one = serving(LLAMA, job, H100)
    four = serving(LLAMA, job, H100, Parallel(pipeline=4))
    # A part of the batch at a time: less than four times the tokens, but no less than once.
    assert 1.0 < float(four.throughput_tokens_per_s / one.throughput_tokens_per_s) < 4.0
    moe = known_model("mixtral-8x7b-v0.1").shape
    h200 = load_hardware("h200")
    spread = serving(moe, job, h200, Parallel(expert=8))
    assert float(spread.throughput_tokens_per_s) > float(serving(moe, job, h200).throughput_tokens_per_s)


def test_a_shared_prefix_is_not_computed_again():
    job = Workload(context_length=8192, batch_size=1)
    shared = dataclasses.replace(job, prefix_length=6144)
    assert float(time_to_first_token(LLAMA, shared, H100)) < 0.35 * float(
        time_to_first_token(LLAMA, job, H100)
    )


def test_precision_saves_time():
    base = float(step_time(LLAMA, JOB, H100))
    for change in ({"weight_bits": 8}, {"kv_bits": 8}):
        assert float(step_time(LLAMA, dataclasses.replace(JOB, **change), H100)) < base
    fp8 = dataclasses.replace(JOB, compute="fp8", weight_bits=8, activation_bits=8)
    # Activations are rounded in a pass of its own, and attention stays: less than the peaks promise.
    assert float(prefill_time(LLAMA, fp8, H100)) < 0.85 * float(prefill_time(LLAMA, JOB, H100))
    with pytest.raises(
        InvalidInput, match="compute 'fp8' has no matrix units on A100-80GB-SXM; bf16, int8 would do"
    ):
        step_time(LLAMA, fp8, load_hardware("a100"))


def test_what_does_not_fit_waits():
    mha, a100 = known_model("llama-2-7b").shape, load_hardware("a100-40gb")
    job = Workload(context_length=4096, generated_length=2048, batch_size=64)
    small = dataclasses.replace(job, batch_size=8)
    assert float(generation_time(mha, job, a100)) > 4 * float(generation_time(mha, small, a100))
    with pytest.raises(InvalidInput, match="generated_length must be given"):
        generation_time(mha, Workload(context_length=4096), a100)


def test_a_batch_of_designs_equals_a_loop_and_jit_equals_eager():
    kv = np.array([1.0, 2.0, 8.0, 32.0])
    batch = dataclasses.replace(to_float(LLAMA), n_kv_head=kv)

    def f(s):
        return step_time(s, JOB, H100), prefill_time(s, JOB, H100)

    loop = np.array([[float(t) for t in f(dataclasses.replace(LLAMA, n_kv_head=int(k)))] for k in kv]).T
    np.testing.assert_allclose(np.array(f(batch)), loop, rtol=1e-9)
    np.testing.assert_allclose(np.array(jax.jit(f)(batch)), loop, rtol=1e-9)


@pytest.mark.parametrize("what", ["step", "prefill", "generation"])
@pytest.mark.parametrize("name", ["llama-3-8b", "gemma-3-4b", "deepseek-v3", "mixtral-8x7b-v0.1"])
def test_gradients_agree(name, what):
    base = to_float(known_model(name).shape)
    names = ("n_layer", "d_model", "n_head", "head_dim", "d_ff", "vocab_size")
    sizes = {n: getattr(base, n) for n in names}
    if isinstance(base.mixer, Attention):
        sizes["n_kv_head"] = base.n_kv_head * 0.9
    job = {"context_length": 3000.0, "batch_size": 5.0, "generated_length": 900.0}
    bits = {"weight_bits": 9.0, "activation_bits": 14.0, "kv_bits": 7.0}
    figures = {"bf16_tflops": 900.0, "bandwidth_gbs": 3000.0, "memory_gb": 80.0}
    time = {"step": step_time, "prefill": prefill_time, "generation": generation_time}[what]

    def f(x):
        hardware = dataclasses.replace(H100, **{n: x[n] for n in figures})
        workload = Workload(**{n: x[n] for n in (*job, *bits)})
        shape = dataclasses.replace(base, **{n: x[n] for n in sizes})
        return jnp.log(time(shape, workload, hardware))

    if what == "generation":
        # Room for the weights, so that the batch is what waits.
        figures["memory_gb"] = 1.02 * float(weight_bytes(base)) / 0.9 / 1e9 + 3.0
    assert_gradients_agree(f, {**sizes, **job, **bits, **figures}, rtol=2e-5)


def test_gradients_agree_for_what_devices_tell_each_other():
    def f(x):
        hardware = dataclasses.replace(H100, interconnect_gbs=x["inside"], scaleout_gbs=x["outside"])
        job = Workload(context_length=x["context"], batch_size=x["batch"])
        moe = known_model("mixtral-8x7b-v0.1").shape
        many = Parallel(tensor=4, pipeline=2, expert=2), Parallel(tensor=2, expert=8)
        return sum(jnp.log(serving(moe, job, hardware, one).throughput_tokens_per_s) for one in many)

    at = {"inside": 450.0, "outside": 50.0, "context": 3000.0, "batch": 77.0}
    assert_gradients_agree(f, at, rtol=1e-5)


def test_a_missing_interconnect_is_named():
    mine = load_hardware({"name": "mine", "bf16_tflops": 400, "memory_gb": 48, "bandwidth_gbs": 1800})
    with pytest.raises(InvalidInput, match="interconnect_gbs is not known for mine"):
        step_time(LLAMA, JOB, mine, Parallel(tensor=2))


@pytest.mark.parametrize("constant", ["gemm", "decode", "prefill", "engine"])
def test_gradients_reach_every_constant_of_the_hardware(constant):
    def f(group):
        efficiency = dataclasses.replace(H100.efficiency, **{constant: group})
        hardware = dataclasses.replace(H100, efficiency=efficiency)
        return serving(LLAMA, JOB, hardware).throughput_tokens_per_s

    slope = jax.grad(f)(jax.tree.map(float, getattr(H100.efficiency, constant)))
    values = {name: v for name, v in dataclasses.asdict(slope).items() if v is not None}
    assert all(np.isfinite(v) for v in values.values())
    # A head_dim of 128 is where the exponent counts from, and no odd size; there is no window; one device
    # talks to nobody; graphs hide the calls; nothing is packed, unpacked or found in the last cache.
    idle = {
        "gemm": {"cache_mb", "cache_share"},
        "decode": {"window_us", "window_reload", "odd", "cache_mb", "cache_share"},
        "prefill": {"serial_exponent", "window_us", "odd", "cache_mb", "cache_share"},
        "engine": {"link", "hop_us", "host", "eager_us"},
    }
    assert all(abs(v) > 0 for name, v in values.items() if name not in idle.get(constant, ()))


def test_times_are_finite_in_float32(float32):
    job = Workload(context_length=1_000_000.0, batch_size=64.0)
    for name in ("llama-3.1-405b", "smollm2-135m"):
        shape = to_float(known_model(name).shape)
        times = jax.jit(lambda s, w: (step_time(s, w, H100), prefill_time(s, w, H100)))(shape, job)
        assert all(np.isfinite(t) and t > 0 for t in times)


def test_small_models_take_time_too():
    # Engine constants fitted to 7B models must not turn a small model's time negative.
    tiny = Shape(n_layer=2, d_model=64, n_head=2, n_kv_head=1, d_ff=128, vocab_size=256)
    for name in ("a100", "h100"):
        assert float(step_time(tiny, Workload(context_length=16), load_hardware(name))) > 1e-5


@pytest.fixture(scope="module")
def engines():
    """Hardware calibrated to Llama-2-7B and Llama-3-8B on vLLM, the other models left out."""
    need("llm_inference_bench")
    from scalesim.cost.calibration import calibrate

    return {
        device: calibrate(
            measured.timings(device, measured.FITTED),
            measured.machine(device, load_hardware(device).efficiency),
            prior=0.02,
        )
        for device in ("a100", "h100")
    }


def off(cases, hardware):
    return np.abs(measured.predict(cases, hardware) / np.array([c.seconds for c in cases]) - 1)


def test_models_left_out_are_predicted(engines):
    cases = {
        (device, name): measured.timings(device, (name,))
        for device, names in measured.HELD_OUT.items()
        for name in names
    }
    errors = {key: off(some, engines[key[0]].hardware) for key, some in cases.items()}
    assert sum(map(len, errors.values())) == 60
    assert np.concatenate(list(errors.values())).mean() <= 0.10
    assert errors["a100", "mistral-7b-v0.1"].mean() <= 0.06
    assert errors["h100", "qwen2-7b"].mean() <= 0.07
    many = np.array([c.workload.batch_size > 16 for c in cases["h100", "mistral-7b-v0.1"]])
    assert errors["h100", "mistral-7b-v0.1"][~many].mean() <= 0.05


def test_the_rows_that_are_missed_read_their_cache_for_each_query_head(engines):
    # vLLM's fallback for models with a window, beyond 512 heads of all sequences: no cost of the shape.
    found = engines["h100"].hardware
    cases = [c for c in measured.timings("h100", ("mistral-7b-v0.1",)) if c.workload.batch_size * 32 > 512]
    assert off(cases, found).mean() > 0.25
    assert off(cases, measured.unshared(found, cases[0].shape)).mean() <= 0.08


@pytest.mark.parametrize("device", ["a100", "h100"])
def test_models_that_fitted_are_met(engines, device):
    assert engines[device].error <= 0.035
    assert engines[device].error_left_out <= 0.035
    assert engines[device].error < engines[device].error_before + 0.01


@pytest.mark.parametrize("device", ["a100", "h100"])
def test_gqa_is_ranked_against_mha_as_measured(engines, device):
    cases = [
        case
        for case in measured.timings(device, measured.FITTED)
        if case.workload.batch_size == 64 and case.workload.context_length == 4096
    ]
    measured_order = [case.seconds for case in cases]
    predicted = measured.predict(cases, engines[device].hardware)
    assert len(cases) == 2
    assert np.argsort(predicted).tolist() == np.argsort(measured_order).tolist()
    assert max(predicted) / min(predicted) == pytest.approx(
        max(measured_order) / min(measured_order), rel=0.15
    )
