"""Kernel times: limits of the forms, and their error on measurements held out of the fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.constants import FORMATS
from scalesim.cost.fitting import fit_kernel, halves, kernel_errors, part, start_of
from scalesim.cost.kernel_forms import Machine, kernel_seconds, machine_of
from scalesim.cost.kernel_tables import read_kernel_table
from scalesim.cost.kernels import decode_attention_time, gemm_time, p_norm, prefill_attention_time
from scalesim.efficiency import measured_efficiency
from scalesim.errors import InvalidInput
from scalesim.hardware import load_hardware
from tests.gradients import assert_gradients_agree
from tests.public_data import need, public_runs

H100 = measured_efficiency("h100")
PEAKS = {"a100": (312e12, 2039e9), "h100": (989.4e12, 3350e9)}
PEAK, BANDWIDTH = PEAKS["h100"]
DEVICES = ("a100", "h100")


def on(device):
    return machine_of(load_hardware(device), "gemm", "bf16")


def rows(kind, device):
    """Kernels of another engine than that whose tables the H100's constants are fitted to."""
    name = {"gemm": "gemm", "decode": "attn_decode", "prefill": "attn_prefill"}[kind]
    ((_, _, table),) = read_kernel_table(str(public_runs() / "silicon" / f"{device}_sxm_{name}_bf16.csv"))
    # Larger heads fall back to another kernel there, four times slower.
    return part(table, np.flatnonzero(table["head_dim"] <= 256)) if kind != "gemm" else table


def gemm(m, n, k):
    return gemm_time(2.0 * m * n * k, 2.0 * (m * k + k * n + m * n), k, PEAK, BANDWIDTH, H100.gemm)


def test_p_norm_is_between_the_largest_and_the_sum():
    times = (1e-6, 3e-6, 2e-9)
    for p in (1.0, 2.0, 8.0, 40.0):
        assert max(times) * (1 - 1e-9) <= p_norm(p, *times) <= sum(times) * (1 + 1e-9)
    assert p_norm(1.0, *times) == pytest.approx(sum(times))
    assert p_norm(3.0, 1e-12, 2e3) == pytest.approx(2e3)


def test_p_norm_keeps_its_range_in_float32(float32):
    for scale in (1e-9, 1.0, 1e6):
        value = p_norm(jnp.float32(4.0), jnp.float32(scale), jnp.float32(2 * scale))
        assert value == pytest.approx(scale * 17**0.25, rel=1e-4)


def test_no_kink_at_the_ridge():
    # The slope of log t in log m goes from memory to compute with no jump: its own slope stays bounded.
    m = np.geomspace(16, 8192, 400)
    slope = jax.vmap(jax.grad(lambda u: jnp.log(gemm(jnp.exp(u), 8192.0, 8192.0))))(jnp.log(m))
    steps = np.abs(np.diff(slope)) / np.diff(np.log(m))
    assert np.all(np.isfinite(slope))
    assert steps.max() < 2.0  # a kink would be of the order of 1 / d log m = 60
    # Finer sampling does not find a steeper bend, as it would at a kink.
    fine = np.geomspace(16, 8192, 4000)
    slope = jax.vmap(jax.grad(lambda u: jnp.log(gemm(jnp.exp(u), 8192.0, 8192.0))))(jnp.log(fine))
    assert (np.abs(np.diff(slope)) / np.diff(np.log(fine))).max() < 1.05 * steps.max()


@pytest.mark.parametrize("device", DEVICES)
def test_never_faster_than_the_data_sheet(device):
    constants, (peak, bandwidth) = measured_efficiency(device), PEAKS[device]
    rng = np.random.default_rng(1)
    m, n, k = np.exp(rng.uniform(np.log(1), np.log(65536), (3, 4000)))
    flops, n_bytes = 2 * m * n * k, 2 * (m * k + k * n + m * n)
    assert np.all(gemm_time(flops, n_bytes, k, peak, bandwidth, constants.gemm) > flops / peak)
    assert np.all(gemm_time(flops, n_bytes, k, peak, bandwidth, constants.gemm) > n_bytes / bandwidth)
    batch, length = np.exp(rng.uniform(0, np.log(1024), 4000)), np.exp(rng.uniform(0, np.log(2**20), 4000))
    for heads, kv in ((32, 32), (32, 8), (64, 1)):
        time = decode_attention_time(batch, length, heads, kv, 128, peak, bandwidth, constants.decode)
        read = 4 * batch * length * kv * 128
        assert np.all(time > read / bandwidth)


