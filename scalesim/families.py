"""Shape families: how depth and width follow from size, where a law cannot tell.

A loss law in the parameter count and the heads cannot see depth against width. A search over both would
run to an absurd shape for free; instead a family fixes the aspect ratio d_model / n_layer at every size.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput, check_number, choose
from scalesim.shape import Shape
from scalesim.types import Num

__all__ = [
    "FIGURE",
    "TABLE",
    "HeadRule",
    "ShapeFamily",
    "fixed_ratio",
    "named_baseline",
    "named_family",
]


@dataclass(frozen=True)
class HeadRule:
    """Heads tied to the width, as everybody copies them: n_head = d_model / head_dim.

    Attributes:
        name: what reports call it.
        n_kv_head: KV heads (no more than query heads); None: as many as query heads.
    """

    name: str
    n_kv_head: int | None

    def kv(self, n_head: Num) -> Num:
        """Return the KV heads beside some query heads.

        >>> float(HeadRule("llama3-gqa", 8).kv(32.0)), float(HeadRule("mha", None).kv(32.0))
        (8.0, 32.0)
        """
        return n_head if self.n_kv_head is None else jnp.minimum(float(self.n_kv_head), n_head)


_RULES = {
    "llama3-gqa": HeadRule("llama3-gqa", 8),
    "mha": HeadRule("mha", None),
    "mqa": HeadRule("mqa", 1),
}


@dataclass(frozen=True)
class ShapeFamily:
    """A curve of shapes, one aspect ratio d_model / n_layer to each size.

    Between its knots the aspect ratio is a monotone cubic in log N (so no ratio beyond its neighbours, and
    a continuous derivative for the gradient search); outside them it keeps the end's value.

    Attributes:
        name: what reports call it.
        log_sizes: log of the knots' parameter counts, increasing.
        aspects: d_model / n_layer at each knot.
        ffn_ratio: d_ff / d_model (8/3: as many parameters as a plain block of 4).
        head_dim: size of one head.
        vocab_size: rows of the embedding table.
        gated_ffn: three FFN matrices rather than two.
        tied_embeddings: input and output embeddings share one table.
    """

    name: str
    log_sizes: tuple[float, ...]
    aspects: tuple[float, ...]
    ffn_ratio: float = 8 / 3
    head_dim: int = 64
    vocab_size: int = 50304
    gated_ffn: bool = True
    tied_embeddings: bool = True

    @property
    def ffn_matrices(self) -> int:
        """Matrices of one feed-forward block."""
        return 3 if self.gated_ffn else 2

    def aspect(self, n_params: Num) -> Num:
        """Return d_model / n_layer at a size in parameters."""
        if len(self.aspects) == 1:
            return self.aspects[0]
        knots, values = np.asarray(self.log_sizes), np.asarray(self.aspects)
        slopes = _monotone_slopes(knots, values)
        x = jnp.clip(jnp.log(n_params), knots[0], knots[-1])
        i = jnp.clip(jnp.searchsorted(jnp.asarray(knots), x, side="right") - 1, 0, len(knots) - 2)
        width = jnp.asarray(np.diff(knots))[i]
        t = (x - jnp.asarray(knots)[i]) / width
        left, right = jnp.asarray(values)[i], jnp.asarray(values)[i + 1]
        rise_l, rise_r = width * jnp.asarray(slopes)[i], width * jnp.asarray(slopes)[i + 1]
        return (
            left
            + t * rise_l
            + t**2 * (3 * (right - left) - 2 * rise_l - rise_r)
            + t**3 * (2 * (left - right) + rise_l + rise_r)
        )

    def at(
        self,
        n_params: Num,
        n_head: Num | None,
        n_kv_head: Num,
        *,
        aspect: Num | None = None,
        ffn_ratio: Num | None = None,
        head_dim: Num | None = None,
    ) -> Shape:
        """Return the relaxed shape of this family with exactly `n_params` attention and FFN parameters.

        Solves N = m r a^2 L^3 + 2 a head_dim (n_head + n_kv_head) L^2 for the depth L, where a is the aspect
        ratio, r the FFN ratio and m the number of FFN matrices; then d_model = a L. The convention is the
        paper's (`count_params(shape, "paper")`). Differentiable in all arguments, which broadcast.

        Args:
            n_params: the size.
            n_head: query heads; None ties them to the width, d_model / head_dim.
            n_kv_head: KV heads.
            aspect, ffn_ratio, head_dim: instead of the family's.

        >>> shape = FIGURE.at(603_979_776.0, 8, 8)
        >>> round(float(shape.n_layer), 3), round(float(shape.d_model), 1)
        (16.0, 2048.0)
        """
        from scalesim.numerics.roots import newton_root  # not what a shape in sizes needs

        aspect = self.aspect(n_params) if aspect is None else aspect
        head_dim = self.head_dim if head_dim is None else head_dim
        ratio = self.ffn_ratio if ffn_ratio is None else ffn_ratio
        # Heads tied to the width make a cubic term of their own.
        tied, heads = (2.0, n_kv_head) if n_head is None else (0.0, n_head + n_kv_head)
        cubic = (self.ffn_matrices * ratio + tied) * aspect**2
        square = 2.0 * aspect * head_dim * heads
        log_n, log_cubic, log_square = jnp.log(n_params), jnp.log(cubic), jnp.log(square)
        # Either term alone needs a deeper model than both: start there, and Newton descends to the root.
        start = jnp.minimum((log_n - log_cubic) / 3, (log_n - log_square) / 2)
        log_depth = newton_root(lambda u: jnp.logaddexp(log_cubic + 3 * u, log_square + 2 * u) - log_n, start)
        n_layer = jnp.exp(log_depth)
        d_model = aspect * n_layer
        n_head = d_model / head_dim if n_head is None else n_head
        return self.shape(n_layer, d_model, n_head, n_kv_head, d_ff=ratio * d_model, head_dim=head_dim)

    def at_depth(self, n_params: Num, n_layer: Num, n_head: Num, n_kv_head: Num) -> Shape:
        """Return the relaxed shape of `n_params` parameters and this FFN ratio, at a depth of its own.

        Solves N / L = m r d^2 + 2 d head_dim (n_head + n_kv_head) for the width d.

        >>> float(FIGURE.at_depth(603_979_776.0, 16.0, 8, 8).d_model)
        2048.0
        """
        attention = 2.0 * self.head_dim * (n_head + n_kv_head)
        quadratic = self.ffn_matrices * self.ffn_ratio
        d_model = (jnp.sqrt(attention**2 + 4 * quadratic * n_params / n_layer) - attention) / (2 * quadratic)
        return self.shape(n_layer, d_model, n_head, n_kv_head)

    def shape(
        self,
        n_layer: Num,
        d_model: Num,
        n_head: Num,
        n_kv_head: Num,
        *,
        d_ff: Num | None = None,
        head_dim: Num | None = None,
    ) -> Shape:
        """Return a shape of this family, relaxed or whole: every shape of a search or a sweep is built here.

        Args:
            n_layer, d_model, n_head, n_kv_head: sizes.
            d_ff, head_dim: instead of the family's.
        """
        return Shape(
            n_layer=n_layer,
            d_model=d_model,
            n_head=n_head,
            n_kv_head=n_kv_head,
            head_dim=self.head_dim if head_dim is None else head_dim,
            d_ff=self.ffn_ratio * d_model if d_ff is None else d_ff,
            vocab_size=self.vocab_size,
            gated_ffn=self.gated_ffn,
            tied_embeddings=self.tied_embeddings,
        )

    def whole(self, shape: Shape, rule: HeadRule) -> Shape:
        """Return a rule's whole shape nearest a relaxed one: depth rounded, heads from the width.

        As in the paper's Llama-3 series n_kv_head need not divide n_head ((28, 8) is among its models), so
        the heads are floats. d_ff keeps the family's ratio, as in the paper. Elementwise.
        """
        n_layer = jnp.maximum(jnp.round(shape.n_layer), 1.0)
        n_head = jnp.maximum(jnp.round(shape.d_model / shape.n_layer * n_layer / self.head_dim), 1.0)
        return self.shape(n_layer, n_head * self.head_dim, n_head, rule.kv(n_head))

    @classmethod
    def from_models(cls, name: str, models: Sequence[tuple[int, int]], **options: Any) -> ShapeFamily:
        """Return the family that runs through (n_layer, d_model) pairs, of size 12 n_layer d_model^2 each.

        Raises:
            InvalidInput: no models, a size that is not positive, or two models of one size.

        >>> ShapeFamily.from_models("mine", [(12, 768), (24, 1024)]).aspects
        (64.0, 42.666666666666664)
        """
        if not models or any(layers <= 0 or width <= 0 for layers, width in models):
            raise InvalidInput(f"models must be pairs of positive (n_layer, d_model), but are {models!r}.")
        by_size = sorted((math.log(12 * layers * width**2), width / layers) for layers, width in models)
        if any(a[0] == b[0] for a, b in itertools.pairwise(by_size)):
            raise InvalidInput(f"models must differ in size 12 n_layer d_model^2, but are {models!r}.")
        sizes, aspects = zip(*by_size, strict=True)
        return cls(name, sizes, aspects, **options)


def _monotone_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return knot slopes of the Fritsch-Carlson monotone cubic (SIAM J. Numer. Anal. 17, 1980)."""
    secants = np.diff(y) / np.diff(x)
    if len(secants) == 1:
        return np.zeros(2)
    before, after = secants[:-1], secants[1:]
    same_sign = before * after > 0
    safe = np.where(same_sign, before + after, 1.0)
    return np.concatenate([[0.0], np.where(same_sign, 2 * before * after / safe, 0.0), [0.0]])


