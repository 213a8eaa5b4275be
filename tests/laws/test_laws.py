"""Every law: smooth, the same jitted, batched and looped, and the same after a trip through a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim import InvalidInput, Shape
from scalesim.fitting import coefficients, with_coefficients
from scalesim.fitting.result import law_from_json, law_to_json
from scalesim.laws import (
    REGISTRY,
    AspectRatio,
    Chinchilla,
    ConditionalShape,
    Constant,
    ContextGrowth,
    ContextPower,
    Gemstones,
    Grouped,
    HeadLaw,
    Kaplan,
    Mixture,
    PowerLaw,
    PowerOfSum,
    PowerTerm,
    fields_of,
    law_from_function,
)

X = {
    "n_params": np.array([3e7, 4e8, 7e9]),
    "n_tokens": np.array([1e9, 3e10, 4e11]),
    "context_length": np.array([2048.0, 8192.0, 131072.0]),
    "n_layer": np.array([6.0, 16.0, 48.0]),
    "d_model": np.array([768.0, 2048.0, 5120.0]),
    "d_ff": np.array([2048.0, 8192.0, 13824.0]),
    "n_head": np.array([8.0, 32.0, 40.0]),
    "n_kv_head": np.array([1.0, 8.0, 40.0]),
    "head_dim": np.array([64.0, 64.0, 128.0]),
    "n_epochs": np.array([1.0, 4.0, 30.0]),
    "weight_bits": np.array([3.0, 8.0, 16.0]),
    "activation_bits": np.array([4.0, 8.0, 16.0]),
    "kv_bits": np.array([2.0, 8.0, 16.0]),
}
PLAIN = sorted(set(REGISTRY) - {"Grouped", "Mixture", "Sum", "Product"})
LAWS = {
    **{name: REGISTRY[name]() for name in PLAIN},
    "sum": Kaplan() + Constant(E=1.2),
    "product": Chinchilla() * AspectRatio() * ContextGrowth(c=0.02, h=0.01),
    "sum of powers": Constant() + PowerTerm("d_model") + PowerTerm("n_layer", A=2.0, alpha=0.4),
    "mixture": Mixture(law=PowerLaw(a=np.array([1e8, 4e8]), b=0.2, E=1.9), weights=np.array([0.3, 0.7])),
    "by configuration": Grouped(
        PowerLaw(a=np.array([1e8, 2e8, 3e8]), b=0.2, E=1.9), ("n_head",), ((8,), (32,), (40,))
    ),
}
SMOOTH = {name: law for name, law in LAWS.items() if not isinstance(law, Grouped)}
"""A grouped law knows its own configurations only: there is no gradient between them."""


def fields(law, rows=slice(None)):
    return {name: X[name][rows] for name in law.fields}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_jit_batch_and_loop_agree(law):
    batch = np.asarray(law.loss(fields(law))) + np.zeros(3)
    assert np.all(np.isfinite(batch))
    np.testing.assert_allclose(
        jax.jit(lambda law: law.loss(fields(law)))(law) + np.zeros(3), batch, rtol=1e-13
    )
    loop = [float(law.loss({k: v[i] for k, v in fields(law).items()})) for i in range(3)]
    np.testing.assert_allclose(loop, batch, rtol=1e-13)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_gradients_are_those_of_finite_differences(law):
    law = jax.tree.map(jnp.asarray, law)

    def total(law):
        return jnp.sum(law.loss(fields(law)) + jnp.zeros(3))

    gradient = jax.tree.leaves(jax.grad(total)(law))
    leaves, tree = jax.tree.flatten(law)
    for i, leaf in enumerate(leaves):
        step = 1e-6 * np.maximum(np.abs(leaf), 1e-3)
        up, down = ([*leaves[:i], leaf + s, *leaves[i + 1 :]] for s in (step, -step))
        rise = total(jax.tree.unflatten(tree, up)) - total(jax.tree.unflatten(tree, down))
        expected = jnp.sum(gradient[i] * 2 * step)
        np.testing.assert_allclose(rise, expected, rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_plain_values_give_the_same_law_back(law):
    import json

    again = law_from_json(json.loads(json.dumps(law_to_json(law))))
    assert type(again) is type(law)
    assert jax.tree.structure(again) == jax.tree.structure(law)
    for ours, theirs in zip(jax.tree.leaves(law), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("law", SMOOTH.values(), ids=SMOOTH.keys())
def test_relaxed_fields_have_gradients(law):
    x = fields(law, 1)
    slopes = jax.grad(lambda x: law.loss(x) + 0.0 * sum(x.values(), 0.0))(x) if x else {}
    assert all(np.isfinite(v) for v in slopes.values())


def test_the_power_of_a_sum_is_chinchillas_law_at_one_and_kaplans_without_a_floor():
    base, kaplan = Chinchilla(), Kaplan()
    sum_ = PowerOfSum(
        E=base.E, Nc=base.A ** (1 / base.alpha), Dc=base.B ** (1 / base.beta), alpha=base.alpha,
        beta=base.beta, gamma=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(sum_.loss(fields(base)), base.loss(fields(base)), rtol=1e-12)
    joint = PowerOfSum(
        E=0.0, Nc=kaplan.Nc, Dc=kaplan.Dc, alpha=kaplan.alpha / kaplan.beta, beta=1.0, gamma=kaplan.beta
    )
    np.testing.assert_allclose(joint.loss(fields(kaplan)), kaplan.loss(fields(kaplan)), rtol=1e-12)


def test_orbax_keeps_a_law(tmp_path):
    import orbax.checkpoint as ocp

    law = HeadLaw(A=0.81, b=0.19, C=0.11, F=0.02, m=7.0)
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, law))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "law", leaves)
        checkpointer.wait_until_finished()
        again = jax.tree.unflatten(tree, checkpointer.restore(tmp_path / "law", leaves))
    assert coefficients(again) == coefficients(law)


def test_limits():
    x = {**X, "n_params": np.full(3, 1e30), "n_tokens": np.full(3, 1e30)}
    assert np.allclose(
        Chinchilla().loss({k: x[k] for k in ("n_params", "n_tokens")}), Chinchilla().E, atol=1e-6
    )
    at_8k = {"context_length": 8192.0, "n_params": 1e9}
    assert ContextPower(c=0.3).loss(at_8k) == 1.0
    repeated = REGISTRY["Repetition"]()
    once = {"n_params": 1e9, "n_tokens": 2e10, "n_epochs": 1.0}
    plain = Chinchilla(A=repeated.A, B=repeated.B, E=repeated.E, alpha=repeated.alpha, beta=repeated.beta)
    assert float(repeated.loss(once)) == pytest.approx(float(plain.loss(once)), rel=1e-12)
    # 16 bits are nearly as good as any number of them.
    bits = dict.fromkeys(("weight_bits", "activation_bits", "kv_bits"), 64.0)
    exact = REGISTRY["Precision"]().loss({**once, **bits})
    assert float(exact) == pytest.approx(float(plain.loss(once)), rel=1e-6)


def test_more_heads_and_more_parameters_never_hurt_in_the_head_law():
    law = HeadLaw(A=0.8, b=0.195, C=0.1, F=0.0165, m=10.0)
    n, h, k = np.meshgrid(np.geomspace(1e7, 1e11, 9), 2.0 ** np.arange(7), 2.0 ** np.arange(7), indexing="ij")
    loss = np.asarray(law.loss({"n_params": n, "n_head": h, "n_kv_head": np.minimum(h, k)}))
    assert np.all(np.diff(loss, axis=1) <= 0)
    assert np.all(np.diff(loss, axis=2) <= 0)
    assert np.all(np.diff(loss, axis=0) < 0)


def test_a_grouped_law_knows_its_groups_only():
    law = LAWS["by configuration"]
    assert law.index(n_head=32) == 1
    assert law.member(1).a == 2e8
    assert np.isnan(law.loss({"n_params": 1e8, "n_head": 16.0}))
    with pytest.raises(InvalidInput, match="not a group of this law; it knows"):
        law.index(n_head=16)


def test_coefficients_by_the_end_of_their_name():
    law = Chinchilla() * AspectRatio()
    assert coefficients(with_coefficients(law, {"eps": 0.5}))["other.eps"] == 0.5
    with pytest.raises(InvalidInput, match=r"could be base.A or other.A"):
        with_coefficients(Chinchilla() + PowerTerm("n_layer"), {"A": 1.0})
    with pytest.raises(InvalidInput, match="is not a coefficient"):
        with_coefficients(law, {"zeta": 1.0})


def test_a_law_of_a_function_is_a_law_like_any():
    def floor_and_power(n_params, E, A, alpha):
        return E + A * (n_params / 1e9) ** -alpha

    mine = law_from_function(
        floor_and_power, {"E": (1.0, 3.0), "A": (0.1, 10.0), "alpha": (0.1, 1.0)}, ["n_params"]
    )
    assert float(mine(E=2.0, A=0.5, alpha=0.5).loss({"n_params": 4e9})) == pytest.approx(2.25)
    with pytest.raises(InvalidInput, match="field 'size' is not known"):
        law_from_function(floor_and_power, {"E": (1.0, 2.0)}, ["size"])


def test_a_shape_is_asked_for_what_the_law_sees():
    shape = Shape(n_layer=12, d_model=768, n_head=12, n_kv_head=12, d_ff=2048)
    assert float(Gemstones()(shape, n_tokens=1e10)) > 2
    assert float((Chinchilla() * ConditionalShape())(shape, n_tokens=1e10)) > 2
    with pytest.raises(InvalidInput, match="needs n_tokens"):
        Chinchilla()(shape)


def test_of_routed_experts_a_law_counts_those_that_a_token_visits():
    def shape(ffn):
        return Shape(d_model=512, vocab_size=1000, blocks=[ss.Block(count=4, mixer=attention, ffn=ffn)])

    def experts(top_k):
        return ss.MixtureOfExperts(n_expert=16, top_k=top_k, d_ff=1024)

    attention = ss.Attention(n_head=8, n_kv_head=2)
    dense, routed = shape(ss.Dense(d_ff=2048)), shape(experts(2))
    router = 4 * 512 * 16
    for law in (HeadLaw(), Chinchilla()):
        seen, plain = (fields_of(law, s, 1e9, 8192)["n_params"] for s in (routed, dense))
        assert seen == plain + router, "two experts of half the width are the dense one, and the router"
        assert plain == ss.count_params(dense, law.convention), "a plain shape is counted as ever"
        assert seen < ss.count_params(routed, law.convention)
    np.testing.assert_allclose(
        Chinchilla()(routed, 1e9), Chinchilla().loss({"n_params": seen, "n_tokens": 1e9})
    )
    slope = jax.grad(lambda k: 1.0 * ss.count_params(shape(experts(k)), "paper", visited=True))(2.0)
    assert slope == 4 * 3 * 512 * 1024