@pytest.mark.parametrize("device", DEVICES)
def test_group_size_lowers_the_bandwidth_reached(device):
    constants, (peak, bandwidth) = measured_efficiency(device), PEAKS[device]

    def reached(group):
        time = decode_attention_time(16, 16384, 8 * group, 8, 128, peak, bandwidth, constants.decode)
        return 4 * 16 * 16384 * 8 * 128 / bandwidth / float(time)

    groups = [reached(g) for g in (2, 4, 8, 16)]
    assert groups == sorted(groups, reverse=True)
    assert 0.5 < groups[-1] < groups[0] < 1.0


def test_queries_share_the_cache():
    # A peer charges the cache once a query head: 4 times too much for a group of 4.
    def time(n_head):
        return decode_attention_time(64, 8192, n_head, 8, 128, PEAK, BANDWIDTH, H100.decode)

    assert time(32) < 1.3 * time(8)
    assert decode_attention_time(64, 8192, 32, 32, 128, PEAK, BANDWIDTH, H100.decode) > 3 * time(32)


@pytest.mark.parametrize("kind", ["gemm", "decode", "prefill"])
def test_gradients_agree(kind):
    def gemm_at(x):
        return gemm_time(x["flops"], x["bytes"], x["k"], x["peak"], x["bandwidth"], H100.gemm)

    def decode_at(x):
        heads = x["q"], x["kv"], x["h"]
        return decode_attention_time(
            x["batch"], x["length"], *heads, x["peak"], x["bandwidth"], H100.decode, kv_bytes=x["bits"] / 8
        )

    def prefill_at(x):
        heads = x["q"], x["kv"], x["h"]
        return prefill_attention_time(
            x["batch"], x["length"], x["length"] / 2, *heads, x["peak"], x["bandwidth"], H100.prefill,
            longest=x["length"],
        )  # fmt: skip

    peaks = {"peak": PEAK, "bandwidth": BANDWIDTH}
    heads = {"q": 30.0, "kv": 7.0, "h": 100.0, "batch": 5.0, "length": 3000.0}
    f, at = {
        "gemm": (gemm_at, {"flops": 1e11, "bytes": 4e8, "k": 3000.0, **peaks}),
        "decode": (decode_at, {**heads, "bits": 11.0, **peaks}),
        "prefill": (prefill_at, {**heads, **peaks}),
    }[kind]
    assert_gradients_agree(lambda x: jnp.log(f(x)), at, rtol=1e-5)


# The bounds are those that the errors must keep: means of absolute relative errors, but the median of decode.
BOUNDS = {"gemm": 0.10, "decode": 0.10, "prefill": 0.12}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", BOUNDS)
def test_error_on_the_held_out_half(kind, device):
    need("silicon")
    fitted, scored = halves(rows(kind, device), seed=7)
    constants = fit_kernel(kind, fitted, on(device), start=start_of(kind))
    errors = kernel_errors(kind, scored, on(device), constants)
    assert (np.median(errors) if kind == "decode" else errors.mean()) <= BOUNDS[kind]


def test_error_on_unseen_gemm_shapes():
    need("silicon")
    table = rows("gemm", "h100")
    means = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        # Whole widths and depths are left out, not single products: every scored n and k is new.
        widths, depths = (rng.choice(np.unique(table[side]), 8, replace=False) for side in ("n", "k"))
        wide, deep = np.isin(table["n"], widths), np.isin(table["k"], depths)
        constants = fit_kernel("gemm", part(table, np.flatnonzero(~wide & ~deep)), on("h100"))
        new = part(table, np.flatnonzero(wide & deep))
        means.append(kernel_errors("gemm", new, on("h100"), constants).mean())
    assert np.mean(means) <= 0.10


