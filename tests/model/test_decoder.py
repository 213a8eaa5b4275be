"""The decoder: causal, counted as the cost model counts it, the same in all its forms."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scalesim.cost.flops import forward_flops
from scalesim.errors import InvalidInput
from scalesim.model import (
    Decoder,
    ModelOptions,
    empty_cache,
    extend,
    forward,
    generate,
    init_params,
    serving_params,
)
from scalesim.models import known_model
from scalesim.shape import Attention, Block, LatentAttention, Mamba, MixtureOfExperts, Shape, parameter_table
from scalesim.training.step import position_loss

SMALL = Shape(n_layer=2, d_model=24, n_head=6, n_kv_head=2, head_dim=8, d_ff=40, vocab_size=50)


def alternating(window):
    """One local layer, one global."""
    local = replace(replace(SMALL, window=window).blocks[0], count=1)
    return replace(SMALL, blocks=(local, replace(SMALL.blocks[0], count=1)))


LATENT = LatentAttention(n_head=3, kv_lora_rank=10, head_dim=12, rope_dim=4, v_head_dim=6)
GLOBAL, LOCAL = SMALL.mixer, replace(SMALL.mixer, window=5)
SHARED, LOCAL_SHARED = replace(GLOBAL, shared=True), replace(LOCAL, shared=True)


def of(*mixers):
    """Layers of these mixers, from the first to the last."""
    return Shape(d_model=24, vocab_size=50, blocks=[Block(mixer=mixer, ffn=SMALL.ffn) for mixer in mixers])


SHAPES = {
    "plain": SMALL,
    "untied": replace(SMALL, tied_embeddings=False),
    "heads beyond the width": replace(SMALL, n_head=8, n_kv_head=1),
    "head norms": replace(SMALL, qk_norm="head"),
    "all norms and biases": replace(
        SMALL, qk_norm="projection", norms_per_layer=4, qkv_bias=True, output_bias=True, ffn_bias=True
    ),
    "two matrices": replace(SMALL, gated_ffn=False),
    "window": replace(SMALL, window=5),
    "some windows": alternating(5),
    "latent": of(LATENT, LATENT),
    "latent queries too": of(replace(LATENT, q_lora_rank=7, v_head_dim=16)),
    "shared caches": of(GLOBAL, SHARED, LOCAL, LOCAL_SHARED, SHARED),
    "norms of shared": of(*(replace(m, qk_norm="head", qkv_bias=True) for m in (GLOBAL, SHARED))),
}


def tokens(seed=0, rows=2, length=17, vocab=50):
    return jnp.asarray(np.random.default_rng(seed).integers(0, vocab, (rows, length)))


def model_of(shape):
    params = init_params(shape, jax.random.key(0))
    # Norms and biases away from 1 and 0, so that leaving one out would show.
    keys = iter(jax.random.split(jax.random.key(1), len(params)))
    return {k: v + 0.3 * jax.random.normal(next(keys), v.shape, v.dtype) for k, v in params.items()}


FORWARD = partial(jax.jit, static_argnames=("shape", "options"))(forward)
EXTEND = partial(jax.jit, static_argnames=("shape", "options"))(extend)
TELLING = ["plain", "heads beyond the width", "all norms and biases", "some windows"]
MIXERS = ["latent", "latent queries too", "shared caches", "norms of shared"]


@pytest.mark.parametrize("name", SHAPES)
def test_tensors_are_the_parameter_table(name):
    shape = SHAPES[name]
    model = nnx.eval_shape(lambda: Decoder(shape, rngs=nnx.Rngs(0)))
    held = {p.name: ((p.layers,) if p.per_layer else ()) + p.shape for p in parameter_table(shape)}
    assert {p.name: getattr(model, p.name).shape for p in parameter_table(shape)} == held
    assert sum(v.size for v in jax.tree.leaves(nnx.state(model, nnx.Param))) == shape.n_params_total


@pytest.mark.parametrize("name", [*TELLING, "two matrices", "latent", "shared caches"])
def test_no_token_sees_a_later_one(name):
    shape = SHAPES[name]
    params, text = model_of(shape), tokens(rows=1)
    places = (0, 7, 15)

    def logits(x):
        # The embeddings of the text in place of the table, so that each token has a derivative.
        at = replace(shape, vocab_size=text.shape[1], tied_embeddings=False)
        table = params["embedding"].T if shape.tied_embeddings else params["lm_head"]
        whole = forward({**params, "embedding": x, "lm_head": table}, jnp.arange(text.shape[1])[None], at)
        return jnp.stack([whole[0, i].sum() for i in places])

    slope = jnp.abs(jax.jit(jax.jacrev(logits))(params["embedding"][text[0]])).sum(axis=-1)
    for i, place in enumerate(places):
        assert (slope[i, place + 1 :] == 0).all()
        assert (slope[i, max(0, place - 3) : place + 1] > 0).all()


@pytest.mark.parametrize("name", [*TELLING, *MIXERS])
def test_cached_decode_is_the_whole_forward_pass(name):
    shape = SHAPES[name]
    params, text = model_of(shape), tokens()
    whole = FORWARD(params, text, shape)
    cache = empty_cache(shape, text.shape[1], 2)
    cache, logits = EXTEND(params, cache, 0, text[:, :9], shape)
    np.testing.assert_allclose(logits, whole[:, 8], atol=2e-5)
    cache, logits = EXTEND(params, cache, 9, text[:, 9:12], shape)
    np.testing.assert_allclose(logits, whole[:, 11], atol=2e-5)
    for i in range(12, text.shape[1]):
        cache, logits = EXTEND(params, cache, i, text[:, i : i + 1], shape)
        np.testing.assert_allclose(logits, whole[:, i], atol=2e-5)


@pytest.mark.parametrize("name", [*TELLING, *MIXERS])
def test_split_params_and_a_known_empty_cache_change_nothing(name):
    shape = SHAPES[name]
    params, text = model_of(shape), tokens()
    cache = empty_cache(shape, text.shape[1], 2)
    expected, logits = EXTEND(params, cache, 0, text[:, :-1], shape)
    split = serving_params(params, shape)
    found, first = jax.jit(lambda p, c, t: extend(p, c, 0, t, shape))(split, cache, text[:, :-1])
    np.testing.assert_allclose(first, logits, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_the_module_is_the_function():
    model, text = Decoder(SMALL, rngs=nnx.Rngs(0)), tokens(rows=1, length=3)
    np.testing.assert_array_equal(model(text), forward(model.params, text, SMALL))


def test_generation_is_the_likeliest_token_each_time():
    params, text = model_of(SMALL), tokens(length=5)
    found = generate(params, text, 4, SMALL)
    for i in range(4):
        so_far = jnp.concatenate([text, found[:, :i]], axis=1)
        padded = jnp.pad(so_far, ((0, 0), (0, 9 - so_far.shape[1])))  # later tokens change nothing
        expected = FORWARD(params, padded, SMALL)[:, so_far.shape[1] - 1].argmax(-1)
        np.testing.assert_array_equal(found[:, i], expected)
    drawn = generate(params, text, 20, SMALL, key=jax.random.key(3), temperature=2.0)
    assert len(np.unique(np.asarray(drawn))) > 5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain", ModelOptions(attention="xla")),
        ("plain", ModelOptions(remat="block")),
        ("plain", ModelOptions(remat="dots")),
        ("plain", ModelOptions(unroll=1)),
        ("latent", ModelOptions(attention="xla")),
        ("shared caches", ModelOptions(remat="block")),
    ],
)
def test_how_it_is_computed_changes_nothing(name, options):
    shape = SHAPES[name]
    params, text = model_of(shape), tokens()

    @partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def loss(params, options):
        return jax.nn.logsumexp(forward(params, text, shape, options), axis=-1).mean()

    expected, slope = loss(params, ModelOptions())
    got, other = loss(params, options)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for name in slope:
        np.testing.assert_allclose(other[name], slope[name], atol=1e-5)


def test_bfloat16_is_close_and_gives_float32_logits():
    params, text = init_params(SMALL, jax.random.key(0)), tokens()
    exact = FORWARD(params, text, SMALL)
    rough = FORWARD(params, text, SMALL, ModelOptions(dtype="bfloat16"))
    assert rough.dtype == jnp.float32
    assert float(jnp.abs(rough - exact).max()) < 0.05 * float(jnp.abs(exact).max())


@pytest.mark.parametrize(
    "shape",
    [
        replace(SMALL, qkv_bias=True, output_bias=True, ffn_bias=True),
        pytest.param(SHAPES["latent"], marks=pytest.mark.slow),
    ],
)
def test_gradients_in_bfloat16_are_those_in_float32_however_often_a_token_stands(shape):
    """Sums over thousands of tokens, added up in bfloat16, stop growing: half of the embedding's was lost."""
    params = init_params(shape, jax.random.key(0))
    text = (shape.vocab_size * np.random.default_rng(0).random((16, 513)) ** 6).astype(np.int32)

    def gradients(dtype):
        options = ModelOptions(dtype=dtype)
        return jax.jit(jax.grad(lambda p: position_loss(p, text, shape, options).mean()))(params)

    exact, rough = gradients("float32"), gradients("bfloat16")
    for name, gradient in exact.items():
        off = jnp.linalg.norm(rough[name] - gradient) / jnp.linalg.norm(gradient)
        assert off < 0.05, f"{name}: {off:.3f}"


