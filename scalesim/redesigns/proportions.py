"""A model made larger or smaller in its own proportions, with other heads: relaxed, and as whole sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.pytree import register, static
from scalesim.shape import (
    Attention,
    Block,
    DeltaNet,
    LatentAttention,
    MixtureOfExperts,
    Shape,
    count_params,
)
from scalesim.types import Num

__all__ = ["Heads", "Proportions", "heads_of", "is_latent", "visited", "whole_inner", "with_mixer"]

MIXERS = ("own", "latent", "shared", "linear")
"""What attention may become: as the model has it; latent attention; keys and values shared by two layers;
three layers of four gated delta nets."""

_COUNTS = ("n_k_head", "n_v_head", "n_ssm_head", "n_linear_head")
"""Heads of constant-size mixers, which follow the width."""
_LEAD = 4  # layers at the start that may differ from the pattern of the rest


def visited(shape: Shape) -> Num:
    """Return the parameters that laws see: matrices of mixers and FFNs, of experts those a token visits."""
    return 1.0 * count_params(shape, "paper", visited=True)


@register
@dataclass(frozen=True)
class Heads:
    """A head configuration, elementwise: what the law sees, and what attention is built of."""

    n_head: Num
    n_kv_head: Num
    head_dim: Num


def is_latent(shape: Shape) -> bool:
    """Say whether a layer caches a latent vector in place of heads."""
    return any(isinstance(block.mixer, LatentAttention) for block in shape.blocks)


def heads_of(shape: Shape) -> Heads:
    """Return the heads of a shape as a law sees them; latent attention counts as groups of four.

    Studies compare latent attention with about four query heads to a KV head (`scalesim.effect_of`).

    Raises:
        InvalidInput: no layer has attention whose heads a law could see.
    """
    for block in shape.blocks:
        if isinstance(block.mixer, Attention):
            return Heads(block.mixer.n_head, block.mixer.n_kv_head, block.mixer.head_dim)
        if isinstance(block.mixer, LatentAttention):
            return Heads(block.mixer.n_head, max(block.mixer.n_head / 4, 1), block.mixer.v_head_dim)
    raise InvalidInput("the model has no layer of attention whose heads the law could see.")


def whole_inner(shape: Shape) -> Shape:
    """Return a shape whose inner widths are whole: of the paper's shapes they are 8/3 of the width.

    What is not whole becomes the nearest multiple of 64.

    >>> s = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=2048 * 8 / 3)
    >>> whole_inner(s).d_ff
    5440
    """

    def whole(size: Num) -> Num:
        return size if float(size).is_integer() else max(round(float(size) / 64), 1) * 64

    blocks = []
    for block in shape.blocks:
        ffn: Any = block.ffn
        names = [n for n in ("d_ff", "d_ff_shared", "d_expert") if getattr(ffn, n, None) is not None]
        ffn = ffn if ffn is None else dataclasses.replace(ffn, **{n: whole(getattr(ffn, n)) for n in names})
        blocks.append(dataclasses.replace(block, ffn=ffn))
    return Shape(**_kept(shape), blocks=blocks, order=shape.order)


def with_mixer(shape: Shape, kind: str) -> Shape:
    """Return a shape whose full attention is another kind of mixer: sizes of heads stay to be chosen.

    "latent": one latent vector of 512 values and 64 rotary ones a layer (DeepSeek-V2's sizes). "shared":
    every second layer uses the keys and values of the one before. "linear": three layers of four are gated
    delta nets, d_model / 256 heads of 128 keys and twice as many of values (Qwen3-Next's proportions).

    Raises:
        InvalidInput: the shape has no plain attention to change.
    """
    if kind == "own":
        return shape
    plain = [
        i for i, b in enumerate(shape.blocks) if isinstance(b.mixer, Attention) and b.mixer.window is None
    ]
    alike = kind in ("shared", "linear")
    if not plain or (alike and len(shape.blocks) > 1):
        raise InvalidInput(
            f"mixer {kind!r} needs layers of full attention{', all alike' if alike else ''}, which the model "
            "does not have."
        )
    if alike:
        (block,) = shape.blocks
        attention: Any = dataclasses.replace(block, count=1)
        if kind == "shared":
            mixer: Any = block.mixer
            turn = [attention, dataclasses.replace(attention, mixer=dataclasses.replace(mixer, shared=True))]
        else:
            keys = max(round(shape.d_model / 256), 1)
            turn = [
                *[dataclasses.replace(attention, mixer=DeltaNet(n_k_head=keys, n_v_head=2 * keys))] * 3,
                attention,
            ]
        layers = [turn[i % len(turn)] for i in range(int(shape.n_layer))]
        return Shape(**_kept(shape), blocks=layers)
    mixed = list(shape.blocks)
    for i in plain:
        own: Any = mixed[i].mixer
        latent = LatentAttention(
            n_head=own.n_head, kv_lora_rank=512, head_dim=192, rope_dim=64, v_head_dim=128
        )
        mixed[i] = dataclasses.replace(mixed[i], mixer=latent)
    return Shape(**_kept(shape), blocks=mixed, order=shape.order)


def _kept(shape: Shape) -> dict[str, Any]:
    names = ("d_model", "vocab_size", "tied_embeddings", "norm_bias", "n_positions", "final_norm", "extras")
    return {name: getattr(shape, name) for name in names}


def _sequence(shape: Shape) -> list[int]:
    """Return which block each layer is of, in order."""
    runs = shape.order or tuple((i, int(block.count)) for i, block in enumerate(shape.blocks))
    return [place for place, count in runs for _ in range(count)]


def _stretched(layers: list[int], most: int) -> tuple[list[int], int]:
    """Return a sequence of `most` layers that goes on in the pattern of the given ones, and how many lead."""
    n = len(layers)
    for lead in range(min(_LEAD, n - 1) + 1):
        rest = layers[lead:]
        for period in range(1, len(rest) // 2 + 1):
            if all(rest[i] == rest[i % period] for i in range(len(rest))):
                return layers[:lead] + [rest[i % period] for i in range(most - lead)], lead
    return [layers[min(i * n // most, n - 1)] for i in range(most)], -1


def _tile(sizes: Sequence[int], most: int) -> int:
    """Return the largest power of two up to `most` that divides all sizes."""
    return min(most, math.gcd(*(int(size) & -int(size) for size in sizes)))


@register
@dataclass(frozen=True)
class Proportions:
    """What a model's redesigns keep: depth to width, FFN to width, its pattern of layers, its vocabulary.

    Attributes:
        shape: the model, sizes as floats.
        lead: layers of each block that stay as many at any depth.
        counts: layers of each block at depths 0, 1, 2, ..., (most + 1, blocks).
        tile, ffn_tile: widths and inner widths are multiples of these.
    """

    shape: Shape
    lead: Num
    counts: Num
    tile: int = static(128)
    ffn_tile: int = static(64)

    @classmethod
    def of(cls, shape: Shape) -> Proportions:
        """Return the proportions of a whole shape."""
        layers = _sequence(shape)
        sequence, lead = _stretched(layers, 4 * len(layers))
        counts = np.zeros((len(sequence) + 1, len(shape.blocks)))
        for depth, place in enumerate(sequence, start=1):
            counts[depth] = counts[depth - 1]
            counts[depth, place] += 1
        if lead < 0:  # no pattern: each depth has its own selection of layers
            for depth in range(1, len(sequence) + 1):
                counts[depth] = np.bincount(_stretched(layers, depth)[0], minlength=len(shape.blocks))
        kept = np.bincount(layers[: max(lead, 0)], minlength=len(shape.blocks)).astype(float)
        inner = [int(b.ffn.d_ff) for b in shape.blocks if b.ffn is not None] or [4096]
        floats = jax.tree.map(float, dataclasses.replace(shape, order=()))
        widest = 64 if min(inner) >= 4096 else 32 if min(inner) >= 1024 else 16
        return cls(floats, kept, counts, _tile([shape.d_model], 128), _tile(inner, widest))

    def sequence(self, shape: Shape, n_layer: int) -> list[int]:
        """Return which block each of so many layers is of; `shape` is the whole model."""
        layers = _sequence(shape)
        lead = _stretched(layers, len(layers))[1]
        return (
            _stretched(layers, 4 * len(layers))[0][:n_layer] if lead >= 0 else _stretched(layers, n_layer)[0]
        )

    def relaxed(self, scale: Num, heads: Heads) -> Shape:
        """Return the model with depth, width and inner widths times `scale`, and other heads."""
        counts = [
            lead + (block.count - lead) * scale
            for block, lead in zip(self.shape.blocks, self.lead, strict=True)
        ]
        return self._built(scale, scale, counts, heads)

    def whole(self, scale: Num, heads: Heads, offset: Num) -> Shape:
        """Return whole sizes of at least as many visited parameters as the relaxed model of this scale.

        Depth is rounded; the width is `offset` tiles from the nearest that keeps the product of depth and
        width; inner widths are the least multiples that make up the parameters. Elementwise in nothing: of
        one model, under `vmap`.
        """
        aim = self.relaxed(scale, heads)
        wanted = visited(aim)
        depth = jnp.clip(jnp.round(aim.n_layer), 1, len(self.counts) - 1)
        counts = jnp.asarray(self.counts)[depth.astype(int)]
        width = aim.d_model * jnp.sqrt(aim.n_layer / depth) / self.tile
        width = jnp.maximum(jnp.round(width) + offset, 1.0) * self.tile
        ratio = width / self.shape.d_model

        def at(inner: Num) -> Shape:
            return self._built(ratio, inner, list(counts), heads, whole=True)

        # The count is affine in the inner widths.
        one, two = visited(at(jnp.asarray(1.0))), visited(at(jnp.asarray(2.0)))
        inner = jnp.maximum((wanted - (2 * one - two)) / (two - one), 1e-3)
        return self._rounded(at(inner))

    def _built(
        self, width: Num, inner: Num, counts: Sequence[Num], heads: Heads, whole: bool = False
    ) -> Shape:
        blocks = []
        for block, count in zip(self.shape.blocks, counts, strict=True):
            mixer: Any = block.mixer
            if isinstance(mixer, Attention):
                mixer = dataclasses.replace(
                    mixer,
                    n_head=heads.n_head,
                    n_kv_head=heads.n_kv_head,
                    head_dim=heads.head_dim,
                    v_head_dim=None,
                )
            elif isinstance(mixer, LatentAttention):
                rank = mixer.q_lora_rank
                mixer = dataclasses.replace(
                    mixer, n_head=heads.n_head, q_lora_rank=None if rank is None else rank * width
                )
            elif mixer is not None:
                names = [name for name in _COUNTS if hasattr(mixer, name)]
                if names:  # the first is rounded; the others keep their ratio to it
                    first = getattr(mixer, names[0])
                    grown = jnp.maximum(jnp.round(first * width), 1.0) if whole else first * width
                    mixer = dataclasses.replace(
                        mixer, **{n: grown * getattr(mixer, n) / first for n in names}
                    )
            ffn: Any = block.ffn
            if ffn is not None:
                grown = {
                    n: getattr(ffn, n)
                    for n in ("d_ff", "d_ff_shared", "d_expert")
                    if getattr(ffn, n, None) is not None
                }
                ffn = dataclasses.replace(
                    ffn, **{n: v * (width if n == "d_expert" else inner) for n, v in grown.items()}
                )
            blocks.append(Block(count=count, mixer=mixer, ffn=ffn, norms=block.norms, extras=block.extras))
        return Shape(**{**_kept(self.shape), "d_model": self.shape.d_model * width}, blocks=blocks)

    def _rounded(self, shape: Shape) -> Shape:
        """Return it with inner widths rounded up to tiles."""

        def up(size: Num) -> Num:
            return jnp.maximum(jnp.ceil(size / self.ffn_tile - 1e-9), 1.0) * self.ffn_tile

        blocks = []
        for block in shape.blocks:
            ffn: Any = block.ffn
            if ffn is not None:
                names = [n for n in ("d_ff", "d_ff_shared") if getattr(ffn, n, None) is not None]
                ffn = dataclasses.replace(ffn, **{n: up(getattr(ffn, n)) for n in names})
                if isinstance(ffn, MixtureOfExperts) and ffn.d_expert is not None:
                    ffn = dataclasses.replace(ffn, d_expert=up(ffn.d_expert))
            mixer: Any = block.mixer
            if isinstance(mixer, LatentAttention) and mixer.q_lora_rank is not None:
                mixer = dataclasses.replace(mixer, q_lora_rank=up(mixer.q_lora_rank))
            blocks.append(dataclasses.replace(block, ffn=ffn, mixer=mixer))
        return Shape(**_kept(shape), blocks=blocks)

    def real(self, whole: Shape, own: Shape) -> Shape:
        """Return a whole shape held as floats as one of integers, its layers in the model's pattern."""
        blocks = jax.tree.map(lambda v: round(float(v)), whole.blocks)
        depth = int(sum(block.count for block in blocks))
        layers = [dataclasses.replace(blocks[place], count=1) for place in self.sequence(own, depth)]
        kept = {**_kept(own), "d_model": round(float(whole.d_model))}
        if math.isclose(depth, own.n_layer) and not own.order:
            return Shape(**kept, blocks=[b for b in blocks if b.count])
        return Shape(**kept, blocks=layers)