@pytest.mark.parametrize("device", DEVICES)
def test_shipped_constants_hold_on_another_engine_and_never_beat_the_bandwidth(device):
    need("silicon")
    efficiency = measured_efficiency(device)
    for kind, bound in BOUNDS.items():
        errors = kernel_errors(kind, rows(kind, device), on(device), getattr(efficiency, kind))
        assert (np.median(errors) if kind == "decode" else errors.mean()) <= 1.05 * bound
    table = rows("decode", device)
    read = 4 * table["batch"] * table["length"] * table["n_kv_head"] * table["head_dim"]
    time = np.asarray(kernel_seconds("decode", table, on(device), efficiency.decode))
    assert np.all(time[read > 5e7] >= read[read > 5e7] / PEAKS[device][1])


def test_measured_bandwidth_falls_with_the_group_as_predicted():
    need("silicon")
    table = rows("decode", "h100")
    read = 4 * table["batch"] * table["length"] * table["n_kv_head"] * table["head_dim"]
    group = table["n_head"] / table["n_kv_head"]
    long = (read > 2e8) & (table["window"] >= 1e9) & (table["head_dim"] == 128)
    time = np.asarray(kernel_seconds("decode", table, on("h100"), measured_efficiency("h100").decode))
    for seconds in (table["seconds"], time):
        reached = read / seconds
        few, many = (np.median(reached[long & rows]) for rows in (group <= 2, group >= 16))
        assert few > many


def sizes(kind, n=40, seed=0):
    """Sizes of kernels of a kind, drawn evenly in their logarithms."""
    rng = np.random.default_rng(seed)

    def draw(low, high):
        return np.exp(rng.uniform(np.log(low), np.log(high), n))

    ranges = {
        "gemm": {"m": (1, 8192), "n": (128, 16384), "k": (128, 16384)},
        "decode": {"batch": (1, 256), "length": (2, 65536), "n_kv_head": (1, 8)},
        "prefill": {"batch": (1, 8), "new": (16, 16384), "n_kv_head": (1, 8)},
        "experts": {"tokens": (1, 8192), "d_model": (2048, 7168), "d_ff": (256, 4096), "top_k": (1, 8)},
        "latent decode": {"batch": (1, 256), "past": (2, 65536), "n_head": (1, 128)},
        "latent prefill": {"batch": (1, 8), "new": (16, 16384), "n_head": (1, 128)},
        "delta rule": {"batch": (1, 64), "length": (16, 16384), "n_key": (2, 16), "n_value": (2, 64)},
        "delta rule step": {"batch": (1, 512), "n_key": (2, 16), "n_value": (2, 64)},
        "all-reduce": {"n_bytes": (256, 1e9)},
    }[kind]
    table = {name: draw(*bounds) for name, bounds in ranges.items()}
    fixed = {
        "decode": {"head_dim": 128.0, "window": 1e9},
        "prefill": {"head_dim": 128.0, "window": 1e9, "past": 0.0},
        "experts": {"n_expert": 128.0, "devices": 4.0, "matrices": 3.0, "skew": 0.5},
        "latent decode": {"new": 1.0},
        "latent prefill": {"past": 0.0},
        "delta rule step": {"length": 1.0},
        "all-reduce": {"devices": 8.0, "host": 0.0},
    }.get(kind, {})
    table |= {name: np.full(n, value) for name, value in fixed.items()}
    if kind in ("decode", "prefill"):
        table["n_head"] = 4 * table["n_kv_head"]
    return table


BLOCKS = [
    ("gemm", "fp8"),
    ("gemm", "fp8_block"),
    ("gemm", "fp4"),
    ("decode", "fp8"),
    ("prefill", "fp8"),
    ("experts", "bf16"),
    ("experts", "fp8_block"),
    ("latent decode", "fp8_block/fp8"),
    ("latent prefill", "bf16/bf16/bf16"),
    ("delta rule", ""),
    ("delta rule step", ""),
    ("all-reduce", ""),
]
B200 = load_hardware("b200")


