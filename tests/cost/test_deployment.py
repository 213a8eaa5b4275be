"""Ways to serve a model: what one compiled program says of all is what each costs by itself."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.cost.deployment import deployments, possible_ways, served

SMALL = ss.Shape(n_layer=8, d_model=512, n_head=8, n_kv_head=2, d_ff=1536)
H100 = ss.load_hardware("h100-sxm")
JOB = ss.Workload(context_length=8192, batch_size=8)


def alone(shape: ss.Shape, way: ss.Deployment, job: ss.Workload) -> tuple[float, float, float]:
    """A deployment costed by the library's plain functions."""
    part = dataclasses.replace(job, batch_size=way.batch_size)
    tpot = float(ss.step_time(shape, part, H100, way.parallel))
    dollars = ss.token_price(shape, part, H100, way.parallel)["generated"].typical
    memory = ss.serving_memory(shape, part, way.parallel)
    return tpot, float(dollars), float(memory.total)


@pytest.mark.parametrize("model", ["plain", "qwen3-30b-a3b"])
def test_every_way_costs_in_one_call_what_it_costs_alone(model: str) -> None:
    shape = SMALL if model == "plain" else ss.known_model(model).shape
    with jax.enable_x64(True):
        ways = possible_ways(shape, JOB, H100)
        figures = served(shape, ways, np.arange(len(ways)), JOB, H100)
        price = figures["generated"] * H100.price_typical / 3600 * 1e6
        for i in range(0, len(ways), max(len(ways) // 7, 1)):
            expected = alone(shape, ways[i], JOB)
            got = (figures["tpot"][i], price[i], figures["device"][i])
            np.testing.assert_allclose(got, expected, rtol=1e-9, err_msg=str(ways[i]))


def test_traced_degrees_are_plain_degrees() -> None:
    """A degree may be an array: nothing asks for its value, and 1 costs nothing."""
    with jax.enable_x64(True):
        floats = jax.tree.map(float, SMALL)
        step = jax.jit(lambda p: ss.step_time(floats, JOB, H100, p))
        for degrees in ((1, 1), (2, 1), (8, 1), (2, 2), (16, 1)):
            plain = ss.Parallel(tensor=degrees[0], pipeline=degrees[1])
            traced = ss.Parallel(tensor=jnp.asarray(1.0 * degrees[0]), pipeline=jnp.asarray(1.0 * degrees[1]))
            shape = SMALL if degrees[0] <= 8 else floats
            np.testing.assert_allclose(step(traced), ss.step_time(shape, JOB, H100, plain), rtol=1e-12)


def test_the_plan_is_the_cheapest_of_all() -> None:
    with jax.enable_x64(True):
        ways = possible_ways(SMALL, JOB, H100)
        for objective, place in (("tpot", 0), ("price", 1)):
            found = ss.serve_plan(SMALL, JOB, H100, objective=objective)
            best = min(alone(SMALL, way, JOB)[place] for way in ways)
            got = found.tpot_s if objective == "tpot" else found.generated_usd
            assert got == pytest.approx(best, rel=1e-9)


def test_a_model_too_large_for_one_device_is_split_and_priced_by_all_of_them() -> None:
    found = ss.serve_plan(ss.known_model("llama-3.1-70b").shape, JOB, H100)
    assert found.devices >= 3
    assert found.device_bytes <= 0.9 * H100.memory_bytes
    assert found.deployment.replicas * found.deployment.batch_size == JOB.batch_size
    per_second = found.devices * H100.price_typical / 3600
    assert found.generated_usd == pytest.approx(1e6 * per_second / found.throughput_tokens_per_s)


def test_a_mixture_of_contexts_is_the_mean_of_its_parts() -> None:
    lengths, weights = [2048, 8192], [3, 1]
    mixture = ss.ContextLengths.from_histogram(lengths, weights)
    job = ss.Workload(context_length=4096.0, batch_size=8, generated_length=1024)
    with jax.enable_x64(True):
        ways = possible_ways(SMALL, job, H100)[:1]
        mixed = served(SMALL, ways, np.zeros(1, int), job, H100, mixture)
        parts = []
        for length in lengths:
            part = dataclasses.replace(job, context_length=length, generated_length=length / 4)
            parts.append(served(SMALL, ways, np.zeros(1, int), part, H100))
        mean = np.average([part["tpot"][0] for part in parts], weights=weights)
        assert mixed["tpot"][0] == pytest.approx(mean, rel=1e-9)
        assert mixed["device"][0] == pytest.approx(max(part["device"][0] for part in parts), rel=1e-9)
        # Of a request of either length, as many tokens as requests have.
        tokens = np.array(lengths) * weights / np.dot(lengths, weights)
        price = np.dot(tokens, [part["token"][0] for part in parts])
        assert mixed["token"][0] == pytest.approx(price, rel=1e-9)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"max_tpot": 1e-9}, r"tpot is at least \S+ s \(asked: 1e-09 s\)"),
        ({"max_devices": 0}, "devices is at least 1"),
        ({"objective": "speed"}, "'speed' is not known"),
    ],
)
def test_what_cannot_be_had_says_the_nearest(how: dict[str, object], words: str) -> None:
    with pytest.raises((ss.InvalidInput, ss.Unreachable), match=words):
        ss.serve_plan(SMALL, JOB, H100, **how)  # type: ignore[arg-type]


def test_what_fits_nowhere_says_how_much_is_needed() -> None:
    with pytest.raises(
        ss.Unreachable, match=r"at least .*iB an accelerator are needed, and L4 has .*iB usable"
    ):
        ss.serve_plan(ss.known_model("llama-3.1-405b").shape, JOB, ss.load_hardware("l4"))


def test_experts_are_split_over_what_divides_them() -> None:
    ffn = ss.MixtureOfExperts(n_expert=60, top_k=4, d_ff=512)
    block = ss.Block(count=4, mixer=ss.Attention(n_head=8, n_kv_head=2), ffn=ffn)
    ways = deployments(ss.Shape(d_model=512, blocks=[block]), 64, H100)
    assert {way.parallel.expert for way in ways} == {1, 2, 4}


def test_ways_are_powers_of_two_within_the_fast_domain() -> None:
    ways = deployments(SMALL, 8, H100)
    assert {way.parallel.tensor for way in ways} == {1, 2, 4, 8}
    assert {way.replicas for way in ways} == {1, 2, 4, 8}
    assert all(way.parallel.expert == 1 for way in ways)
    assert str(ss.Deployment(ss.Parallel(tensor=2), 3, 1.0)) == "3 x 2 (tensor 2)"
