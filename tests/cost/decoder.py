"""A decoder in plain JAX, for XLA to count: only in tests."""

import jax
import jax.numpy as jnp

from scalesim.shape import Shape, parameter_table


def zeros(shape: Shape, dtype=jnp.bfloat16) -> dict[str, jax.Array]:
    """The parameters of `parameter_table`, abstract: nothing is allocated."""
    return {
        p.name: jax.ShapeDtypeStruct(((p.layers or shape.n_layer,) if p.per_layer else ()) + p.shape, dtype)
        for p in parameter_table(shape)
    }


def norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6) * scale[None, None]


def attention(p, x, s, cache=None):
    """[B, n, d] -> [B, n, d]; with a cache of [B, T, kv, h] twice, queries attend to it instead."""
    q = jnp.einsum("bnd,dqh->bnqh", x, p["q_proj"])
    k, v = (jnp.einsum("bnd,dkh->bnkh", x, p[name]) for name in ("k_proj", "v_proj"))
    if cache is not None:
        k, v = (jnp.concatenate([old[:, 1:], new], 1) for old, new in zip(cache, (k, v), strict=True))
    q = q.reshape(*q.shape[:2], s.n_kv_head, -1, s.head_dim)
    weights = jax.nn.softmax(jnp.einsum("bnkgh,bmkh->bkgnm", q, k), -1)
    out = jnp.einsum("bkgnm,bmkh->bnkgh", weights, v).reshape(*x.shape[:2], s.n_head, s.head_dim)
    return jnp.einsum("bnqh,qhd->bnd", out, p["o_proj"])


def ffn(p, x):
    return (jax.nn.silu(x @ p["gate_proj"]) * (x @ p["up_proj"])) @ p["down_proj"]


def decoder(p, tokens, s, caches=None):
    """Logits of tokens [B, n]; layers are unrolled, since XLA counts a loop's body once."""
    x = p["embedding"][tokens]
    for i in range(s.n_layer):
        layer = {
            name: value[i] for name, value in p.items() if name not in ("embedding", "final_norm", "lm_head")
        }
        cache = None if caches is None else (caches[0][i], caches[1][i])
        x = x + attention(layer, norm(x, layer["attention_norm"]), s, cache)
        x = x + ffn(layer, norm(x, layer["ffn_norm"]))
    return norm(x, p["final_norm"]) @ p["lm_head"]