@pytest.mark.parametrize(("kind", "format"), BLOCKS)
def test_every_form_is_smooth_and_grows_with_the_work(kind, format):
    machine, constants = machine_of(B200, kind, format), B200.efficiency.of(kind, *filter(None, [format]))
    table = sizes(kind)
    if format == "fp8_block":
        # A matrix of fewer than 64 columns is multiplied by slower calls than a wider one.
        table = {**table, "n": table["n"] + 128} if kind == "gemm" else table
    grown = {"gemm": "n", "decode": "length", "prefill": "new", "experts": "tokens", "all-reduce": "n_bytes"}
    name = grown.get(kind, "past" if kind == "latent decode" else "new" if "latent" in kind else "n_value")

    def total(scale):
        return jnp.log(kernel_seconds(kind, {**table, name: table[name] * scale}, machine, constants))

    assert np.all(np.isfinite(total(1.0)))
    assert np.all(total(1.5) >= total(1.0) - 1e-6)
    slope = jax.jacfwd(total)(1.0)
    step = 1e-5
    assert np.allclose(slope, (total(1 + step) - total(1 - step)) / (2 * step), rtol=1e-4, atol=1e-7)
    # No kink: slopes on both sides of every size are those at it.
    either = [(total(1 + s) - total(1.0)) / s for s in (-1e-4, 1e-4)]
    assert np.allclose(*either, atol=2e-3)
    assert np.allclose(total(1.0), jax.jit(total)(1.0), rtol=1e-9)


@pytest.mark.parametrize(("kind", "format"), BLOCKS)
def test_no_form_beats_the_data_sheet(kind, format):
    machine, constants = machine_of(B200, kind, format), B200.efficiency.of(kind, *filter(None, [format]))
    table = sizes(kind, 400)
    seconds = np.asarray(kernel_seconds(kind, table, machine, constants))
    if kind == "gemm":
        least = 2 * table["m"] * table["n"] * table["k"] / machine.peak
        least = np.maximum(least, machine.value_bytes * table["n"] * table["k"] / B200.bandwidth)
    elif kind == "decode":
        least = 2 * table["batch"] * table["length"] * table["n_kv_head"] * 128 / B200.bandwidth
    elif kind == "experts":
        visits = table["tokens"] * table["top_k"] / table["devices"]
        least = 6 * table["d_model"] * table["d_ff"] * visits / machine.peak
    elif kind == "all-reduce":
        least = 2 * 7 / 8 * table["n_bytes"] / 9e11
    else:
        least = np.zeros(len(seconds))
    assert np.all(seconds > least)


def test_experts_of_few_tokens_are_read_alone():
    constants = B200.efficiency.of("experts", "bf16")
    table = {**sizes("experts", 3), "tokens": np.array([1.0, 4.0, 512.0]), "devices": np.ones(3)}
    table |= {"d_model": np.full(3, 4096.0), "d_ff": np.full(3, 1536.0), "top_k": np.full(3, 8.0)}
    one, four, many = kernel_seconds("experts", table, machine_of(B200, "experts", "bf16"), constants)
    assert one < four < many < 16 * one  # all 128 experts are sixteen times those that one token visits


def test_a_format_has_the_peak_of_its_units():
    assert machine_of(B200, "gemm", "fp4").peak == pytest.approx(9e15)
    assert machine_of(B200, "experts", "int4").peak == machine_of(B200, "gemm", "bf16").peak
    assert all(one.compute in ("bf16", "fp8", "fp4") for one in FORMATS.values())
    with pytest.raises(InvalidInput, match="compute 'fp4' has no matrix units on H100"):
        machine_of(load_hardware("h100"), "gemm", "fp4")


def test_a_last_cache_makes_small_reads_faster():
    constants = load_hardware("l40s").efficiency.gemm
    assert constants.cache_mb is not None
    table = {"m": np.full(2, 16.0), "n": np.full(2, 1024.0), "k": np.full(2, 1024.0)}
    machine = machine_of(load_hardware("l40s"), "gemm", "bf16")
    cold = dataclasses.replace(constants, cache_mb=None)
    warm = kernel_seconds("gemm", table, machine, constants)
    assert np.all(warm < kernel_seconds("gemm", table, machine, cold))
    assert isinstance(machine, Machine)
