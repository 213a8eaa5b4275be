"""What can be said of a shape without a machine: parameters, bytes and FLOPs, and which layers hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scalesim.cost.cache import kv_cache_bytes, state_bytes
from scalesim.cost.flops import forward_flops
from scalesim.cost.memory import weight_bytes
from scalesim.faces import Face, Shown
from scalesim.shape import Attention, Block, Mixer, Shape, count_params
from scalesim.units import format_bytes, format_context, format_count, format_flops

__all__ = ["BlockCount", "Counts", "counts"]

LENGTHS = (1024, 32768, 131072, 1048576)


@dataclass(frozen=True)
class BlockCount:
    """What the layers of one kind hold, together.

    Attributes:
        layers: their numbers from 0, such as "0-4, 6-10".
        count: how many.
        mixer, ffn: their kinds ("" where there is none).
        n_params: parameters.
        weight_bytes: their bytes.
        cache_bytes: caches and states of one sequence, at each length.
    """

    layers: str
    count: int
    mixer: str
    ffn: str
    n_params: int
    weight_bytes: float
    cache_bytes: dict[int, float]


@dataclass(frozen=True, repr=False)
class Counts(Shown):
    """Counts of one shape; plain numbers.

    Attributes:
        n_params: by convention (see `count_params`).
        weight_bytes: by bits a value of the layers' matrices.
        cache_bytes: of one sequence, at each length, states included.
        state_bytes: of those, what does not depend on the length.
        flops_per_token: of a token's forward pass, at each length.
        blocks: each kind of layer.
    """

    n_params: dict[str, int]
    weight_bytes: dict[float, float]
    cache_bytes: dict[int, float]
    state_bytes: float
    flops_per_token: dict[int, float]
    blocks: tuple[BlockCount, ...]

    def _face(self) -> Face:
        last = max(self.cache_bytes)
        rows = [
            (b.layers, b.mixer, b.ffn, format_count(b.n_params), format_bytes(b.weight_bytes),
             format_bytes(b.cache_bytes[last]) if b.cache_bytes[last] else "")
            for b in self.blocks
        ]  # fmt: skip
        names = ("layers", "mixer", "FFN", "parameters", "weights", f"cache at {format_context(last)}")
        total, active = self.n_params["total"], self.n_params["active"]
        visited = f", {format_count(active)} active" if active != total else ""
        tables = format_count(self.n_params["embedding"])
        title = f"{format_count(total)} parameters{visited}, {tables} of them embeddings"
        return Face(title, names, rows, self.lines(), most=40)

    def lines(self) -> tuple[str, ...]:
        """Sentences: weights by precision, caches and FLOPs by length."""
        bits = ", ".join(f"{format_bytes(n)} at {b:.4g} bits" for b, n in self.weight_bytes.items())
        caches = ", ".join(f"{format_bytes(n)} at {format_context(t)}" for t, n in self.cache_bytes.items())
        flops = ", ".join(
            f"{format_flops(n)} at {format_context(t)}" for t, n in self.flops_per_token.items()
        )
        state = (
            f" ({format_bytes(self.state_bytes)} of it a state of constant size)" if self.state_bytes else ""
        )
        return (
            f"Weights: {bits}.",
            f"Cache of one sequence: {caches}{state}.",
            f"FLOPs of one token: {flops}.",
        )


def counts(
    shape: Shape,
    *,
    lengths: Sequence[int] = LENGTHS,
    weight_bits: Sequence[float] = (16, 8, 4),
    kv_bits: float = 16,
) -> Counts:
    """Return what a real shape holds and computes, on no hardware at all.

    Args:
        shape: the model.
        lengths: of sequences, in tokens.
        weight_bits: bits a value of the layers' matrices, the first for the blocks.
        kv_bits: bits a cached value.

    >>> from scalesim.models import known_model
    >>> found = counts(known_model("gemma-3-1b").shape, lengths=(32768,))
    >>> [(b.layers, b.count) for b in found.blocks][1]
    ('5, 11, 17, 23', 4)
    """

    def caches(one: Shape) -> dict[int, float]:
        return {length: float(kv_cache_bytes(one, length, kv_bits=kv_bits)) for length in lengths}

    places = _places(shape)
    blocks = []
    for i, block in enumerate(shape.blocks):
        alone = replace(shape, blocks=(block,), order=(), extras=())
        nothing = replace(alone, blocks=(Block(count=1, norms=0),))
        held = weight_bytes(alone, weight_bits=weight_bits[0]) - weight_bytes(
            nothing, weight_bits=weight_bits[0]
        )
        blocks.append(
            BlockCount(
                places[i],
                int(block.count),
                "" if block.mixer is None else _kind(block.mixer),
                "" if block.ffn is None else type(block.ffn).__name__,
                int(count_params(alone) - count_params(nothing)),
                float(held),
                caches(alone),
            )
        )
    conventions = ("total", "active", "non_embedding", "embedding", "paper")
    return Counts(
        n_params={name: int(count_params(shape, name)) for name in conventions},  # type: ignore[arg-type]
        weight_bytes={bits: float(weight_bytes(shape, weight_bits=bits)) for bits in weight_bits},
        cache_bytes=caches(shape),
        state_bytes=float(state_bytes(shape)),
        flops_per_token={n: float(forward_flops(shape, 1, past=n - 1).total) for n in lengths},
        blocks=tuple(blocks),
    )


def _kind(mixer: Mixer) -> str:
    """Return a mixer's kind, and what tells layers of one kind apart."""
    name = type(mixer).__name__
    if not isinstance(mixer, Attention):
        return name
    window = "" if mixer.window is None else f", window {mixer.window:g}"
    shared = ", shared" * mixer.shared
    return f"{name} {mixer.n_head:g}/{mixer.n_kv_head:g} of {mixer.head_dim:g}{window}{shared}"


def _places(shape: Shape) -> list[str]:
    """Return the numbers of each block's layers."""
    order = shape.order or tuple((i, int(block.count)) for i, block in enumerate(shape.blocks))
    runs: list[list[str]] = [[] for _ in shape.blocks]
    first = 0
    for i, length in order:
        runs[i].append(str(first) if length == 1 else f"{first}-{first + length - 1}")
        first += length
    return [", ".join(run if len(run) <= 6 else [*run[:4], "...", run[-1]]) for run in runs]
