"""What a design is compared with: the head configurations that everybody copies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from scalesim.design.problem import MAX_PARAMS, MIN_PARAMS, Problem, Query, bits_seen
from scalesim.errors import InvalidInput
from scalesim.numerics.roots import newton_root
from scalesim.shape import Shape

__all__ = ["HeadRule", "named_baseline", "rule_shapes", "tied_heads", "whole"]

Num = Any


@dataclass(frozen=True)
class HeadRule:
    """Heads tied to the width: n_head = d_model / head_dim, and n_kv_head fixed or equal to it (None)."""

    name: str
    n_kv_head: int | None


_RULES = {
    "llama3-gqa": HeadRule("llama3-gqa", 8),
    "mha": HeadRule("mha", None),
    "mqa": HeadRule("mqa", 1),
}


def named_baseline(text: str) -> HeadRule | Shape:
    """Return a rule by name, or the shape given as n_layer x d_model x n_head x n_kv_head [x d_ff].

    Raises:
        InvalidInput: neither a known rule nor such a shape.

    >>> named_baseline("16x2048x32x8").n_head
    32
    """
    if text in _RULES:
        return _RULES[text]
    sizes = re.fullmatch(r"\d+(x\d+){3,4}", text)
    if not sizes:
        raise InvalidInput(
            f"baseline {text!r} is not known. {', '.join(sorted(_RULES))} would do, or a shape such as "
            "16x2048x32x8 (n_layer x d_model x n_head x n_kv_head, and d_ff if not 8/3 d_model)."
        )
    n_layer, d_model, n_head, n_kv_head, *d_ff = map(int, text.split("x"))
    return Shape(
        n_layer=n_layer,
        d_model=d_model,
        n_head=n_head,
        n_kv_head=n_kv_head,
        d_ff=d_ff[0] if d_ff else d_model * 8 / 3,
    )


def tied_heads(problem: Problem, rule: HeadRule, n_params: Num) -> tuple[Num, Num]:
    """Return the rule's heads at a size: the fixed point of n_head = d_model(N, n_head) / head_dim."""

    def kv(n_head: Num) -> Num:
        # No more KV heads than query heads: below 8 x head_dim of width, eight would be too many.
        return n_head if rule.n_kv_head is None else jnp.minimum(float(rule.n_kv_head), n_head)

    def once(_: int, n_head: Num) -> Num:
        return problem.family.at(n_params, n_head, kv(n_head)).d_model / problem.family.head_dim

    n_head = jax.lax.fori_loop(0, 30, once, jnp.full_like(n_params, 8.0))
    return n_head, kv(n_head)


def _rule_shape(problem: Problem, query: Query, rule: HeadRule) -> Shape:
    """Return one query's shape."""
    context, bits = query.workload.context_length, bits_seen(problem.law, query.workload)

    def excess(log_n: Num) -> Num:
        heads = tied_heads(problem, rule, jnp.exp(log_n))
        return problem.loss_at(log_n, *heads, context, **bits) - query.target_loss

    bounds = (jnp.log(MIN_PARAMS), jnp.log(MAX_PARAMS))
    log_n = newton_root(excess, jnp.log(jnp.asarray(1e6)), bounds=bounds)
    n_params = jnp.exp(log_n)
    return problem.family.at(n_params, *tied_heads(problem, rule, n_params))


@partial(jax.jit, static_argnums=2)
def rule_shapes(problem: Problem, queries: Query, rule: HeadRule) -> Shape:
    """Return the family's relaxed shapes that follow a rule and have each query's target loss.

    Where the target is out of the rule's reach the size is at its limit.
    """
    return jax.vmap(lambda query: _rule_shape(problem, query, rule))(queries)


def whole(shape: Shape, rule: HeadRule, problem: Problem) -> Shape:
    """Return the rule's nearest whole shape: depth rounded, width its family multiple, heads from the width.

    As in the paper's Llama-3 series n_kv_head need not divide n_head ((28, 8) is among its models), so the
    heads are given as floats. d_ff keeps the family's ratio, as in the paper.
    """
    head_dim = problem.family.head_dim
    n_layer = max(round(float(shape.n_layer)), 1)
    d_model = max(round(float(shape.d_model / shape.n_layer) * n_layer / head_dim), 1) * head_dim
    n_head = d_model // head_dim
    n_kv_head = n_head if rule.n_kv_head is None else min(rule.n_kv_head, n_head)
    return Shape(
        n_layer=n_layer,
        d_model=d_model,
        n_head=float(n_head),
        n_kv_head=float(n_kv_head),
        head_dim=head_dim,
        d_ff=problem.family.ffn_ratio * d_model,
        vocab_size=problem.family.vocab_size,
        gated_ffn=problem.family.gated_ffn,
    )
