"""One layer of each mixer in plain JAX, for XLA to count: only in tests."""

import jax
import jax.numpy as jnp

from scalesim.shape import (
    Attention,
    CompressedAttention,
    DeltaNet,
    IndexedAttention,
    KimiDelta,
    LatentAttention,
    LinearAttention,
    Mamba,
    Mamba2,
    ShortConv,
    Together,
)


def arguments(mixer, d, batch):
    """A mixer's tensors by name, and what it has kept of the sequence: abstract."""
    if isinstance(mixer, Together):
        return {str(i): arguments(part, d, batch) for i, part in enumerate(mixer.parts)}
    sizes = {t.name: t.shape for t in mixer.tensors(d)}
    if "conv" in sizes:
        sizes["held"] = (batch, sizes["conv"][-1] - 1, sizes["conv"][0])
    if isinstance(mixer, DeltaNet):
        sizes["state"] = (batch, mixer.n_v_head, mixer.k_head_dim, mixer.v_head_dim)
    if isinstance(mixer, Mamba2):
        sizes["state"] = (batch, mixer.n_ssm_head, mixer.ssm_head_dim, mixer.state_size)
    if isinstance(mixer, Mamba):
        sizes["state"] = (batch, mixer.inner, mixer.state_size)
    if isinstance(mixer, LinearAttention):
        sizes["state"] = (batch, mixer.n_linear_head, mixer.linear_head_dim, mixer.linear_head_dim)
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def project(p, name, x, n_in=1):
    w = p[name]
    return jnp.tensordot(x, w, n_in)


def attend(q, k, v):
    """[B, n, q, h], [B, n, k, h], [B, n, k, v]: every query to every key."""
    q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    weights = jax.nn.softmax(jnp.einsum("bnkgh,bmkh->bkgnm", q, k), -1)
    return jnp.einsum("bkgnm,bmkh->bnkgh", weights, v).reshape(*q.shape[:2], -1, v.shape[-1])


def filtered(p, x):
    """A causal filter over `kernel` tokens of x [B, n, c], the first ones as they were kept."""
    kernel = p["conv"].shape[-1]
    held = jnp.concatenate([p["held"], x], 1)
    return sum(held[:, i : i + x.shape[1]] * p["conv"][None, None, :, i] for i in range(kernel))


def attention(p, x, s):
    q, k = project(p, "q_proj", x), project(p, "k_proj", x)
    out = attend(q, k, k if s.k_is_v else project(p, "v_proj", x))
    if s.gate != "none":
        out = out * jax.nn.sigmoid(project(p, "attention_gate", x))
    return project(p, "o_proj", out, 2)


def indexed(p, x, s):
    scores = jnp.einsum("bnqh,bmh->bqnm", project(p, "index_q_proj", x), project(p, "index_k_proj", x))
    return attention(p, x, s) + scores.sum()


def latent(p, x, s):
    q = project(p, "q_b_proj", project(p, "q_a_proj", x)) if s.q_lora_rank else project(p, "q_proj", x)
    c, rope = jnp.split(project(p, "kv_a_proj", x), [s.kv_lora_rank], -1)
    kv = project(p, "kv_b_proj", c)
    k, v = jnp.split(kv, [s.head_dim - s.rope_dim], -1)
    rope = jnp.broadcast_to(rope[:, :, None], (*k.shape[:3], s.rope_dim))
    out = attend(q, jnp.concatenate([k, rope], -1), v)
    if s.gate != "none":
        out = out * jax.nn.sigmoid(project(p, "attention_gate", x))
    out = project(p, "o_proj", out, 2)
    if s.n_index_head is None:
        return out
    low = project(p, "q_a_proj", x)
    scores = jnp.einsum("bnqh,bmh->bqnm", project(p, "index_q_proj", low), project(p, "index_k_proj", x))
    picked = jnp.einsum("bqnm,bnq->bnm", jax.nn.relu(scores), project(p, "index_weight", x))
    return out + picked.sum()


def steps(step, state, *inputs):
    """A recurrence laid out: XLA counts a loop's body once."""
    found = []
    for t in range(inputs[0].shape[1]):
        state, out = step(state, *(x[:, t] for x in inputs))
        found.append(out)
    return jnp.stack(found, 1)