@pytest.mark.parametrize(
    "shape", [SMALL, replace(SMALL, window=8), alternating(8), *(SHAPES[name] for name in MIXERS)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_caches_bytes_are_those_of_the_cost_model(shape, dtype):
    from scalesim.cost.cache import kv_cache_bytes

    options = ModelOptions(dtype=dtype)
    cache = empty_cache(shape, 20, 3, options)
    held = sum(x.nbytes for x in jax.tree.leaves(cache))
    assert held == 3 * kv_cache_bytes(shape, 20, kv_bits=32 if dtype == "float32" else 16)


@pytest.mark.parametrize(
    "second",
    [
        None,
        Attention(n_head=8, n_kv_head=2, head_dim=32, shared=True),
        LatentAttention(n_head=8, kv_lora_rank=64, head_dim=48, rope_dim=16, v_head_dim=48),
    ],
)
def test_flops_are_those_that_xla_counts(second):
    shape = Shape(n_layer=2, d_model=256, n_head=8, n_kv_head=2, head_dim=32, d_ff=704, vocab_size=1024)
    if second is not None:
        first = shape.mixer if isinstance(second, Attention) else second
        blocks = [replace(shape.blocks[0], count=1, mixer=mixer) for mixer in (first, second)]
        shape = replace(shape, blocks=blocks)
    params = jax.eval_shape(lambda: init_params(shape, jax.random.key(0)))
    text = jax.ShapeDtypeStruct((2, 256), jnp.int32)
    # XLA counts a loop's body once and masked pairs as computed: layers laid out, attention as one product.
    options = ModelOptions(attention="xla", unroll=2)
    compiled = jax.jit(lambda p, t: forward(p, t, shape, options)).lower(params, text).compile()
    counted = compiled.cost_analysis()["flops"]
    assert forward_flops(shape, 256, batch_size=2, causal=False).total == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks": of(Mamba(inner=8)).blocks}, "a mixer other than"),
        ({"blocks": of(replace(LATENT, bias=True)).blocks}, "biases"),
        ({"blocks": of(SHARED, GLOBAL).blocks}, "Layer 0 shares"),
        ({"blocks": of(GLOBAL, LOCAL_SHARED).blocks}, "window 5, 2 KV heads"),
        ({"blocks": of(LATENT, replace(LATENT, v_head_dim=8)).blocks}, "two sizes"),
        (
            {"blocks": [Block(mixer=SMALL.mixer, ffn=MixtureOfExperts(n_expert=4, top_k=2, d_ff=8))]},
            "experts",
        ),
        (
            {"blocks": [Block(mixer=replace(SMALL.mixer, sinks=True), ffn=SMALL.ffn)]},
            "sinks",
        ),
        ({"blocks": [*SMALL.blocks, replace(SMALL, n_kv_head=6).blocks[0]]}, "two sizes"),
        ({"norm_bias": True}, "norm_bias"),
        ({"n_positions": 9}, "n_positions"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"d_ff": 40.5}, "d_ff must be whole"),
    ],
)
def test_shapes_that_are_not_known_are_refused_by_name(change, says):
    with pytest.raises(InvalidInput, match=says):
        Decoder(replace(SMALL, **change), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-0.6b", "mistral-7b-v0.1"])
def test_published_models_have_their_parameters(name):
    shape = known_model(name).shape
    params = jax.eval_shape(lambda: init_params(shape, jax.random.key(0)))
    assert sum(v.size for v in params.values()) == shape.n_params_total
    logits = jax.eval_shape(
        lambda p: forward(p, jnp.zeros((1, 4), jnp.int32), shape, ModelOptions(dtype="bfloat16")), params
    )
    assert logits.shape == (1, 4, shape.vocab_size)


@pytest.mark.parametrize(
    "change", [{"dtype": "float8"}, {"attention": "flash"}, {"remat": "all"}, {"unroll": -1}]
)
def test_options_that_are_not_known_are_refused(change):
    with pytest.raises(InvalidInput, match=next(iter(change))):
        ModelOptions(**change)


def test_no_tokens_to_generate_is_a_mistake():
    with pytest.raises(InvalidInput, match="n_tokens"):
        generate(model_of(SMALL), tokens(), 0, SMALL)