def fixed_ratio(
    aspect: float,
    *,
    ffn_ratio: float = 8 / 3,
    head_dim: int = 64,
    vocab_size: int = 50304,
    gated_ffn: bool = True,
    tied_embeddings: bool = True,
) -> ShapeFamily:
    """Return the family of one aspect ratio d_model / n_layer at every size.

    Raises:
        InvalidInput: the ratio is not positive and finite.

    >>> fixed_ratio(96, head_dim=128).name
    'ratio 96'
    """
    check_number("aspect", aspect)
    return ShapeFamily(
        f"ratio {aspect:g}",
        (0.0,),
        (float(aspect),),
        ffn_ratio=ffn_ratio,
        head_dim=head_dim,
        vocab_size=vocab_size,
        gated_ffn=gated_ffn,
        tied_embeddings=tied_embeddings,
    )


FIGURE = ShapeFamily("figure", (0.0,), (128.0,))
"""d_model = 128 n_layer: the models of Figure 2 in arXiv 2503.09579."""

TABLE = ShapeFamily.from_models(
    "table",
    [
        *((4, 256), (6, 512), (12, 768), (12, 1024), (16, 1024), (24, 1280), (24, 1536), (36, 1536)),
        *((36, 2048), (48, 2560), (54, 3072), (64, 4096), (72, 6144), (80, 8192)),
    ],
)
"""The model table of arXiv 2503.09579, 3M to 64B, aspect ratio interpolated."""

_FAMILIES = {"figure": FIGURE, "table": TABLE}


def named_family(name: str) -> ShapeFamily:
    """Return a family by name ("figure", "table"), or of a fixed ratio if `name` is a number.

    >>> named_family("64").aspects
    (64.0,)
    """
    try:
        ratio = float(name)
    except ValueError:
        return _FAMILIES[choose("family", name, _FAMILIES)]
    return fixed_ratio(ratio)


def named_baseline(text: str, family: ShapeFamily = FIGURE) -> HeadRule | Shape:
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
            "16x2048x32x8 (n_layer x d_model x n_head x n_kv_head, and d_ff if not the family's ratio of it)."
        )
    n_layer, d_model, n_head, n_kv_head, *d_ff = map(int, text.split("x"))
    return family.shape(n_layer, d_model, n_head, n_kv_head, d_ff=d_ff[0] if d_ff else None)
