import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesim.errors import InvalidInput
from scalesim.shape import Shape, count_params, parameter_table

from .gradients import assert_gradients_agree

PUBLISHED = {
    # safetensors totals on the Hugging Face hub
    "Llama-3.1-8B": (
        8_030_261_248,
        Shape(
            n_layer=32, d_model=4096, n_head=32, n_kv_head=8, head_dim=128, d_ff=14336,
            vocab_size=128256, tied_embeddings=False,
        ),
    ),
    "Llama-3.2-1B": (
        1_235_814_400,
        Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=8192, vocab_size=128256),
    ),
    "Qwen2.5-0.5B": (
        494_032_768,
        Shape(n_layer=24, d_model=896, n_head=14, n_kv_head=2, d_ff=4864, vocab_size=151936, qkv_bias=True),
    ),
    "Qwen3-0.6B": (
        596_049_920,
        Shape(
            n_layer=28, d_model=1024, n_head=16, n_kv_head=8, head_dim=128, d_ff=3072,
            vocab_size=151936, qk_norm="head",
        ),
    ),
    "GPT-2": (
        124_439_808,
        Shape(
            n_layer=12, d_model=768, n_head=12, n_kv_head=12, d_ff=3072, vocab_size=50257, gated_ffn=False,
            qkv_bias=True, output_bias=True, ffn_bias=True, norm_bias=True, n_positions=1024,
        ),
    ),
    "OLMo-2-1B": (
        1_484_916_736,
        Shape(
            n_layer=16, d_model=2048, n_head=16, n_kv_head=16, head_dim=128, d_ff=8192,
            vocab_size=100352, tied_embeddings=False, qk_norm="projection",
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals_are_exact(name):
    total, shape = PUBLISHED[name]
    assert count_params(shape) == total


def test_conventions_nest():
    _, shape = PUBLISHED["Llama-3.1-8B"]
    tables = 2 * 128256 * 4096
    norms = (2 * 32 + 1) * 4096
    assert shape.n_params_total - shape.n_params_non_embedding == tables
    assert shape.n_params_non_embedding - count_params(shape, "paper") == norms


def test_papers_count_is_its_formula():
    n_layer, d, h, q, kv = 10, 1280, 64, 8, 2
    shape = Shape(n_layer=n_layer, d_model=d, n_head=q, n_kv_head=kv, head_dim=h, d_ff=8 * d / 3)
    assert count_params(shape, "paper") == pytest.approx(n_layer * (8 * d**2 + 2 * d * h * (q + kv)))


def test_limits_are_mha_and_mqa():
    def attention(n_kv_head):
        shape = Shape(n_layer=1, d_model=512, n_head=8, n_kv_head=n_kv_head, d_ff=1024)
        return {p.name: p.size for p in parameter_table(shape) if p.group == "attention"}

    assert attention(8)["k_proj"] == attention(8)["q_proj"]
    assert attention(1)["k_proj"] == 512 * 64
    assert Shape(n_layer=1, d_model=512, n_head=8, n_kv_head=2, d_ff=1024).group_size == 4


SIZES = st.fixed_dictionaries(
    {
        "n_layer": st.integers(1, 100),
        "d_model": st.integers(1, 128).map(lambda n: 64 * n),
        "n_kv_head": st.integers(1, 16),
        "d_ff": st.integers(1, 30000),
    }
)
OPTIONS = st.fixed_dictionaries(
    {
        "gated_ffn": st.booleans(),
        "tied_embeddings": st.booleans(),
        "qkv_bias": st.booleans(),
        "output_bias": st.booleans(),
        "ffn_bias": st.booleans(),
        "qk_norm": st.sampled_from(["none", "head", "projection"]),
        "norms_per_layer": st.sampled_from([2, 4]),
        "norm_bias": st.booleans(),
        "n_positions": st.sampled_from([0, 512]),
    }
)


@given(SIZES, OPTIONS, st.integers(1, 8))
def test_one_count_for_integers_floats_jit_and_batches(sizes, options, group):
    sizes = {**sizes, "n_head": sizes["n_kv_head"] * group}
    exact = count_params(Shape(**sizes, **options))
    assert isinstance(exact, int)
    relaxed = Shape(**{k: float(v) for k, v in sizes.items()}, **options)
    assert count_params(relaxed) == exact
    assert float(jax.jit(count_params)(jax.tree.map(jnp.asarray, relaxed))) == exact
    batch = Shape(**{k: np.array([v, 2 * v]) for k, v in sizes.items()}, **options)
    doubled = Shape(**{k: 2 * v for k, v in sizes.items()}, **options)
    assert count_params(batch).tolist() == [exact, count_params(doubled)]


def test_integer_arrays_do_not_overflow(float32):
    shape = PUBLISHED["Llama-3.1-8B"][1]
    count = count_params(jax.tree.map(lambda v: jnp.asarray(v, jnp.int32), shape))
    assert float(count) == pytest.approx(8_030_261_248, rel=1e-6)
    numpy = jax.tree.map(lambda v: np.asarray(v, np.int32), shape)
    assert count_params(numpy) == 8_030_261_248


def test_gradients_agree_with_finite_differences():
    _, shape = PUBLISHED["Qwen3-0.6B"]
    sizes = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
    at = {name: float(getattr(shape, name)) for name in sizes}
    assert_gradients_agree(lambda x: count_params(dataclasses.replace(shape, **x)), at)


def test_table_names_are_unique_and_axes_fit():
    table = parameter_table(PUBLISHED["GPT-2"][1])
    assert len({p.name for p in table}) == len(table)
    assert all(len(p.shape) == len(p.axes) for p in table)


GOOD = {"n_layer": 2, "d_model": 128, "n_head": 4, "n_kv_head": 2, "d_ff": 256}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_kv_head": 8}, "n_kv_head must be at most n_head = 4, but is 8"),
        ({"n_kv_head": 3}, r"n_kv_head must divide n_head = 4, but is 3; \[1, 2, 4\] would do"),
        ({"n_layer": 0}, "n_layer must be above 0"),
        ({"d_model": -64}, "d_model must be above 0.*-64"),
        ({"d_ff": float("nan")}, "d_ff must be above 0"),
        ({"d_ff": float("inf")}, "d_ff must be above 0 and at most 1e"),
        ({"vocab_size": 10**12}, "vocab_size must be above 0 and at most"),
        ({"head_dim": "64"}, "head_dim must be a number, but is '64'"),
        ({"qk_norm": "rms"}, "qk_norm 'rms' is not known.*head"),
    ],
)
def test_bad_sizes_are_named(change, says):
    with pytest.raises(InvalidInput, match=says):
        Shape(**{**GOOD, **change})


def test_unknown_convention_is_named():
    with pytest.raises(InvalidInput, match="convention 'activ' is not known"):
        count_params(Shape(**GOOD), "activ")
