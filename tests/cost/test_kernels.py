"""Kernel times: limits of the forms, and their error on measurements held out of the fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import hardware_constants as measured
from scalesim.cost.fitting import halves, kernel_seconds, part
from scalesim.cost.kernels import decode_attention_time, gemm_time, p_norm, prefill_attention_time
from scalesim.efficiency import measured_efficiency
from tests.gradients import assert_gradients_agree
from tests.public_data import need

H100 = measured_efficiency("h100")
PEAK, BANDWIDTH = measured.PEAKS["h100"]
DEVICES = ("a100", "h100")


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
    constants, (peak, bandwidth) = measured_efficiency(device), measured.PEAKS[device]
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
    constants, (peak, bandwidth) = measured_efficiency(device), measured.PEAKS[device]

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
    table = measured.kernel_rows(kind, device)
    fitted, scored = halves(table, seed=7)
    errors = measured.errors(kind, device, measured.fit(kind, device, fitted), scored)
    assert (np.median(errors) if kind == "decode" else errors.mean()) <= BOUNDS[kind]


def test_error_on_unseen_gemm_shapes():
    need("silicon")
    table = measured.kernel_rows("gemm", "h100")
    means = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        # Whole widths and depths are left out, not single products: every scored n and k is new.
        widths, depths = (rng.choice(np.unique(table[side]), 8, replace=False) for side in ("n", "k"))
        wide, deep = np.isin(table["n"], widths), np.isin(table["k"], depths)
        constants = measured.fit("gemm", "h100", part(table, np.flatnonzero(~wide & ~deep)))
        new = part(table, np.flatnonzero(wide & deep))
        means.append(measured.errors("gemm", "h100", constants, new).mean())
    assert np.mean(means) <= 0.10


@pytest.mark.parametrize("device", DEVICES)
def test_shipped_constants_fit_and_never_beat_the_bandwidth(device):
    need("silicon")
    efficiency = measured_efficiency(device)
    for kind in BOUNDS:
        errors = measured.errors(kind, device, getattr(efficiency, kind), measured.kernel_rows(kind, device))
        stated = dict(efficiency.error)[kind]
        found = np.median(errors) if kind == "decode" else errors.mean()
        assert found == pytest.approx(stated, rel=0.1)
    table = measured.kernel_rows("decode", device)
    read = 4 * table["batch"] * table["length"] * table["n_kv_head"] * table["head_dim"]
    time = np.asarray(kernel_seconds("decode", table, measured.on(device), efficiency.decode))
    assert np.all(time[read > 5e7] >= read[read > 5e7] / measured.PEAKS[device][1])


def test_measured_bandwidth_falls_with_the_group_as_predicted():
    need("silicon")
    table = measured.kernel_rows("decode", "h100")
    read = 4 * table["batch"] * table["length"] * table["n_kv_head"] * table["head_dim"]
    group = table["n_head"] / table["n_kv_head"]
    long = (read > 2e8) & (table["window"] >= 1e9) & (table["head_dim"] == 128)
    time = np.asarray(
        kernel_seconds("decode", table, measured.on("h100"), measured_efficiency("h100").decode)
    )
    for seconds in (table["seconds"], time):
        reached = read / seconds
        few, many = (np.median(reached[long & rows]) for rows in (group <= 2, group >= 16))
        assert few > many