def delta(p, x, s):
    names = ("q_proj", "k_proj", "v_proj")
    wide = jnp.concatenate([project(p, n, x).reshape(*x.shape[:2], -1) for n in names], -1)
    y = filtered(p, wide)
    keys = s.n_k_head * s.k_head_dim
    q, k, v = jnp.split(y, [keys, 2 * keys], -1)
    group = s.n_v_head // s.n_k_head
    q, k = (jnp.repeat(z.reshape(*x.shape[:2], s.n_k_head, -1), group, 2) for z in (q, k))
    v = v.reshape(*x.shape[:2], s.n_v_head, -1)
    kimi = isinstance(s, KimiDelta)
    beta = project(p, "beta_proj", x)
    decay = project(p, "decay_b_proj", project(p, "decay_a_proj", x)) if kimi else project(p, "decay_proj", x)

    def step(state, q, k, v, beta, decay):
        state = state * (decay[..., None] if kimi else decay[..., None, None])
        change = (v - jnp.einsum("bhkv,bhk->bhv", state, k)) * beta[..., None]
        state = state + k[..., None] * change[..., None, :]
        return state, jnp.einsum("bhkv,bhk->bhv", state, q)

    out = steps(step, p["state"], q, k, v, beta, decay)
    gate = project(p, "gate_proj" if kimi else "attention_gate", x)
    return project(p, "o_proj", out * jax.nn.silu(gate), 2)


def mamba2(p, x, s):
    inner = project(p, "in_proj", x)
    bc = project(p, "bc_proj", x).reshape(*x.shape[:2], -1)
    wide = jnp.concatenate([inner.reshape(*x.shape[:2], -1), bc], -1)
    y = filtered(p, wide)
    u, b, c = jnp.split(y, [inner.shape[2] * inner.shape[3], y.shape[-1] - bc.shape[-1] // 2], -1)
    u = u.reshape(inner.shape)
    each = s.n_ssm_head // s.n_group
    b, c = (jnp.repeat(z.reshape(*x.shape[:2], s.n_group, -1), each, 2) for z in (b, c))
    dt = project(p, "dt_proj", x)

    def step(state, u, b, c, dt):
        state = state * dt[..., None, None] + (u * dt[..., None])[..., None] * b[..., None, :]
        return state, jnp.einsum("bhps,bhs->bhp", state, c)

    out = steps(step, p["state"], u, b, c, dt)
    return project(p, "o_proj", out * jax.nn.silu(project(p, "gate_proj", x)), 2)


def mamba(p, x, s):
    pair = project(p, "in_proj", x)
    u, z = pair[:, :, 0], pair[:, :, 1]
    u = filtered(p, u)
    dt, b, c = jnp.split(project(p, "x_proj", u), [s.dt_rank, s.dt_rank + s.state_size], -1)
    dt = project(p, "dt_proj", dt)

    def step(state, u, dt, b, c):
        state = state * (dt[..., None] * p["decay"][None]) + (dt * u)[..., None] * b[:, None]
        return state, jnp.einsum("bis,bs->bi", state, c)

    out = steps(step, p["state"], u, dt, b, c)
    return project(p, "o_proj", out * z)


def linear(p, x, s):
    q, k, v = (project(p, name, x) for name in ("q_proj", "k_proj", "v_proj"))

    def step(state, q, k, v):
        state = state * 0.9 + k[..., None] * v[..., None, :]
        return state, jnp.einsum("bhkv,bhk->bhv", state, q)

    out = steps(step, p["state"], q, k, v)
    return project(p, "o_proj", out * project(p, "attention_gate", x), 2)


def conv(p, x, s):
    parts = project(p, "in_proj", x)
    y = filtered(p, parts[:, :, 0] * parts[:, :, 1])
    return project(p, "o_proj", y * parts[:, :, 2])


def together(p, x, s):
    return sum(LAYERS[type(part)](p[str(i)], x, part) for i, part in enumerate(s.parts))


def compressed(p, x, s):
    """Without a window to speak of: all tokens lie beyond it, compressed."""
    low = project(p, "q_a_proj", x)
    q, kv = project(p, "q_b_proj", low), project(p, "kv_proj", x)
    near = attend(q, kv[:, :, None], kv[:, :, None])
    found = near
    if s.ratio:
        made = project(p, "compress_proj", x) * jax.nn.softmax(project(p, "compress_gate", x))
        size = made.shape[-1] // s.head_dim
        made = made.reshape(*x.shape[:2], size, s.head_dim).sum(2)
        far = made.reshape(x.shape[0], -1, s.ratio, s.head_dim).sum(2)
        found = found + attend(q, far[:, :, None], far[:, :, None])
    groups = found.reshape(*x.shape[:2], s.o_groups, -1)
    down = jnp.einsum("bngi,gio->bngo", groups, p["o_a_proj"].reshape(s.o_groups, groups.shape[-1], -1))
    return project(p, "o_proj", down.reshape(*x.shape[:2], -1))


LAYERS = {
    Attention: attention,
    CompressedAttention: compressed,
    DeltaNet: delta,
    IndexedAttention: indexed,
    KimiDelta: delta,
    LatentAttention: latent,
    LinearAttention: linear,
    Mamba: mamba,
    Mamba2: mamba2,
    ShortConv: conv,
    Together: together,
}
