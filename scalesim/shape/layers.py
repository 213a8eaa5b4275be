"""How many of a shape's layers are of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scalesim.shape.checks import is_whole
from scalesim.types import Num

if TYPE_CHECKING:
    from scalesim.shape.shape import Shape

__all__ = ["LayerCounts", "layer_counts"]


class LayerCounts(NamedTuple):
    """Layers by what they attend to, by the cache they write, and by their FFN.

    global_ + local = dense + moe = n_layer. The caches are fewer than the layers where layers share them.
    """

    global_: Num
    local: Num
    global_caches: Num
    local_caches: Num
    dense: Num
    moe: Num

    @property
    def caches(self) -> Num:
        """Layers with keys and values of their own."""
        return self.global_caches + self.local_caches


def _part(n_layer: Num, every: int, *, up: bool = False) -> Num:
    """Return n_layer / every: whole layers (rounded down, or up) of a whole number, else the fraction."""
    if every == 1:
        return n_layer
    if is_whole(n_layer):
        return -(-n_layer // every) if up else n_layer // every
    return n_layer / every


def layer_counts(shape: Shape) -> LayerCounts:
    """Count the layers of each kind; integers in a real shape, fractions of n_layer in a relaxed one.

    >>> from scalesim.shape import Shape, SlidingWindow
    >>> gemma_3_1b = Shape(n_layer=26, d_model=1152, n_head=4, n_kv_head=1, head_dim=256, d_ff=6912,
    ...                    vocab_size=262144, window=SlidingWindow(window=512, global_every=6))
    >>> layer_counts(gemma_3_1b)[:2]
    (4, 22)
    """
    n_layer, window, moe = shape.n_layer, shape.window, shape.moe
    if window is None:
        n_global, n_local = n_layer, 0
    else:
        n_global = window.n_global
        if n_global is None:
            n_global = _part(n_layer, window.global_every) if window.global_every else 0
        n_local = n_layer - n_global
    shared = shape.layers_per_kv
    return LayerCounts(
        n_global,
        n_local,
        _part(n_global, shared, up=True),
        _part(n_local, shared, up=True),
        n_layer if moe is None else moe.n_dense_layer,
        0 if moe is None else n_layer - moe.n_dense_layer,
    )
